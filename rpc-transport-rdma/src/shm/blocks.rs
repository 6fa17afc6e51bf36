//! Memory that long messages are pulled into: blocks of one huge page, cut into parts.
//!
//! ```text
//!   block   [ part | part |   free   | part ]        2 MiB, private to this process
//! ```
//!
//! Blocks belong to the process, not to a connection: a thousand connections that each keep a
//! buffer of some hundred KiB fill blocks together, where blocks of their own would cost each 2 MiB.
//! A block whose parts are all back goes to the system. No peer sees anything of a block: by a key
//! only regions that were offered can be reached, and these are never offered.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::mapping::{HUGE_BYTES, Mapping, Stretch};
use crate::verbs::VerbError;

/// Shorter memory has pages of its own: a block must not be kept for the sake of a few of them.
const SHORTEST_PART_BYTES: usize = 256 * 1024;
/// Parts begin and end between pages.
const PAGE_BYTES: usize = 4096;

/// The free stretches of all blocks, none of which touch each other. The lock is held where a
/// buffer is made or dropped, which pools see to that it is seldom.
static FREE: Mutex<Vec<Stretch>> = Mutex::new(Vec::new());

fn free() -> MutexGuard<'static, Vec<Stretch>> {
    // Nothing that can panic runs between two changes that belong together.
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `len` bytes of private memory, in huge pages where that costs no memory. Not zeroed: a part may
/// have been used before.
pub(super) fn memory(len: usize) -> Result<Mapping, VerbError> {
    if len < SHORTEST_PART_BYTES {
        return Mapping::private(len);
    }
    if len >= HUGE_BYTES {
        return Mapping::private_huge(len);
    }
    let bytes = len.next_multiple_of(PAGE_BYTES);
    let found = take(&mut free(), bytes);
    let stretch = match found {
        Some(stretch) => stretch,
        None => {
            let mut block = Stretch::whole(Mapping::private_huge(HUGE_BYTES)?);
            let rest = block.split_off(bytes);
            if rest.len() > 0 {
                put(&mut free(), rest);
            }
            block
        }
    };
    Ok(Mapping::part(stretch, len))
}

/// Takes back what [`memory`] cut from a block.
pub(super) fn give_back(stretch: Stretch) {
    let whole = put(&mut free(), stretch);
    // Unmapped outside the lock.
    drop(whole);
}

/// `bytes` from the shortest free stretch that has so many.
fn take(free: &mut Vec<Stretch>, bytes: usize) -> Option<Stretch> {
    let fitting = free.iter().enumerate().filter(|(_, stretch)| stretch.len() >= bytes);
    let at = fitting.min_by_key(|(_, stretch)| stretch.len()).map(|(at, _)| at)?;
    let mut stretch = free.swap_remove(at);
    let rest = stretch.split_off(bytes);
    if rest.len() > 0 {
        free.push(rest);
    }
    Some(stretch)
}

/// Keeps a free stretch, joined with its neighbours; or gives back the block, if it is whole.
fn put(free: &mut Vec<Stretch>, mut stretch: Stretch) -> Option<Stretch> {
    if let Some(at) = free.iter().position(|other| stretch.is_before(other)) {
        stretch.join(free.swap_remove(at));
    }
    if let Some(at) = free.iter().position(|other| other.is_before(&stretch)) {
        let mut before = free.swap_remove(at);
        before.join(stretch);
        stretch = before;
    }
    if stretch.is_whole() {
        return Some(stretch);
    }
    free.push(stretch);
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::mapping::OwnedMapping;
    use proptest::prelude::*;

    const KIB: usize = 1024;

    fn part(len: usize, mark: u8) -> OwnedMapping {
        let mut owned = OwnedMapping::new(memory(len).unwrap());
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
                    parts.push((part(kib * KIB - turn, turn as u8), turn as u8));
                }
                for (owned, mark) in &parts {
                    prop_assert!(owned.bytes().iter().all(|byte| byte == mark));
                }
            }
        }
    }

    #[test]
    fn a_block_is_kept_by_its_parts_and_goes_with_the_last() {
        let mut free = Vec::new();
        let mut first = Stretch::whole(Mapping::private_huge(HUGE_BYTES).unwrap());
        let rest = first.split_off(512 * KIB);
        assert!(put(&mut free, rest).is_none());
        let second = take(&mut free, 512 * KIB).unwrap();
        let third = take(&mut free, 1024 * KIB).unwrap();
        assert!(free.is_empty() && take(&mut free, PAGE_BYTES).is_none());
        assert!(put(&mut free, first).is_none());
        assert!(put(&mut free, third).is_none());
        assert_eq!(free.len(), 2, "they do not touch");
        assert_eq!(put(&mut free, second).unwrap().len(), HUGE_BYTES);
        assert!(free.is_empty());
    }

    #[test]
    fn the_shortest_stretch_that_fits_is_cut() {
        let mut free = Vec::new();
        let mut kept = Vec::new();
        for kib in [1024, 256, 512] {
            let mut block = Stretch::whole(Mapping::private_huge(HUGE_BYTES).unwrap());
            let rest = block.split_off(HUGE_BYTES - kib * KIB);
            kept.push(block);
            assert!(put(&mut free, rest).is_none());
        }
        assert_eq!(take(&mut free, 300 * KIB).unwrap().len(), 300 * KIB);
        let mut left: Vec<_> = free.iter().map(Stretch::len).collect();
        left.sort_unstable();
        assert_eq!(left, [212 * KIB, 256 * KIB, 1024 * KIB]);
    }

    #[test]
    fn what_is_shorter_or_longer_than_parts_has_mappings_of_its_own() {
        for len in [1, SHORTEST_PART_BYTES - 1, HUGE_BYTES, 5 * HUGE_BYTES / 2] {
            let (one, two) = (part(len, 1), part(len, 2));
            assert!(one.bytes().iter().all(|&b| b == 1) && address(&one) != address(&two));
            assert_eq!(address(&one) % PAGE_BYTES, 0);
        }
    }
}
