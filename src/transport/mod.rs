//! The transport set: which transports exist, and how a connection comes to use one.
//!
//! ```text
//!   client (dial)                                   server (accept)
//!   bootstrap: HELLO with offers      ---------->   choose the best both allow and have
//!                                     <----------   answer
//!   the transport's own exchange      <--------->   (shm: queue pair, ring)
//!   confirm                           <--------->   confirm: both moved, or both stay on TCP
//! ```
//!
//! This is the only place that knows both the sockets and the rings.

mod accept;
mod choice;
mod dial;
mod ring;
mod settings;
mod turn;

pub(crate) use accept::Acceptor;
pub(crate) use dial::Dialer;
