//! The completion ring: one producer in one process, one consumer in another.
//!
//! ```text
//!   the consumer's control block
//!   +--------------------+   written by the consumer, read by the producer only when its
//!   | receives_posted    |   own copy of it is used up
//!   +--------------------+
//!   | entry 0            |   written by the producer, read by the consumer;
//!   | entry 1            |   eight entries share a cache line
//!   | ...                |
//!   | entry capacity - 1 |
//!   +--------------------+
//!
//!   entry   63       56 55              32 31                0
//!          +-----------+------------------+-------------------+
//!          |   kind    |    sequence      |     immediate     |
//!          +-----------+------------------+-------------------+
//! ```
//!
//! A posted receive is the right to write one entry, so the count of posted receives is at once
//! the verbs rule (each immediate consumes a receive) and the flow control of the ring: a slot
//! is free before the receive that stands for it is posted. No head word travels back.
//!
//! The sequence is the low 24 bits of the entry's position plus one. It tells a new entry from
//! the one a lap ago without a tail word, so that looking is one Acquire load and publishing one
//! Release store. Both ends keep their positions in private memory; whatever the other process
//! scribbles over the ring is a [`RingFault`], never a wrong index.

use std::sync::atomic::{AtomicU64, Ordering};

/// The most entries a ring may have. Far below the 2^24 laps the sequence tells apart.
pub(super) const MAX_CAPACITY: u32 = 1 << 16;

const SEQUENCE_MASK: u64 = 0x00FF_FFFF;

/// What an entry stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EntryKind {
    /// An immediate.
    Immediate,
    /// A SEND of four bytes.
    Send,
}

impl EntryKind {
    fn code(self) -> u64 {
        match self {
            EntryKind::Immediate => 1,
            EntryKind::Send => 2,
        }
    }
}

/// The other process broke the rules of the ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RingFault {
    /// A slot holds neither the old nor the next entry.
    Entry { position: u64, found: u64 },
    /// The count of posted receives went back, or is ahead by more than the ring holds.
    Receives { sent: u64, known: u64, found: u64 },
}

impl std::fmt::Display for RingFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RingFault::Entry { position, found } => {
                write!(f, "completion entry {position} holds {found:#018x}, which nobody posts")
            }
            RingFault::Receives { sent, known, found } => write!(
                f,
                "the count of posted receives went from {known} to {found} with {sent} consumed"
            ),
        }
    }
}

fn sequence(position: u64) -> u64 {
    position.wrapping_add(1) & SEQUENCE_MASK
}

fn encode(position: u64, kind: EntryKind, imm: u32) -> u64 {
    kind.code() << 56 | sequence(position) << 32 | u64::from(imm)
}

/// The sending end. Its state is private; the words are lent per call.
#[derive(Debug)]
pub(super) struct Producer {
    capacity: u64,
    sent: u64,
    known_receives: u64,
}

impl Producer {
    /// `capacity` is a power of two, at most [`MAX_CAPACITY`].
    pub(super) fn new(capacity: u32) -> Producer {
        assert!(capacity.is_power_of_two() && capacity <= MAX_CAPACITY);
        Producer { capacity: capacity.into(), sent: 0, known_receives: 0 }
    }

    /// The position of the next entry.
    pub(super) fn position(&self) -> u64 {
        self.sent
    }

    /// Whether the peer has a receive posted for one more entry.
    pub(super) fn has_receive(&mut self, receives_posted: &AtomicU64) -> Result<bool, RingFault> {
        if self.sent < self.known_receives {
            return Ok(true);
        }
        // Acquire: the consumer has read the entry a lap ago before it posted this receive.
        let found = receives_posted.load(Ordering::Acquire);
        let fault = RingFault::Receives { sent: self.sent, known: self.known_receives, found };
        if found < self.known_receives || found - self.sent > self.capacity {
            return Err(fault);
        }
        self.known_receives = found;
        Ok(self.sent < found)
    }

    /// Publishes one entry, and with it everything written before.
    ///
    /// # Panics
    /// Unless [`Producer::has_receive`] has just said yes: the slot could still be unread.
    pub(super) fn publish(&mut self, entries: &[AtomicU64], kind: EntryKind, imm: u32) {
        assert!(self.sent < self.known_receives, "no receive for this entry");
        entry_at(entries, self.sent).store(encode(self.sent, kind, imm), Ordering::Release);
        self.sent += 1;
    }
}

/// The slot of the entry at `position`. As many entries as the ring has, a power of two.
#[inline]
fn entry_at(entries: &[AtomicU64], position: u64) -> &AtomicU64 {
    &entries[(position & (entries.len() as u64 - 1)) as usize]
}

/// Where the entry of a position lies, as a hint.
#[inline]
pub(super) fn entry_address(entries: &[AtomicU64], position: u64) -> usize {
    std::ptr::from_ref(entry_at(entries, position)).addr()
}

/// The word of the entry at `position`, unless its slot still holds the entry of the lap before.
#[inline]
pub(super) fn peek_at(entries: &[AtomicU64], position: u64) -> Option<u64> {
    let found = entry_at(entries, position).load(Ordering::Acquire);
    let old = match position.checked_sub(entries.len() as u64) {
        None => found == 0,
        Some(before) => (found >> 32 & SEQUENCE_MASK) == sequence(before),
    };
    if old { None } else { Some(found) }
}

/// The receiving end. Its state is private; the words are lent per call.
#[derive(Debug)]
pub(super) struct Consumer {
    capacity: u64,
    consumed: u64,
    posted: u64,
}

impl Consumer {
    /// `capacity` is a power of two, at most [`MAX_CAPACITY`].
    pub(super) fn new(capacity: u32) -> Consumer {
        assert!(capacity.is_power_of_two() && capacity <= MAX_CAPACITY);
        Consumer { capacity: capacity.into(), consumed: 0, posted: 0 }
    }

    /// Receives posted and not consumed.
    pub(super) fn outstanding(&self) -> u64 {
        self.posted - self.consumed
    }

    /// Posts `count` receives; `false`, and nothing posted, when they do not fit.
    pub(super) fn post(&mut self, receives_posted: &AtomicU64, count: u32) -> bool {
        if self.outstanding() + u64::from(count) > self.capacity {
            return false;
        }
        self.posted += u64::from(count);
        receives_posted.store(self.posted, Ordering::Release);
        true
    }

    /// The immediate of the next entry, if it has come.
    pub(super) fn take(&mut self, entries: &[AtomicU64]) -> Result<Option<u32>, RingFault> {
        let Some(found) = self.peek(entries) else { return Ok(None) };
        let position = self.consumed;
        let imm = found as u32;
        let kinds = [EntryKind::Immediate, EntryKind::Send];
        if !kinds.iter().any(|&kind| encode(position, kind, imm) == found) {
            return Err(RingFault::Entry { position, found });
        }
        self.consumed += 1;
        Ok(Some(imm))
    }

    /// Whether [`Consumer::take`] would bring something (an entry or a fault).
    pub(super) fn is_ready(&self, entries: &[AtomicU64]) -> bool {
        self.peek(entries).is_some()
    }

    /// The next slot's word, unless it still holds the entry of the lap before.
    fn peek(&self, entries: &[AtomicU64]) -> Option<u64> {
        if self.consumed == self.posted {
            return None;
        }
        peek_at(entries, self.consumed)
    }

    /// The position of the next entry.
    pub(super) fn position(&self) -> u64 {
        self.consumed
    }

    /// Consumes one receive without an entry: the queue pair flushes it.
    pub(super) fn flush_one(&mut self) -> bool {
        let any = self.consumed < self.posted;
        self.consumed += u64::from(any);
        any
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    struct Words {
        receives: AtomicU64,
        entries: Vec<AtomicU64>,
    }

    fn words(capacity: u32) -> Words {
        let entries = (0..capacity).map(|_| AtomicU64::new(0)).collect();
        Words { receives: AtomicU64::new(0), entries }
    }

    #[test]
    fn nothing_is_sent_without_a_receive_and_order_is_kept_over_many_laps() {
        let words = words(4);
        let (mut producer, mut consumer) = (Producer::new(4), Consumer::new(4));
        assert_eq!(producer.has_receive(&words.receives), Ok(false));
        for lap in 0..50_u32 {
            assert!(consumer.post(&words.receives, 3));
            for i in 0..3 {
                assert_eq!(producer.has_receive(&words.receives), Ok(true));
                producer.publish(&words.entries, EntryKind::Immediate, lap * 3 + i);
            }
            assert_eq!(producer.has_receive(&words.receives), Ok(false));
            for i in 0..3 {
                assert_eq!(consumer.take(&words.entries), Ok(Some(lap * 3 + i)));
            }
            assert_eq!(consumer.take(&words.entries), Ok(None));
        }
    }

    #[test]
    fn receives_beyond_the_capacity_are_refused() {
        let words = words(4);
        let mut consumer = Consumer::new(4);
        assert!(consumer.post(&words.receives, 4));
        assert!(!consumer.post(&words.receives, 1));
        assert_eq!(words.receives.load(Ordering::Relaxed), 4);
    }

    #[test]
    fn the_sequence_wraps() {
        let words = words(2);
        let start = (1_u64 << 24) - 4;
        let mut producer = Producer { capacity: 2, sent: start, known_receives: start };
        let mut consumer = Consumer { capacity: 2, consumed: start, posted: start };
        for position in start - 2..start {
            words.entries[(position & 1) as usize]
                .store(encode(position, EntryKind::Send, 9), Ordering::Relaxed);
        }
        words.receives.store(start, Ordering::Relaxed);
        for i in 0..10 {
            assert!(consumer.post(&words.receives, 1));
            assert_eq!(consumer.take(&words.entries), Ok(None));
            assert_eq!(producer.has_receive(&words.receives), Ok(true));
            producer.publish(&words.entries, EntryKind::Send, i);
            assert_eq!(consumer.take(&words.entries), Ok(Some(i)));
        }
    }

    #[test]
    fn scribbled_entries_and_counts_are_faults() {
        let words = words(4);
        let mut consumer = Consumer::new(4);
        assert!(consumer.post(&words.receives, 2));
        for bad in [7, 3 << 56 | 1 << 32, 1 << 56 | 2 << 32, u64::MAX] {
            words.entries[0].store(bad, Ordering::Relaxed);
            assert_eq!(
                consumer.take(&words.entries),
                Err(RingFault::Entry { position: 0, found: bad })
            );
        }
        let mut producer = Producer::new(4);
        words.receives.store(5, Ordering::Relaxed);
        assert!(producer.has_receive(&words.receives).is_err(), "ahead of the capacity");
        words.receives.store(1, Ordering::Relaxed);
        assert_eq!(producer.has_receive(&words.receives), Ok(true));
        producer.publish(&words.entries, EntryKind::Immediate, 0);
        words.receives.store(0, Ordering::Relaxed);
        assert!(producer.has_receive(&words.receives).is_err(), "went back");
    }

    #[test]
    fn two_threads_see_every_entry_once_and_what_was_written_before_it() {
        const COUNT: u32 = if cfg!(miri) { 200 } else { 300_000 };
        let shared = Arc::new((words(8), (0..8).map(|_| AtomicU64::new(0)).collect::<Vec<_>>()));
        let theirs = Arc::clone(&shared);
        let sender = thread::spawn(move || {
            let (words, payload) = &*theirs;
            let mut producer = Producer::new(8);
            for i in 0..COUNT {
                while !producer.has_receive(&words.receives).unwrap() {
                    thread::yield_now();
                }
                payload[(i % 8) as usize].store(u64::from(i) * 3, Ordering::Relaxed);
                producer.publish(&words.entries, EntryKind::Immediate, i);
            }
        });
        let (words, payload) = &*shared;
        let mut consumer = Consumer::new(8);
        assert!(consumer.post(&words.receives, 8));
        for i in 0..COUNT {
            let imm = loop {
                match consumer.take(&words.entries).unwrap() {
                    Some(imm) => break imm,
                    None => thread::yield_now(),
                }
            };
            assert_eq!(imm, i);
            assert_eq!(payload[(i % 8) as usize].load(Ordering::Relaxed), u64::from(i) * 3);
            assert!(consumer.post(&words.receives, 1));
        }
        sender.join().unwrap();
    }
}
