//! Completions in the order of their requests.
//!
//! A signalled request completes only after everything before it is done; the ring relies on it.
//! Soft-iWARP completes a WRITE or SEND when its bytes are with TCP, and so before a READ that was
//! posted earlier and whose answer is still on its way. Here such a completion waits for the READ.
//! Where the device keeps the order nothing ever waits. Pure.

use std::collections::VecDeque;
use std::fmt;

use super::wr_id::WrId;

/// Signalled READs in flight, and completions that came before theirs.
pub(super) struct ReadOrder<T> {
    reads: VecDeque<WrId>,
    held: VecDeque<(WrId, T)>,
}

impl<T> fmt::Debug for ReadOrder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held: Vec<WrId> = self.held.iter().map(|(id, _)| *id).collect();
        f.debug_struct("ReadOrder").field("reads", &self.reads).field("held", &held).finish()
    }
}

impl<T> Default for ReadOrder<T> {
    fn default() -> ReadOrder<T> {
        ReadOrder { reads: VecDeque::new(), held: VecDeque::new() }
    }
}

impl<T: Copy> ReadOrder<T> {
    /// A signalled READ was posted.
    pub(super) fn read_posted(&mut self, id: WrId) {
        self.reads.push_back(id);
    }

    /// Whether this completion, which the device has just given, has to wait; then it is kept.
    pub(super) fn holds(&mut self, id: WrId, completion: &T) -> bool {
        if id.is_receive() {
            return false;
        }
        if self.waits(id) || self.held.front().is_some_and(|(held, _)| id.is_after(*held)) {
            self.held.push_back((id, *completion));
            return true;
        }
        self.gone(id);
        false
    }

    /// The next of those that have waited long enough.
    pub(super) fn next(&mut self) -> Option<T> {
        if !self.is_ready() {
            return None;
        }
        let (id, completion) = self.held.pop_front()?;
        self.gone(id);
        Some(completion)
    }

    /// Whether there is one that has waited long enough.
    pub(super) fn is_ready(&self) -> bool {
        self.held.front().is_some_and(|(held, _)| !self.waits(*held))
    }

    fn waits(&self, id: WrId) -> bool {
        self.reads.front().is_some_and(|read| id.is_after(*read))
    }

    fn gone(&mut self, id: WrId) {
        if self.reads.front() == Some(&id) {
            self.reads.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: u32 = 7;

    fn send(number: u64) -> WrId {
        WrId::send(KEY, number)
    }

    /// What comes out, in order, when the device completes these sends; the READs are as given.
    fn out(reads: &[u64], completed: &[u64]) -> Vec<u64> {
        let mut order = ReadOrder::default();
        reads.iter().for_each(|read| order.read_posted(send(*read)));
        let mut out = Vec::new();
        for number in completed {
            if !order.holds(send(*number), number) {
                out.push(*number);
            }
            out.extend(std::iter::from_fn(|| order.next()));
        }
        assert!(!order.is_ready());
        out
    }

    #[test]
    fn a_device_that_keeps_the_order_is_left_alone() {
        assert_eq!(out(&[], &[1, 2, 9]), [1, 2, 9]);
        assert_eq!(out(&[2, 5], &[1, 2, 3, 5, 6]), [1, 2, 3, 5, 6]);
    }

    #[test]
    fn what_overtook_a_read_waits_for_it() {
        assert_eq!(out(&[2], &[1, 3, 4, 2, 5]), [1, 2, 3, 4, 5]);
        assert_eq!(out(&[2, 4], &[3, 5, 6, 2, 4, 7]), [2, 3, 4, 5, 6, 7]);
        assert_eq!(out(&[2, 3], &[4, 2, 3]), [2, 3, 4]);
        // Nothing comes before its READ.
        assert!(out(&[2], &[3, 4]).is_empty());
    }

    /// What comes in the same batch as the READ, after it, does not overtake those that waited.
    #[test]
    fn those_that_waited_go_before_those_that_come() {
        let mut order = ReadOrder::default();
        order.read_posted(send(2));
        let held: Vec<_> = [3, 2, 4].map(|number| order.holds(send(number), &number)).into();
        assert_eq!(held, [true, false, true]);
        let rest: Vec<_> = std::iter::from_fn(|| order.next()).collect();
        assert_eq!(rest, [3, 4]);
    }

    #[test]
    fn receives_never_wait() {
        let mut order = ReadOrder::default();
        order.read_posted(send(2));
        assert!(!order.holds(WrId::receive(KEY, 900), &900));
    }

    #[test]
    fn numbers_wrap_at_forty_bits() {
        let last = (1u64 << 40) - 1;
        assert_eq!(out(&[last], &[last + 1, last]), [last, last + 1]);
    }
}
