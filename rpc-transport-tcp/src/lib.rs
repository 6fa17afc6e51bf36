//! Sockets of rdma-rpc: addresses, the bootstrap handshake, and the TCP and Unix socket link.
//!
//! ```text
//!   Address ──> Socket::connect ─┐                                ┌─> TcpLink   (stays here)
//!                                ├─> bootstrap: one handshake ────┤
//!   Listener ──> accept ─────────┘   ([`bootstrap`], Exchange)    └─> Liveness  (another
//!                                                                      transport took over)
//! ```
//!
//! * [`address`]: what people write, `host:port` and Unix paths.
//! * [`socket`], [`listener`]: one type over TCP and Unix sockets, with dead-peer detection set, and no BBR
//!   within a host (`congestion.rs`).
//! * [`bootstrap`]: the bytes both ends exchange before the first frame.
//! * [`link`]: frames over a socket, when no faster transport was agreed on.
#![forbid(unsafe_code)]

pub mod address;
pub mod bootstrap;
#[cfg(target_os = "linux")]
mod congestion;
pub mod link;
pub mod listener;
pub mod liveness;
pub mod socket;

pub use address::{Address, AddressError};
pub use bootstrap::{
    BootstrapError, BootstrapOptions, ClientBootstrap, Confirmed, Offer, Outcome, ServerBootstrap,
    TransportKind,
};
pub use link::{TcpLink, TcpLinkOptions};
pub use listener::Listener;
pub use liveness::SocketLiveness;
pub use socket::{Keepalive, Socket, SocketOptions};
