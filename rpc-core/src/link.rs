//! The link contract: ordered, reliable frames between two processes.
//!
//! A link moves opaque frames. It does not know what a call is, and no verbs type crosses this
//! boundary. Everything is non-blocking: a link that has no room says so (`Ok(None)`,
//! `Ok(false)`), which is back-pressure and never an error, and [`Link::poll_ready`] tells the
//! driver when to try again.
//!
//! ```text
//!   reserve -> fill -> commit      frame by frame, into the link's own staging memory
//!   flush                          everything committed leaves in as few bursts as can be
//!   receive                        frame by frame, in the order the peer committed them
//!   bulk_reserve -> fill -> bulk_commit -> [descriptor travels in a frame] -> bulk_pull -> Pulled
//!                                                                         <- bulk_release
//! ```
//!
//! # Who calls what, in which order
//!
//! One owner at a time drives a link (`&mut self` everywhere). `reserve` is followed by `commit`
//! or by another `reserve`, which forgets the first. Nothing leaves before `flush`. After any
//! method returned an error the link is dead: every later call may return the same error and the
//! owner is expected to drop it.

use std::fmt;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::poll_set::PollSet;

/// What a link can carry. Fixed for the life of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkLimits {
    /// The longest frame [`FrameSink::reserve`] and [`FrameSink::send_owned`] accept, in bytes,
    /// header included. At least 4096.
    pub max_frame_bytes: usize,
    /// Messages longer than this many bytes should go by bulk. `None`: the link has no bulk, and
    /// long messages travel as several frames.
    pub bulk_threshold_bytes: Option<usize>,
    /// The longest message `bulk_reserve` accepts, in bytes. 0 where there is no bulk.
    pub max_bulk_bytes: usize,
    /// A stretch of a message of this many bytes or more had better be sent from where it lies, by
    /// [`FrameSink::send_owned`] or [`FrameSink::bulk_lend`]. `None`: the link copies in any case.
    pub lend_threshold_bytes: Option<usize>,
}

/// The most bytes a bulk descriptor may have.
pub const MAX_BULK_DESCRIPTOR_BYTES: usize = 32;

/// Where a bulk message waits: bytes only the link that made them and its peer's link understand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BulkDescriptor {
    bytes: [u8; MAX_BULK_DESCRIPTOR_BYTES],
    len: u8,
}

impl BulkDescriptor {
    /// Wraps the descriptor's bytes; `None` if there are more than
    /// [`MAX_BULK_DESCRIPTOR_BYTES`].
    pub fn new(bytes: &[u8]) -> Option<BulkDescriptor> {
        let mut copy = [0; MAX_BULK_DESCRIPTOR_BYTES];
        copy.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(BulkDescriptor { bytes: copy, len: bytes.len() as u8 })
    }

    /// The descriptor's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// Fills `frame` with `parts`, one behind the other.
///
/// # Panics
/// If they are longer together than `frame`.
pub fn fill(mut frame: &mut [u8], parts: &[&[u8]]) {
    for part in parts {
        let (here, rest) = frame.split_at_mut(part.len());
        crate::copy::copy(part, here);
        frame = rest;
    }
}

/// The sending half of a link, as the session sees it.
pub trait FrameSink {
    /// What this link can carry.
    fn limits(&self) -> LinkLimits;

    /// Room for a frame of exactly `len` bytes (`len <= max_frame_bytes`), or `None` when there
    /// is no room now. The bytes are whatever was there before; fill all of them.
    fn reserve(&mut self, len: usize) -> Result<Option<&mut [u8]>, LinkError>;

    /// The frame last reserved is complete and joins the current burst.
    fn commit(&mut self);

    /// Sends one frame made of `head`, `body` and `tail`, all or nothing; `false` when there is no
    /// room now. A link that can send `body` from where it lies does; this default copies.
    fn send_owned(
        &mut self,
        head: [&[u8]; 2],
        body: &Bytes,
        tail: &[u8],
    ) -> Result<bool, LinkError> {
        let len = head[0].len() + head[1].len() + body.len() + tail.len();
        let Some(frame) = self.reserve(len)? else { return Ok(false) };
        fill(frame, &[head[0], head[1], body, tail]);
        self.commit();
        Ok(true)
    }

    /// Whether a message of `len` bytes goes as a frame although it is longer than
    /// `bulk_threshold_bytes`: it is all that one side of a unary call sends, and `calls` calls are
    /// open, this one among them.
    fn prefers_frame(&self, _len: usize, _calls: usize) -> bool {
        false
    }

    /// A buffer of `len` bytes (`len <= max_bulk_bytes`) that the peer will pull, or `None` when
    /// the pool is used up now. Only called where `bulk_threshold_bytes` is `Some`.
    fn bulk_reserve(&mut self, len: usize) -> Result<Option<&mut [u8]>, LinkError>;

    /// The buffer last reserved is complete. The descriptor must reach the peer in a frame; the
    /// buffer is busy until [`FrameSink::bulk_release`] gives the same descriptor back.
    fn bulk_commit(&mut self) -> BulkDescriptor;

    /// Has the peer pull `body` from where it lies; the link keeps it until
    /// [`FrameSink::bulk_release`]. `None`: not here, or not now; use `bulk_reserve`.
    fn bulk_lend(&mut self, _body: &Bytes) -> Result<Option<BulkDescriptor>, LinkError> {
        Ok(None)
    }

    /// The peer says it is done with a buffer of ours, or with what was lent. A descriptor that
    /// names no busy buffer is a protocol violation of the peer, and an error.
    fn bulk_release(&mut self, descriptor: &BulkDescriptor) -> Result<(), LinkError>;

    /// Begins to pull a message of `len` bytes that the peer described. `false` when too much is
    /// under way: try again after the next [`Received::Pulled`] or `poll_ready`. The message
    /// arrives as [`Received::Pulled`] with the same `ticket`. A descriptor that does not make
    /// sense (unknown memory, out of bounds, another length) is an error.
    fn bulk_pull(
        &mut self,
        ticket: u64,
        descriptor: &BulkDescriptor,
        len: usize,
    ) -> Result<bool, LinkError>;
}

/// What [`Link::receive`] brings. Memory a peer can still write never appears here: links copy
/// frames out of rings first.
#[derive(Debug)]
pub enum Received<'a> {
    /// One frame, lent until the next call on the link.
    Frame(&'a [u8]),
    /// One frame, given away: links do this for long frames they need not copy.
    Owned(Bytes),
    /// A pull has finished.
    Pulled {
        /// As given to [`FrameSink::bulk_pull`].
        ticket: u64,
        /// The whole message, in memory the peer cannot reach.
        message: Bytes,
    },
}

/// Ordered, reliable frames to and from one peer.
pub trait Link: FrameSink + Send + 'static {
    /// Hands committed frames to the wire as far as credit and queues allow. What does not go
    /// now goes at a later `flush`; [`Link::poll_ready`] wakes its owner for it.
    fn flush(&mut self) -> Result<(), LinkError>;

    /// How many frames are worth a flush of their own while more are being made: the more a flush
    /// costs, the more; but a peer that is told early works while the rest is made.
    fn flush_frames(&self) -> u32 {
        256
    }

    /// Whether a flush costs so little that calls may leave in halves, for both ends to work at once.
    /// Where it is a system call that pays only on a runtime with nothing else to do: on eight
    /// sockets with eight calls each it cost a quarter of all calls.
    fn flushes_early(&self) -> bool {
        false
    }

    /// The next frame or finished pull, or `None` when there is none now. Never blocks and, on a
    /// ring, makes no system call.
    fn receive(&mut self) -> Result<Option<Received<'_>>, LinkError>;

    /// Whether committed frames are still waiting for room on the wire.
    fn has_unsent(&self) -> bool;

    /// A look that costs a few loads, or not much more: `false` only if nothing seems to have come and nothing waits
    /// to go on. It may miss what seldom happens (the end of the connection), so whoever spins on
    /// it calls `receive` now and then all the same.
    fn may_have_news(&self) -> bool {
        true
    }

    /// Whether something waits here that the look of a poll set does not find: it has been taken
    /// from the device already, or is wished for.
    fn holds_news(&self) -> bool {
        self.may_have_news()
    }

    /// How many such looks take about half a microsecond. A pause among them (up to 50 ns) would
    /// delay the news it falls on, and a pass (some 200 ns) more.
    fn looks_per_pass(&self) -> u32 {
        200
    }

    /// Whether the driver finds news by looking again at once. Where it is the runtime that brings them
    /// (sockets, which it asks the kernel about all at once), it has a turn between two looks.
    fn is_looked_at_in_place(&self) -> bool {
        true
    }

    /// Ready when `receive` may bring something, when room has appeared after `reserve`,
    /// `bulk_reserve` or `bulk_pull` said there was none, or when unsent frames can move on.
    /// Otherwise arms the link, looks once more (so that nothing falls between), and keeps the
    /// waker. Spurious readiness is allowed. An error means the connection has ended; a peer that
    /// closed in order is [`LinkErrorKind::Closed`].
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>>;

    /// After [`Link::poll_ready`] has woken the driver: whether whoever did that was on the CPU that runs
    /// this. Then the peer waits for this CPU, and the driver gives it up as soon as it has answered. A hint.
    /// `None`: it may have been, but the link cannot tell.
    fn was_woken_here(&mut self) -> Option<bool> {
        Some(false)
    }

    /// For a caller that polls in the runtime's place: takes what has come, without waiting for the
    /// runtime to notice it. `false`: only the runtime brings what comes next.
    fn fetch(&mut self) -> bool {
        true
    }

    /// As [`Link::poll_ready`], but woken by `set`, which polls, instead of by the kernel. A link
    /// that cannot be looked at without a system call is woken by the kernel all the same.
    fn poll_ready_in(
        &mut self,
        cx: &mut Context<'_>,
        set: &PollSet,
    ) -> Poll<Result<(), LinkError>> {
        let _ = set;
        self.poll_ready(cx)
    }

    /// Nobody waits in the set any more: somebody else looks.
    fn leave_set(&mut self) {}

    /// Begins an orderly close after everything committed has been flushed: the peer's `receive`
    /// still gets all of it and then a [`LinkErrorKind::Closed`] error.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>>;

    /// What this link is, for logs and for people.
    fn info(&self) -> LinkInfo;
}

/// What a link is: shown to people.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LinkInfo {
    /// `"tcp"`, `"shm"`, `"rdma"` or `"memory"`.
    pub transport: &'static str,
    /// The device or socket in use, such as `mlx5_0` or `127.0.0.1:7400`.
    pub device: String,
    /// The peer's address, as far as it is known.
    pub peer: String,
}

impl LinkInfo {
    /// Names a link.
    pub fn new(
        transport: &'static str,
        device: impl Into<String>,
        peer: impl Into<String>,
    ) -> LinkInfo {
        LinkInfo { transport, device: device.into(), peer: peer.into() }
    }
}

/// Why a link ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkErrorKind {
    /// The peer closed in order, or its process ended.
    Closed,
    /// The peer broke the link's rules: bad lengths, offsets, descriptors or credits.
    PeerMisbehaved,
    /// A socket, device or system call failed.
    Io,
}

/// Why a link ended: who is to blame, and the exact cause.
#[derive(Clone)]
pub struct LinkError {
    kind: LinkErrorKind,
    message: Box<str>,
}

impl LinkError {
    /// The peer closed, or its process ended; `how` says how that was noticed.
    pub fn closed(how: impl Into<String>) -> LinkError {
        LinkError { kind: LinkErrorKind::Closed, message: how.into().into() }
    }

    /// The peer broke the rules; `what` names the offending bytes.
    pub fn misbehaved(what: impl Into<String>) -> LinkError {
        LinkError { kind: LinkErrorKind::PeerMisbehaved, message: what.into().into() }
    }

    /// A system call or verb failed; `what` names it with its errno.
    pub fn io(what: impl Into<String>) -> LinkError {
        LinkError { kind: LinkErrorKind::Io, message: what.into().into() }
    }

    /// Whom to blame.
    pub fn kind(&self) -> LinkErrorKind {
        self.kind
    }
}

impl fmt::Debug for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinkError({:?}: {})", self.kind, self.message)
    }
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = match self.kind {
            LinkErrorKind::Closed => "connection closed",
            LinkErrorKind::PeerMisbehaved => "peer broke the protocol",
            LinkErrorKind::Io => "transport failed",
        };
        write!(f, "{who}: {}", self.message)
    }
}

impl std::error::Error for LinkError {}
