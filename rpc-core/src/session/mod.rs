//! The session: frames in, frames out, and what they mean for streams.
//!
//! A session is a sans-IO state machine. It has no socket, clock, lock, randomness or task; time
//! is an argument, frames are written into a [`FrameSink`](crate::link::FrameSink) the caller
//! lends. Everything it decides can be replayed.
//!
//! # Call order
//!
//! 1. Input: [`Session::handle_frame`] for each frame received, [`Session::handle_timeout`] when
//!    [`Session::poll_timeout`] has passed, and the calls of the layer above
//!    ([`Session::open`], [`Session::send_message`], [`Session::finish`], ...).
//! 2. Output: [`Session::transmit`] writes what could not go at once; then
//!    [`Session::pop_writable`] names streams whose sender may go on. Then the caller flushes the
//!    link.
//!
//! # Streams and their slots
//!
//! A client picks a free slot for each stream, and the slot's number plus one is the stream's
//! number on the wire, so that both ends find a stream by indexing an array. A slot is free again
//! when the server's last word has gone: **a server sends exactly one final frame per stream**
//! (RESPONSE, TRAILERS or RESET), whatever happened. A client that gives up sends RESET and keeps
//! the slot until that final frame. Since frames stay in order, whatever the client still sent
//! for the old stream arrives before the REQUEST that uses the slot again; a server ignores
//! frames for slots that are free.

mod bare;
mod batch;
mod compose;
mod config;
mod control;
mod deadlines;
mod encode;
mod event;
mod line;
mod pieces;
mod receive;
mod send;
mod serve;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

pub use bare::BareRequest;
pub use batch::{Batch, Messages};
pub use config::{Role, SessionConfig};
pub use encode::Encode;
pub use event::{Event, Finish, Message, Payload, Refusal, SessionError};
pub use receive::FrameRef;
pub use send::{NewStream, Opened, Sending};

use crate::link::LinkLimits;
use crate::wire::{INITIAL_MAX_STREAMS, INITIAL_WINDOW_BYTES, MAX_METHODS};
use control::Control;
use deadlines::Deadlines;
use line::Line;
use stream::{State, Stream};

/// Names a stream on this side. A name outlives its stream: used later, it names nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamId {
    slot: u32,
    generation: u32,
}

impl StreamId {
    /// A connection's first.
    pub(crate) const FIRST: StreamId = StreamId { slot: 0, generation: 0 };

    /// The slot: a small number, reused when the stream is over.
    pub fn slot(self) -> usize {
        self.slot as usize
    }

    /// The stream's number on the wire.
    pub fn wire(self) -> u32 {
        self.slot + 1
    }
}

/// A connection's protocol state.
///
/// In this order in memory: what each call touches comes first, so that it lies in few cache lines.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, PartialEq))]
#[repr(C)]
pub struct Session {
    role: Role,
    settings_received: bool,
    /// No new streams: we said GOAWAY (server) or the peer did (client).
    going_away: bool,
    /// We said GOAWAY with a code: the connection's last.
    failed: bool,
    /// A stream has opened on a connection that had none: its clock starts when it is looked at.
    keepalive_fresh: bool,
    ping_queued: bool,
    open: u32,
    /// Client: of those, how many more messages are to be sent on.
    sending: u32,
    peer_max_streams: u32,
    /// BULKs of ours the peer has not answered.
    bulks_out: u32,
    /// BULKs of the peer whose answer has not gone.
    bulks_owed: u32,
    pongs_queued: u32,
    frames_received: u64,
    /// Client: REQUESTs handed to the link. Server: REQUESTs accepted.
    requests: u64,
    buffered_bytes: u64,
    streams: Vec<Stream>,
    /// Client: free slots below `streams.len()`.
    free: Vec<u32>,
    /// Client: paths bound so far, their index is the number.
    bound: Vec<&'static str>,
    /// Server: the receive limit of each bound method.
    method_limits: Vec<Option<usize>>,
    link: LinkLimits,
    config: SessionConfig,
    last_heard: Instant,
    ping_sent: Option<Instant>,
    /// Most connections never have one.
    line: Option<Box<Line>>,
    deadlines: Deadlines,
    control: VecDeque<Control>,

    peer_window_bytes: u64,
}

impl Session {
    /// A new session; its SETTINGS wait to be transmitted.
    pub fn new(role: Role, config: SessionConfig, link: LinkLimits, now: Instant) -> Session {
        let config = config.clamped();
        let mut session = Session {
            role,
            config,
            link,
            streams: Vec::new(),
            free: Vec::new(),
            open: 0,
            sending: 0,
            deadlines: Deadlines::default(),
            line: None,
            buffered_bytes: 0,
            control: VecDeque::new(),
            peer_max_streams: INITIAL_MAX_STREAMS,
            peer_window_bytes: INITIAL_WINDOW_BYTES,
            settings_received: false,
            frames_received: 0,
            bound: Vec::new(),
            method_limits: Vec::new(),
            requests: 0,
            going_away: false,
            failed: false,
            last_heard: now,
            ping_sent: None,
            keepalive_fresh: false,
            ping_queued: false,
            pongs_queued: 0,
            bulks_out: 0,
            bulks_owed: 0,
        };
        session.queue_settings();
        session
    }

    /// Which end this is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Streams that are open, those this side gave up but the server has not ended included.
    pub fn open_streams(&self) -> usize {
        self.open as usize
    }

    /// Client: whether the program has more messages to send on some of them.
    pub fn is_sending(&self) -> bool {
        self.sending > 0
    }

    /// Whether messages wait to be pulled, by either side. Their streams may be over.
    pub fn has_bulks(&self) -> bool {
        self.bulks_out > 0 || self.bulks_owed > 0
    }

    /// Whether a stream is open for this side's calls.
    pub fn is_open(&self, id: StreamId) -> bool {
        self.get(id).is_some()
    }

    /// Whether no new streams may be opened (client) or are accepted (server).
    pub fn is_going_away(&self) -> bool {
        self.going_away
    }

    /// Bytes of messages and metadata held for readers.
    pub fn buffered_bytes(&self) -> u64 {
        self.buffered_bytes
    }

    /// The window this side gives each stream, in bytes.
    pub fn window_bytes(&self) -> u64 {
        self.config.window_bytes
    }

    /// Client: whether the stream's REQUEST has been handed to the link, so that the server may
    /// have seen it. `false` also for streams that are over.
    pub fn was_sent(&self, id: StreamId) -> bool {
        self.get(id).is_some_and(|stream| stream.request_number > 0)
    }

    /// Server: the longest message a bound method takes, in bytes.
    pub fn set_method_limit(&mut self, method: u16, bytes: usize) {
        if let Some(limit) = self.method_limits.get_mut(usize::from(method)) {
            *limit = Some(bytes);
        }
    }

    /// The reader of a stream has taken everything up to `position`. Returns whether the peer has
    /// to be told, so that the caller can see to a [`Session::transmit`].
    pub fn consumed(&mut self, id: StreamId, position: u64) -> bool {
        let window_bytes = self.config.window_bytes;
        let Some(stream) = self.get_mut(id) else { return false };
        let position = position.clamp(stream.consumed, stream.receive_position);
        let freed = position - stream.consumed;
        stream.consumed = position;
        stream.credit(window_bytes);
        self.buffered_bytes -= freed;
        self.queue_window(id.slot)
    }

    /// When [`Session::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let keepalive = self.keepalive_due();
        match (self.deadlines.earliest(), keepalive) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Takes one stream whose deadline has passed, and whether the peer can have seen it; call
    /// until it gives `None`. The stream is over for the caller: a client has queued RESET, a
    /// server its TRAILERS, both with DEADLINE_EXCEEDED.
    pub fn handle_timeout(
        &mut self,
        now: Instant,
    ) -> Result<Option<(StreamId, bool)>, SessionError> {
        if let Some(slot) = self.deadlines.pop_expired(now) {
            let id = self.id(slot);
            let seen = self.role == Role::Server || self.was_sent(id);
            match self.role {
                Role::Client => self.give_up(slot, DEADLINE_EXCEEDED),
                Role::Server => {
                    self.end_with(slot, DEADLINE_EXCEEDED, "deadline passed at the server");
                }
            }
            return Ok(Some((id, seen)));
        }
        self.check_keepalive(now)?;
        Ok(None)
    }

    /// Something was heard from the peer: the keepalive's clock starts again. Once per batch of
    /// frames is enough.
    pub fn note_heard(&mut self, now: Instant) {
        self.last_heard = now;
        self.ping_sent = None;
        self.keepalive_fresh = false;
    }

    /// Open no more streams, accept no more, and say so. Streams that are open go on. A code
    /// other than 0 says that the connection has failed; it can follow an orderly GOAWAY once.
    pub fn go_away(&mut self, code: u16, reason: &str) {
        if self.failed || (self.going_away && code == 0) {
            return;
        }
        self.going_away = true;
        self.failed = code != 0;
        self.queue_go_away(code, reason);
    }

    /// A stream whose sender was told [`Sending::Queued`] and may go on now.
    pub fn pop_writable(&mut self) -> Option<StreamId> {
        self.line.as_mut()?.writable.pop()
    }

    // ---- streams ----

    fn id(&self, slot: u32) -> StreamId {
        StreamId { slot, generation: self.streams[slot as usize].generation }
    }

    fn get(&self, id: StreamId) -> Option<&Stream> {
        self.streams
            .get(id.slot())
            .filter(|stream| stream.generation == id.generation && stream.state == State::Open)
    }

    fn get_mut(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.streams
            .get_mut(id.slot())
            .filter(|stream| stream.generation == id.generation && stream.state == State::Open)
    }

    #[inline]
    fn begin(&mut self, slot: u32, max_message_bytes: usize) -> StreamId {
        let (send_limit, advertised) = (self.peer_window_bytes, self.config.window_bytes);
        let stream = &mut self.streams[slot as usize];
        stream.begin(send_limit, advertised, max_message_bytes);
        self.keepalive_fresh |= self.open == 0;
        self.open += 1;
        self.id(slot)
    }

    /// The stream is over on both sides: forget it and free its slot.
    #[inline]
    fn close(&mut self, slot: u32) {
        self.forget_work(slot);
        let stream = &mut self.streams[slot as usize];
        debug_assert_ne!(stream.state, State::Idle);
        // A draining stream's name died when we gave it up.
        let open = stream.state == State::Open;
        stream.state = State::Idle;
        stream.generation = stream.generation.wrapping_add(u32::from(open));
        self.open -= 1;
        if self.role == Role::Client && slot < self.peer_max_streams {
            self.free.push(slot);
        }
    }

    /// Client: cancel on the wire, and wait for the server's last word.
    fn give_up(&mut self, slot: u32, code: u16) {
        let sent = self.streams[slot as usize].request_number > 0;
        if !sent {
            // The server never heard of it.
            self.close(slot);
            return;
        }
        self.forget_work(slot);
        let stream = &mut self.streams[slot as usize];
        stream.state = State::Draining;
        stream.generation = stream.generation.wrapping_add(1);
        self.queue_reset(slot, code);
    }

    /// No more messages will be sent on a stream. Of a server's none is counted.
    fn stop_sending(&mut self, slot: u32) {
        let stream = &mut self.streams[slot as usize];
        let counted = !std::mem::replace(&mut stream.send_closed, true);
        self.sending = self.sending.saturating_sub(u32::from(counted));
    }

    #[inline]
    fn forget_work(&mut self, slot: u32) {
        if self.sending > 0 {
            self.stop_sending(slot);
        }
        if !self.deadlines.is_empty() {
            self.deadlines.remove(slot);
        }
        let stream = &mut self.streams[slot as usize];
        self.buffered_bytes -= stream.held();
        stream.consumed = stream.receive_position;
        stream.metadata_bytes = 0;
        // Most have neither, and then there is nothing to drop.
        if stream.partial.is_some() {
            stream.partial = None;
        }
        if stream.queue.is_some() {
            stream.queue = None;
        }
        stream.window_queued = false;
    }

    fn keepalive_due(&self) -> Option<Instant> {
        if self.open == 0 || self.config.keepalive_interval == Duration::ZERO {
            return None;
        }
        // A time beyond what `Instant` can hold is never.
        match self.ping_sent {
            Some(sent) => sent.checked_add(self.config.keepalive_timeout),
            None => self.last_heard.checked_add(self.config.keepalive_interval),
        }
    }

    fn check_keepalive(&mut self, now: Instant) -> Result<(), SessionError> {
        if self.keepalive_due().is_none_or(|due| due > now) {
            return Ok(());
        }
        if std::mem::take(&mut self.keepalive_fresh) {
            // Silence while there was nothing to say is no sign of death.
            self.note_heard(now);
            return Ok(());
        }
        match self.ping_sent {
            Some(sent) => {
                let waited_ms = (now - sent).as_millis() as u64;
                Err(SessionError::KeepaliveTimeout { waited_ms })
            }
            None => {
                self.ping_sent = Some(now);
                self.queue_ping();
                Ok(())
            }
        }
    }
}

/// gRPC's CANCELLED, on the wire.
pub(crate) const CANCELLED: u16 = 1;
/// gRPC's DEADLINE_EXCEEDED, on the wire.
pub(crate) const DEADLINE_EXCEEDED: u16 = 4;
/// gRPC's RESOURCE_EXHAUSTED, on the wire.
pub(crate) const RESOURCE_EXHAUSTED: u16 = 8;
/// gRPC's UNAVAILABLE, on the wire.
pub(crate) const UNAVAILABLE: u16 = 14;

const _: () = assert!(MAX_METHODS < u16::MAX);
