//! The socket as a connection's sign of life, after another transport has taken it over.

use std::io;
use std::task::{Context, Poll, ready};

use rdma_rpc_core::upgrade::Liveness;

use crate::socket::Socket;

/// Watches a socket on which nothing may arrive any more.
///
/// Costs no system call while nothing happens: readiness comes from the runtime's selector. A
/// killed process closes its sockets, so the end of a peer is seen at once; a vanished host is
/// found by the socket's keepalive.
#[derive(Debug)]
pub struct SocketLiveness {
    socket: Socket,
    peer: String,
    /// Bytes that had already arrived after the handshake.
    early_bytes: usize,
}

impl SocketLiveness {
    /// Watches `socket`. `early` is what was read past the handshake: it must be empty, and
    /// [`Liveness::poll_closed`] says so if it is not.
    pub fn new(socket: Socket, early: &[u8]) -> SocketLiveness {
        let peer = socket.peer_text();
        SocketLiveness { socket, peer, early_bytes: early.len() }
    }

    fn unexpected(&self, bytes: usize) -> io::Error {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "{} sent {bytes} or more bytes on the bootstrap socket after the connection had \
                 moved to another transport",
                self.peer
            ),
        )
    }
}

impl Liveness for SocketLiveness {
    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.early_bytes > 0 {
            return Poll::Ready(self.unexpected(self.early_bytes));
        }
        let mut byte = [0; 1];
        loop {
            if let Err(error) = ready!(self.socket.poll_read_ready(cx)) {
                return Poll::Ready(error);
            }
            match self.socket.try_read(&mut byte) {
                Ok(0) => {
                    return Poll::Ready(io::Error::new(
                        io::ErrorKind::ConnectionAborted,
                        format!("{} closed the connection, or its process ended", self.peer),
                    ));
                }
                Ok(n) => return Poll::Ready(self.unexpected(n)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    return Poll::Ready(io::Error::new(
                        error.kind(),
                        format!("the connection to {} broke: {error}", self.peer),
                    ));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::net::UnixStream;

    use super::*;
    use crate::socket::SocketOptions;

    fn pair() -> (SocketLiveness, UnixStream) {
        let (a, b) = UnixStream::pair().unwrap();
        (SocketLiveness::new(Socket::from_unix(a, &SocketOptions::default()).unwrap(), &[]), b)
    }

    #[tokio::test]
    async fn silence_is_life_and_closing_is_the_end() {
        let (mut liveness, peer) = pair();
        let pending = poll_fn(|cx| Poll::Ready(liveness.poll_closed(cx).is_pending())).await;
        assert!(pending);
        drop(peer);
        let error = poll_fn(|cx| liveness.poll_closed(cx)).await;
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    }

    #[tokio::test]
    async fn any_byte_is_an_error() {
        let (mut liveness, peer) = pair();
        peer.try_write(b"x").unwrap();
        let error = poll_fn(|cx| liveness.poll_closed(cx)).await;
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);

        let (a, _b) = UnixStream::pair().unwrap();
        let socket = Socket::from_unix(a, &SocketOptions::default()).unwrap();
        let mut early = SocketLiveness::new(socket, b"abc");
        let error = poll_fn(|cx| early.poll_closed(cx)).await;
        assert!(error.to_string().contains("3 or more bytes"), "{error}");
    }
}
