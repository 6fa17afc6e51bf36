//! Streams that stand in line to send, and who is next.

use std::collections::VecDeque;

use super::StreamId;

/// So much of a message that goes in pieces goes before another that has begun goes on. If all of them
/// took turns, the peer would hold as many halves as there are, in memory that is cold by the time the
/// next piece of each comes: sixteen messages of 2 MB took three times as long each.
const LONG_TURN_BYTES: u64 = 4 * 1024 * 1024;

/// Who waits for room to send.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone, PartialEq))]
pub(super) struct Line {
    /// Streams whose queue can be served, in turn.
    serving: VecDeque<u32>,
    /// The same, amid a message that goes in pieces. Only the first goes on.
    begun: VecDeque<u32>,
    /// How much of it has gone since it is the first.
    begun_turn_bytes: u64,
    /// How many of `serving` have their turns before it.
    turns_before_begun: usize,
    /// Streams whose message waits for a bulk buffer: they do not stop the others.
    without_buffer: VecDeque<u32>,
    /// Streams whose sender may go on.
    pub(super) writable: Vec<StreamId>,
}

impl Line {
    /// Whether nobody waits for room.
    pub(super) fn is_empty(&self) -> bool {
        self.serving.is_empty() && self.begun.is_empty()
    }

    /// Whether anybody waits for a bulk buffer.
    pub(super) fn wants_buffers(&self) -> bool {
        !self.without_buffer.is_empty()
    }

    /// Puts a stream at its end; `amid`: it goes on with a message.
    pub(super) fn put(&mut self, slot: u32, amid: bool) {
        if amid { self.begun.push_back(slot) } else { self.serving.push_back(slot) }
    }

    /// Whose turn it is, and whether it goes on with a message that has begun: one of these has a turn
    /// like any other stream.
    pub(super) fn next_turn(&mut self) -> Option<(u32, bool)> {
        let goes_on =
            !self.begun.is_empty() && (self.turns_before_begun == 0 || self.serving.is_empty());
        let slot = if goes_on {
            self.turns_before_begun = self.serving.len();
            self.begun.pop_front()
        } else {
            self.turns_before_begun = self.turns_before_begun.saturating_sub(1);
            self.serving.pop_front()
        };
        slot.map(|slot| (slot, goes_on))
    }

    /// Some of a message in pieces has gone, and more of it could. Whether the stream has its turn
    /// again before all others that are amid a message.
    pub(super) fn goes_on(&mut self, slot: u32, bytes: u64) -> bool {
        self.begun_turn_bytes += bytes;
        let goes_on = self.begun_turn_bytes < LONG_TURN_BYTES;
        if goes_on {
            self.begun.push_front(slot);
        }
        goes_on
    }

    /// The stream that went on does not any more.
    pub(super) fn ends_going_on(&mut self) {
        self.begun_turn_bytes = 0;
    }

    /// There was no room for the stream whose turn it was.
    pub(super) fn put_back(&mut self, slot: u32, went_on: bool) {
        if went_on {
            self.turns_before_begun = 0;
            self.begun.push_front(slot);
        } else {
            self.turns_before_begun += 1;
            self.serving.push_front(slot);
        }
    }

    /// There was no bulk buffer for it.
    pub(super) fn put_aside(&mut self, slot: u32) {
        self.without_buffer.push_back(slot);
    }

    /// There may be buffers now: those who waited for one are the first in line.
    pub(super) fn ask_for_buffers_again(&mut self) {
        while let Some(slot) = self.without_buffer.pop_back() {
            self.serving.push_front(slot);
        }
    }

    /// How many stand in it.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.serving.len() + self.begun.len() + self.without_buffer.len()
    }
}
