//! Frames about the connection, and the small ones about streams, that wait for room.
//!
//! The queue is bounded by what it holds: one SETTINGS, one GOAWAY, one PING, a few PONGs, and
//! for each stream at most one WINDOW, one RESET and one final frame; METHOD frames by the number
//! of methods; BULK_DONE by the pulls that were under way.

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
pub(super) enum Control {
    /// Nothing but a header.
    Short(Header),
    /// A PONG.
    Pong(Header),
    /// A header and a body.
    Long(Box<[u8]>),
    /// The window of a stream, as it stands when there is room.
    Window(u32),
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
    &text[..text.floor_char_boundary(max)]
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
        self.control
            .push_back(Control::Short(Header::new(Kind::Ping, 0).wide(self.frames_received)));
    }

    pub(super) fn queue_pong(&mut self, number: u64) {
        self.pongs_queued += 1;
        self.control.push_back(Control::Pong(Header::new(Kind::Pong, 0).wide(number)));
    }

    /// Every BULK the peer sent is answered by exactly one of these: after the pull, or when
    /// there will be none.
    pub fn bulk_done(&mut self, descriptor: &BulkDescriptor) {
        let bytes = frame(Header::new(Kind::BulkDone, 0), &[descriptor.as_bytes()]);
        self.control.push_back(Control::Long(bytes));
    }

    /// Server: the stream's final frame, at our own word, with no metadata. The stream is over.
    pub(super) fn end_with(&mut self, slot: u32, code: u16, text: &str) {
        let text = cut(text, MAX_TEXT_BYTES);
        let header = Header::new(Kind::Trailers, slot + 1).code(code).numbers(0, text.len() as u32);
        self.control.push_back(Control::Long(frame(header, &[text.as_bytes()])));
        self.close(slot);
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
                Control::Short(header) | Control::Pong(header) => put(sink, &header.to_bytes())?,
                Control::Long(bytes) => put(sink, bytes)?,
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
                Some(Control::Pong(_)) => self.pongs_queued -= 1,
                _ => {}
            }
        }
        Ok(true)
    }
}
