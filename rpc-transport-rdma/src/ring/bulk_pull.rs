//! Pulls under way: which pieces to READ next, and which messages are complete. Pure, apart from
//! the buffers it holds.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::verbs::RemoteAddr;

/// One message being pulled.
#[derive(Debug)]
struct Pull<R> {
    ticket: u64,
    from: RemoteAddr,
    len: usize,
    region: R,
    /// Bytes asked for.
    asked: usize,
    /// Bytes that have come, or READs that ended otherwise.
    in_flight: u32,
}

/// A READ to post.
#[derive(Debug)]
pub(super) struct Piece<'a, R> {
    pub(super) pull: usize,
    pub(super) region: &'a R,
    pub(super) offset: usize,
    pub(super) len: usize,
    pub(super) from: RemoteAddr,
}

/// A message that has come whole.
#[derive(Debug)]
pub(super) struct Complete<R> {
    pub(super) ticket: u64,
    pub(super) region: R,
    pub(super) len: usize,
}

/// A message ready to be given to the link's owner.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) ticket: u64,
    pub(super) message: Bytes,
}

/// Pulls under way.
#[derive(Debug)]
pub(super) struct Pulls<R> {
    piece_bytes: usize,
    max_reads: u32,
    max_pulls: usize,
    reads_in_flight: u32,
    slots: Vec<Option<Pull<R>>>,
    /// Pulls that still have pieces to ask for; the next piece is the front one's, which then
    /// goes to the back.
    turn: VecDeque<usize>,
    active: usize,
}

impl<R> Pulls<R> {
    pub(super) fn new(piece_bytes: usize, max_reads: u32, max_pulls: usize) -> Pulls<R> {
        Pulls {
            piece_bytes,
            max_reads,
            max_pulls,
            reads_in_flight: 0,
            slots: Vec::new(),
            turn: VecDeque::new(),
            active: 0,
        }
    }

    /// Whether any is under way.
    pub(super) fn is_active(&self) -> bool {
        self.active > 0
    }

    /// Whether one more may begin.
    pub(super) fn has_room(&self) -> bool {
        self.active < self.max_pulls
    }

    /// Whether none is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.active == 0
    }

    /// Whether a READ could be posted if the send queue had a slot.
    pub(super) fn wants_slot(&self) -> bool {
        self.reads_in_flight < self.max_reads && !self.turn.is_empty()
    }

    /// Begins a pull of `len > 0` bytes.
    pub(super) fn begin(&mut self, ticket: u64, from: RemoteAddr, len: usize, region: R) {
        let pull = Some(Pull { ticket, from, len, region, asked: 0, in_flight: 0 });
        let slot = match self.slots.iter().position(Option::is_none) {
            Some(slot) => {
                self.slots[slot] = pull;
                slot
            }
            None => {
                self.slots.push(pull);
                self.slots.len() - 1
            }
        };
        self.turn.push_back(slot);
        self.active += 1;
    }

    /// The ticket of a pull under way.
    pub(super) fn ticket(&self, slot: usize) -> Option<u64> {
        self.slots.get(slot)?.as_ref().map(|pull| pull.ticket)
    }

    /// The piece to READ next.
    pub(super) fn next_piece(&self) -> Option<Piece<'_, R>> {
        if !self.wants_slot() {
            return None;
        }
        let slot = *self.turn.front()?;
        let pull = self.slots[slot].as_ref()?;
        Some(Piece {
            pull: slot,
            region: &pull.region,
            offset: pull.asked,
            len: (pull.len - pull.asked).min(self.piece_bytes),
            from: pull.from.offset(pull.asked as u64)?,
        })
    }

    /// The piece was posted.
    pub(super) fn piece_posted(&mut self) {
        let Some(slot) = self.turn.pop_front() else { return };
        let Some(pull) = self.slots[slot].as_mut() else { return };
        pull.asked += (pull.len - pull.asked).min(self.piece_bytes);
        pull.in_flight += 1;
        self.reads_in_flight += 1;
        if pull.asked < pull.len {
            self.turn.push_back(slot);
        }
    }

    /// A READ succeeded; the message, if that was its last piece.
    pub(super) fn piece_done(&mut self, slot: usize) -> Option<Complete<R>> {
        self.reads_in_flight -= 1;
        let place = self.slots.get_mut(slot)?;
        let pull = place.as_mut()?;
        pull.in_flight -= 1;
        if pull.in_flight > 0 || pull.asked < pull.len {
            return None;
        }
        let pull = place.take()?;
        self.active -= 1;
        Some(Complete { ticket: pull.ticket, region: pull.region, len: pull.len })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pulls_take_turns_and_stay_within_bounds() {
        let mut pulls: Pulls<&str> = Pulls::new(10, 3, 2);
        let at = |addr| RemoteAddr { addr, rkey: 1 };
        pulls.begin(1, at(100), 25, "a");
        pulls.begin(2, at(200), 10, "b");
        assert!(!pulls.has_room());
        let mut posted = Vec::new();
        while let Some(piece) = pulls.next_piece() {
            posted.push((piece.pull, piece.from.addr, piece.len));
            pulls.piece_posted();
        }
        assert_eq!(posted, [(0, 100, 10), (1, 200, 10), (0, 110, 10)], "three in flight at most");
        assert!(pulls.piece_done(0).is_none());
        let done = pulls.piece_done(1).unwrap();
        assert_eq!((done.ticket, done.region, done.len), (2, "b", 10));
        let last = pulls.next_piece().unwrap();
        assert_eq!((last.from.addr, last.offset, last.len), (120, 20, 5));
        pulls.piece_posted();
        assert!(pulls.piece_done(0).is_none());
        assert_eq!(pulls.piece_done(0).unwrap().ticket, 1);
        assert!(pulls.is_idle() && pulls.has_room());
    }
}
