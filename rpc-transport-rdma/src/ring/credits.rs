//! Credit as positions: how far the ring may be written, and how far it has been read.
//!
//! All counts are cumulative from the start of the connection. A count that was lost or came late
//! is healed by the next; nothing is ever added twice.

use rdma_rpc_core::link::LinkError;

use super::layout::{ALIGN_BYTES, BURST_HEADER_BYTES, FRAME_PREFIX_BYTES, max_burst_bytes};

/// How far a ring has come: bytes (skipped ones included) and bursts since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Position {
    pub(super) bytes: u64,
    pub(super) bursts: u64,
}

/// What the sender of a ring knows of it.
#[derive(Debug)]
pub(super) struct SendCredits {
    ring_bytes: u64,
    /// The peer's receives that data may use.
    data_receives: u64,
    /// What was posted.
    sent: Position,
    /// What the peer has released, as far as is known. The two counts may come from different
    /// moments: each is used alone.
    released: Position,
    /// A count of bursts whose bytes are known to be released too: from a burst's header, or
    /// from an answer, which says how many bursts the cell it follows stands for. Never from a
    /// bare look at the cell: that may show one word of an older update and one of a newer, and a
    /// peer that was told of the newer count would not wake us for the bytes we have missed.
    confirmed_bursts: u64,
}

impl SendCredits {
    pub(super) fn new(ring_bytes: u64, data_receives: u64) -> SendCredits {
        SendCredits {
            ring_bytes,
            data_receives,
            sent: Position::default(),
            released: Position::default(),
            confirmed_bursts: 0,
        }
    }

    /// The position up to which the peer's ring may be written.
    pub(super) fn writable_until(&self) -> u64 {
        self.released.bytes + self.ring_bytes
    }

    /// Whether the peer has a receive for one more burst.
    pub(super) fn may_send_burst(&self) -> bool {
        self.sent.bursts - self.released.bursts < self.data_receives
    }

    /// A burst that ends at `end` was posted.
    pub(super) fn sent_burst(&mut self, end: u64) {
        debug_assert!(end > self.sent.bytes && end <= self.writable_until());
        debug_assert!(self.may_send_burst());
        self.sent = Position { bytes: end, bursts: self.sent.bursts + 1 };
    }

    /// What is known to be released.
    pub(super) fn released(&self) -> Position {
        self.released
    }

    /// Takes what the peer says it has released; `place` says where it said so. The two counts
    /// may be of different moments.
    #[inline]
    pub(super) fn learn(&mut self, said: Position, place: &str) -> Result<(), LinkError> {
        if said.bytes > self.sent.bytes || !said.bytes.is_multiple_of(ALIGN_BYTES) {
            return Err(LinkError::misbehaved(format!(
                "{place}, byte 0: released position {} is not a position up to {}, which is all \
                 that was sent",
                said.bytes, self.sent.bytes
            )));
        }
        if said.bursts > self.sent.bursts {
            return Err(LinkError::misbehaved(format!(
                "{place}, byte 8: {} bursts released, but only {} were sent",
                said.bursts, self.sent.bursts
            )));
        }
        self.released.bytes = self.released.bytes.max(said.bytes);
        self.released.bursts = self.released.bursts.max(said.bursts);
        Ok(())
    }

    /// So many bursts are released, and the bytes released with them have been learnt.
    #[inline]
    pub(super) fn confirm(&mut self, bursts: u64) {
        self.confirmed_bursts = self.confirmed_bursts.max(bursts.min(self.released.bursts));
    }

    /// Bursts posted.
    pub(super) fn sent_bursts(&self) -> u64 {
        self.sent.bursts
    }

    /// The count of bursts certainly released, if the peer can tell it by its low bits: it cannot
    /// have released more than was sent.
    pub(super) fn claim(&self, window: u64) -> Option<u64> {
        (self.sent.bursts - self.confirmed_bursts < window).then_some(self.confirmed_bursts)
    }
}

/// A burst that has arrived and waits to be copied out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arrived {
    /// Where it begins.
    pub(super) position: u64,
    /// Its length.
    pub(super) len_bytes: u64,
}

/// What the receiver of a ring knows of it.
#[derive(Debug)]
pub(super) struct ReceiveCredits {
    ring_bytes: u64,
    data_receives: u64,
    /// What the peer has written.
    arrived: Position,
    /// What was copied out: always the contiguous head.
    consumed: Position,
    /// What was copied out and whose receives are posted again: this may be told.
    returned: Position,
    /// What was told, by header or cell.
    told: Position,
}

impl ReceiveCredits {
    pub(super) fn new(ring_bytes: u64, data_receives: u64) -> ReceiveCredits {
        let start = Position::default();
        ReceiveCredits {
            ring_bytes,
            data_receives,
            arrived: start,
            consumed: start,
            returned: start,
            told: start,
        }
    }

    /// A burst arrived. Its place follows from the order; the peer's claim about its length is
    /// checked against everything the peer was told.
    #[inline]
    pub(super) fn arrive(&mut self, len_bytes: u64, skip: bool) -> Result<Arrived, LinkError> {
        let from = self.arrived.bytes;
        let offset = self.offset(from) as u64;
        let least = BURST_HEADER_BYTES + FRAME_PREFIX_BYTES.next_multiple_of(ALIGN_BYTES);
        let most = max_burst_bytes(self.ring_bytes);
        if len_bytes < least || len_bytes > most {
            return Err(LinkError::misbehaved(format!(
                "burst at position {from} has {len_bytes} bytes; the least is {least}, the most \
                 {most}"
            )));
        }
        if skip && offset == 0 {
            return Err(LinkError::misbehaved(format!(
                "burst at position {from} skips to the ring's start, where it is already"
            )));
        }
        let position = if skip { from + (self.ring_bytes - offset) } else { from };
        let end = position + len_bytes;
        if self.offset(position) as u64 + len_bytes > self.ring_bytes {
            return Err(LinkError::misbehaved(format!(
                "burst at ring offset {offset} has {len_bytes} bytes and runs over the ring's end \
                 at {}",
                self.ring_bytes
            )));
        }
        if end > self.returned.bytes + self.ring_bytes {
            return Err(LinkError::misbehaved(format!(
                "burst ends at position {end}, but credit ends at {}",
                self.returned.bytes + self.ring_bytes
            )));
        }
        let bursts = self.arrived.bursts + 1;
        if bursts - self.returned.bursts > self.data_receives {
            return Err(LinkError::misbehaved(format!(
                "burst {bursts} arrived with {} released and {} receives for data",
                self.returned.bursts, self.data_receives
            )));
        }
        self.arrived = Position { bytes: end, bursts };
        Ok(Arrived { position, len_bytes })
    }

    /// The oldest burst was copied out.
    #[inline]
    pub(super) fn consume(&mut self, burst: Arrived) {
        debug_assert!(burst.position >= self.consumed.bytes);
        self.consumed =
            Position { bytes: burst.position + burst.len_bytes, bursts: self.consumed.bursts + 1 };
        debug_assert!(self.consumed.bursts <= self.arrived.bursts);
    }

    /// The receives of everything consumed are posted again.
    pub(super) fn receives_posted(&mut self) {
        self.returned = self.consumed;
    }

    /// What may be told to the peer.
    pub(super) fn returned(&self) -> Position {
        self.returned
    }

    /// What may be told has been told.
    pub(super) fn mark_told(&mut self) {
        self.told = self.returned;
    }

    /// Whether so many eighths of the ring, or of its receives, were consumed since the peer was
    /// last told.
    pub(super) fn untold_eighths(&self, eighths: u64) -> bool {
        (self.consumed.bytes - self.told.bytes) * 8 >= self.ring_bytes * eighths
            || (self.consumed.bursts - self.told.bursts) * 8 >= self.data_receives * eighths
    }

    /// Whether an eighth of the ring was consumed and its receives are not posted again.
    pub(super) fn eighth_unreturned(&self) -> bool {
        (self.consumed.bytes - self.returned.bytes) * 8 >= self.ring_bytes
    }

    /// The ring offset of a position.
    pub(super) fn offset(&self, position: u64) -> usize {
        // A power of two.
        (position & (self.ring_bytes - 1)) as usize
    }

    /// Where the next burst will be, if it does not begin a new lap.
    pub(super) fn next_offset(&self) -> usize {
        self.offset(self.arrived.bytes)
    }

    /// Bursts copied out so far.
    pub(super) fn consumed_bursts(&self) -> u64 {
        self.consumed.bursts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    const RING: u64 = 16 * 1024;

    #[test]
    fn more_released_than_sent_is_refused() {
        let mut credits = SendCredits::new(RING, 4);
        credits.sent_burst(64);
        let over = |bytes, bursts| Position { bytes, bursts };
        let bytes = credits.learn(over(72, 1), "cell").unwrap_err().to_string();
        assert!(bytes.contains("cell, byte 0"), "{bytes}");
        let odd = credits.learn(over(63, 1), "cell").unwrap_err().to_string();
        assert!(odd.contains("63"), "{odd}");
        let bursts = credits.learn(over(64, 2), "cell").unwrap_err().to_string();
        assert!(bursts.contains("byte 8"), "{bursts}");
        credits.learn(over(64, 1), "cell").unwrap();
    }

    #[test]
    fn an_old_count_changes_nothing() {
        let mut credits = SendCredits::new(RING, 4);
        credits.sent_burst(64);
        credits.sent_burst(128);
        credits.learn(Position { bytes: 128, bursts: 2 }, "header").unwrap();
        credits.confirm(2);
        credits.learn(Position { bytes: 64, bursts: 1 }, "cell").unwrap();
        credits.confirm(1);
        assert_eq!(credits.writable_until(), 128 + RING);
        assert_eq!(credits.claim(1 << 26), Some(2));
    }

    #[test]
    fn a_bare_look_at_the_cell_confirms_nothing() {
        let mut credits = SendCredits::new(RING, 4);
        credits.sent_burst(64);
        credits.learn(Position { bytes: 0, bursts: 1 }, "cell").unwrap();
        assert_eq!(credits.claim(1 << 26), Some(0));
        assert_eq!(credits.claim(1), None, "too far behind to be told by low bits");
    }

    /// A burst of the model: position, end.
    type InRing = (u64, u64);

    proptest! {
        /// Sender and receiver joined by updates that are lost, late or torn in two: what the
        /// sender may write never overlaps what the receiver has not copied out, and receives
        /// are never exceeded.
        #[test]
        fn no_unread_byte_is_ever_writable(
            steps in proptest::collection::vec((0u8..5, 3u64..800), 1..400),
            data_receives in 1u64..6,
        ) {
            let mut sender = SendCredits::new(RING, data_receives);
            let mut receiver = ReceiveCredits::new(RING, data_receives);
            let mut head = 0u64;
            let mut wire: VecDeque<(u64, bool)> = VecDeque::new();
            let mut arrived: VecDeque<Arrived> = VecDeque::new();
            let mut unread: VecDeque<InRing> = VecDeque::new();
            let mut said: Vec<Position> = vec![Position::default()];
            for (what, units) in steps {
                let len = units * 8;
                match what {
                    0 => {
                        let offset = head % RING;
                        let skip = offset + len > RING;
                        let start = if skip { head + (RING - offset) } else { head };
                        if start + len <= sender.writable_until() && sender.may_send_burst() {
                            if let Some(&(oldest, _)) = unread.front() {
                                prop_assert!(start + len - oldest <= RING, "unread bytes written");
                            }
                            prop_assert!((unread.len() as u64) < data_receives, "no receive left");
                            sender.sent_burst(start + len);
                            head = start + len;
                            unread.push_back((start, start + len));
                            wire.push_back((len, skip));
                        }
                    }
                    1 => if let Some((len, skip)) = wire.pop_front() {
                        arrived.push_back(receiver.arrive(len, skip).unwrap());
                    },
                    2 => if let Some(burst) = arrived.pop_front() {
                        let (start, _) = unread.pop_front().unwrap();
                        prop_assert_eq!(start, burst.position);
                        receiver.consume(burst);
                    },
                    3 => {
                        receiver.receives_posted();
                        said.push(receiver.returned());
                    }
                    _ => {
                        // A torn, possibly old update: the two words of different moments.
                        let one = said[units as usize % said.len()];
                        let two = said[(units as usize * 7) % said.len()];
                        let torn = Position { bytes: one.bytes, bursts: two.bursts };
                        sender.learn(torn, "cell").unwrap();
                    }
                }
            }
        }
    }
}
