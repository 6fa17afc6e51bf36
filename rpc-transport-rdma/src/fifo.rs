//! Queues that mostly hold a few things.

use std::collections::VecDeque;

/// Takes the oldest. A queue that is empty then begins at its memory's first byte again: otherwise it moves
/// through all of it, a new cache line for every few things, however few it holds at a time.
#[inline]
pub(crate) fn pop_front<T>(queue: &mut VecDeque<T>) -> Option<T> {
    let oldest = queue.pop_front();
    if queue.is_empty() {
        queue.clear();
    }
    oldest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_was_empty_uses_the_same_memory_again() {
        let mut queue = VecDeque::with_capacity(8);
        queue.extend([0, 1]);
        let places =
            |queue: &VecDeque<i32>| queue.iter().map(std::ptr::from_ref).collect::<Vec<_>>();
        let first = places(&queue);
        for round in 1..100 {
            assert_eq!(pop_front(&mut queue), Some(round * 2 - 2));
            assert_eq!(pop_front(&mut queue), Some(round * 2 - 1));
            assert_eq!(pop_front(&mut queue), None);
            queue.extend([round * 2, round * 2 + 1]);
            assert_eq!(places(&queue), first);
        }
    }
}
