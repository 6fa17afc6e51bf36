//! Which pages of an arena are taken: a buddy allocator over 512 pages. Pure.

/// Bytes of the smallest block.
pub(super) const PAGE_BYTES: usize = 4096;
/// Bytes of an arena: one huge page.
pub(super) const ARENA_BYTES: usize = 2 << 20;

const PAGES: usize = ARENA_BYTES / PAGE_BYTES;
const ORDERS: usize = PAGES.ilog2() as usize + 1;

/// The order of the smallest block that holds `bytes`; `None`: more than an arena.
pub(super) fn order_of(bytes: usize) -> Option<usize> {
    let pages = bytes.div_ceil(PAGE_BYTES).max(1).next_power_of_two();
    (pages <= PAGES).then(|| pages.ilog2() as usize)
}

/// Bytes of a block.
pub(super) fn block_bytes(order: usize) -> usize {
    PAGE_BYTES << order
}

/// The pages of one arena.
#[derive(Debug)]
pub(super) struct Buddy {
    /// First pages of the free blocks of each order.
    free: [Vec<u16>; ORDERS],
    /// Pages that were given out before, and may hold somebody's bytes.
    used_before: Vec<bool>,
    taken_pages: usize,
}

impl Buddy {
    pub(super) fn new() -> Buddy {
        let mut free = [const { Vec::new() }; ORDERS];
        free[ORDERS - 1].push(0);
        Buddy { free, used_before: vec![false; PAGES], taken_pages: 0 }
    }

    /// Takes a block: the offset of its first byte, and whether some of it was used before.
    pub(super) fn take(&mut self, order: usize) -> Option<(usize, bool)> {
        let from = (order..ORDERS).find(|&larger| !self.free[larger].is_empty())?;
        let page = self.free[from].pop()?;
        for larger in (order..from).rev() {
            self.free[larger].push(page + (1 << larger));
        }
        let pages = usize::from(page)..usize::from(page) + (1 << order);
        self.taken_pages += pages.len();
        let dirty = self.used_before[pages.clone()].iter().any(|used| *used);
        self.used_before[pages].fill(true);
        Some((usize::from(page) * PAGE_BYTES, dirty))
    }

    /// Takes a block back, and joins it with its free neighbours.
    pub(super) fn give_back(&mut self, offset: usize, order: usize) {
        self.taken_pages -= 1 << order;
        let mut page = (offset / PAGE_BYTES) as u16;
        let mut order = order;
        while order < ORDERS - 1 {
            let buddy = page ^ (1 << order);
            let Some(at) = self.free[order].iter().position(|free| *free == buddy) else { break };
            self.free[order].swap_remove(at);
            page = page.min(buddy);
            order += 1;
        }
        self.free[order].push(page);
    }

    /// Whether nothing is taken.
    pub(super) fn is_idle(&self) -> bool {
        self.taken_pages == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn orders_hold_what_they_say() {
        assert_eq!(order_of(0), Some(0));
        assert_eq!(order_of(1), Some(0));
        assert_eq!(order_of(PAGE_BYTES + 1), Some(1));
        assert_eq!(order_of(ARENA_BYTES), Some(ORDERS - 1));
        assert_eq!(order_of(ARENA_BYTES + 1), None);
        assert_eq!(block_bytes(ORDERS - 1), ARENA_BYTES);
    }

    proptest! {
        #[test]
        fn blocks_never_overlap_and_all_come_back(
            steps in proptest::collection::vec((0usize..ORDERS, any::<prop::sample::Index>(), any::<bool>()), 1..200)
        ) {
            let mut buddy = Buddy::new();
            let mut taken: Vec<(usize, usize)> = Vec::new();
            let mut touched = vec![false; PAGES];
            for (order, which, give) in steps {
                if give && !taken.is_empty() {
                    let (offset, order) = taken.swap_remove(which.index(taken.len()));
                    buddy.give_back(offset, order);
                } else if let Some((offset, dirty)) = buddy.take(order) {
                    let bytes = block_bytes(order);
                    prop_assert_eq!(offset % bytes, 0);
                    prop_assert!(offset + bytes <= ARENA_BYTES);
                    for (other, other_order) in &taken {
                        let apart = offset + bytes <= *other
                            || other + block_bytes(*other_order) <= offset;
                        prop_assert!(apart);
                    }
                    let pages = offset / PAGE_BYTES..(offset + bytes) / PAGE_BYTES;
                    prop_assert_eq!(dirty, touched[pages.clone()].iter().any(|t| *t));
                    touched[pages].fill(true);
                    taken.push((offset, order));
                }
            }
            for (offset, order) in taken.drain(..) {
                buddy.give_back(offset, order);
            }
            prop_assert!(buddy.is_idle());
            prop_assert_eq!(buddy.take(ORDERS - 1).map(|(offset, _)| offset), Some(0));
        }
    }
}
