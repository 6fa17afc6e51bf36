//! Deadlines of streams: a binary heap that knows where each stream sits, so that a call that
//! ends early leaves nothing behind. Inserting the latest deadline (the usual case: calls with
//! equal timeouts) costs one comparison.

use std::time::Instant;

const NOWHERE: u32 = u32::MAX;

/// A min-heap of `(deadline, slot)` with removal by slot.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone, PartialEq))]
pub(super) struct Deadlines {
    heap: Vec<(Instant, u32)>,
    /// Where each slot is in `heap`.
    places: Vec<u32>,
}

impl Deadlines {
    /// Whether no slot has one.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// The earliest deadline.
    pub(super) fn earliest(&self) -> Option<Instant> {
        self.heap.first().map(|(at, _)| *at)
    }

    /// Sets a slot's deadline. The slot has none.
    pub(super) fn insert(&mut self, slot: u32, at: Instant) {
        let index = slot as usize;
        if self.places.len() <= index {
            self.places.resize(index + 1, NOWHERE);
        }
        debug_assert_eq!(self.places[index], NOWHERE, "slot {slot} has a deadline already");
        self.heap.push((at, slot));
        self.places[index] = (self.heap.len() - 1) as u32;
        self.rise(self.heap.len() - 1);
    }

    /// Forgets a slot's deadline, if it has one.
    pub(super) fn remove(&mut self, slot: u32) {
        let Some(place) = self.places.get_mut(slot as usize) else { return };
        let hole = *place;
        if hole == NOWHERE {
            return;
        }
        *place = NOWHERE;
        let hole = hole as usize;
        self.heap.swap_remove(hole);
        if hole < self.heap.len() {
            self.places[self.heap[hole].1 as usize] = hole as u32;
            self.rise(hole);
            self.sink(hole);
        }
    }

    /// Takes a slot whose deadline is not after `now`.
    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<u32> {
        let (at, slot) = *self.heap.first()?;
        if at > now {
            return None;
        }
        self.remove(slot);
        Some(slot)
    }

    fn rise(&mut self, mut at: usize) {
        while at > 0 {
            let parent = (at - 1) / 2;
            if self.heap[parent].0 <= self.heap[at].0 {
                break;
            }
            self.swap(at, parent);
            at = parent;
        }
    }

    fn sink(&mut self, mut at: usize) {
        loop {
            let left = 2 * at + 1;
            if left >= self.heap.len() {
                return;
            }
            let right = left + 1;
            let least = if right < self.heap.len() && self.heap[right].0 < self.heap[left].0 {
                right
            } else {
                left
            };
            if self.heap[at].0 <= self.heap[least].0 {
                return;
            }
            self.swap(at, least);
            at = least;
        }
    }

    fn swap(&mut self, i: usize, j: usize) {
        self.heap.swap(i, j);
        self.places[self.heap[i].1 as usize] = i as u32;
        self.places[self.heap[j].1 as usize] = j as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::time::Duration;

    proptest! {
        #[test]
        fn agrees_with_a_sorted_map(ops in prop::collection::vec((0u32..40, 0u64..50, any::<bool>()), 0..200)) {
            let start = Instant::now();
            let mut deadlines = Deadlines::default();
            let mut model: BTreeMap<u32, Instant> = BTreeMap::new();
            for (slot, at, insert) in ops {
                let at = start + Duration::from_millis(at);
                if insert && !model.contains_key(&slot) {
                    deadlines.insert(slot, at);
                    model.insert(slot, at);
                } else {
                    deadlines.remove(slot);
                    model.remove(&slot);
                }
                prop_assert_eq!(deadlines.earliest(), model.values().min().copied());
            }
            let end = start + Duration::from_secs(1);
            let mut last = start;
            while let Some(slot) = deadlines.pop_expired(end) {
                let at = model.remove(&slot).expect("popped a slot that was not in");
                prop_assert!(at >= last);
                last = at;
            }
            prop_assert!(model.is_empty());
        }
    }
}
