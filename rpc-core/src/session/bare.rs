//! The two frames that most calls are made of, taken without detours: a REQUEST that is a whole
//! unary call without metadata, and a RESPONSE that is nothing but a message.
//!
//! They mean what [`Session::handle_frame`] says they mean; whatever is not as simple as that, or
//! not as it should be, is left to it, untouched. A test drives two sessions with the same frames
//! both ways.

use std::time::{Duration, Instant};

use super::receive::MAX_TIMEOUT;
use super::stream::State;
use super::{Role, Session, StreamId};
use crate::wire::{HEADER_BYTES, Header, Kind, MESSAGE_OVERHEAD_BYTES, flag};

/// A whole unary call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BareRequest<'a> {
    /// The stream.
    pub stream: StreamId,
    /// A number that was bound.
    pub method: u16,
    /// When the caller gives up.
    pub deadline: Option<Instant>,
    /// The message.
    pub message: &'a [u8],
}

impl Session {
    /// Client: the message of a RESPONSE that has only that, for a stream that is open and in
    /// order; the stream is over. `None`: nothing was done, [`Session::handle_frame`] does it.
    #[inline]
    pub fn bare_response<'a>(&mut self, frame: &'a [u8]) -> Option<(StreamId, &'a [u8])> {
        let (head, message) = frame.split_first_chunk::<HEADER_BYTES>()?;
        let header = Header::of(head);
        let plain = header.kind == Kind::Response as u8 && header.a == 0 && header.b == 0;
        if !plain || self.role != Role::Client || !self.settings_received {
            return None;
        }
        let slot = header.stream.wrapping_sub(1);
        let stream = self.streams.get(slot as usize)?;
        let in_order = stream.state == State::Open
            && stream.request_number != 0
            && !stream.headers_over
            && stream.partial.is_none()
            && stream.queue.is_none()
            && message.len() <= stream.max_message_bytes;
        if !in_order {
            return None;
        }
        self.frames_received += 1;
        let id = StreamId { slot, generation: stream.generation };
        self.close(slot);
        Some((id, message))
    }

    /// Server: a REQUEST with a whole message, nothing to follow, and no metadata, that is to be
    /// served; its stream is open. The time is asked for only if the call has a timeout. `None`: nothing was done, [`Session::handle_frame`] does it.
    #[inline]
    pub fn bare_request<'a>(
        &mut self,
        now: impl FnOnce() -> Instant,
        frame: &'a [u8],
    ) -> Option<BareRequest<'a>> {
        let (head, body) = frame.split_first_chunk::<HEADER_BYTES>()?;
        let header = Header::of(head);
        let plain = header.kind == Kind::Request as u8
            && header.flags & !flag::TIMEOUT == flag::END | flag::MESSAGE
            && header.a == 0;
        if !plain || self.role != Role::Server || !self.settings_received || self.going_away {
            return None;
        }
        let (deadline, message) = if header.flags & flag::TIMEOUT == 0 {
            (None, body)
        } else {
            let (timeout, message) = body.split_first_chunk::<8>()?;
            let timeout = Duration::from_micros(u64::from_le_bytes(*timeout));
            ((timeout <= MAX_TIMEOUT).then(|| now() + timeout), message)
        };
        let slot = header.stream.wrapping_sub(1);
        let limit = *self.method_limits.get(usize::from(header.code))?;
        let limit = limit.unwrap_or(self.config.max_message_bytes);
        let cost = message.len() as u64 + MESSAGE_OVERHEAD_BYTES;
        let in_order = slot < self.config.max_streams
            && self.streams.get(slot as usize)?.state == State::Idle
            && message.len() == header.b as usize
            && message.len() <= limit
            && self.buffered_bytes + cost <= self.config.max_buffered_bytes;
        if !in_order {
            return None;
        }
        self.frames_received += 1;
        self.requests += 1;
        let id = self.begin(slot, limit);
        if let Some(deadline) = deadline {
            self.deadlines.insert(slot, deadline);
        }
        let stream = &mut self.streams[slot as usize];
        stream.receive_position = cost;
        stream.receive_closed = true;
        self.buffered_bytes += cost;
        Some(BareRequest { stream: id, method: header.code, deadline, message })
    }
}
