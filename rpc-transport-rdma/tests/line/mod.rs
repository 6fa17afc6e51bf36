//! A bootstrap without sockets: two ends that hand messages to each other.

#![allow(unreachable_pub, reason = "a part of several tests")]

use std::io;

use rdma_rpc_core::upgrade::Exchange;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// One end, made of two channels.
pub struct Line {
    to: Sender<Vec<u8>>,
    pub from: Receiver<Vec<u8>>,
}

impl Exchange for Line {
    async fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.to.send(message.to_vec()).await.map_err(gone)
    }

    async fn receive(&mut self) -> io::Result<Vec<u8>> {
        self.from.recv().await.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

/// Both ends.
pub fn line() -> (Line, Line) {
    let ((to_b, from_a), (to_a, from_b)) = (channel(4), channel(4));
    (Line { to: to_b, from: from_b }, Line { to: to_a, from: from_a })
}
