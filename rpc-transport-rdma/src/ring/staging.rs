//! Where committed frames lie in the staging ring until they leave. Pure: positions only.

use std::collections::VecDeque;

use super::layout::{BURST_HEADER_BYTES, frame_slot_bytes, max_burst_bytes};
use crate::fifo;

/// A sender begins again at the ring's start after twice as much as is under way, and twice these:
/// what a ring touches of memory, caches and address translation then follows its traffic. Going
/// back takes credit for the bytes left out; what is left of it right after is as much as is under
/// way, until the peer has released the first burst at the start. A sender that wanted more goes back
/// later from then on ([`Staging::ran_short`]).
pub(super) const CALM_BYTES: u64 = 2048;

/// Of what was learnt by running short so much is forgotten with each lap: one part in so many.
const FORGET: u64 = 32;

/// So far ahead of a short frame memory is fetched for those that follow: two short calls ahead.
const CLOSE_BYTES: u64 = 128;
const CLOSE_FRAME_BYTES: usize = 512;

/// Frames that lie together and leave as one work request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Burst {
    /// Where its header begins.
    pub(super) start: u64,
    /// Where its last frame's padding ends.
    pub(super) end: u64,
    /// Whether bytes before it, up to the ring's end, are skipped.
    pub(super) skip: bool,
}

impl Burst {
    pub(super) fn len_bytes(&self) -> u64 {
        self.end - self.start
    }
}

/// A frame that may yet be committed.
#[derive(Debug, Clone, Copy)]
struct Reserved {
    /// Where the frame's slot begins.
    at: u64,
    /// The burst with this frame in it.
    burst: Burst,
    /// Whether that is a new burst, not the open one.
    begins: bool,
    /// If so, the bytes that were under way before it.
    held: u64,
    /// Up to here further frames may join it.
    joinable_until: u64,
}

/// A frame's slot of the ring: length, frame, padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    /// Its ring offset.
    pub(super) offset: usize,
    /// Its length.
    pub(super) slot_bytes: usize,
}

/// Where the next burst will probably lie: a hint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ahead {
    /// Its ring offset.
    pub(super) offset: usize,
    /// How much of it may be written already.
    pub(super) len_bytes: usize,
}

/// Committed frames, in bursts, oldest first.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Staging {
    ring_bytes: u64,
    max_burst_bytes: u64,
    /// Where the next frame goes if it joins the last burst.
    head: u64,
    /// Bursts not yet posted. Only the last may still grow. A burst ends for want of contiguous
    /// room or at its greatest length, so a ring holds fewer than eight.
    bursts: VecDeque<Burst>,
    reserved: Option<Reserved>,
    /// Frames that end here at the latest may join the last burst; nothing else was to be looked
    /// at when it was. 0: none.
    joinable_until: u64,
    /// The length of the burst that left last, and what was under way when the last one began.
    last_burst_bytes: u64,
    last_held: u64,
    /// Where the ring was begun again early. Until the peer has released that, the bytes left out are
    /// missing.
    came_back_to: Option<u64>,
    /// [`CALM_BYTES`], or more since that was too little.
    calm_bytes: u64,
}

impl Staging {
    pub(super) fn new(ring_bytes: u64) -> Staging {
        Staging {
            ring_bytes,
            max_burst_bytes: max_burst_bytes(ring_bytes),
            head: 0,
            bursts: VecDeque::with_capacity(8),
            reserved: None,
            joinable_until: 0,
            last_burst_bytes: 0,
            last_held: 0,
            came_back_to: None,
            calm_bytes: CALM_BYTES,
        }
    }

    /// The ring's length.
    pub(super) fn ring_bytes(&self) -> u64 {
        self.ring_bytes
    }

    /// The ring offset of a position.
    pub(super) fn offset(&self, position: u64) -> usize {
        // A power of two.
        (position & (self.ring_bytes - 1)) as usize
    }

    /// Where a frame of `len` bytes would lie if positions up to `limit` may be written.
    #[inline(always)]
    fn place(&self, len: usize, limit: u64) -> Option<Reserved> {
        let slot = frame_slot_bytes(len);
        let joins = self.bursts.back().filter(|open| {
            let grown = open.len_bytes() + slot;
            grown <= self.max_burst_bytes
                && self.offset(open.start) as u64 + grown <= self.ring_bytes
        });
        // What the peer or our own device still holds.
        let held = (self.head + self.ring_bytes).saturating_sub(limit);
        let (at, burst, begins) = if let Some(open) = joins {
            (open.end, Burst { end: open.end + slot, ..*open }, false)
        } else {
            let total = BURST_HEADER_BYTES + slot;
            let (start, skip) = self.begin(total, held);
            (start + BURST_HEADER_BYTES, Burst { start, end: start + total, skip }, true)
        };
        if burst.end > limit {
            return None;
        }
        let ring_end = burst.start - self.offset(burst.start) as u64 + self.ring_bytes;
        // The limit only grows.
        let joinable_until = limit.min(burst.start + self.max_burst_bytes).min(ring_end);
        Some(Reserved { at, burst, begins, held, joinable_until })
    }

    /// Where a burst of `total` bytes begins while `held` are under way, and whether bytes up to the
    /// ring's end are skipped for it.
    fn begin(&self, total: u64, held: u64) -> (u64, bool) {
        let offset = self.offset(self.head) as u64;
        let calm = self.bursts.is_empty() && offset >= (self.calm_bytes + held + total) * 2;
        let skip = calm || offset + total > self.ring_bytes;
        (if skip { self.head + (self.ring_bytes - offset) } else { self.head }, skip)
    }

    /// Where the next burst will lie if it is like the last one, and positions up to `limit` may be
    /// written.
    pub(super) fn ahead(&self, limit: u64) -> Ahead {
        let (start, _) = self.begin(self.last_burst_bytes, self.last_held);
        let len_bytes = self.last_burst_bytes.min(limit.saturating_sub(start)) as usize;
        Ahead { offset: self.offset(start), len_bytes }
    }

    /// Where the memory of those that will follow a reserved frame, if it is short, had better be fetched now: a
    /// hint. `None` for one that begins a burst.
    #[inline]
    pub(super) fn close_ahead(&self, reserved: &Slot) -> Option<Ahead> {
        let len_bytes = reserved.slot_bytes;
        let end = self.head + 2 * len_bytes as u64 + CLOSE_BYTES;
        let offset = reserved.offset + len_bytes + CLOSE_BYTES as usize;
        let fits = len_bytes <= CLOSE_FRAME_BYTES && end <= self.joinable_until;
        fits.then_some(Ahead { offset, len_bytes })
    }

    /// Whether `reserve` would find room.
    pub(super) fn has_room(&self, len: usize, limit: u64) -> bool {
        self.place(len, limit).is_some()
    }

    /// Room for a frame in the last burst, where that is plain. Otherwise nothing has changed, and
    /// [`Staging::reserve`] tells.
    #[inline]
    pub(super) fn join(&mut self, len: usize) -> Option<Slot> {
        let slot_bytes = frame_slot_bytes(len);
        let end = self.head + slot_bytes;
        if end > self.joinable_until {
            return None;
        }
        let open = self.bursts.back()?;
        self.reserved = Some(Reserved {
            at: self.head,
            burst: Burst { end, ..*open },
            begins: false,
            held: 0,
            joinable_until: self.joinable_until,
        });
        Some(Slot { offset: self.offset(self.head), slot_bytes: slot_bytes as usize })
    }

    /// Room for a frame, if positions up to `limit` may be written.
    #[inline]
    pub(super) fn reserve(&mut self, len: usize, limit: u64) -> Option<Slot> {
        let Some(reserved) = self.place(len, limit) else {
            self.reserved = None;
            return None;
        };
        self.reserved = Some(reserved);
        let Reserved { at, burst, .. } = reserved;
        Some(Slot { offset: self.offset(at), slot_bytes: (burst.end - at) as usize })
    }

    /// The reserved frame joins its burst, or begins it.
    #[inline]
    pub(super) fn commit(&mut self) {
        let Some(reserved) = self.reserved.take() else { return };
        if self.offset(reserved.burst.start) == 0 && reserved.begins {
            self.note_lap(&reserved.burst);
        }
        self.head = reserved.burst.end;
        self.joinable_until = reserved.joinable_until;
        if reserved.begins {
            self.last_held = reserved.held;
            self.bursts.push_back(reserved.burst);
        } else if let Some(open) = self.bursts.back_mut() {
            open.end = reserved.burst.end;
        }
    }

    /// A burst begins at the ring's start.
    fn note_lap(&mut self, burst: &Burst) {
        let fits = self.offset(self.head) as u64 + burst.len_bytes() <= self.ring_bytes;
        self.came_back_to = (burst.skip && fits).then_some(burst.start);
        self.calm_bytes = (self.calm_bytes - self.calm_bytes.div_ceil(FORGET)).max(CALM_BYTES);
    }

    /// There was no room up to `limit`, and the sender has to wait for it. If that is so because the
    /// ring was begun again early, it is begun again later from now on: what is under way at that
    /// moment can be little because there is no room for more, and would stay so.
    pub(super) fn ran_short(&mut self, limit: u64) {
        // Once for each time.
        if self.came_back_to.take_if(|start| limit < *start + self.ring_bytes).is_some() {
            self.calm_bytes = (self.calm_bytes * 2).min(self.ring_bytes / 2).max(CALM_BYTES);
        }
    }

    /// The burst to post next.
    pub(super) fn front(&self) -> Option<Burst> {
        self.bursts.front().copied()
    }

    /// The front burst was posted.
    pub(super) fn pop_front(&mut self) {
        if let Some(burst) = fifo::pop_front(&mut self.bursts) {
            self.last_burst_bytes = burst.len_bytes();
        }
        // A frame reserved into the burst that has just left cannot join it any more.
        self.reserved = None;
        if self.bursts.is_empty() {
            self.joinable_until = 0;
        }
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.bursts.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RING: u64 = 16 * 1024;

    fn slot(offset: usize, slot_bytes: usize) -> Option<Slot> {
        Some(Slot { offset, slot_bytes })
    }

    #[test]
    fn frames_that_lie_together_are_one_burst() {
        let mut staging = Staging::new(RING);
        for at in [16, 32, 48] {
            assert_eq!(staging.reserve(12, RING), slot(at, 16));
            staging.commit();
        }
        assert_eq!(staging.front(), Some(Burst { start: 0, end: 64, skip: false }));
        staging.pop_front();
        assert!(staging.is_empty());
        assert_eq!(
            staging.reserve(12, RING),
            slot(64 + 16, 16),
            "the next burst has its own header"
        );
    }

    #[test]
    fn a_second_reserve_forgets_the_first() {
        let mut staging = Staging::new(RING);
        staging.reserve(1000, RING).unwrap();
        staging.reserve(4, RING).unwrap();
        staging.commit();
        assert_eq!(staging.front(), Some(Burst { start: 0, end: 24, skip: false }));
        staging.commit();
        assert_eq!(staging.head, 24, "there was nothing to commit");
    }

    #[test]
    fn a_frame_that_does_not_fit_before_the_end_skips_to_the_start() {
        let mut staging = Staging::new(RING);
        for _ in 0..2 {
            staging.reserve(7000, RING).unwrap();
            staging.commit();
        }
        assert!(!staging.has_room(4000, RING), "the skipped bytes take credit too");
        staging.pop_front();
        staging.pop_front();
        assert_eq!(staging.reserve(4000, 2 * RING), slot(16, 4008));
        staging.commit();
        assert!(staging.front().unwrap().skip);
        assert_eq!(staging.front().unwrap().start, RING);
    }

    #[test]
    fn a_calm_ring_begins_again_after_few_bytes() {
        let mut staging = Staging::new(RING);
        let mut lap_ends = Vec::new();
        let mut limit = RING;
        for _ in 0..100 {
            staging.reserve(1000, limit).unwrap();
            staging.commit();
            let burst = staging.front().unwrap();
            assert!(burst.end % RING <= 2 * (CALM_BYTES + 1024) + 1024, "{burst:?}");
            lap_ends.extend(burst.skip.then_some(burst.start));
            staging.pop_front();
            limit = burst.end + RING;
        }
        assert!(lap_ends.len() >= 14, "{lap_ends:?}");
    }

    #[test]
    fn what_lies_ahead_of_a_call_is_where_the_next_one_goes() {
        for (len, ring_bytes) in [(32, RING), (1000, RING), (4000, RING), (6000, RING), (32, 256)] {
            let mut staging = Staging::new(ring_bytes);
            let mut skips = 0;
            for call in 0..100 {
                // The answer to the one before has said that it was taken.
                let limit = staging.head + ring_bytes;
                let before = staging.ahead(limit);
                staging.reserve(len, limit).unwrap();
                staging.commit();
                let burst = staging.front().unwrap();
                skips += u32::from(burst.skip);
                staging.pop_front();
                // The hint is given before that answer has come.
                let ahead = staging.ahead(limit);
                let (offset, len_bytes) = (staging.offset(burst.start), burst.len_bytes() as usize);
                if call > 0 {
                    assert_eq!(before, Ahead { offset, len_bytes });
                }
                assert!(ahead.len_bytes <= len_bytes);
                let ahead_end = (ahead.offset + ahead.len_bytes) as u64;
                let (start, end) = (offset as u64, (offset + len_bytes) as u64);
                let apart = ahead_end <= start || ahead.offset as u64 >= end;
                assert!(apart, "{ahead:?} is what the peer still reads: {burst:?}");
            }
            assert!(skips > 0, "{len}");
        }
    }

    #[test]
    fn close_ahead_of_short_frames_is_what_the_next_ones_take_and_what_may_be_written() {
        let mut staging = Staging::new(RING);
        let (mut fetched, mut filled) = (Vec::new(), Vec::new());
        let limit = 4096;
        while let Some(slot) = staging.join(52).or_else(|| staging.reserve(52, limit)) {
            filled.push(slot.offset..slot.offset + slot.slot_bytes);
            fetched.extend(staging.close_ahead(&slot));
            staging.commit();
        }
        assert!(fetched.iter().all(|ahead| ahead.offset + ahead.len_bytes <= limit as usize));
        // The first begins a burst, and behind the last ones nothing may be written.
        assert_eq!(filled.len() - fetched.len(), 4, "{fetched:?}");
        let behind = fetched.iter().map(|ahead| ahead.offset..ahead.offset + ahead.len_bytes);
        let last = filled.last().unwrap().end;
        let missing =
            (300..last).filter(|at| !behind.clone().any(|range| range.contains(at))).count();
        assert!(missing < 64, "{missing} bytes that frames took were not fetched");
        let mut staging = Staging::new(RING);
        staging.reserve(32, RING).unwrap();
        staging.commit();
        let long = staging.join(1000).unwrap();
        assert_eq!(staging.close_ahead(&long), None, "it fetches its own lines as it is filled");
    }

    #[test]
    fn a_ring_with_more_under_way_is_used_whole() {
        let mut staging = Staging::new(RING);
        for _ in 0..15 {
            // Six of them are not released yet.
            staging.reserve(1000, staging.head.saturating_sub(6 * 1024) + RING).unwrap();
            staging.commit();
            assert!(!staging.front().unwrap().skip);
            staging.pop_front();
        }
        assert_eq!(staging.head, RING - 1024);
    }

    #[test]
    fn a_ring_that_was_begun_again_too_early_is_begun_again_later() {
        let mut staging = Staging::new(RING);
        let (mut short, mut early) = (Vec::new(), 0);
        for round in 0..200 {
            // Everything was released, and then come few or many.
            let limit = staging.head + RING;
            for _ in 0..if round % 2 == 0 { 6 } else { 12 } {
                if staging.reserve(1000, limit).is_none() {
                    staging.ran_short(limit);
                    short.push(round);
                    break;
                }
                staging.commit();
                early += u32::from(staging.came_back_to == Some(staging.front().unwrap().start));
                staging.pop_front();
            }
        }
        assert!((1..20).contains(&short.len()), "{short:?}");
        assert!(early > 20, "it is still begun again early: {early}");
    }

    proptest! {
        /// Bursts follow one another, never run over the ring's end, never overlap what is not
        /// released, and the longest frame always fits an empty ring.
        #[test]
        fn bursts_are_where_the_receiver_will_look(
            steps in proptest::collection::vec((0usize..7000, 0u8..4), 1..300)
        ) {
            let mut staging = Staging::new(RING);
            let mut expected = 0u64;
            let mut released = 0u64;
            for (len, then) in steps {
                let limit = released + RING;
                let mut model = staging.clone();
                let slow = model.reserve(len, limit);
                // Joining is a short cut, not another way.
                let joined = staging.join(len);
                prop_assert!(joined.is_none() || joined == slow);
                if let Some(slot) = joined.or_else(|| staging.reserve(len, limit)) {
                    prop_assert!(slot.offset + slot.slot_bytes <= RING as usize);
                    prop_assert_eq!(staging.reserved.unwrap().burst, model.reserved.unwrap().burst);
                    staging.commit();
                } else if staging.is_empty() {
                    prop_assert!(released < expected, "an empty ring had no room for {}", len);
                }
                prop_assert!(staging.bursts.len() < 8);
                if then == 0 {
                    while let Some(burst) = staging.front() {
                        let offset = expected % RING;
                        let start = if burst.skip { expected + RING - offset } else { expected };
                        prop_assert_eq!(burst.start, start);
                        prop_assert!(!burst.skip || offset != 0);
                        prop_assert!(burst.start % RING + burst.len_bytes() <= RING);
                        prop_assert!(burst.len_bytes() <= max_burst_bytes(RING));
                        prop_assert!(burst.end <= limit);
                        expected = burst.end;
                        staging.pop_front();
                    }
                }
                if then == 1 && staging.is_empty() {
                    released = expected;
                }
            }
        }
    }
}
