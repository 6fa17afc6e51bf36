//! The driver: the only async part of the core. It moves frames between a session and a link,
//! and owns wakers and timers.
//!
//! # Who owns a connection
//!
//! [`Connection`] holds the session and the link behind a lock that is only ever *tried*: a call
//! that finds it free does its work in place (encodes its message straight into the link); a
//! call that finds it taken leaves a [`Job`](job::Job) for whoever holds it, who looks for jobs
//! before it does anything else and again after it let go (flat combining). No lock is held
//! across an await, and none is waited for.
//!
//! # Who moves it along
//!
//! A task per connection ([`task`]) receives, runs timers and sleeps when nothing happens. A
//! caller that waits for its answer helps: it moves the connection along in place before it
//! sleeps, which saves a hand-off between tasks.
//!
//! # What runs where
//!
//! Handlers run outside the lock: a pass of the owner collects the requests that arrived, lets
//! go, runs each handler once where it is, and flushes what they answered in one burst. Only a
//! handler that is not ready becomes a task.

pub(crate) mod body;
mod calls;
pub(crate) mod cell;
mod clock;
mod conn;
mod connection;
mod counts;
mod help;
#[cfg(test)]
pub(crate) mod help_tests;
mod job;
mod owner;
mod portion;
mod progress;
mod pulls;
mod rounds;
mod scout;
#[cfg(test)]
mod scout_tests;
mod seat;
mod sleep;
mod task;
#[cfg(test)]
pub(crate) mod tests;
mod work;

pub(crate) use clock::now;
pub(crate) use conn::{Begun, Conn, Helped, OpenRequest, Watch};
pub(crate) use connection::Connection;
pub(crate) use owner::{Arrival, ArrivalBatch, Arrivals, Arrived};
pub use progress::{Progress, ProgressMode};
pub(crate) use task::{Driver, Ended};
