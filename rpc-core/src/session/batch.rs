//! Several short messages of one stream in one frame (MESSAGES): a row of lengths and bytes.
//!
//! A stream of tiny messages would otherwise pay for a frame, a look at its window and a turn of
//! the connection's lock with each of them.

use bytes::{Buf, Bytes};

use super::Session;
use super::event::Event;
use super::receive::FrameRef;
use crate::wire::{
    HEADER_BYTES, Header, MAX_BATCH_MESSAGES, MESSAGE_OVERHEAD_BYTES, WireError, split,
};

/// Bytes of a message's length before it.
const LENGTH_BYTES: usize = 2;

/// A batch of messages that travels in one frame of any link.
const MAX_BATCH_BYTES: usize = 4096 - HEADER_BYTES;

/// Messages longer than this travel by themselves, in bytes: little is saved by then.
const MAX_BATCHED_BYTES: usize = 1024;

/// Short messages on their way out together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    rows: Vec<u8>,
    messages: u32,
}

impl Batch {
    /// Whether there is no message in it.
    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// Whether a message of `len` bytes may travel with others at all.
    pub fn takes(len: usize) -> bool {
        len <= MAX_BATCHED_BYTES
    }

    /// Room for a message of `len` bytes, all of which is to be filled; `None`: it does not fit
    /// any more.
    pub fn push(&mut self, len: usize) -> Option<&mut [u8]> {
        let at = self.rows.len();
        let end = at + LENGTH_BYTES + len;
        if !Batch::takes(len) || end > MAX_BATCH_BYTES || self.messages == MAX_BATCH_MESSAGES {
            return None;
        }
        self.rows.extend_from_slice(&(len as u16).to_le_bytes());
        self.rows.resize(end, 0);
        self.messages += 1;
        Some(&mut self.rows[at + LENGTH_BYTES..])
    }

    /// Empties it, and keeps its memory.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.messages = 0;
    }

    /// Messages in it.
    pub fn messages(&self) -> u32 {
        self.messages
    }

    /// What it takes in a frame, in bytes.
    pub fn len_bytes(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn rows(&self) -> &[u8] {
        &self.rows
    }

    /// What it costs of its stream's window.
    pub(super) fn cost(&self) -> u64 {
        cost(self.rows.len(), self.messages)
    }
}

fn cost(row_bytes: usize, messages: u32) -> u64 {
    row_bytes as u64 + u64::from(messages) * (MESSAGE_OVERHEAD_BYTES - LENGTH_BYTES as u64)
}

/// Messages that came together, and how far they have been taken.
#[derive(Debug, Clone)]
pub struct Messages {
    /// Rows that were checked when they came.
    rows: Bytes,
    /// The stream's position before the first that is left.
    position: u64,
    /// And after the last.
    end: u64,
}

impl Messages {
    /// The first that is left, and the stream's position after it.
    pub fn first(&self) -> Option<(&[u8], u64)> {
        let (length, rest) = self.rows.split_first_chunk::<LENGTH_BYTES>()?;
        let len = usize::from(u16::from_le_bytes(*length));
        Some((&rest[..len], self.position + len as u64 + MESSAGE_OVERHEAD_BYTES))
    }

    /// Forgets the first; whether there are more.
    pub fn pop(&mut self) -> bool {
        if let Some((message, position)) = self.first() {
            let taken = LENGTH_BYTES + message.len();
            self.position = position;
            self.rows.advance(taken);
        }
        !self.rows.is_empty()
    }

    /// The stream's position after the last of them.
    pub fn end(&self) -> u64 {
        self.end
    }
}

impl Session {
    pub(super) fn on_messages<'a>(
        &mut self,
        header: Header,
        body: &'a [u8],
        frame: FrameRef<'a>,
    ) -> Result<Event<'a>, WireError> {
        let longest = check_rows(header.a, body)?;
        let Some(stream) = self.receiving(header)? else { return Ok(Event::None) };
        let cost = cost(body.len(), header.a);
        let inside = "MESSAGES inside another message";
        let end = match self.hold_whole(stream.slot, longest, cost, inside)? {
            Ok(end) => end,
            Err(why) => return Ok(self.refuse(stream, why)),
        };
        let position = end - cost;
        let over = self.note_end(stream.slot, header)?;
        let rows = frame.payload(body).into_bytes();
        Ok(Event::Messages { stream, messages: Messages { rows, position, end }, end: over })
    }
}

/// Checks that a body is `messages` rows, and gives the length of the longest message.
fn check_rows(messages: u32, body: &[u8]) -> Result<usize, WireError> {
    if messages == 0 || messages > MAX_BATCH_MESSAGES {
        return Err(WireError::new(8, "no messages in the frame, or too many"));
    }
    let (mut rest, mut longest) = (body, 0);
    let at = |rest: &[u8]| HEADER_BYTES + body.len() - rest.len();
    for _ in 0..messages {
        let (length, after) =
            split(rest, LENGTH_BYTES, at(rest), "the frame ends before a message's length")?;
        let len = usize::from(u16::from_le_bytes([length[0], length[1]]));
        let (_, after) = split(after, len, at(after), "the frame ends inside a message")?;
        longest = longest.max(len);
        rest = after;
    }
    super::receive::expect_end(rest, at(rest))?;
    Ok(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_fits_a_frame_of_any_link() {
        for len in [0, 1, 7, 100, MAX_BATCHED_BYTES] {
            let mut batch = Batch::default();
            while let Some(room) = batch.push(len) {
                room.fill(7);
            }
            assert!(HEADER_BYTES + batch.len_bytes() <= 4096 && !batch.is_empty());
            assert!(batch.messages() <= MAX_BATCH_MESSAGES);
            assert_eq!(check_rows(batch.messages(), batch.rows()), Ok(len));
            assert_eq!(
                batch.cost(),
                u64::from(batch.messages()) * (len as u64 + MESSAGE_OVERHEAD_BYTES)
            );
        }
        assert!(Batch::default().push(MAX_BATCHED_BYTES + 1).is_none());
    }

    #[test]
    fn rows_that_do_not_add_up_name_the_byte() {
        let rows = [3, 0, 1, 2, 3, 0, 0];
        assert_eq!(check_rows(2, &rows), Ok(3));
        let at = |messages, rows: &[u8]| check_rows(messages, rows).unwrap_err().offset;
        assert_eq!(at(0, &[]), 8);
        assert_eq!(at(MAX_BATCH_MESSAGES + 1, &[0; 2000]), 8);
        assert_eq!(at(1, &rows), 16 + 5, "bytes after the end");
        assert_eq!(at(3, &rows), 16 + 7, "no third length");
        assert_eq!(at(2, &rows[..6]), 16 + 6, "half a length");
        assert_eq!(at(1, &rows[..4]), 16 + 4, "inside a message");
    }

    #[test]
    fn messages_are_taken_one_by_one_with_their_positions() {
        let mut messages = Messages {
            rows: Bytes::from_static(&[2, 0, 7, 8, 0, 0, 1, 0, 9]),
            position: 100,
            end: 100 + 3 * MESSAGE_OVERHEAD_BYTES + 3,
        };
        assert_eq!(messages.first(), Some((&[7, 8][..], 134)));
        assert!(messages.pop());
        assert_eq!(messages.first(), Some((&[][..], 166)));
        assert!(messages.pop());
        assert_eq!(messages.first(), Some((&[9][..], 199)));
        assert_eq!(messages.end(), 199);
        assert!(!messages.pop());
        assert!(messages.first().is_none() && !messages.pop());
    }
}
