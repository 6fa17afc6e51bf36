//! Handshake frames over a socket, under a deadline.
//!
//! Cancel safe in both directions: what has arrived stays in the inbox, what has not been sent
//! stays in the outbox, so that a transport's code may be stopped at any await and the fallback
//! still finds the stream between two frames.

use std::future::poll_fn;
use std::io;

use tokio::time::{Instant, timeout_at};

use super::error::BootstrapError;
use super::wire::{FrameKind, HEADER_BYTES, MAGIC, decode_header, encode_frame};
use crate::socket::Socket;

/// Bytes asked of the socket at a time. The inbox never holds more than one frame and this.
const READ_BYTES: usize = 4096;

/// One frame as it arrived.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: FrameKind,
    pub(super) payload: Vec<u8>,
    /// Position of the frame's first byte in the stream.
    pub(super) offset: u64,
}

impl Frame {
    /// Position of the payload's first byte.
    pub(super) fn payload_offset(&self) -> u64 {
        self.offset + HEADER_BYTES as u64
    }

    /// The error for a frame that may not come here.
    pub(super) fn unexpected(&self, expected: &str) -> BootstrapError {
        BootstrapError::malformed(expected, &format!("a {:?} frame", self.kind), self.offset)
    }
}

#[derive(Debug)]
pub(super) struct Framed {
    socket: Socket,
    pub(super) peer: String,
    pub(super) local: String,
    /// Arrived and not consumed.
    inbox: Vec<u8>,
    /// Position of the inbox's first byte in the stream.
    consumed: u64,
    magic_seen: bool,
    outbox: Vec<u8>,
    /// How much of the outbox has gone.
    sent: usize,
    /// Whether the outbox holds a frame. The magic alone waits for the first one.
    frame_waiting: bool,
}

impl Framed {
    /// Starts on a fresh connection; the magic is the first thing to be sent.
    pub(super) fn new(socket: Socket, peer: String) -> Framed {
        let local = socket.local_text();
        Framed {
            socket,
            peer,
            local,
            inbox: Vec::new(),
            consumed: 0,
            magic_seen: false,
            outbox: MAGIC.to_vec(),
            sent: 0,
            frame_waiting: false,
        }
    }

    /// Whether the peer has proved to be one of ours.
    pub(super) fn magic_seen(&self) -> bool {
        self.magic_seen
    }

    pub(super) fn local_ip(&self) -> Option<std::net::IpAddr> {
        self.socket.local_ip()
    }

    /// The socket, and what has arrived past the handshake.
    pub(super) fn into_parts(self) -> (Socket, Vec<u8>) {
        (self.socket, self.inbox)
    }

    /// Sends one frame. What an earlier, cancelled send left goes first.
    pub(super) async fn send(
        &mut self,
        kind: FrameKind,
        payload: &[u8],
        deadline: Instant,
    ) -> Result<(), BootstrapError> {
        if self.frame_waiting {
            self.flush(deadline).await?;
        }
        encode_frame(&mut self.outbox, kind, payload);
        self.frame_waiting = true;
        self.flush(deadline).await
    }

    async fn flush(&mut self, deadline: Instant) -> Result<(), BootstrapError> {
        while self.sent < self.outbox.len() {
            match self.socket.try_write(&self.outbox[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let writable = poll_fn(|cx| self.socket.poll_write_ready(cx));
                    match timeout_at(deadline, writable).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => return Err(self.io_error("writing to", &error)),
                        Err(_) => {
                            let unsent = self.outbox.len() - self.sent;
                            return Err(BootstrapError::send_timeout(
                                &self.peer,
                                "handshake bytes",
                                unsent,
                            ));
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.io_error("writing to", &error)),
            }
        }
        self.outbox.clear();
        self.sent = 0;
        self.frame_waiting = false;
        Ok(())
    }

    /// The next frame; `expected` names it in errors.
    pub(super) async fn receive(
        &mut self,
        expected: &str,
        deadline: Instant,
    ) -> Result<Frame, BootstrapError> {
        if self.frame_waiting {
            self.flush(deadline).await?;
        }
        loop {
            self.take_magic().map_err(|error| error.sent_by(&self.peer))?;
            if let Some(frame) = self.take_frame().map_err(|error| error.sent_by(&self.peer))? {
                return Ok(frame);
            }
            self.fill(expected, deadline).await?;
        }
    }

    /// Checks as much of the magic as has arrived, so that a stranger is told apart at once.
    fn take_magic(&mut self) -> Result<(), BootstrapError> {
        if self.magic_seen {
            return Ok(());
        }
        let same = self.inbox.iter().zip(&MAGIC).take_while(|(got, want)| got == want).count();
        if same < MAGIC.len() {
            if same < self.inbox.len() {
                return Err(BootstrapError::malformed(
                    "the rdma-rpc handshake",
                    &stranger(&self.inbox, same),
                    same as u64,
                ));
            }
            return Ok(());
        }
        self.consume(MAGIC.len());
        self.magic_seen = true;
        Ok(())
    }

    /// Takes a whole frame off the inbox. The header is checked as soon as it is there.
    fn take_frame(&mut self) -> Result<Option<Frame>, BootstrapError> {
        if !self.magic_seen {
            return Ok(None);
        }
        let Some(header) = self.inbox.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let (kind, length) = decode_header(*header, self.consumed)?;
        let Some(payload) = self.inbox.get(HEADER_BYTES..HEADER_BYTES + length) else {
            return Ok(None);
        };
        let frame = Frame { kind, payload: payload.to_vec(), offset: self.consumed };
        self.consume(HEADER_BYTES + length);
        Ok(Some(frame))
    }

    fn consume(&mut self, bytes: usize) {
        self.inbox.drain(..bytes);
        self.consumed += bytes as u64;
    }

    /// Waits for at least one more byte.
    async fn fill(&mut self, expected: &str, deadline: Instant) -> Result<(), BootstrapError> {
        let mut chunk = [0; READ_BYTES];
        loop {
            let arrived = self.consumed + self.inbox.len() as u64;
            match self.socket.try_read(&mut chunk) {
                Ok(0) => return Err(BootstrapError::closed(&self.peer, expected, arrived)),
                Ok(n) => {
                    self.inbox.extend_from_slice(&chunk[..n]);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let readable = poll_fn(|cx| self.socket.poll_read_ready(cx));
                    match timeout_at(deadline, readable).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => return Err(self.io_error("reading from", &error)),
                        Err(_) => {
                            return Err(BootstrapError::timeout(&self.peer, expected, arrived));
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.io_error("reading from", &error)),
            }
        }
    }

    fn io_error(&self, doing: &str, error: &io::Error) -> BootstrapError {
        let arrived = self.consumed + self.inbox.len() as u64;
        BootstrapError::io(doing, &self.peer, arrived, error)
    }
}

/// Names what came instead of the magic, if it is something known.
fn stranger(inbox: &[u8], same: usize) -> String {
    const HTTP: [&[u8]; 8] =
        [b"GET ", b"POST ", b"PUT ", b"HEAD ", b"DELETE ", b"OPTIONS ", b"CONNECT ", b"PATCH "];
    if inbox.starts_with(b"PRI * HTTP/2") {
        return "an HTTP/2 preface (a gRPC client?)".to_string();
    }
    if inbox.starts_with(b"HTTP/") {
        return "an HTTP response".to_string();
    }
    if HTTP.iter().any(|method| inbox.starts_with(method)) {
        return "an HTTP request".to_string();
    }
    if inbox.starts_with(&[0x16, 0x03]) {
        return "a TLS hello".to_string();
    }
    if inbox.starts_with(b"SSH-") {
        return "an SSH greeting".to_string();
    }
    format!("{:#04x} where {:#04x} belongs", inbox[same], MAGIC[same])
}
