//! Frames about the connection, and the small ones about streams, that wait for room.
//!
//! The queue is bounded by what it holds: one SETTINGS, at most two GOAWAYs, one PING, a few
//! PONGs, and for each slot at most two WINDOWs (one of them of its last tenant, and skipped), one
//! BULK and one RESET or final frame, because a slot is taken until its final frame has gone;
//! METHODs by the number of methods; BULK_DONEs by
//! [`MAX_UNANSWERED_BULKS`](crate::wire::MAX_UNANSWERED_BULKS).

use super::stream::State;
use super::{Role, Session};
use crate::link::{BulkDescriptor, FrameSink, LinkError};
use crate::wire::{HEADER_BYTES, Header, Kind};

/// PONGs that may wait; a peer that pings faster than we can answer breaks the protocol.
pub(super) const MAX_QUEUED_PONGS: u32 = 16;

/// The longest GOAWAY reason and status message, in bytes: longer ones are cut at a character.
pub(super) const MAX_TEXT_BYTES: usize = 1024;

/// SETTINGS ids.
pub(super) mod setting {
    pub(in crate::session) const MAX_STREAMS: u16 = 1;
    pub(in crate::session) const WINDOW_BYTES: u16 = 2;
    /// Bytes of one entry: u16 id, u64 value.
    pub(in crate::session) const ENTRY_BYTES: usize = 10;
}

/// A frame that waits for room.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, PartialEq))]
pub(super) enum Control {
    /// Nothing but a header.
    Short(Header),
    /// A PONG.
    Pong(Header),
    /// A header and a body.
    Long(Box<[u8]>),
    /// The window of a stream, as it stands when there is room.
    Window(u32),
    /// PING.
    Ping(Header),
    /// Answers a BULK.
    BulkDone(Box<[u8]>),
    /// Server: the final frame of a slot, which is free once the frame has gone.
    Final(u32, Box<[u8]>),
}

/// A whole frame on the heap.
pub(super) fn frame(header: Header, body: &[&[u8]]) -> Box<[u8]> {
    let len = HEADER_BYTES + body.iter().map(|part| part.len()).sum::<usize>();
    let mut bytes = Vec::with_capacity(len);
    bytes.extend_from_slice(&header.to_bytes());
    for part in body {
        bytes.extend_from_slice(part);
    }
    bytes.into()
}

/// Cuts a text to at most `max` bytes, at a character.
pub(super) fn cut(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Writes one whole frame if there is room.
pub(super) fn put<S: FrameSink>(sink: &mut S, bytes: &[u8]) -> Result<bool, LinkError> {
    match sink.reserve(bytes.len())? {
        None => Ok(false),
        Some(room) => {
            room.copy_from_slice(bytes);
            sink.commit();
            Ok(true)
        }
    }
}

impl Session {
    pub(super) fn queue_settings(&mut self) {
        let mut body = Vec::with_capacity(2 * setting::ENTRY_BYTES);
        let max_streams = match self.role {
            Role::Server => u64::from(self.config.max_streams),
            Role::Client => 0,
        };
        for (id, value) in
            [(setting::MAX_STREAMS, max_streams), (setting::WINDOW_BYTES, self.config.window_bytes)]
        {
            body.extend_from_slice(&id.to_le_bytes());
            body.extend_from_slice(&value.to_le_bytes());
        }
        self.control.push_back(Control::Long(frame(Header::new(Kind::Settings, 0), &[&body])));
    }

    pub(super) fn queue_go_away(&mut self, code: u16, reason: &str) {
        let header = Header::new(Kind::GoAway, 0).code(code).wide(self.requests);
        let reason = cut(reason, MAX_TEXT_BYTES);
        self.control.push_back(Control::Long(frame(header, &[reason.as_bytes()])));
    }

    pub(super) fn queue_reset(&mut self, slot: u32, code: u16) {
        let header = Header::new(Kind::Reset, slot + 1).code(code);
        self.control.push_back(Control::Short(header));
    }

    pub(super) fn queue_ping(&mut self) {
        if !self.ping_queued {
            self.ping_queued = true;
            let header = Header::new(Kind::Ping, 0).wide(self.frames_received);
            self.control.push_back(Control::Ping(header));
        }
    }

    pub(super) fn queue_pong(&mut self, number: u64) {
        self.pongs_queued += 1;
        self.control.push_back(Control::Pong(Header::new(Kind::Pong, 0).wide(number)));
    }

    /// Every BULK the peer sent is answered by exactly one of these: after the pull, or when
    /// there will be none.
    pub fn bulk_done(&mut self, descriptor: &BulkDescriptor) {
        let bytes = frame(Header::new(Kind::BulkDone, 0), &[descriptor.as_bytes()]);
        self.control.push_back(Control::BulkDone(bytes));
    }

    /// Server: the stream's final frame, at our own word, with no metadata. The stream is over.
    pub(super) fn end_with(&mut self, slot: u32, code: u16, text: &str) {
        let text = cut(text, MAX_TEXT_BYTES);
        let header = Header::new(Kind::Trailers, slot + 1).code(code).numbers(0, text.len() as u32);
        self.queue_final(slot, frame(header, &[text.as_bytes()]));
    }

    /// Server: refuses a stream that no handler has seen.
    pub(super) fn refuse_unseen(&mut self, slot: u32, code: u16, text: &str) {
        let header = Header::new(Kind::Reset, slot + 1).code(code);
        self.queue_final(slot, frame(header, &[text.as_bytes()]));
    }

    /// Server: the stream is over for this side at once, and its slot is free when the frame has
    /// gone: a client that used it earlier could make us queue frames without end.
    pub(super) fn queue_final(&mut self, slot: u32, bytes: Box<[u8]>) {
        self.forget_work(slot);
        let stream = &mut self.streams[slot as usize];
        debug_assert_eq!(stream.state, State::Open);
        stream.state = State::Draining;
        stream.generation = stream.generation.wrapping_add(1);
        self.control.push_back(Control::Final(slot, bytes));
    }

    /// Queues a WINDOW when the sender has used up half of what it had, or is about to stop.
    pub(super) fn queue_window(&mut self, slot: u32) -> bool {
        let window = self.config.window_bytes;
        let stream = &mut self.streams[slot as usize];
        if stream.receive_closed || stream.window_queued || stream.state != State::Open {
            return false;
        }
        if stream.credited + window < stream.advertised + window / 2 {
            return false;
        }
        stream.window_queued = true;
        self.control.push_back(Control::Window(slot));
        true
    }

    /// Writes waiting control frames; whether all went.
    pub(super) fn transmit_control<S: FrameSink>(
        &mut self,
        sink: &mut S,
    ) -> Result<bool, LinkError> {
        while let Some(control) = self.control.front() {
            let sent = match control {
                Control::Short(header) | Control::Ping(header) | Control::Pong(header) => {
                    put(sink, &header.to_bytes())?
                }
                Control::Long(bytes) | Control::BulkDone(bytes) | Control::Final(_, bytes) => {
                    put(sink, bytes)?
                }
                Control::Window(slot) => {
                    let limit = self.streams[*slot as usize].credited + self.config.window_bytes;
                    let stream = &self.streams[*slot as usize];
                    let header = Header::new(Kind::Window, slot + 1).wide(limit);
                    !stream.window_queued || put(sink, &header.to_bytes())?
                }
            };
            if !sent {
                return Ok(false);
            }
            match self.control.pop_front() {
                Some(Control::Window(slot)) => {
                    let stream = &mut self.streams[slot as usize];
                    if stream.window_queued {
                        stream.window_queued = false;
                        stream.advertised = stream.credited + self.config.window_bytes;
                    }
                }
                Some(Control::Ping(_)) => self.ping_queued = false,
                Some(Control::Pong(_)) => self.pongs_queued -= 1,
                Some(Control::BulkDone(_)) => {
                    self.bulks_owed = self.bulks_owed.saturating_sub(1);
                }
                Some(Control::Final(slot, _)) => self.close(slot),
                Some(Control::Short(_) | Control::Long(_)) | None => {}
            }
        }
        Ok(true)
    }
}
