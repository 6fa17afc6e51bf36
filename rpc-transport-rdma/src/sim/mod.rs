//! A simulated verbs device: the rules of [`crate::verbs`], one thread, one seed.
//!
//! Nothing happens by itself. A test posts, then calls [`Fabric::step`] as often as it likes; each
//! step lets every queue pair do some of what it could do, as the seed's dice have it:
//!
//! ```text
//! post_send -> queue --execute--> wire --place--> memory, receives, receive completions
//!                |                  ^   \--READ--> response --respond--> memory
//!                |                  |
//!                +-> in flight --complete--> send completions --show--> poll
//! ```
//!
//! Requests of one queue pair execute, land and complete in order. Between queue pairs, and
//! between send and receive completions, any order can happen. A WRITE without an immediate may
//! complete before its bytes can be seen; its second half lands before its first. What can go
//! wrong is the list [`Fault`]; what a user of the device did wrong is counted in [`SimStats`].
#![forbid(unsafe_code)]

mod config;
mod fabric;
mod memory;
mod queue_pair;
mod rng;
mod step;
#[cfg(test)]
mod tests;

pub use config::{Fault, SimConfig, SimStats};
pub use fabric::{Fabric, SimEnd};
pub use memory::SimRegion;
pub use queue_pair::{SimLiveness, SimQueuePair};
pub use rng::Rng;
