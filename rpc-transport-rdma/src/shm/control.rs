//! The control block: the words two queue pairs share, one block per direction.
//!
//! Each side makes one and gives it to the other. Every word has one writer, except `armed`.
//! Words written by different sides, and words written often and seldom, do not share a cache
//! line; lines are counted as 128 bytes, because x86 fetches them in pairs.
//!
//! ```text
//!   byte     word               owner   peer
//!      0     receives_posted    writes  reads    receives posted since the beginning
//!    128     state              writes  reads    why the owner failed, 0 while it is well
//!    136     announcements      writes  reads    socket messages the owner has decided to send
//!    144     announced          writes  reads    socket messages the owner has sent
//!    152     armed              both    both     what the owner wants to be woken for
//!    256     entries            reads   writes   completions for the owner, 8 bytes each
//! ```
//!
//! The second line is what a sender looks at per doorbell (is the peer well, does it sleep); it
//! changes seldom, so the look is a cache hit.

use std::sync::atomic::AtomicU64;

use super::cq_ring::MAX_CAPACITY;
use super::mapping::Mapping;

const RECEIVES_POSTED: usize = 0;
const STATE: usize = 128;
const ANNOUNCEMENTS: usize = 136;
const ANNOUNCED: usize = 144;
const ARMED: usize = 152;
const ENTRIES: usize = 256;

const _: () = assert!(STATE / 128 == ARMED / 128 && ENTRIES.is_multiple_of(128));

/// Bytes of a block with a completion ring of `capacity` entries.
pub(super) fn block_bytes(capacity: u32) -> usize {
    assert!(capacity.is_power_of_two() && capacity <= MAX_CAPACITY);
    ENTRIES + capacity as usize * size_of::<u64>()
}

/// One control block, mapped.
#[derive(Debug)]
pub(super) struct ControlBlock {
    mapping: Mapping,
    capacity: u32,
}

impl ControlBlock {
    /// Looks at a mapping as a control block.
    ///
    /// # Panics
    /// If the mapping is shorter than [`block_bytes`].
    pub(super) fn new(mapping: Mapping, capacity: u32) -> ControlBlock {
        assert!(mapping.len() >= block_bytes(capacity), "control block too short");
        ControlBlock { mapping, capacity }
    }

    /// Receives the owner has posted since the beginning.
    pub(super) fn receives_posted(&self) -> &AtomicU64 {
        self.mapping.word(RECEIVES_POSTED)
    }

    /// The owner's state: 0, or a [`super::failure::StateCode`] number.
    pub(super) fn state(&self) -> &AtomicU64 {
        self.mapping.word(STATE)
    }

    /// Socket messages the owner has decided to send. A peer that misses an rkey waits for them.
    pub(super) fn announcements(&self) -> &AtomicU64 {
        self.mapping.word(ANNOUNCEMENTS)
    }

    /// Socket messages the owner has sent: they can be received now.
    pub(super) fn announced(&self) -> &AtomicU64 {
        self.mapping.word(ANNOUNCED)
    }

    /// What the owner wants to be woken for: see [`super::notify`].
    pub(super) fn armed(&self) -> &AtomicU64 {
        self.mapping.word(ARMED)
    }

    /// The completion ring.
    pub(super) fn entries(&self) -> &[AtomicU64] {
        self.mapping.words(ENTRIES, self.capacity as usize)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn words_lie_where_the_drawing_says() {
        let mapping = Mapping::private(block_bytes(4)).unwrap();
        let block = ControlBlock::new(mapping, 4);
        let words = [
            (block.receives_posted(), 0),
            (block.state(), 128),
            (block.announcements(), 136),
            (block.announced(), 144),
            (block.armed(), 152),
            (&block.entries()[0], 256),
            (&block.entries()[3], 280),
        ];
        for (value, (word, _)) in words.iter().enumerate() {
            word.store(value as u64 + 1, Ordering::Relaxed);
        }
        for (value, &(_, byte)) in words.iter().enumerate() {
            let mut bytes = [0; 8];
            block.mapping.read(byte, &mut bytes);
            assert_eq!(u64::from_ne_bytes(bytes), value as u64 + 1);
        }
    }
}
