//! What each frame from the peer means. Nothing in a frame is trusted: every length is checked
//! against the frame, every stream against its slot, every message against its stream's limits.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::control::{MAX_QUEUED_PONGS, setting};
use super::event::{Event, Finish, Payload, Refusal, SessionError};
use super::pieces::{Taken, piece};
use super::stream::State;
use super::{CANCELLED, Role, Session, StreamId, UNAVAILABLE};
use crate::link::BulkDescriptor;
use crate::wire::{
    HEADER_BYTES, Header, INITIAL_MAX_STREAMS, INITIAL_WINDOW_BYTES, Kind, MAX_METHODS,
    MAX_PATH_BYTES, MAX_UNANSWERED_BULKS, MESSAGE_OVERHEAD_BYTES, SKIPPABLE, WireError, flag,
    split,
};

/// A deadline further away than this is none: `Instant` arithmetic must not overflow.
pub(super) const MAX_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);

/// A frame and, where the link gave it away, the buffer it lies in.
#[derive(Debug, Clone, Copy)]
pub struct FrameRef<'a> {
    /// The frame.
    pub bytes: &'a [u8],
    /// The buffer: message bytes are then kept by reference instead of copied.
    pub owner: Option<&'a Bytes>,
}

impl<'a> FrameRef<'a> {
    pub(crate) fn payload(&self, part: &'a [u8]) -> Payload<'a> {
        match self.owner {
            Some(owner) => Payload::Owned(owner.slice_ref(part)),
            None => Payload::Borrowed(part),
        }
    }
}

impl Session {
    /// Takes one frame. On an error the connection is over: say so to the peer with
    /// [`Session::go_away`] if possible, and drop the link.
    pub fn handle_frame<'a>(
        &mut self,
        now: Instant,
        frame: FrameRef<'a>,
    ) -> Result<Event<'a>, SessionError> {
        let number = self.frames_received;
        self.frames_received += 1;
        let blame =
            |error, kind, stream| SessionError::Protocol { error, kind, stream, frame: number };
        let (header, body) = Header::parse(frame.bytes).map_err(|error| blame(error, 0, 0))?;
        self.dispatch(now, header, body, frame)
            .map_err(|error| blame(error, header.kind, header.stream))
    }

    fn dispatch<'a>(
        &mut self,
        now: Instant,
        header: Header,
        body: &'a [u8],
        frame: FrameRef<'a>,
    ) -> Result<Event<'a>, WireError> {
        let Some(kind) = Kind::from_byte(header.kind) else {
            return if header.kind & SKIPPABLE != 0 {
                Ok(Event::None)
            } else {
                Err(WireError::new(0, "unknown kind of frame"))
            };
        };
        if !self.settings_received && kind != Kind::Settings {
            return Err(WireError::new(0, "the first frame is not SETTINGS"));
        }
        match (self.role, kind) {
            (Role::Server, Kind::Request) => self.on_request(now, header, body, frame),
            (_, Kind::Message) => self.on_message(header, body, frame),
            (_, Kind::Messages) => self.on_messages(header, body, frame),
            (Role::Client, Kind::Response) => self.on_response(header, body, frame),
            (_, Kind::Window) => self.on_window(header),
            (Role::Client, Kind::Trailers) => self.on_trailers(header, body),
            (Role::Client, Kind::Headers) => self.on_headers(header, body),
            (_, Kind::Bulk) => self.on_bulk(header, body),
            (_, Kind::BulkDone) => {
                let descriptor = descriptor(body)?;
                if self.bulks_out == 0 {
                    return Err(WireError::new(0, "BULK_DONE without a BULK"));
                }
                self.bulks_out -= 1;
                Ok(Event::BulkReleased { descriptor })
            }
            (_, Kind::Reset) => self.on_reset(header, body),
            (Role::Server, Kind::Method) => self.on_method(header, body),
            (_, Kind::Ping) => {
                if self.pongs_queued >= MAX_QUEUED_PONGS {
                    return Err(WireError::new(0, "pings come faster than pongs can go"));
                }
                self.queue_pong(header.wide_number());
                Ok(Event::None)
            }
            (_, Kind::Pong) => Ok(Event::None),
            (_, Kind::GoAway) => self.on_go_away(header, body),
            (_, Kind::Settings) => self.on_settings(body),
            (Role::Server, Kind::Response | Kind::Trailers | Kind::Headers) => {
                Err(WireError::new(0, "a client sent a frame only servers send"))
            }
            (Role::Client, Kind::Request | Kind::Method) => {
                Err(WireError::new(0, "a server sent a frame only clients send"))
            }
        }
    }

    fn on_settings<'a>(&mut self, body: &'a [u8]) -> Result<Event<'a>, WireError> {
        if self.settings_received {
            return Err(WireError::new(0, "SETTINGS came twice"));
        }
        self.settings_received = true;
        let (entries, rest) = body.as_chunks::<{ setting::ENTRY_BYTES }>();
        if !rest.is_empty() {
            let at = HEADER_BYTES + body.len() - rest.len();
            return Err(WireError::new(at, "SETTINGS end inside an entry"));
        }
        for (index, [i0, i1, value @ ..]) in entries.iter().enumerate() {
            let at = HEADER_BYTES + index * setting::ENTRY_BYTES;
            let value = u64::from_le_bytes(*value);
            match u16::from_le_bytes([*i0, *i1]) {
                setting::MAX_STREAMS if self.role == Role::Client => {
                    if value == 0 {
                        return Err(WireError::new(at, "the server allows no streams"));
                    }
                    self.peer_max_streams = u32::try_from(value).unwrap_or(u32::MAX - 1);
                }
                setting::WINDOW_BYTES => {
                    if value < INITIAL_WINDOW_BYTES {
                        return Err(WireError::new(at, "the window is below 64 KiB"));
                    }
                    self.peer_window_bytes = value;
                }
                _ => {}
            }
        }
        let max_streams = self.peer_max_streams;
        self.free.retain(|slot| *slot < max_streams);
        for slot in 0..self.streams.len() as u32 {
            self.raise_limit(slot, self.peer_window_bytes);
        }
        Ok(Event::None)
    }

    fn on_method<'a>(&mut self, header: Header, body: &'a [u8]) -> Result<Event<'a>, WireError> {
        if usize::from(header.code) != self.method_limits.len() || header.code >= MAX_METHODS {
            return Err(WireError::new(2, "methods are not bound in order, or too many"));
        }
        if body.len() > MAX_PATH_BYTES {
            return Err(WireError::new(HEADER_BYTES + MAX_PATH_BYTES, "the path is too long"));
        }
        let path = text(body, HEADER_BYTES, "the path is not UTF-8")?;
        self.method_limits.push(None);
        Ok(Event::Bound { method: header.code, path })
    }

    fn on_request<'a>(
        &mut self,
        now: Instant,
        header: Header,
        body: &'a [u8],
        frame: FrameRef<'a>,
    ) -> Result<Event<'a>, WireError> {
        let slot = self.wire_slot(header)?;
        if usize::from(header.code) >= self.method_limits.len() {
            return Err(WireError::new(2, "the method is not bound"));
        }
        let (timeout, body, mut at) = if header.flags & flag::TIMEOUT != 0 {
            let Some((timeout, body)) = body.split_first_chunk::<8>() else {
                return Err(WireError::new(HEADER_BYTES, "the frame ends inside its timeout"));
            };
            (Some(u64::from_le_bytes(*timeout)), body, HEADER_BYTES + 8)
        } else {
            (None, body, HEADER_BYTES)
        };
        let (metadata, body) =
            split(body, header.a as usize, at, "the frame ends inside its metadata")?;
        at += metadata.len();
        let piece = piece(header, body, frame, at)?;
        let index = slot as usize;
        if self.streams.len() <= index {
            self.streams.resize_with(index + 1, Default::default);
        }
        if self.streams[index].state != State::Idle {
            return Err(WireError::new(4, "the stream is open already"));
        }
        if self.going_away {
            return Ok(Event::None);
        }
        self.requests += 1;
        if slot >= self.config.max_streams {
            // The client had not heard of our limit, or does not keep to it.
            self.begin(slot, 0);
            self.refuse_unseen(slot, UNAVAILABLE, "more streams than the server allows");
            return Ok(Event::None);
        }
        let limit =
            self.method_limits[usize::from(header.code)].unwrap_or(self.config.max_message_bytes);
        let stream = self.begin(slot, limit);
        let deadline = timeout
            .map(Duration::from_micros)
            .filter(|timeout| *timeout <= MAX_TIMEOUT)
            .map(|timeout| now + timeout);
        if let Some(deadline) = deadline {
            self.deadlines.insert(slot, deadline);
        }
        if let Some(why) = self.hold_metadata(slot, metadata) {
            return Ok(self.refuse(stream, why));
        }
        let message = match piece {
            None => None,
            Some(piece) => match self.take(slot, piece)? {
                Taken::Whole(message) => Some(message),
                Taken::Part => None,
                Taken::Refused(why) => return Ok(self.refuse(stream, why)),
            },
        };
        let end = self.note_end(slot, header)?;
        Ok(Event::Request { stream, method: header.code, deadline, metadata, message, end })
    }

    fn on_message<'a>(
        &mut self,
        header: Header,
        body: &'a [u8],
        frame: FrameRef<'a>,
    ) -> Result<Event<'a>, WireError> {
        let piece = piece(header, body, frame, HEADER_BYTES)?;
        let Some(stream) = self.receiving(header)? else { return Ok(Event::None) };
        let message = match piece {
            None => None,
            Some(piece) => match self.take(stream.slot, piece)? {
                Taken::Whole(message) => Some(message),
                Taken::Part => None,
                Taken::Refused(why) => return Ok(self.refuse(stream, why)),
            },
        };
        let end = self.note_end(stream.slot, header)?;
        if message.is_none() && !end {
            return Ok(Event::None);
        }
        Ok(Event::Message { stream, message, end })
    }

    fn on_bulk<'a>(&mut self, header: Header, body: &'a [u8]) -> Result<Event<'a>, WireError> {
        let short = "the frame ends inside its descriptor";
        let (place, around) = split(body, usize::from(header.code), HEADER_BYTES, short)?;
        let descriptor = descriptor(place)?;
        let short = "the frame ends before the first bytes of the message do";
        let (head, tail) = split(around, header.a as usize, HEADER_BYTES + place.len(), short)?;
        let len = header.b as usize;
        let Some(pulled) = len.checked_sub(around.len()) else {
            return Err(WireError::new(12, "the frame holds more than the message's length"));
        };
        if self.bulks_owed >= MAX_UNANSWERED_BULKS {
            return Err(WireError::new(0, "more BULKs than may be unanswered"));
        }
        self.bulks_owed += 1;
        let Some(stream) = self.receiving(header)? else {
            self.bulk_done(&descriptor);
            return Ok(Event::None);
        };
        let cost = len as u64 + MESSAGE_OVERHEAD_BYTES;
        let position =
            match self.hold_whole(stream.slot, len, cost, "BULK inside another message")? {
                Ok(position) => position,
                Err(why) => {
                    self.bulk_done(&descriptor);
                    return Ok(self.refuse(stream, why));
                }
            };
        let end = self.note_end(stream.slot, header)?;
        Ok(Event::Bulk { stream, descriptor, head, len: pulled, tail, position, end })
    }

    fn on_headers<'a>(&mut self, header: Header, body: &'a [u8]) -> Result<Event<'a>, WireError> {
        let (metadata, rest) =
            split(body, header.a as usize, HEADER_BYTES, "the frame ends inside its metadata")?;
        expect_end(rest, HEADER_BYTES + metadata.len())?;
        let Some(stream) = self.receiving(header)? else { return Ok(Event::None) };
        if std::mem::replace(&mut self.streams[stream.slot()].headers_over, true) {
            return Err(WireError::new(0, "HEADERS twice, or after a message"));
        }
        if let Some(why) = self.hold_metadata(stream.slot, metadata) {
            return Ok(self.refuse(stream, why));
        }
        Ok(Event::Headers { stream, metadata })
    }

    fn on_response<'a>(
        &mut self,
        header: Header,
        body: &'a [u8],
        frame: FrameRef<'a>,
    ) -> Result<Event<'a>, WireError> {
        let at = HEADER_BYTES;
        let (metadata, body) =
            split(body, header.a as usize, at, "the frame ends inside its metadata")?;
        let at = at + metadata.len();
        let (trailers, body) =
            split(body, header.b as usize, at, "the frame ends inside its trailers")?;
        let Some(stream) = self.ending(header, true)? else { return Ok(Event::None) };
        if self.streams[stream.slot()].headers_over {
            return Err(WireError::new(0, "RESPONSE after HEADERS or a message"));
        }
        let limit_bytes = self.streams[stream.slot()].max_message_bytes;
        self.close(stream.slot);
        if body.len() > limit_bytes {
            let why = Refusal::MessageTooLong { bytes: body.len() as u64, limit_bytes };
            return Ok(Event::Refused { stream, why });
        }
        Ok(Event::Response { stream, metadata, trailers, message: frame.payload(body) })
    }

    fn on_trailers<'a>(&mut self, header: Header, body: &'a [u8]) -> Result<Event<'a>, WireError> {
        let at = HEADER_BYTES;
        let (metadata, body) =
            split(body, header.a as usize, at, "the frame ends inside its metadata")?;
        let at = at + metadata.len();
        let (message, details) =
            split(body, header.b as usize, at, "the frame ends inside its status message")?;
        let message = text(message, at, "the status message is not UTF-8")?;
        let Some(stream) = self.ending(header, header.code == 0)? else { return Ok(Event::None) };
        self.close(stream.slot);
        let finish = Finish { code: header.code, message, metadata, details, refused: false };
        Ok(Event::Finished { stream, finish })
    }

    fn on_reset<'a>(&mut self, header: Header, body: &'a [u8]) -> Result<Event<'a>, WireError> {
        let message = text(body, HEADER_BYTES, "the reset's text is not UTF-8")?;
        match self.role {
            Role::Client => {
                let Some(stream) = self.ending(header, false)? else { return Ok(Event::None) };
                self.close(stream.slot);
                let code = if header.code == 0 { UNAVAILABLE } else { header.code };
                let finish = Finish { code, message, metadata: &[], details: &[], refused: true };
                Ok(Event::Finished { stream, finish })
            }
            Role::Server => {
                let slot = self.wire_slot(header)?;
                if self.streams.get(slot as usize).is_none_or(|s| s.state != State::Open) {
                    return Ok(Event::None);
                }
                let stream = self.id(slot);
                self.end_with(slot, CANCELLED, "cancelled by the client");
                Ok(Event::Cancelled { stream, code: header.code })
            }
        }
    }

    fn on_window<'a>(&mut self, header: Header) -> Result<Event<'a>, WireError> {
        let slot = self.wire_slot(header)?;
        self.raise_limit(slot, header.wide_number());
        Ok(Event::None)
    }

    fn on_go_away<'a>(&mut self, header: Header, body: &'a [u8]) -> Result<Event<'a>, WireError> {
        let reason = text(body, HEADER_BYTES, "the reason is not UTF-8")?;
        let mut unseen = Vec::new();
        if self.role == Role::Client {
            self.going_away = true;
            let accepted = header.wide_number();
            for slot in 0..self.streams.len() as u32 {
                let stream = &self.streams[slot as usize];
                let seen = (1..=accepted).contains(&stream.request_number);
                if stream.state == State::Idle || seen {
                    continue;
                }
                if stream.state == State::Open {
                    unseen.push(self.id(slot));
                }
                self.close(slot);
            }
        }
        Ok(Event::GoAway { unseen, code: header.code, reason })
    }

    // ---- streams a frame may name ----

    fn wire_slot(&self, header: Header) -> Result<u32, WireError> {
        let most = match self.role {
            // A client may not know our limit yet.
            Role::Server => self.config.max_streams.max(INITIAL_MAX_STREAMS),
            Role::Client => self.streams.len() as u32,
        };
        match header.stream.checked_sub(1) {
            Some(slot) if slot < most => Ok(slot),
            _ => Err(WireError::new(4, "no such stream")),
        }
    }

    /// The stream that receives, or `None` if the frame came too late and is to be ignored.
    pub(super) fn receiving(&self, header: Header) -> Result<Option<StreamId>, WireError> {
        let slot = self.wire_slot(header)?;
        let Some(stream) = self.streams.get(slot as usize) else { return Ok(None) };
        let never_sent = stream.request_number == 0;
        match (self.role, stream.state) {
            (Role::Client, State::Idle) => Err(WireError::new(4, "the stream is not open")),
            (Role::Client, State::Open) if never_sent => {
                Err(WireError::new(4, "the stream's request has not been sent"))
            }
            (Role::Server, State::Idle) | (_, State::Draining) => Ok(None),
            (Role::Server, State::Open)
                if stream.queue.as_ref().is_some_and(|queue| queue.finish.is_some()) =>
            {
                Ok(None)
            }
            (_, State::Open) => Ok(Some(self.id(slot))),
        }
    }

    /// Client: the stream that a final frame ends, or `None` if we had given it up: its slot is
    /// free now. A server that ends a stream badly may do so in the middle of a message (`whole`
    /// is then false).
    fn ending(&mut self, header: Header, whole: bool) -> Result<Option<StreamId>, WireError> {
        if let Some(stream) = self.receiving(header)? {
            if whole && self.streams[stream.slot()].partial.is_some() {
                return Err(WireError::new(0, "the stream ends inside a message"));
            }
            return Ok(Some(stream));
        }
        let slot = self.wire_slot(header)?;
        if self.streams[slot as usize].state == State::Draining {
            self.close(slot);
        }
        Ok(None)
    }

    fn raise_limit(&mut self, slot: u32, limit: u64) {
        let Some(stream) = self.streams.get_mut(slot as usize) else { return };
        if stream.state == State::Open && limit > stream.send_limit {
            stream.send_limit = limit;
            self.serve_soon(slot);
        }
    }
}

pub(super) fn expect_end(rest: &[u8], at: usize) -> Result<(), WireError> {
    if rest.is_empty() {
        Ok(())
    } else {
        Err(WireError::new(at, "bytes after the end of the frame"))
    }
}

fn text<'a>(bytes: &'a [u8], at: usize, what: &'static str) -> Result<&'a str, WireError> {
    std::str::from_utf8(bytes).map_err(|error| WireError::new(at + error.valid_up_to(), what))
}

fn descriptor(body: &[u8]) -> Result<BulkDescriptor, WireError> {
    BulkDescriptor::new(body)
        .ok_or_else(|| WireError::new(HEADER_BYTES, "the bulk descriptor is too long"))
}
