//! The shared-memory device: a software RNIC for two processes on one host.
//!
//! ```text
//!   process A                                            process B
//!   +------------------+   control memfd of A   +------------------+
//!   | ShmQueuePair     |<-- entries, armed -----|                  |
//!   |                  |-- receives, state ---->|                  |
//!   |                  |   control memfd of B   |                  |
//!   |                  |--- entries, armed ---->|                  |
//!   |                  |<-- receives, state ----|     ShmQueuePair |
//!   |  regions of A ===|== mapped here, sealed =|=> WRITE, READ    |
//!   |  WRITE, READ <===|======= and checked ====|== regions of B   |
//!   |                  |<---- eventfds -------->|                  |
//!   |                  |<---- Unix socket ----->|  memfds; its end |
//!   +------------------+                        +------------------+
//! ```
//!
//! A WRITE is a copy into the peer's mapped memory; an immediate is one word in the peer's
//! completion ring; a READ is a copy by the side that asks, out of mapped memory or, where the
//! kernel lets it, out of the other process as it is. A view is memory of the peer's, mapped
//! read-only, in which it goes on writing: so a ring is filled and read in one place. Nothing has a
//! name in a file system: memory files are anonymous and the socket is abstract, so a killed process
//! leaves nothing.
//!
//! | file | idea |
//! |---|---|
//! | `qp`, `post`, `hold` | the queue pair: its life and polling; posting; waiting and failing |
//! | `send_queue`, `wire` | which requests wait; doing one |
//! | `cq_ring`, `control` | the completion ring; the words two processes share |
//! | `attend` | the peer's state, the socket's messages, dropped regions |
//! | `notify`, `event`, `watch` | waking the other side; waiting in tokio; waiting in a poll set |
//! | `regions`, `memfd`, `fdpass` | registered memory; sealed files; the socket that carries them |
//! | `connect`, `peer`, `upgrade`, `host_id` | finding each other |
//! | `lend`, `mark` | memory of the program lent to the peer's READs; by what ours is known |
//! | `cross_read` | reading the peer's process; unsafe |
//! | `blocks` | huge pages for long messages: to be pulled into, and of the program (`crate::bulk_buffer`) |
//! | `mapping` (and `crate::copy`) | mapped memory; unsafe |
//!
//! # Trust
//!
//! The peer runs as the same user, as root, or as a user the configuration names. Still nothing
//! it writes into shared memory or sends on the socket can make this process panic, read or write
//! outside of its memory, allocate without bound, or leak descriptors: it can only make the
//! queue pair fail. What this side wrote where the peer may write is kept in private copies and never
//! read back; what the peer only reads it cannot write, by a seal (`F_SEAL_FUTURE_WRITE`, Linux 5.1).
//! What it views it sees as it is made: also a frame for it that is never sent.

#![deny(unsafe_code)]

mod attend;
mod blocks;
mod config;
mod connect;
mod control;
mod cq_ring;
mod cross_read;
mod error;
mod event;
mod failure;
mod fdpass;
mod hold;
mod host_id;
mod lend;
mod mapping;
mod mark;
mod memfd;
mod notify;
mod peer;
mod post;
mod prefetch;
mod qp;
mod regions;
mod send_queue;
mod upgrade;
mod watch;
mod wire;

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod lend_tests;

pub(crate) use blocks::PrivateMemory;
pub use config::ShmConfig;
pub use connect::{ShmConnecting, ShmListener, ShmTicket};
pub use error::ShmError;
pub use host_id::{HostId, host_id};
pub use qp::ShmQueuePair;
pub use regions::ShmRegion;
pub use upgrade::{upgrade_client, upgrade_server};
