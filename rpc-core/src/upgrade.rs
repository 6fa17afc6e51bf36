//! What the bootstrap lends to a transport that takes a connection over.
//!
//! A connection begins on a socket. When both ends agree on a faster transport, its code sends
//! and receives a few opaque messages over that socket ([`Exchange`]), builds its link, and keeps
//! the socket as the connection's sign of life ([`Liveness`]). The two traits live here so that
//! `rpc-transport-rdma` need not know the socket code, nor the socket code any device.

use std::future::Future;
use std::io;
use std::task::{Context, Poll};

/// The longest message an [`Exchange`] carries, in bytes.
pub const MAX_EXCHANGE_BYTES: usize = 16 * 1024;

/// Length-prefixed opaque messages between the two ends of a handshake, in lock step.
pub trait Exchange: Send {
    /// Sends one message of at most [`MAX_EXCHANGE_BYTES`].
    fn send(&mut self, message: &[u8]) -> impl Future<Output = io::Result<()>> + Send;

    /// Receives one message; longer ones than [`MAX_EXCHANGE_BYTES`] are an error and are not
    /// read. An end that gives up says so at any time; that is an error too.
    ///
    /// # Cancel safety
    /// What has arrived stays for the next call.
    fn receive(&mut self) -> impl Future<Output = io::Result<Vec<u8>>> + Send;
}

/// Tells when the peer's process is gone.
pub trait Liveness: Send + 'static {
    /// Ready once the peer has closed its end (a killed process closes at once) or sent what it
    /// must not send; the error says which. Makes no system call while nothing happened.
    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<io::Error>;
}
