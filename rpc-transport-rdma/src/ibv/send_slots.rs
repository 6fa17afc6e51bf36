//! The slots of a send queue, counted by us. Pure.
//!
//! Drivers round depths up, free slots before their completion is polled, and post half of a list
//! when the other half finds no room. Counting here makes "full" exact, keeps lists whole, and
//! bounds the completions that can be waiting: a completion queue that overflows kills every
//! queue pair on it.

/// A send queue's slots. A position counts requests since the start.
#[derive(Debug)]
pub(super) struct SendSlots {
    /// The caller's number of the request in each slot.
    ids: Box<[u64]>,
    posted: u64,
    /// Requests before this position have completed.
    freed: u64,
}

impl SendSlots {
    /// A queue of `depth` slots, all free.
    pub(super) fn new(depth: u32) -> SendSlots {
        SendSlots { ids: vec![0; depth as usize].into(), posted: 0, freed: 0 }
    }

    pub(super) fn has_room(&self, requests: usize) -> bool {
        self.posted - self.freed + requests as u64 <= self.ids.len() as u64
    }

    /// The position of the request `ahead` places after the next.
    pub(super) fn position(&self, ahead: usize) -> u64 {
        self.posted + ahead as u64
    }

    /// Where a position has its slot.
    pub(super) fn slot(&self, position: u64) -> usize {
        (position % self.ids.len() as u64) as usize
    }

    /// Requests with these numbers were posted.
    pub(super) fn posted(&mut self, ids: impl Iterator<Item = u64>) {
        for id in ids {
            let slot = self.slot(self.posted);
            self.ids[slot] = id;
            self.posted += 1;
        }
    }

    /// Requests before this position have completed.
    pub(super) fn freed(&self) -> u64 {
        self.freed
    }

    /// The request at `position` has completed, and so has everything before it: its number.
    /// `None`: nothing outstanding is there.
    pub(super) fn completed(&mut self, position: u64) -> Option<u64> {
        if !(self.freed..self.posted).contains(&position) {
            return None;
        }
        self.freed = position + 1;
        Some(self.ids[self.slot(position)])
    }

    /// Whether everything that was posted has completed.
    pub(super) fn is_idle(&self) -> bool {
        self.freed == self.posted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_is_exact_and_a_completion_frees_all_before_it() {
        let mut slots = SendSlots::new(3);
        assert!(slots.has_room(3) && !slots.has_room(4) && slots.is_idle());
        slots.posted([70, 5].into_iter());
        assert!(slots.has_room(1) && !slots.has_room(2));
        slots.posted([u64::MAX].into_iter());
        assert!(!slots.has_room(1) && !slots.is_idle());
        assert_eq!(slots.completed(1), Some(5), "numbers need not grow");
        assert!(slots.has_room(2) && !slots.has_room(3));
        assert_eq!(slots.completed(2), Some(u64::MAX));
        assert!(slots.is_idle());
        assert_eq!((slots.position(0), slots.slot(3), slots.freed()), (3, 0, 3));
    }

    #[test]
    fn what_is_not_outstanding_cannot_complete() {
        let mut slots = SendSlots::new(2);
        assert_eq!(slots.completed(0), None);
        slots.posted([1].into_iter());
        assert_eq!(slots.completed(1), None);
        assert_eq!(slots.completed(0), Some(1));
        assert_eq!(slots.completed(0), None, "once");
    }
}
