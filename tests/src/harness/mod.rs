//! Servers and clients at a [`Place`].

mod child;
mod memory;
mod pace;
mod place;
mod run;
mod system;
mod world;

pub use child::{Child, binary, serve_until_stdin_closes};
pub use pace::{allowed, allowed_ms};
pub use place::{Place, Processes, Transport};
pub use run::{run, run_isolated};
pub use rustix::process::Signal;
pub use system::{raise_descriptor_limit, send_signal};
pub(crate) use world::client_config;
pub use world::{Tuning, World};
