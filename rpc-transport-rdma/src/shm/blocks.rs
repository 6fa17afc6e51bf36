//! Private memory of long messages: blocks of one huge page, cut into parts, and longer ones.
//!
//! ```text
//!   block   [ part | part |   free   | part ]        2 MiB, private to this process
//!   block   [ the only part                     ]    longer, for a part of more than 2 MiB
//! ```
//!
//! Blocks belong to the process, not to a connection: a thousand connections that each keep a
//! buffer of some hundred KiB fill blocks together, where blocks of their own would cost each 2 MiB.
//! A block whose parts are all back lies idle for the next ones, because it costs more to have the
//! system clear a huge page than to copy a message; of these at most [`MAX_IDLE_BYTES`] are kept.
//! No peer sees anything of a block but what it is lent: by a key only regions that were offered can
//! be reached, and these are never offered.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::mapping::{HUGE_BYTES, Mapping, OwnedMapping, Stretch};
use crate::ranges::Ranges;
use crate::verbs::VerbError;

/// Parts begin and end between pages.
const PAGE_BYTES: usize = 4096;
/// Bytes of blocks that lie idle as a whole, in the process.
const MAX_IDLE_BYTES: usize = 32 << 20;
/// A long block does not serve a part of less than one in so many of its bytes.
const MOST_WASTE: usize = 2;

static FREE: Mutex<Free> = Mutex::new(Free::new());

/// `len` bytes of private memory, in huge pages where the system gives some; it keeps the block it
/// is a part of, so it costs up to 2 MiB. Not zeroed: it may have been used before.
pub(super) fn part(len: usize) -> Result<Mapping, VerbError> {
    // What is too long for that is too long for the system, which says so.
    let bytes = len.max(1).checked_next_multiple_of(PAGE_BYTES).unwrap_or(len);
    let found = lock().take(bytes);
    let stretch = match found {
        Some(stretch) => stretch,
        None => {
            let block = Stretch::whole(Mapping::private_huge(bytes.max(HUGE_BYTES))?);
            lock().begin(block, bytes)
        }
    };
    Ok(Mapping::part(stretch, len))
}

/// A [`part`] as a slice.
pub(crate) struct PrivateMemory(OwnedMapping);

impl PrivateMemory {
    /// `len` bytes.
    ///
    /// # Errors
    /// Where the system maps no more.
    pub(crate) fn new(len: usize) -> Result<PrivateMemory, VerbError> {
        part(len).map(|mapping| PrivateMemory(OwnedMapping::new(mapping)))
    }

    /// Whether bytes are a part of such memory, or of what a message was pulled into.
    pub(crate) fn holds(bytes: &[u8]) -> bool {
        lock().blocks.hold(bytes)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.bytes_mut()
    }
}

/// Takes back what [`part`] cut from a block.
pub(super) fn give_back(stretch: Stretch) {
    let surplus = lock().put(stretch);
    // Unmapped outside the lock.
    drop(surplus);
}

/// The lock is held where a buffer is made or dropped.
fn lock() -> MutexGuard<'static, Free> {
    // Nothing that can panic runs between two changes that belong together.
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The free stretches of all blocks, none of which touch each other.
///
/// A program may keep thousands of buffers, so every step takes logarithmic time.
struct Free {
    /// All blocks, free or not: from when they are mapped until they are about to go.
    blocks: Ranges,
    /// By where they begin.
    stretches: BTreeMap<usize, Stretch>,
    /// Their lengths, and where they begin.
    lengths: BTreeSet<(usize, usize)>,
    /// Where those begin that are whole blocks; who has lain idle longest comes first. They are few.
    idle: VecDeque<usize>,
    idle_bytes: usize,
}

impl Free {
    const fn new() -> Free {
        Free {
            blocks: Ranges::new(),
            stretches: BTreeMap::new(),
            lengths: BTreeSet::new(),
            idle: VecDeque::new(),
            idle_bytes: 0,
        }
    }

    /// `bytes` from the shortest stretch that has so many and is not far too long.
    fn take(&mut self, bytes: usize) -> Option<Stretch> {
        // What is longer than a huge page is a whole block, and stays one.
        let most = HUGE_BYTES.max(bytes.saturating_mul(MOST_WASTE));
        let (_, start) = *self.lengths.range((bytes, 0)..=(most, usize::MAX)).next()?;
        let stretch = self.remove(start)?;
        Some(self.cut(stretch, bytes))
    }

    /// The first `bytes` of a new block.
    fn begin(&mut self, block: Stretch, bytes: usize) -> Stretch {
        self.blocks.insert(block.address(), block.len());
        self.cut(block, bytes)
    }

    /// The first `bytes` of a stretch; what is left of a block of one huge page is free.
    fn cut(&mut self, mut stretch: Stretch, bytes: usize) -> Stretch {
        if stretch.block_len() == HUGE_BYTES && stretch.len() > bytes {
            let rest = stretch.split_off(bytes);
            self.add(rest);
        }
        stretch
    }

    /// Keeps a stretch, joined with its neighbours. Gives the blocks that have lain idle longest, if
    /// they are too many now.
    fn put(&mut self, mut stretch: Stretch) -> Vec<Stretch> {
        let start = stretch.address();
        let after = self.stretches.get(&(start + stretch.len()));
        if after.is_some_and(|after| stretch.is_before(after))
            && let Some(after) = self.remove(start + stretch.len())
        {
            stretch.join(after);
        }
        let before = self.stretches.range(..start).next_back();
        if let Some((&start, before)) = before
            && before.is_before(&stretch)
            && let Some(mut before) = self.remove(start)
        {
            before.join(stretch);
            stretch = before;
        }
        self.add(stretch);
        let mut surplus = Vec::new();
        while self.idle_bytes > MAX_IDLE_BYTES
            && let Some(&oldest) = self.idle.front()
        {
            self.blocks.remove(oldest);
            surplus.extend(self.remove(oldest));
        }
        surplus
    }

    fn add(&mut self, stretch: Stretch) {
        let (start, len) = (stretch.address(), stretch.len());
        if stretch.is_whole() {
            self.idle.push_back(start);
            self.idle_bytes += len;
        }
        self.lengths.insert((len, start));
        self.stretches.insert(start, stretch);
    }

    fn remove(&mut self, start: usize) -> Option<Stretch> {
        let stretch = self.stretches.remove(&start)?;
        self.lengths.remove(&(stretch.len(), start));
        if stretch.is_whole() {
            self.idle.retain(|idle| *idle != start);
            self.idle_bytes -= stretch.len();
        }
        Some(stretch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KIB: usize = 1024;

    fn marked(len: usize, mark: u8) -> OwnedMapping {
        let mut owned = OwnedMapping::new(part(len).unwrap());
        assert_eq!(owned.bytes().len(), len);
        owned.bytes_mut().fill(mark);
        owned
    }

    fn address(owned: &OwnedMapping) -> usize {
        owned.bytes().as_ptr().addr()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Other tests of this process take parts meanwhile, if they run in threads.
        #[test]
        fn no_two_parts_share_a_byte(
            steps in prop::collection::vec((any::<prop::sample::Index>(), 1usize..2500), 1..40)
        ) {
            let mut parts: Vec<(OwnedMapping, u8)> = Vec::new();
            for (turn, (which, kib)) in steps.into_iter().enumerate() {
                if kib % 3 == 0 && !parts.is_empty() {
                    parts.swap_remove(which.index(parts.len()));
                } else {
                    parts.push((marked(kib * KIB - turn, turn as u8), turn as u8));
                }
                // Parts begin between pages: who shares a byte shares a page's first.
                for (owned, mark) in &parts {
                    prop_assert!(owned.bytes().iter().step_by(PAGE_BYTES).all(|byte| byte == mark));
                }
            }
        }
    }

    fn block() -> Stretch {
        Stretch::whole(Mapping::private_huge(HUGE_BYTES).unwrap())
    }

    #[test]
    fn a_block_is_kept_by_its_parts_and_is_idle_after_the_last() {
        let mut free = Free::new();
        let first = free.cut(block(), 512 * KIB);
        let second = free.take(512 * KIB).unwrap();
        let third = free.take(1024 * KIB).unwrap();
        assert!(free.stretches.is_empty() && free.take(PAGE_BYTES).is_none());
        assert!(free.put(first).is_empty());
        assert!(free.put(third).is_empty());
        assert_eq!((free.stretches.len(), free.idle_bytes), (2, 0), "they do not touch");
        assert!(free.put(second).is_empty());
        assert_eq!((free.stretches.len(), free.idle_bytes), (1, HUGE_BYTES));
        let again = free.take(PAGE_BYTES).unwrap();
        assert_eq!((again.len(), free.stretches.len(), free.idle_bytes), (PAGE_BYTES, 1, 0));
    }

    #[test]
    fn the_shortest_stretch_that_fits_is_cut() {
        let mut free = Free::new();
        let mut kept = Vec::new();
        for kib in [1024, 256, 512] {
            kept.push(free.cut(block(), HUGE_BYTES - kib * KIB));
        }
        assert_eq!(free.take(300 * KIB).unwrap().len(), 300 * KIB);
        let mut left: Vec<_> = free.stretches.values().map(Stretch::len).collect();
        left.sort_unstable();
        assert_eq!(left, [212 * KIB, 256 * KIB, 1024 * KIB]);
    }

    #[test]
    fn a_long_block_serves_one_part_of_at_least_half_of_it() {
        let mut free = Free::new();
        let long = 4 * HUGE_BYTES;
        assert!(free.put(Stretch::whole(Mapping::private_huge(long).unwrap())).is_empty());
        assert!(free.take(PAGE_BYTES).is_none() && free.take(long / 2 - PAGE_BYTES).is_none());
        assert!(free.take(long + PAGE_BYTES).is_none());
        let whole = free.take(long / 2).unwrap();
        assert_eq!((whole.len(), free.stretches.len(), free.idle_bytes), (long, 0, 0));
    }

    #[test]
    fn blocks_that_have_been_idle_longest_go_when_there_are_too_many() {
        let mut free = Free::new();
        let most = MAX_IDLE_BYTES / HUGE_BYTES;
        let mut surplus = Vec::new();
        let mut starts = Vec::new();
        for _ in 0..most + 2 {
            let block = block();
            starts.push(block.address());
            surplus.extend(free.put(block));
        }
        assert_eq!((free.stretches.len(), free.idle_bytes), (most, MAX_IDLE_BYTES));
        let gone: Vec<_> = surplus.iter().map(Stretch::address).collect();
        assert_eq!(gone, starts[..2]);
        // One that is too long by itself takes all others with it, and goes.
        let long = Stretch::whole(Mapping::private_huge(MAX_IDLE_BYTES + HUGE_BYTES).unwrap());
        assert_eq!(free.put(long).len(), most + 1);
        assert_eq!((free.stretches.len(), free.idle_bytes), (0, 0));
    }

    #[test]
    fn long_parts_begin_on_a_page_and_share_nothing() {
        for len in [1, HUGE_BYTES, 5 * HUGE_BYTES / 2] {
            let (one, two) = (marked(len, 1), marked(len, 2));
            assert!(one.bytes().iter().all(|&b| b == 1) && address(&one) != address(&two));
            assert_eq!(address(&one) % PAGE_BYTES, 0);
        }
    }
}
