//! Calls, sessions and the link contract of rdma-rpc: no sockets, no verbs, and no unsafe
//! but two implementations of one trait (`lend.rs`, `copy.rs`).
//!
//! ```text
//!   client/ server/   calls: Channel, Client, Router, Handler
//!     driver/         moves frames between a session and a link; wakers and timers
//!       session/      what frames mean: streams, windows, deadlines (sans-IO)
//!       link.rs       ordered, reliable frames (implemented by the transports)
//! ```
//!
//! `poll_set/` is where a runtime polls for all its connections at once.
//!
//! Programs use the facade, `rdma-rpc`; transports use [`link`], [`poll_set`] and [`upgrade`].
#![deny(unsafe_code)]

mod brief;
pub mod client;
mod codec;
#[doc(hidden)]
pub mod codegen;
pub mod copy;
mod crowd;
mod driver;
pub mod extensions;
#[allow(unsafe_code)]
mod lend;
pub mod link;
mod link_handle;
pub mod memory;
pub mod metadata;
mod others;
mod outbox;
pub mod parts;
mod patience;
pub mod poll_set;
pub mod request;
pub mod response;
pub mod server;
pub mod service;
pub mod session;
pub mod standing;
pub mod status;
pub mod streaming;
pub mod upgrade;
pub mod warm;
pub mod wire;

pub use driver::{Progress, ProgressMode};
pub use extensions::{Extensions, GrpcMethod};
pub use request::{IntoRequest, IntoStreamingRequest, Request};
pub use response::Response;
pub use status::{Code, RequestSeen, Status};
pub use streaming::Streaming;
