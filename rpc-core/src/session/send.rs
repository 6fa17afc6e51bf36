//! Frames that carry calls: written straight into the link where there is room, kept on the
//! stream where there is none.
//!
//! The straight way costs one `reserve`, one encode and one `commit`. What cannot go at once is
//! encoded once into memory of its own and served in turn, a frame per stream and turn, so that a
//! long message does not stop the others; nor does one that waits for a bulk buffer. While anything
//! waits for room nobody goes straight, because small frames could take the room a long one waits
//! for again and again.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::control::{Control, MAX_TEXT_BYTES, cut, frame, put};
use super::stream::{PendingMessage, State, Stream};
use super::{RESOURCE_EXHAUSTED, Role, Session, StreamId};
use crate::link::{FrameSink, LinkError};
use crate::metadata::{MAX_METADATA_BYTES, MetadataMap};
use crate::wire::{
    HEADER_BYTES, Header, Kind, MAX_METHODS, MAX_UNANSWERED_BULKS, MESSAGE_OVERHEAD_BYTES, flag,
};

/// A message that can write itself.
pub trait Encode: Sync {
    /// Its length in bytes.
    fn encoded_len(&self) -> usize;

    /// Fills `into`, which is exactly [`Encode::encoded_len`] bytes long.
    fn encode(&self, into: &mut [u8]);

    /// The message as bytes of its own.
    fn to_bytes(&self) -> Bytes {
        let mut bytes = BytesMut::zeroed(self.encoded_len());
        self.encode(&mut bytes);
        bytes.freeze()
    }
}

impl Encode for Bytes {
    fn encoded_len(&self) -> usize {
        self.len()
    }

    fn encode(&self, into: &mut [u8]) {
        into.copy_from_slice(self);
    }

    fn to_bytes(&self) -> Bytes {
        self.clone()
    }
}

/// What a client wants to open.
#[derive(Clone, Copy)]
pub struct NewStream<'a> {
    /// The method's path, such as `/package.Service/Method`.
    pub path: &'a str,
    /// Metadata for the server.
    pub metadata: &'a MetadataMap,
    /// The time the caller gives the call, and when that ends.
    pub timeout: Option<(Duration, Instant)>,
    /// The first message, if it is known.
    pub message: Option<&'a dyn Encode>,
    /// No more messages will follow.
    pub end: bool,
    /// The longest message to accept in answer, in bytes.
    pub max_message_bytes: usize,
}

impl std::fmt::Debug for NewStream<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewStream")
            .field("path", &self.path)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

/// What became of an attempt to open a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// The stream is open, and what was given is sent or queued.
    Stream(StreamId),
    /// As many streams are open as the server allows.
    NoSlot,
    /// The server accepts no more streams on this connection.
    GoingAway,
    /// As many methods are bound as a connection can have, or the path is too long.
    BadPath,
    /// The metadata block is longer than a frame; its length and the limit, in bytes.
    MetadataTooLong(usize, usize),
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sending {
    /// It is with the link; the next may follow.
    Sent,
    /// It is kept on the stream. [`Session::pop_writable`] names the stream when the next may
    /// follow.
    Queued,
    /// One is still queued: nothing was taken. As for `Queued`, wait.
    Busy,
    /// The stream is over, or this side has ended its messages: nothing was taken.
    Closed,
}

impl Session {
    /// Client: opens a stream.
    pub fn open<S: FrameSink>(
        &mut self,
        sink: &mut S,
        request: &NewStream<'_>,
    ) -> Result<Opened, LinkError> {
        if self.going_away {
            return Ok(Opened::GoingAway);
        }
        let metadata_limit = self.link.max_frame_bytes - HEADER_BYTES - 8;
        if block_len(request.metadata).is_none_or(|len| len > metadata_limit) {
            let len = request.metadata.encoded_len();
            return Ok(Opened::MetadataTooLong(len, metadata_limit.min(MAX_METADATA_BYTES)));
        }
        if self.free.is_empty() && self.streams.len() >= self.peer_max_streams as usize {
            return Ok(Opened::NoSlot);
        }
        let Some(method) = self.bind(request.path) else { return Ok(Opened::BadPath) };
        self.transmit_control(sink)?;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.streams.push(Stream::default());
            (self.streams.len() - 1) as u32
        });
        let id = self.begin(slot, request.max_message_bytes);
        if let Some((_, deadline)) = request.timeout {
            self.deadlines.insert(slot, deadline);
        }
        if !self.send_request(sink, slot, method, request)? {
            self.queue_request(sink, slot, method, request)?;
        }
        Ok(Opened::Stream(id))
    }

    /// The straight way: one frame with everything. `false`: it does not fit or there is no room.
    fn send_request<S: FrameSink>(
        &mut self,
        sink: &mut S,
        slot: u32,
        method: u16,
        request: &NewStream<'_>,
    ) -> Result<bool, LinkError> {
        if !self.may_go_straight() {
            return Ok(false);
        }
        let message_len = request.message.map_or(0, |message| message.encoded_len());
        if self.is_bulk(message_len) {
            return Ok(false);
        }
        let head_len = HEADER_BYTES + request_extra_len(request);
        let len = head_len + message_len;
        if len > self.link.max_frame_bytes {
            return Ok(false);
        }
        let Some(room) = sink.reserve(len)? else { return Ok(false) };
        let (head, body) = room.split_at_mut(head_len);
        write_request_head(head, slot, method, request, request.message.is_some(), message_len);
        if let Some(message) = request.message {
            message.encode(body);
        }
        sink.commit();
        self.requests += 1;
        let number = self.requests;
        let stream = &mut self.streams[slot as usize];
        stream.request_number = number;
        stream.send_closed = request.end;
        if request.message.is_some() {
            stream.send_position += message_len as u64 + MESSAGE_OVERHEAD_BYTES;
        }
        Ok(true)
    }

    fn queue_request<S: FrameSink>(
        &mut self,
        sink: &mut S,
        slot: u32,
        method: u16,
        request: &NewStream<'_>,
    ) -> Result<(), LinkError> {
        let mut head = vec![0; HEADER_BYTES + request_extra_len(request)];
        let only_head = NewStream { end: request.end && request.message.is_none(), ..*request };
        write_request_head(&mut head, slot, method, &only_head, false, 0);
        let stream = &mut self.streams[slot as usize];
        stream.send_closed = request.end;
        let queue = stream.queue_mut();
        queue.head = Some(head.into());
        queue.message = request.message.map(|message| PendingMessage {
            bytes: message.to_bytes(),
            sent: 0,
            end: request.end,
        });
        self.serve_soon(slot);
        self.transmit(sink)
    }

    /// Sends one message on an open stream; with `end`, the last one of this side.
    pub fn send_message<S: FrameSink>(
        &mut self,
        sink: &mut S,
        id: StreamId,
        message: &dyn Encode,
        end: bool,
    ) -> Result<Sending, LinkError> {
        let server = self.role == Role::Server;
        let Some(stream) = self.get_mut(id) else { return Ok(Sending::Closed) };
        if stream.send_closed {
            return Ok(Sending::Closed);
        }
        if stream.queue.as_ref().is_some_and(|queue| queue.message.is_some()) {
            stream.wants_writable = true;
            return Ok(Sending::Busy);
        }
        let straight = !stream.has_queue() && stream.send_position < stream.send_limit;
        stream.send_closed = end;
        stream.headers_over |= server;
        if straight && self.send_whole_message(sink, id.slot, message, end)? {
            return Ok(Sending::Sent);
        }
        let pending = PendingMessage { bytes: message.to_bytes(), sent: 0, end };
        self.streams[id.slot()].queue_mut().message = Some(pending);
        self.serve_soon(id.slot);
        self.transmit(sink)?;
        let stream = &mut self.streams[id.slot()];
        if stream.has_queue() {
            // Only now: what went within this call is the caller's to know from its result.
            stream.wants_writable = true;
            return Ok(Sending::Queued);
        }
        Ok(Sending::Sent)
    }

    fn send_whole_message<S: FrameSink>(
        &mut self,
        sink: &mut S,
        slot: u32,
        message: &dyn Encode,
        end: bool,
    ) -> Result<bool, LinkError> {
        let len = message.encoded_len();
        if !self.may_go_straight() {
            return Ok(false);
        }
        if self.is_bulk(len) {
            if !self.without_buffer.is_empty() {
                return Ok(false);
            }
            return self.send_bulk(sink, slot, len, end, |room| message.encode(room));
        }
        if HEADER_BYTES + len > self.link.max_frame_bytes {
            return Ok(false);
        }
        let Some(room) = sink.reserve(HEADER_BYTES + len)? else { return Ok(false) };
        let flags = flag::MESSAGE | if end { flag::END } else { 0 };
        let header = Header::new(Kind::Message, slot + 1).flags(flags).numbers(0, len as u32);
        let (head, body) = room.split_at_mut(HEADER_BYTES);
        head.copy_from_slice(&header.to_bytes());
        message.encode(body);
        sink.commit();
        self.streams[slot as usize].send_position += len as u64 + MESSAGE_OVERHEAD_BYTES;
        Ok(true)
    }

    /// Puts a message where the peer can pull it and sends the BULK frame. `false`: no buffer.
    /// With a buffer but no room for the frame, the frame waits with the control frames.
    fn send_bulk<S: FrameSink>(
        &mut self,
        sink: &mut S,
        slot: u32,
        len: usize,
        end: bool,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<bool, LinkError> {
        if self.bulks_out >= MAX_UNANSWERED_BULKS {
            return Ok(false);
        }
        let Some(buffer) = sink.bulk_reserve(len)? else { return Ok(false) };
        fill(buffer);
        let descriptor = sink.bulk_commit();
        self.bulks_out += 1;
        let stream = &mut self.streams[slot as usize];
        stream.send_position += len as u64 + MESSAGE_OVERHEAD_BYTES;
        let bytes = bulk_frame(slot, len, end, descriptor.as_bytes());
        if !put(sink, &bytes)? {
            // A frame of control data is as good as any: it goes before whatever this stream
            // sends next, because a stream with no queue is only used when control is empty.
            self.control.push_back(Control::Long(bytes));
        }
        Ok(true)
    }

    /// Client: this side sends no more messages.
    pub fn end_messages<S: FrameSink>(
        &mut self,
        sink: &mut S,
        id: StreamId,
    ) -> Result<(), LinkError> {
        let control_empty = self.control.is_empty();
        let Some(stream) = self.get_mut(id) else { return Ok(()) };
        if stream.send_closed {
            return Ok(());
        }
        stream.send_closed = true;
        let header = Header::new(Kind::Message, id.wire()).flags(flag::END).to_bytes();
        if stream.has_queue() || !control_empty || !put(sink, &header)? {
            let stream = &mut self.streams[id.slot()];
            match &mut stream.queue_mut().message {
                Some(message) => message.end = true,
                None => stream.queue_mut().finish = Some(header.into()),
            }
            self.serve_soon(id.slot);
        }
        Ok(())
    }

    /// Server: initial metadata, once and before any message; later it is left out. Metadata that
    /// does not fit a frame is cut off and its length given back.
    pub fn send_headers<S: FrameSink>(
        &mut self,
        sink: &mut S,
        id: StreamId,
        metadata: &MetadataMap,
    ) -> Result<Option<usize>, LinkError> {
        let limit = self.link.max_frame_bytes - HEADER_BYTES;
        let control_empty = self.control.is_empty();
        let Some(stream) = self.get_mut(id) else { return Ok(None) };
        if stream.headers_over || stream.send_closed {
            return Ok(None);
        }
        stream.headers_over = true;
        let full_len = metadata.encoded_len();
        let fits = block_len(metadata).is_some_and(|len| len <= limit);
        let len = if fits { full_len } else { 0 };
        let mut bytes = vec![0; HEADER_BYTES + len];
        let header = Header::new(Kind::Headers, id.wire()).numbers(len as u32, 0);
        bytes[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
        if len > 0 {
            metadata.encode(&mut bytes[HEADER_BYTES..]);
        }
        if stream.has_queue() || !control_empty || !put(sink, &bytes)? {
            self.streams[id.slot()].queue_mut().head = Some(bytes.into());
            self.serve_soon(id.slot);
        }
        Ok((!fits).then_some(full_len))
    }

    /// Server: the whole answer to a unary call, with status OK. The stream is over for the
    /// caller, whether the answer is with the link or queued.
    pub fn respond<S: FrameSink>(
        &mut self,
        sink: &mut S,
        id: StreamId,
        metadata: &MetadataMap,
        trailers: &MetadataMap,
        message: &dyn Encode,
    ) -> Result<(), LinkError> {
        let Some(stream) = self.get(id) else { return Ok(()) };
        let len = message.encoded_len();
        let (metadata_len, trailers_len) = (metadata.encoded_len(), trailers.encoded_len());
        let frame_len = HEADER_BYTES + metadata_len + trailers_len + len;
        let straight = !stream.has_queue()
            && !stream.headers_over
            && self.may_go_straight()
            && !self.is_bulk(len)
            && block_len(metadata).is_some()
            && block_len(trailers).is_some()
            && frame_len <= self.link.max_frame_bytes;
        if straight && let Some(room) = sink.reserve(frame_len)? {
            let header = Header::new(Kind::Response, id.wire())
                .numbers(metadata_len as u32, trailers_len as u32);
            room[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
            let (blocks, body) = room[HEADER_BYTES..].split_at_mut(metadata_len + trailers_len);
            let (first, second) = blocks.split_at_mut(metadata_len);
            write_block(metadata, first);
            write_block(trailers, second);
            message.encode(body);
            sink.commit();
            self.close(id.slot);
            return Ok(());
        }
        if metadata_len > 0
            && let Some(bytes) = self.send_headers(sink, id, metadata)?
        {
            let text = format!("response metadata of {bytes} bytes does not fit a frame");
            return self.finish(sink, id, RESOURCE_EXHAUSTED, &text, trailers, &[]);
        }
        self.send_message(sink, id, message, false)?;
        self.finish(sink, id, 0, "", trailers, &[])
    }

    /// Server: ends a stream. The stream is over for the caller; what is queued before the
    /// TRAILERS still goes out.
    pub fn finish<S: FrameSink>(
        &mut self,
        sink: &mut S,
        id: StreamId,
        code: u16,
        text: &str,
        metadata: &MetadataMap,
        details: &[u8],
    ) -> Result<(), LinkError> {
        let limit = self.link.max_frame_bytes - HEADER_BYTES;
        let control_empty = self.control.is_empty();
        let Some(stream) = self.get(id) else { return Ok(()) };
        let queued = stream.has_queue();
        let bytes = trailers_frame(id.slot, code, text, metadata, details, limit);
        if !queued && control_empty && put(sink, &bytes)? {
            self.close(id.slot);
            return Ok(());
        }
        if !queued {
            self.queue_final(id.slot, bytes);
            return Ok(());
        }
        // The handler is done with the stream, and its deadline with it; the slot lives on until
        // the queue has gone. A cancellation may still cut it short.
        self.deadlines.remove(id.slot);
        let stream = &mut self.streams[id.slot()];
        stream.send_closed = true;
        stream.receive_closed = true;
        stream.queue_mut().finish = Some(bytes);
        self.serve_soon(id.slot);
        self.transmit(sink)
    }

    /// Client: gives a stream up. The name is dead at once; the slot is free after the server's
    /// last word.
    pub fn cancel(&mut self, id: StreamId, code: u16) {
        if self.get(id).is_some() {
            self.give_up(id.slot, code);
        }
    }

    // ---- what waits ----

    fn may_go_straight(&self) -> bool {
        self.control.is_empty() && self.serving.is_empty()
    }

    fn is_bulk(&self, len: usize) -> bool {
        self.link.bulk_threshold_bytes.is_some_and(|threshold| len > threshold)
            && len <= self.link.max_bulk_bytes
    }

    pub(super) fn serve_soon(&mut self, slot: u32) {
        let stream = &mut self.streams[slot as usize];
        if !stream.listed && stream.can_serve() {
            stream.listed = true;
            self.serving.push_back(slot);
        }
    }

    /// Writes what waits, as far as there is room and window.
    pub fn transmit<S: FrameSink>(&mut self, sink: &mut S) -> Result<(), LinkError> {
        if !self.transmit_control(sink)? {
            return Ok(());
        }
        while let Some(slot) = self.without_buffer.pop_back() {
            self.serving.push_front(slot);
        }
        let mut buffers_left = true;
        while let Some(slot) = self.serving.pop_front() {
            self.streams[slot as usize].listed = false;
            if !self.streams[slot as usize].can_serve() {
                continue;
            }
            let served = if buffers_left || !self.wants_buffer(slot) {
                self.serve(sink, slot)?
            } else {
                Served::NoBuffer
            };
            match served {
                Served::Frame => {}
                Served::NoRoom => {
                    self.streams[slot as usize].listed = true;
                    self.serving.push_front(slot);
                    return Ok(());
                }
                Served::NoBuffer => {
                    // Who comes later and needs a smaller one does not overtake.
                    buffers_left = false;
                    self.streams[slot as usize].listed = true;
                    self.without_buffer.push_back(slot);
                    continue;
                }
            }
            if !self.control.is_empty() && !self.transmit_control(sink)? {
                self.serve_soon(slot);
                return Ok(());
            }
            self.serve_soon(slot);
        }
        Ok(())
    }

    /// Whether anything waits for room (not for window).
    pub fn wants_room(&self) -> bool {
        !self.control.is_empty() || !self.serving.is_empty() || !self.without_buffer.is_empty()
    }

    /// Whether the next thing a stream sends is a message that goes by bulk.
    fn wants_buffer(&self, slot: u32) -> bool {
        let Some(queue) = &self.streams[slot as usize].queue else { return false };
        let message = queue.message.as_ref().filter(|_| queue.head.is_none());
        message.is_some_and(|message| self.is_bulk(message.bytes.len()))
    }

    /// One frame of one stream's queue.
    fn serve<S: FrameSink>(&mut self, sink: &mut S, slot: u32) -> Result<Served, LinkError> {
        let stream = &mut self.streams[slot as usize];
        let Some(queue) = &mut stream.queue else { return Ok(Served::Frame) };
        if let Some(head) = &queue.head {
            if !put(sink, head)? {
                return Ok(Served::NoRoom);
            }
            let was_request = head[0] == Kind::Request as u8;
            queue.head = None;
            if was_request {
                self.requests += 1;
                stream.request_number = self.requests;
            }
        } else if queue.message.is_some() {
            let served = self.serve_message(sink, slot)?;
            if !matches!(served, Served::Frame) {
                return Ok(served);
            }
        } else if let Some(finish) = &queue.finish {
            if !put(sink, finish)? {
                return Ok(Served::NoRoom);
            }
            let last = finish[0] == Kind::Trailers as u8;
            queue.finish = None;
            if last {
                self.close(slot);
                return Ok(Served::Frame);
            }
        }
        self.announce_writable(slot);
        Ok(Served::Frame)
    }

    fn serve_message<S: FrameSink>(
        &mut self,
        sink: &mut S,
        slot: u32,
    ) -> Result<Served, LinkError> {
        let max_frame_bytes = self.link.max_frame_bytes;
        let bulk = self.wants_buffer(slot);
        let stream = &mut self.streams[slot as usize];
        let Some(message) = stream.queue.as_mut().and_then(|queue| queue.message.as_mut()) else {
            return Ok(Served::Frame);
        };
        let len = message.bytes.len();
        if bulk {
            let (bytes, end) = (message.bytes.clone(), message.end);
            if !self.send_bulk(sink, slot, len, end, |room| room.copy_from_slice(&bytes))? {
                return Ok(Served::NoBuffer);
            }
        } else {
            let first = message.sent == 0;
            let piece = (len - message.sent).min(max_frame_bytes - HEADER_BYTES);
            let more = message.sent + piece < len;
            let mut flags = flag::MESSAGE;
            if more {
                flags |= flag::MORE;
            } else if message.end {
                flags |= flag::END;
            }
            let header = Header::new(Kind::Message, slot + 1).flags(flags).numbers(0, len as u32);
            let body = message.bytes.slice(message.sent..message.sent + piece);
            if !sink.send_owned(&header.to_bytes(), &body)? {
                return Ok(Served::NoRoom);
            }
            message.sent += piece;
            stream.send_position += piece as u64 + if first { MESSAGE_OVERHEAD_BYTES } else { 0 };
            if more {
                return Ok(Served::Frame);
            }
        }
        if let Some(queue) = &mut self.streams[slot as usize].queue {
            queue.message = None;
        }
        Ok(Served::Frame)
    }

    fn announce_writable(&mut self, slot: u32) {
        let stream = &mut self.streams[slot as usize];
        if stream.wants_writable && stream.state == State::Open && !stream.has_queue() {
            stream.wants_writable = false;
            let id = self.id(slot);
            self.writable.push(id);
        }
    }

    /// The number a path goes by on this connection, binding it first if need be.
    fn bind(&mut self, path: &str) -> Option<u16> {
        if let Some(method) = self.bound.iter().position(|known| **known == *path) {
            return Some(method as u16);
        }
        if self.bound.len() >= usize::from(MAX_METHODS) || path.len() > crate::wire::MAX_PATH_BYTES
        {
            return None;
        }
        let method = self.bound.len() as u16;
        self.bound.push(path.into());
        let header = Header::new(Kind::Method, 0).code(method);
        self.control.push_back(Control::Long(frame(header, &[path.as_bytes()])));
        Some(method)
    }
}

/// What became of a stream's turn.
enum Served {
    /// One frame went.
    Frame,
    NoRoom,
    /// Its message waits for a bulk buffer.
    NoBuffer,
}

fn request_extra_len(request: &NewStream<'_>) -> usize {
    request.metadata.encoded_len() + if request.timeout.is_some() { 8 } else { 0 }
}

fn write_request_head(
    into: &mut [u8],
    slot: u32,
    method: u16,
    request: &NewStream<'_>,
    has_message: bool,
    message_len: usize,
) {
    let mut flags = 0;
    if request.end {
        flags |= flag::END;
    }
    if has_message {
        flags |= flag::MESSAGE;
    }
    if request.timeout.is_some() {
        flags |= flag::TIMEOUT;
    }
    let metadata_len = request.metadata.encoded_len();
    let header = Header::new(Kind::Request, slot + 1)
        .flags(flags)
        .code(method)
        .numbers(metadata_len as u32, message_len as u32);
    into[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
    let mut at = HEADER_BYTES;
    if let Some((timeout, _)) = request.timeout {
        let timeout_us = u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX);
        into[at..at + 8].copy_from_slice(&timeout_us.to_le_bytes());
        at += 8;
    }
    write_block(request.metadata, &mut into[at..at + metadata_len]);
}

/// The length of a metadata block in bytes, if the map may be sent at all.
fn block_len(metadata: &MetadataMap) -> Option<usize> {
    metadata.checked_encoded_len().ok()
}

fn write_block(metadata: &MetadataMap, into: &mut [u8]) {
    if !into.is_empty() {
        metadata.encode(into);
    }
}

fn bulk_frame(slot: u32, len: usize, end: bool, descriptor: &[u8]) -> Box<[u8]> {
    let flags = flag::MESSAGE | if end { flag::END } else { 0 };
    let header = Header::new(Kind::Bulk, slot + 1).flags(flags).numbers(0, len as u32);
    frame(header, &[descriptor])
}

/// TRAILERS that fit a frame. A text is cut; details and metadata that do not fit are left out,
/// and the text says so. The code always arrives, but for OK: a call whose trailers are lost has
/// not gone well.
fn trailers_frame(
    slot: u32,
    code: u16,
    text: &str,
    metadata: &MetadataMap,
    details: &[u8],
    limit: usize,
) -> Box<[u8]> {
    let text = cut(text, MAX_TEXT_BYTES);
    let metadata_len = metadata.encoded_len();
    if block_len(metadata).is_none() || text.len() + metadata_len + details.len() > limit {
        let text = format!(
            "{} [details of {} and trailing metadata of {metadata_len} bytes did not fit a frame]",
            cut(text, MAX_TEXT_BYTES / 2),
            details.len(),
        );
        let code = if code == 0 { RESOURCE_EXHAUSTED } else { code };
        return trailers_frame(slot, code, &text, &MetadataMap::new(), &[], limit);
    }
    let header = Header::new(Kind::Trailers, slot + 1)
        .code(code)
        .numbers(metadata_len as u32, text.len() as u32);
    let mut block = vec![0; metadata_len];
    write_block(metadata, &mut block);
    frame(header, &[&block, text.as_bytes(), details])
}
