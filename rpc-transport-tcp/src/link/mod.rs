//! The link over a stream socket: what a connection runs on when no faster transport was agreed.
//!
//! # Bytes
//!
//! After the bootstrap both directions are a row of frames, nothing between them:
//!
//! ```text
//!   offset size
//!        0    4  n = length of the frame in bytes, little-endian; 1 <= n <= max_frame_bytes
//!        4    n  the frame, opaque to the link
//! ```
//!
//! Before a frame there may be a filler: a length of at most 124 with the highest bit set, and so many
//! bytes that mean nothing. It moves a long body away from where copies of it are slow (`send.rs`).
//!
//! A length of 0 or above the receiver's `max_frame_bytes` ends the connection. Each end tells
//! its own limit in the bootstrap, and the other sends no longer frames. An end of stream between two frames is an orderly close; in the middle of one, it is reported with the
//! number of missing bytes.
//!
//! # Memory
//!
//! A connection that has not carried anything yet holds no buffers, only this struct (below
//! 1 KiB, tested). Buffers come with use: 16 KiB each way for small calls, at most
//! `staging_bytes` or one longest frame (1088 KiB) plus `max_owned_bytes` (1 MiB of messages that
//! are lent, not copied) on the way out, at most 64 KiB plus one frame on the way in, whatever the
//! peer sends; a frame's memory is set aside once a sixteenth of it has come.
//! The staging buffer shrinks again when its size is no longer needed.
//!
//! # Sending
//!
//! [`FrameSink::reserve`] lends room in the staging buffer; [`FrameSink::send_owned`] queues the
//! body itself where that is cheaper than a copy; [`Link::flush`] gives all of it to the kernel
//! with as few `writev` calls as it takes. A socket that takes no more is back-pressure.
//!
//! # Receiving
//!
//! One `read` fetches as many frames as have arrived; short ones are lent from the buffer, the
//! rest of a long one is read straight into memory of its own, which is given away.

mod receive;
mod send;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use rdma_rpc_core::link::{
    BulkDescriptor, FrameSink, Link, LinkError, LinkInfo, LinkLimits, Received,
};
use rdma_rpc_core::poll_set::{Look, PollSet, Watched};

use self::receive::{Inbound, Next};
use self::send::Outbound;
use crate::socket::{Socket, linger};

/// Bytes of the length before each frame.
const PREFIX_BYTES: usize = 4;

/// A length with this bit is that of a filler: so many bytes that mean nothing, before a frame.
const FILLER: u32 = 1 << 31;

/// The longest filler, with its length.
const FILLER_BYTES: usize = 128;

/// What a `max_frame_bytes` comes down to: no length may look like a filler's.
pub(crate) fn clamp_max_frame_bytes(bytes: usize) -> usize {
    bytes.clamp(MIN_MAX_FRAME_BYTES, FILLER as usize - 1 - PREFIX_BYTES)
}

/// The smallest `max_frame_bytes` the link contract allows.
pub const MIN_MAX_FRAME_BYTES: usize = 4096;

/// Stretches of messages from this many bytes on are written from where they lie.
const LEND_THRESHOLD_BYTES: usize = 16 * 1024;

/// How a link over a socket is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TcpLinkOptions {
    /// The longest frame either way, in bytes. At least 4096; the default is 1088 KiB: a message of
    /// a mebibyte goes in one piece, and is read to where it stays. After a bootstrap, what this
    /// end told there bounds what it receives, and the peer's limit what it sends.
    pub max_frame_bytes: usize,
    /// The most bytes copied frames may wait in. Raised to hold one longest frame at least.
    pub staging_bytes: usize,
    /// The most bytes of lent messages that may wait. One is always accepted.
    pub max_owned_bytes: usize,
}

impl Default for TcpLinkOptions {
    fn default() -> TcpLinkOptions {
        TcpLinkOptions {
            max_frame_bytes: 1088 * 1024,
            staging_bytes: 256 * 1024,
            max_owned_bytes: 1024 * 1024,
        }
    }
}

/// A socket, as a poll set sees it: news of it come by the runtime.
struct Unseen;

impl Look for Unseen {
    fn has_news(&self, _scan: u64) -> bool {
        false
    }
}

/// Frames over a TCP or Unix socket.
pub struct TcpLink {
    /// `None` only once the socket has been handed to its farewell in `drop`.
    socket: Option<Socket>,
    limits: LinkLimits,
    out: Outbound,
    inbound: Inbound,
    info: LinkInfo,
    /// A `reserve` or `send_owned` found no room since room last appeared.
    room_wanted: bool,
    /// Room has appeared since, and `poll_ready` has not said so yet.
    room_appeared: bool,
    /// The peer takes nothing more: what it sent before is still received first.
    write_broken: Option<LinkError>,
    /// Our end of stream has been sent.
    shut: bool,
    /// For the runtime's poll set.
    waits: Arc<Watched<Unseen>>,
    arrives_where_sent: bool,
}

impl TcpLink {
    /// A link over `socket`. `early` is what was read past the bootstrap.
    pub fn new(socket: Socket, early: &[u8], options: &TcpLinkOptions) -> TcpLink {
        let max_frame_bytes = clamp_max_frame_bytes(options.max_frame_bytes);
        let longest = max_frame_bytes + PREFIX_BYTES;
        let info = LinkInfo::new("tcp", socket.local_text(), socket.peer_text());
        TcpLink {
            arrives_where_sent: socket.arrives_where_sent(),
            socket: Some(socket),
            limits: LinkLimits {
                max_frame_bytes,
                bulk_threshold_bytes: None,
                max_bulk_bytes: 0,
                lend_threshold_bytes: Some(LEND_THRESHOLD_BYTES),
            },
            out: Outbound::new(options.staging_bytes.max(longest), options.max_owned_bytes),
            inbound: Inbound::new(early, max_frame_bytes),
            info,
            room_wanted: false,
            room_appeared: false,
            write_broken: None,
            shut: false,
            waits: Watched::new(Unseen),
        }
    }

    /// Sends no frames longer than `bytes`, because the peer does not take them.
    pub(crate) fn limit_sending(&mut self, bytes: usize) {
        self.limits.max_frame_bytes = self.limits.max_frame_bytes.min(bytes);
    }

    /// Bytes of buffers this link holds now, both ways.
    pub fn buffered_capacity_bytes(&self) -> usize {
        self.out.capacity_bytes() + self.inbound.capacity_bytes()
    }

    fn wait_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        let room_appeared = std::mem::take(&mut self.room_appeared);
        if room_appeared || self.write_broken.is_some() || self.inbound.has_frame() {
            return Poll::Ready(Ok(()));
        }
        let socket = live(&self.socket)?;
        let failed = |error: io::Error| LinkError::io(format!("the runtime is gone: {error}"));
        if let Poll::Ready(ready) = socket.poll_read_ready(cx) {
            return Poll::Ready(ready.map_err(failed));
        }
        if self.out.is_empty() {
            return Poll::Pending;
        }
        socket.poll_write_ready(cx).map_err(failed)
    }

    fn check_len(&self, len: usize) -> Result<(), LinkError> {
        if len == 0 || len > self.limits.max_frame_bytes {
            return Err(LinkError::io(format!(
                "cannot send a frame of {len} bytes: 1 to {} are allowed",
                self.limits.max_frame_bytes
            )));
        }
        if self.shut {
            return Err(LinkError::io("cannot send a frame after the link was closed"));
        }
        Ok(())
    }

    fn write_failed(&mut self, error: &io::Error) -> Result<(), LinkError> {
        let peer = &self.info.peer;
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                self.out.clear();
                self.write_broken =
                    Some(LinkError::closed(format!("{peer} closed the connection: {error}")));
                Ok(())
            }
            io::ErrorKind::TimedOut => Err(LinkError::io(format!(
                "{peer} took no data before the keepalive timeout: it is gone or has stopped \
                 reading ({error})"
            ))),
            _ => Err(LinkError::io(format!("writing to {peer}: {error}"))),
        }
    }
}

fn no_bulk<T>() -> Result<T, LinkError> {
    Err(LinkError::io("a link over a socket has no bulk: send the message in frames"))
}

/// The socket is there until `drop`.
fn live(socket: &Option<Socket>) -> Result<&Socket, LinkError> {
    socket.as_ref().ok_or_else(|| LinkError::io("the link has been dropped"))
}

impl FrameSink for TcpLink {
    fn limits(&self) -> LinkLimits {
        self.limits
    }

    fn reserve(&mut self, len: usize) -> Result<Option<&mut [u8]>, LinkError> {
        self.check_len(len)?;
        let frame = self.out.reserve(len);
        self.room_wanted = frame.is_none();
        Ok(frame)
    }

    fn commit(&mut self) {
        self.out.commit();
    }

    fn send_owned(
        &mut self,
        head: [&[u8]; 2],
        body: &Bytes,
        tail: &[u8],
    ) -> Result<bool, LinkError> {
        self.check_len(head[0].len() + head[1].len() + body.len() + tail.len())?;
        let sent = self.out.send_owned(head, body, tail);
        self.room_wanted = !sent;
        Ok(sent)
    }

    fn bulk_reserve(&mut self, _len: usize) -> Result<Option<&mut [u8]>, LinkError> {
        no_bulk()
    }

    /// # Panics
    /// Never after a successful `bulk_reserve`, which does not exist here; answers an empty
    /// descriptor.
    fn bulk_commit(&mut self) -> BulkDescriptor {
        BulkDescriptor::new(&[]).unwrap_or_else(|| unreachable!("an empty descriptor fits"))
    }

    fn bulk_release(&mut self, _descriptor: &BulkDescriptor) -> Result<(), LinkError> {
        Err(LinkError::misbehaved("released a bulk buffer on a link that has none"))
    }

    fn bulk_pull(
        &mut self,
        _ticket: u64,
        _descriptor: &BulkDescriptor,
        _len: usize,
    ) -> Result<bool, LinkError> {
        Err(LinkError::misbehaved("sent a bulk descriptor on a link that has no bulk"))
    }
}

impl Link for TcpLink {
    fn flush(&mut self) -> Result<(), LinkError> {
        if self.write_broken.is_some() {
            self.out.clear();
            return Ok(());
        }
        let socket = live(&self.socket)?;
        let before = self.out.len_bytes();
        let outcome = self.out.flush(socket);
        if self.room_wanted && self.out.len_bytes() < before {
            self.room_wanted = false;
            self.room_appeared = true;
        }
        match outcome {
            Ok(()) => Ok(()),
            Err(error) => self.write_failed(&error),
        }
    }

    fn receive(&mut self) -> Result<Option<Received<'_>>, LinkError> {
        let socket = live(&self.socket)?;
        match self.inbound.advance(socket, &self.info.peer)? {
            Next::Lent(range) => Ok(Some(Received::Frame(self.inbound.lent(range)))),
            Next::Owned(frame) => Ok(Some(Received::Owned(frame))),
            Next::Nothing => match &self.write_broken {
                Some(error) => Err(error.clone()),
                None => Ok(None),
            },
        }
    }

    fn has_unsent(&self) -> bool {
        !self.out.is_empty()
    }

    fn is_looked_at_in_place(&self) -> bool {
        false
    }

    fn was_woken_here(&mut self) -> Option<bool> {
        let socket = self.socket.as_ref()?;
        // The kernel does not say where what comes through a Unix socket was sent.
        (!socket.is_unix()).then(|| self.arrives_where_sent && socket.has_arrived_here())
    }

    fn fetch(&mut self) -> bool {
        match &self.socket {
            // When the socket takes more, the runtime says.
            Some(socket) => self.out.is_empty() && self.inbound.fetch(socket, &self.info.peer),
            None => true,
        }
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        self.waits.leave();
        self.wait_ready(cx)
    }

    /// The kernel wakes all the same; but a set that has somebody to look after does not sleep, and so
    /// neither does the runtime, which then looks at its sockets all the time.
    fn poll_ready_in(
        &mut self,
        cx: &mut Context<'_>,
        set: &PollSet,
    ) -> Poll<Result<(), LinkError>> {
        let ready = self.wait_ready(cx);
        if ready.is_pending() {
            set.watch(&self.waits, cx.waker());
        }
        ready
    }

    fn leave_set(&mut self) {
        self.waits.leave();
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        loop {
            self.flush()?;
            let socket = live(&self.socket)?;
            if self.out.is_empty() {
                if !self.shut {
                    self.shut = true;
                    socket.shutdown_write().map_err(|error| {
                        LinkError::io(format!("closing to {}: {error}", self.info.peer))
                    })?;
                }
                return Poll::Ready(Ok(()));
            }
            match socket.poll_write_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(Err(LinkError::io(format!(
                        "the runtime is gone: {error}"
                    ))));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn info(&self) -> LinkInfo {
        self.info.clone()
    }
}

impl Drop for TcpLink {
    fn drop(&mut self) {
        self.waits.leave();
        // After an orderly close the peer may still have to read what we sent, and unread bytes
        // of its own would turn our close into a reset.
        if !self.shut || self.inbound.ended() {
            return;
        }
        let runtime = tokio::runtime::Handle::try_current();
        if let (Some(socket), Ok(runtime)) = (self.socket.take(), runtime) {
            runtime.spawn(linger(socket));
        }
    }
}

impl fmt::Debug for TcpLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpLink")
            .field("local", &self.info.device)
            .field("peer", &self.info.peer)
            .field("unsent_bytes", &self.out.len_bytes())
            .field("shut", &self.shut)
            .finish_non_exhaustive()
    }
}
