//! What waits for room or window, served in turn: a frame per stream and turn.

use super::Session;
use super::batch::Batch;
use super::control::put;
use super::stream::{PendingBody, PendingMessage, State};
use crate::link::{FrameSink, LinkError};
use crate::wire::{HEADER_BYTES, Header, Kind, MESSAGE_OVERHEAD_BYTES, flag};

/// The first piece of a message that takes several frames, in bytes: so short that the next may
/// begin within the smallest window, during which the peer credits the rest.
const FIRST_PIECE_BYTES: usize = 32 * 1024;
/// The longest of its other pieces, in bytes. While one is on its way the peer puts the one before
/// it in its place, from cache: over TCP this took four fifths of the time of pieces of a
/// mebibyte.
const PIECE_BYTES: usize = 256 * 1024;
/// What became of a stream's turn.
enum Served {
    /// One frame went.
    Frame,
    NoRoom,
    /// Its message waits for a bulk buffer.
    NoBuffer,
}

impl Session {
    pub(super) fn may_go_straight(&self) -> bool {
        self.control.is_empty() && self.line.as_ref().is_none_or(|line| line.is_empty())
    }

    pub(super) fn is_bulk(&self, len: usize) -> bool {
        self.link.bulk_threshold_bytes.is_some_and(|threshold| len > threshold)
            && len <= self.link.max_bulk_bytes
    }

    /// Whether a message that would go by bulk goes as a frame, because it is all one side of a unary
    /// call sends: a row of messages is pulled while the next ones are made; whoever waits for this one
    /// waits for all of its pull. `calls` are open with this one.
    pub(super) fn prefers_frame<S: FrameSink>(&self, sink: &S, len: usize, calls: usize) -> bool {
        HEADER_BYTES + len <= self.link.max_frame_bytes && sink.prefers_frame(len, calls)
    }

    pub(super) fn serve_soon(&mut self, slot: u32) {
        let stream = &mut self.streams[slot as usize];
        if !stream.listed && stream.can_serve() {
            stream.listed = true;
            self.line.get_or_insert_default().put(slot, stream.is_amid_message());
        }
    }

    /// A frame of a stream has gone.
    fn has_had_turn(&mut self, slot: u32, went_on: bool, bytes: u64) {
        let stream = &mut self.streams[slot as usize];
        if went_on {
            let line = self.line.get_or_insert_default();
            if stream.is_amid_message() && stream.can_serve() && line.goes_on(slot, bytes) {
                stream.listed = true;
                return;
            }
            line.ends_going_on();
        }
        self.serve_soon(slot);
    }

    /// Writes what waits, as far as there is room and window.
    #[inline]
    pub fn transmit<S: FrameSink>(&mut self, sink: &mut S) -> Result<(), LinkError> {
        if self.wants_room() { self.transmit_waiting(sink) } else { Ok(()) }
    }

    fn transmit_waiting<S: FrameSink>(&mut self, sink: &mut S) -> Result<(), LinkError> {
        if !self.transmit_control(sink)? {
            return Ok(());
        }
        if let Some(line) = &mut self.line {
            line.ask_for_buffers_again();
        }
        let mut buffers_left = true;
        while let Some((slot, goes_on)) = self.line.as_mut().and_then(|line| line.next_turn()) {
            let stream = &mut self.streams[slot as usize];
            stream.listed = false;
            if !stream.can_serve() {
                // Cancelled, maybe amid its turn.
                if goes_on {
                    self.line.get_or_insert_default().ends_going_on();
                }
                continue;
            }
            let before = stream.send_position;
            let served = if buffers_left || !self.wants_buffer(slot) {
                self.serve(sink, slot)?
            } else {
                Served::NoBuffer
            };
            match served {
                Served::Frame => {}
                Served::NoRoom => {
                    self.streams[slot as usize].listed = true;
                    self.line.get_or_insert_default().put_back(slot, goes_on);
                    return Ok(());
                }
                Served::NoBuffer => {
                    // Who comes later and needs a smaller one does not overtake.
                    buffers_left = false;
                    self.streams[slot as usize].listed = true;
                    self.line.get_or_insert_default().put_aside(slot);
                    continue;
                }
            }
            let bytes = self.streams[slot as usize].send_position.saturating_sub(before);
            self.has_had_turn(slot, goes_on, bytes);
            if !self.control.is_empty() && !self.transmit_control(sink)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether anything waits for room (not for window).
    pub fn wants_room(&self) -> bool {
        !self.may_go_straight() || self.wants_buffers()
    }

    /// Whether anything waits for a bulk buffer.
    pub(super) fn wants_buffers(&self) -> bool {
        self.line.as_ref().is_some_and(|line| line.wants_buffers())
    }

    /// Whether the next thing a stream sends is a message that goes by bulk.
    fn wants_buffer(&self, slot: u32) -> bool {
        let Some(queue) = &self.streams[slot as usize].queue else { return false };
        let message = queue.message.as_ref().filter(|_| queue.head.is_none());
        message.is_some_and(|message| match &message.body {
            PendingBody::One { parts, .. } => self.is_bulk(parts.len()),
            PendingBody::Batch(_) => false,
        })
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
        let end = message.end;
        let (parts, sent) = match &mut message.body {
            PendingBody::One { parts, sent } => (parts, sent),
            PendingBody::Batch(batch) => {
                let batch = std::mem::take(batch);
                return self.serve_batch(sink, slot, batch, end);
            }
        };
        let len = parts.len();
        if bulk {
            let parts = parts.clone();
            let lent = self.lent(&parts, len);
            if !self.send_bulk(sink, slot, lent.as_ref(), &parts, end)? {
                return Ok(Served::NoBuffer);
            }
        } else {
            let first = *sent == 0;
            let piece = next_piece(len, *sent, max_frame_bytes - HEADER_BYTES);
            let more = *sent + piece < len;
            let mut flags = flag::MESSAGE;
            if more {
                flags |= flag::MORE;
            } else if end {
                flags |= flag::END;
            }
            let header = Header::new(Kind::Message, slot + 1).flags(flags).numbers(0, len as u32);
            let (head, body, tail) = parts.piece(*sent, piece);
            if !sink.send_owned([&header.to_bytes(), head], &body, tail)? {
                return Ok(Served::NoRoom);
            }
            *sent += piece;
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

    fn serve_batch<S: FrameSink>(
        &mut self,
        sink: &mut S,
        slot: u32,
        batch: Batch,
        end: bool,
    ) -> Result<Served, LinkError> {
        let sent = self.put_batch(sink, slot, &batch, end)?;
        let queue = self.streams[slot as usize].queue_mut();
        if sent {
            queue.message = None;
            return Ok(Served::Frame);
        }
        queue.message = Some(PendingMessage { body: PendingBody::Batch(batch), end });
        Ok(Served::NoRoom)
    }

    fn announce_writable(&mut self, slot: u32) {
        let stream = &mut self.streams[slot as usize];
        if stream.wants_writable && stream.state == State::Open && !stream.has_queue() {
            stream.wants_writable = false;
            let id = self.id(slot);
            self.line.get_or_insert_default().writable.push(id);
        }
    }
}

/// Bytes of the next piece of a message of `len` bytes, of which `sent` have gone, on a link whose
/// frames take `longest`.
fn next_piece(len: usize, sent: usize, longest: usize) -> usize {
    let most = match sent {
        _ if len <= longest => len,
        0 => FIRST_PIECE_BYTES,
        _ => PIECE_BYTES,
    };
    (len - sent).min(most).min(longest)
}
