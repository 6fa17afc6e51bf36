//! Messages as they arrive, whole or in pieces: counted, checked against their limits, put
//! together.

use super::event::{Event, Message, Payload, Refusal};
use super::receive::{FrameRef, expect_end};
use super::stream::{Partial, Stream};
use super::{CANCELLED, RESOURCE_EXHAUSTED, Role, Session, StreamId};
use crate::warm;
use crate::wire::{Header, MESSAGE_OVERHEAD_BYTES, WireError, flag};

/// The first allocation for a message that comes in pieces, in bytes. More follows as pieces
/// arrive, at most twice of what has: a length alone makes nobody allocate. Memory that lies idle
/// may then be had for the whole message.
const FIRST_PARTIAL_BYTES: usize = 64 * 1024;

/// A message, or a piece of one, in a frame.
pub(super) struct Piece<'a> {
    pub(super) payload: Payload<'a>,
    /// The length of the whole message, in bytes.
    pub(super) total: usize,
    /// More pieces follow.
    pub(super) more: bool,
}

/// What became of a piece.
pub(super) enum Taken<'a> {
    Whole(Message<'a>),
    Part,
    Refused(Refusal),
}

impl Session {
    pub(super) fn take<'a>(&mut self, slot: u32, piece: Piece<'a>) -> Result<Taken<'a>, WireError> {
        let Piece { payload, total, more } = piece;
        let max_buffered = self.config.max_buffered_bytes;
        let window_bytes = self.config.window_bytes;
        let client = self.role == Role::Client;
        let stream = &mut self.streams[slot as usize];
        check_may_send(stream)?;
        stream.headers_over |= client;
        let len = payload.as_slice().len();
        let first = stream.partial.is_none();
        if first && total > stream.max_message_bytes {
            let limit_bytes = stream.max_message_bytes;
            return Ok(Taken::Refused(Refusal::MessageTooLong {
                bytes: total as u64,
                limit_bytes,
            }));
        }
        let cost = len as u64 + if first { MESSAGE_OVERHEAD_BYTES } else { 0 };
        if self.buffered_bytes + cost > max_buffered {
            return Ok(Taken::Refused(Refusal::TooMuchBuffered { limit_bytes: max_buffered }));
        }
        let start = stream.receive_position;
        stream.receive_position += cost;
        self.buffered_bytes += cost;
        if first && !more {
            if len != total {
                return Err(WireError::new(12, "the message's length is not the frame's"));
            }
            let position = stream.receive_position;
            return Ok(Taken::Whole(Message { payload, position }));
        }
        let partial = stream.partial.get_or_insert_with(|| {
            let bytes = Vec::with_capacity(total.min(FIRST_PARTIAL_BYTES));
            Box::new(Partial { total, bytes, start })
        });
        let so_far = partial.bytes.len() + len;
        if partial.total != total {
            return Err(WireError::new(12, "the message's length has changed between its pieces"));
        }
        if so_far > total || (so_far == total) == more || len == 0 {
            return Err(WireError::new(12, "the pieces do not add up to the message's length"));
        }
        if partial.bytes.capacity() < so_far {
            let room = (so_far * 2).min(total);
            let larger = warm::idle_buffer(total).unwrap_or_else(|| warm::buffer(room));
            let smaller = std::mem::replace(&mut partial.bytes, larger);
            partial.bytes.extend_from_slice(&smaller);
            warm::give_back(smaller);
        }
        partial.bytes.extend_from_slice(payload.as_slice());
        if more {
            stream.credit(window_bytes);
            self.queue_window(slot);
            return Ok(Taken::Part);
        }
        let position = stream.receive_position;
        let Some(partial) = stream.partial.take() else { return Ok(Taken::Part) };
        let payload = Payload::Owned(warm::share(partial.bytes));
        Ok(Taken::Whole(Message { payload, position }))
    }

    /// Counts whole messages, of which the longest has `longest` bytes, as held; gives the
    /// stream's position after them, or why they are refused. `inside`: what is wrong if they come
    /// between the pieces of another message.
    pub(super) fn hold_whole(
        &mut self,
        slot: u32,
        longest: usize,
        cost: u64,
        inside: &'static str,
    ) -> Result<Result<u64, Refusal>, WireError> {
        let limit_bytes = self.config.max_buffered_bytes;
        let client = self.role == Role::Client;
        let stream = &mut self.streams[slot as usize];
        if stream.partial.is_some() {
            return Err(WireError::new(0, inside));
        }
        check_may_send(stream)?;
        stream.headers_over |= client;
        if longest > stream.max_message_bytes {
            let limit_bytes = stream.max_message_bytes;
            return Ok(Err(Refusal::MessageTooLong { bytes: longest as u64, limit_bytes }));
        }
        if self.buffered_bytes + cost > limit_bytes {
            return Ok(Err(Refusal::TooMuchBuffered { limit_bytes }));
        }
        stream.receive_position += cost;
        self.buffered_bytes += cost;
        Ok(Ok(stream.receive_position))
    }

    /// Counts metadata as held; gives why not, if it is too much.
    pub(super) fn hold_metadata(&mut self, slot: u32, metadata: &[u8]) -> Option<Refusal> {
        let limit_bytes = self.config.max_buffered_bytes;
        let bytes = metadata.len() as u64;
        if self.buffered_bytes + bytes > limit_bytes {
            return Some(Refusal::TooMuchBuffered { limit_bytes });
        }
        self.buffered_bytes += bytes;
        self.streams[slot as usize].metadata_bytes += bytes;
        None
    }

    pub(super) fn refuse<'a>(&mut self, stream: StreamId, why: Refusal) -> Event<'a> {
        match self.role {
            Role::Server => self.end_with(stream.slot, RESOURCE_EXHAUSTED, &why.to_string()),
            Role::Client => self.give_up(stream.slot, CANCELLED),
        }
        Event::Refused { stream, why }
    }

    pub(super) fn note_end(&mut self, slot: u32, header: Header) -> Result<bool, WireError> {
        let end = header.flags & flag::END != 0;
        if end {
            let stream = &mut self.streams[slot as usize];
            if stream.partial.is_some() {
                return Err(WireError::new(1, "the stream ends inside a message"));
            }
            stream.receive_closed = true;
        }
        Ok(end)
    }
}

fn check_may_send(stream: &Stream) -> Result<(), WireError> {
    if stream.receive_closed {
        return Err(WireError::new(0, "a message after the end of messages"));
    }
    if stream.receive_position >= stream.advertised {
        return Err(WireError::new(0, "a message beyond the stream's window"));
    }
    Ok(())
}

pub(super) fn piece<'a>(
    header: Header,
    body: &'a [u8],
    frame: FrameRef<'a>,
    at: usize,
) -> Result<Option<Piece<'a>>, WireError> {
    if header.flags & flag::MESSAGE == 0 {
        expect_end(body, at)?;
        return Ok(None);
    }
    let more = header.flags & flag::MORE != 0;
    Ok(Some(Piece { payload: frame.payload(body), total: header.b as usize, more }))
}
