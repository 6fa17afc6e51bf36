//! Frames that carry calls: written straight into the link where there is room, kept on the
//! stream where there is none.
//!
//! The straight way costs one `reserve`, one encode and one `commit`. What cannot go at once is
//! encoded once into memory of its own and served in turn, a frame per stream and turn, so that a
//! long message does not stop the others; nor does one that waits for a bulk buffer. Of messages
//! that go in pieces one at a time goes on. While anything waits for room nobody goes straight,
//! because small frames could take the room a long one waits for again and again.

use std::time::{Duration, Instant};

use super::batch::Batch;
use super::compose::{
    block_len, bulk_frame, request_extra_len, trailers_frame, write_request_head,
    write_response_head,
};
use super::control::{Control, frame, put};
use super::encode::Encode;
use super::stream::{PendingBody, PendingMessage, Stream};
use super::{RESOURCE_EXHAUSTED, Role, Session, StreamId};
use crate::link::{FrameSink, LinkError};
use crate::metadata::{MAX_METADATA_BYTES, MetadataMap};
use crate::parts::Parts;
use crate::wire::{
    HEADER_BYTES, Header, Kind, MAX_METHODS, MAX_UNANSWERED_BULKS, MESSAGE_OVERHEAD_BYTES, flag,
};

/// What a client wants to open.
#[derive(Clone, Copy)]
pub struct NewStream<'a> {
    /// The method's path, such as `/package.Service/Method`.
    pub path: &'static str,
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
        if !self.control.is_empty() {
            self.transmit_control(sink)?;
        }
        let message_len = request.message.map_or(0, |message| message.encoded_len());
        let slot = self.free.last().copied().unwrap_or(self.streams.len() as u32);
        // A message's own code may panic: nothing has changed before it is encoded.
        let sent = self.send_request(sink, slot, method, request, message_len)?;
        let unsent = match request.message {
            Some(message) if !sent => Some(message.to_parts()),
            _ => None,
        };
        if self.free.pop().is_none() {
            self.streams.push(Stream::default());
        }
        let id = self.begin(slot, request.max_message_bytes);
        self.sending += u32::from(!request.end);
        if let Some((_, deadline)) = request.timeout {
            self.deadlines.insert(slot, deadline);
        }
        if sent {
            self.requests += 1;
            let number = self.requests;
            let stream = &mut self.streams[slot as usize];
            stream.request_number = number;
            stream.send_closed = request.end;
            if request.message.is_some() {
                stream.send_position = message_len as u64 + MESSAGE_OVERHEAD_BYTES;
            }
        } else {
            self.queue_request(slot, method, request, unsent);
            self.transmit(sink)?;
        }
        Ok(Opened::Stream(id))
    }

    /// The straight way: one frame with everything. `false`: it does not fit or there is no room.
    #[inline]
    fn send_request<S: FrameSink>(
        &self,
        sink: &mut S,
        slot: u32,
        method: u16,
        request: &NewStream<'_>,
        message_len: usize,
    ) -> Result<bool, LinkError> {
        // Asked only of what is long.
        let as_frame =
            || request.end && self.prefers_frame(sink, message_len, self.open_streams() + 1);
        if !self.may_go_straight() || self.is_bulk(message_len) && !as_frame() {
            return Ok(false);
        }
        let head_len = HEADER_BYTES + request_extra_len(request);
        let len = head_len + message_len;
        if len > self.link.max_frame_bytes {
            return Ok(false);
        }
        if let Some(parts) = request.message.and_then(|message| self.lent(message, message_len)) {
            let mut head = vec![0; head_len];
            write_request_head(&mut head, slot, method, request, true, message_len);
            return sink.send_owned([&head, &parts.head], &parts.body, &parts.tail);
        }
        let Some(room) = sink.reserve(len)? else { return Ok(false) };
        let (head, body) = room.split_at_mut(head_len);
        write_request_head(head, slot, method, request, request.message.is_some(), message_len);
        if let Some(message) = request.message {
            message.encode(body);
        }
        sink.commit();
        Ok(true)
    }

    fn queue_request(
        &mut self,
        slot: u32,
        method: u16,
        request: &NewStream<'_>,
        message: Option<Parts>,
    ) {
        let mut head = vec![0; HEADER_BYTES + request_extra_len(request)];
        let only_head = NewStream { end: request.end && message.is_none(), ..*request };
        write_request_head(&mut head, slot, method, &only_head, false, 0);
        let stream = &mut self.streams[slot as usize];
        stream.send_closed = request.end;
        let queue = stream.queue_mut();
        queue.head = Some(head.into());
        queue.message = message.map(|parts| PendingMessage::one(parts, request.end));
        self.serve_soon(slot);
    }

    /// Sends one message on an open stream; with `end`, the last one of this side.
    pub fn send_message<S: FrameSink>(
        &mut self,
        sink: &mut S,
        id: StreamId,
        message: &dyn Encode,
        end: bool,
    ) -> Result<Sending, LinkError> {
        let straight = match self.may_send(id, end) {
            Ok(straight) => straight,
            Err(why_not) => return Ok(why_not),
        };
        if straight && self.send_whole_message(sink, id.slot, message, end)? {
            return Ok(Sending::Sent);
        }
        self.queue_message(sink, id.slot, PendingMessage::one(message.to_parts(), end))
    }

    /// Sends several messages on an open stream. As [`Session::send_message`]: all or none.
    pub fn send_batch<S: FrameSink>(
        &mut self,
        sink: &mut S,
        id: StreamId,
        batch: &Batch,
    ) -> Result<Sending, LinkError> {
        let straight = match self.may_send(id, false) {
            Ok(straight) => straight && self.may_go_straight(),
            Err(why_not) => return Ok(why_not),
        };
        if straight && self.put_batch(sink, id.slot, batch, false)? {
            return Ok(Sending::Sent);
        }
        let body = PendingBody::Batch(batch.clone());
        self.queue_message(sink, id.slot, PendingMessage { body, end: false })
    }

    /// Whether a stream takes a message now, and if so, whether it may go straight.
    fn may_send(&mut self, id: StreamId, end: bool) -> Result<bool, Sending> {
        let server = self.role == Role::Server;
        let Some(stream) = self.get_mut(id) else { return Err(Sending::Closed) };
        if stream.send_closed {
            return Err(Sending::Closed);
        }
        if stream.queue.as_ref().is_some_and(|queue| queue.message.is_some()) {
            stream.wants_writable = true;
            return Err(Sending::Busy);
        }
        stream.headers_over |= server;
        let straight = !stream.has_queue() && stream.send_position < stream.send_limit;
        if end {
            self.stop_sending(id.slot);
        }
        Ok(straight)
    }

    fn queue_message<S: FrameSink>(
        &mut self,
        sink: &mut S,
        slot: u32,
        pending: PendingMessage,
    ) -> Result<Sending, LinkError> {
        self.streams[slot as usize].queue_mut().message = Some(pending);
        self.serve_soon(slot);
        self.transmit(sink)?;
        let stream = &mut self.streams[slot as usize];
        if stream.has_queue() {
            // Only now: what went within this call is the caller's to know from its result.
            stream.wants_writable = true;
            return Ok(Sending::Queued);
        }
        Ok(Sending::Sent)
    }

    /// One frame with all messages of a batch; `false`: no room.
    pub(super) fn put_batch<S: FrameSink>(
        &mut self,
        sink: &mut S,
        slot: u32,
        batch: &Batch,
        end: bool,
    ) -> Result<bool, LinkError> {
        let rows = batch.rows();
        let Some(room) = sink.reserve(HEADER_BYTES + rows.len())? else { return Ok(false) };
        let header = Header::new(Kind::Messages, slot + 1)
            .flags(if end { flag::END } else { 0 })
            .numbers(batch.messages(), 0);
        let (head, body) = room.split_at_mut(HEADER_BYTES);
        head.copy_from_slice(&header.to_bytes());
        body.copy_from_slice(rows);
        sink.commit();
        self.streams[slot as usize].send_position += batch.cost();
        Ok(true)
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
            if self.wants_buffers() {
                return Ok(false);
            }
            let parts = self.lent(message, len);
            return self.send_bulk(sink, slot, parts.as_ref(), message, end);
        }
        if HEADER_BYTES + len > self.link.max_frame_bytes {
            return Ok(false);
        }
        let flags = flag::MESSAGE | if end { flag::END } else { 0 };
        let header = Header::new(Kind::Message, slot + 1).flags(flags).numbers(0, len as u32);
        if let Some(parts) = self.lent(message, len) {
            let head = [&header.to_bytes()[..], &parts.head];
            if !sink.send_owned(head, &parts.body, &parts.tail)? {
                return Ok(false);
            }
        } else {
            let Some(room) = sink.reserve(HEADER_BYTES + len)? else { return Ok(false) };
            let (head, body) = room.split_at_mut(HEADER_BYTES);
            head.copy_from_slice(&header.to_bytes());
            message.encode(body);
            sink.commit();
        }
        self.streams[slot as usize].send_position += len as u64 + MESSAGE_OVERHEAD_BYTES;
        Ok(true)
    }

    /// The message with a part that the link can send from where it lies, if both are so.
    #[inline]
    pub(super) fn lent(&self, message: &dyn Encode, len: usize) -> Option<Parts> {
        let at_least = self.link.lend_threshold_bytes?;
        if len < at_least { None } else { message.lend(at_least) }
    }

    /// Puts a message where the peer can pull it, or leaves the body of `parts` where it is for
    /// that, and sends the BULK frame. `false`: no buffer. With a buffer but no room for the
    /// frame, the frame waits with the control frames.
    pub(super) fn send_bulk<S: FrameSink>(
        &mut self,
        sink: &mut S,
        slot: u32,
        parts: Option<&Parts>,
        message: &dyn Encode,
        end: bool,
    ) -> Result<bool, LinkError> {
        if self.bulks_out >= MAX_UNANSWERED_BULKS {
            return Ok(false);
        }
        let len = message.encoded_len();
        let lent = match parts {
            Some(parts) => sink.bulk_lend(&parts.body)?.map(|descriptor| (descriptor, parts)),
            None => None,
        };
        let bytes = if let Some((descriptor, parts)) = lent {
            bulk_frame(slot, len, end, [descriptor.as_bytes(), &parts.head, &parts.tail])
        } else {
            let Some(buffer) = sink.bulk_reserve(len)? else { return Ok(false) };
            message.encode(buffer);
            bulk_frame(slot, len, end, [sink.bulk_commit().as_bytes(), &[], &[]])
        };
        self.bulks_out += 1;
        let stream = &mut self.streams[slot as usize];
        stream.send_position += len as u64 + MESSAGE_OVERHEAD_BYTES;
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
        let queued = stream.has_queue();
        self.stop_sending(id.slot);
        let header = Header::new(Kind::Message, id.wire()).flags(flag::END).to_bytes();
        if queued || !control_empty || !put(sink, &header)? {
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
            && (!self.is_bulk(len) || self.prefers_frame(sink, len, self.open_streams()))
            && block_len(metadata).is_some()
            && block_len(trailers).is_some()
            && frame_len <= self.link.max_frame_bytes;
        if straight {
            let sent = if let Some(parts) = self.lent(message, len) {
                let mut head = vec![0; frame_len - len];
                write_response_head(&mut head, id.slot, metadata, trailers);
                sink.send_owned([&head, &parts.head], &parts.body, &parts.tail)?
            } else if let Some(room) = sink.reserve(frame_len)? {
                let (head, body) = room.split_at_mut(frame_len - len);
                write_response_head(head, id.slot, metadata, trailers);
                message.encode(body);
                sink.commit();
                true
            } else {
                false
            };
            if sent {
                self.close(id.slot);
                return Ok(());
            }
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

    /// The number a path goes by on this connection, binding it first if need be.
    #[inline]
    fn bind(&mut self, path: &'static str) -> Option<u16> {
        // A generated client names a method by the very same text every time.
        let same = self.bound.iter().position(|known| std::ptr::eq(*known, path));
        let equal = || self.bound.iter().position(|known| *known == path);
        if let Some(method) = same.or_else(equal) {
            return Some(method as u16);
        }
        if self.bound.len() >= usize::from(MAX_METHODS) || path.len() > crate::wire::MAX_PATH_BYTES
        {
            return None;
        }
        let method = self.bound.len() as u16;
        self.bound.push(path);
        let header = Header::new(Kind::Method, 0).code(method);
        self.control.push_back(Control::Long(frame(header, &[path.as_bytes()])));
        Some(method)
    }
}
