//! Calls of other threads than the runtime's on several connections at once.
//!
//! A program's `main`, in the future given to `block_on`, awaits a call on each of eight servers. Were all of them left
//! to their drivers, these and the set would look on the runtime's threads, wake `main` in the kernel for every
//! answer or two, and keep it waiting for its CPU where there are not many. Were the first to poll as if it were
//! alone, the others would not even be made meanwhile. So each connection's caller (the one that has the only
//! call, or the scout) looks once, wakes itself and returns to its executor, which polls those of the other connections
//! before it is back: its thread goes round. The drivers nap.

use std::sync::atomic::Ordering;

use super::cell::Cell;
use super::conn::Helped;
use super::connection::Connection;
use super::owner::Owner;
use crate::link::Link;
use crate::patience::pause;

/// So many looks in vain, on all connections together, end the rounds: a look takes 0.1 to 0.5 us. At least so many
/// are made at each.
const LOOKS: usize = 2048;
const LEAST_LOOKS: usize = 64;

/// With so many connections drivers nap twice as long as else, and so on, up to so many times: to wake them all each
/// millisecond took a sixth of a CPU.
const CONNECTIONS_A_NAP: usize = 8;
const MOST_NAPS: usize = 8;

/// What a look has come to.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// Another looks, or the driver has to.
    NotAllowed,
    News,
    Nothing {
        looks_in_vain: usize,
    },
    /// Nothing, once too often; or only the runtime brings what comes.
    InVain,
}

impl<L: Link> Connection<L> {
    /// Whether callers poll this connection in turns with others.
    pub(super) fn in_rounds(&self) -> bool {
        self.counts.is_outside() && self.connections_outside() > 1
    }

    fn connections_outside(&self) -> usize {
        self.crowd().map_or(0, |crowd| crowd.outside.load(Ordering::Relaxed))
    }

    /// How many times as long as else a driver naps.
    pub(super) fn naps_together(&self) -> u32 {
        if !self.counts.is_outside() {
            return 1;
        }
        (self.connections_outside() / CONNECTIONS_A_NAP).clamp(1, MOST_NAPS) as u32
    }

    /// One look of a caller whose thread has calls on other connections as well: their callers are next. `may`: whether
    /// it is this one's to look.
    pub(super) fn help_in_round(
        &self,
        cell: &Cell,
        may: impl FnOnce(&mut Owner<L>) -> bool,
    ) -> Helped {
        let most = (LOOKS / self.connections_outside().max(1)).max(LEAST_LOOKS);
        let look = self.with_owner(|owner| match may(owner) {
            true => owner.look_in_round(most),
            false => Look::NotAllowed,
        });
        let patience = self.patience();
        match look {
            Some(Look::NotAllowed) => return Helped::No,
            _ if look == Some(Look::News) || cell.has_news() => {
                patience.inspect(|patience| patience.paid());
            }
            Some(Look::InVain) => {
                patience.inspect(|patience| patience.was_vain());
                return Helped::Looked;
            }
            Some(Look::Nothing { looks_in_vain }) => pause(looks_in_vain),
            // Whoever has it moves it along, and may have lost its CPU to this thread.
            _ => std::thread::yield_now(),
        }
        Helped::Scouted
    }
}

impl<L: Link> Owner<L> {
    /// Nobody waits for the next look of this connection before others have looked at theirs. `most`: looks in vain.
    fn look_in_round(&mut self, most: usize) -> Look {
        self.clock.tick(false);
        self.send_held();
        if self.asleep {
            // To nap: else the set or the kernel look as well.
            self.wake_sleeper();
        }
        let goes_on = self.look_once();
        if self.received > 0 || self.dead.is_some() {
            self.looks_in_vain = 0;
            return Look::News;
        }
        self.looks_in_vain += 1;
        if goes_on && self.looks_in_vain < most {
            return Look::Nothing { looks_in_vain: self.looks_in_vain };
        }
        self.looks_in_vain = 0;
        Look::InVain
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::Waker;

    use bytes::Bytes;

    use super::*;
    use crate::crowd::Crowd;
    use crate::driver::cell::SharedCell;
    use crate::driver::help_tests::Pair;
    use crate::driver::owner::Failure;
    use crate::driver::tests::Woken;
    use crate::driver::{Begun, Conn, Watch};

    const SHORT: Bytes = Bytes::from_static(b"abc");

    /// Connections of a runtime with threads of its own, of which this is none, with a call each.
    fn pairs<const N: usize>(crowd: &Arc<Crowd>) -> [(Pair, SharedCell); N] {
        [(); N].map(|()| {
            let pair = Pair::rigged(crowd, |_| ());
            let Begun { cell, .. } = pair.begin(Some(Waker::noop()));
            (pair, cell)
        })
    }

    fn outside(crowd: &Crowd) -> usize {
        crowd.outside.load(Ordering::Relaxed)
    }

    #[test]
    fn a_caller_of_several_connections_looks_once_and_the_next_one_is_polled() {
        let crowd = Crowd::new(2, true);
        let [(mut first, one), (mut second, two), (third, three)] = pairs(&crowd);
        assert_eq!(outside(&crowd), 3);
        let driver = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&driver));
        assert_eq!(first.client.help(&one), Helped::Scouted, "it goes on when others have looked");
        assert_eq!(first.client.with_owner(|owner| owner.nap(&waker, false, false)), Some(true));
        second.answer_some(1, &SHORT);
        assert_eq!(second.client.help(&two), Helped::Scouted);
        assert!(two.has_news() && !one.has_news());
        first.answer_some(1, &SHORT);
        assert_eq!(first.client.help(&one), Helped::Scouted);
        assert!(one.has_news());
        assert_eq!(outside(&crowd), 1, "two have no calls any more");
        assert!(!third.client.in_rounds(), "one alone may as well wait");
        assert!(!three.has_news());
        assert_eq!(driver.0.load(Ordering::Relaxed), 0, "nothing was for the driver");
    }

    #[test]
    fn after_rounds_in_vain_the_drivers_go_on_and_the_next_calls_are_left_to_them() {
        let crowd = Crowd::new(2, true);
        let [(first, one), (second, two)] = pairs(&crowd);
        let driver = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&driver));
        let looks = (1..).find(|_| first.client.help(&one) == Helped::Looked).unwrap();
        assert_eq!(looks, LOOKS / 2);
        assert_eq!(first.client.with_owner(|owner| owner.nap(&waker, false, false)), Some(true));
        first.client.end_help();
        assert_eq!(driver.0.load(Ordering::Relaxed), 1);
        assert_eq!(second.client.help(&two), Helped::No, "it was in vain a moment ago");
    }

    #[test]
    fn of_several_calls_on_each_of_several_connections_one_goes_round_for_all() {
        let crowd = Crowd::new(2, true);
        let [(mut first, one), (second, two)] = pairs(&crowd);
        let scout = first.begin(Some(Waker::noop()));
        let late = first.begin(Some(Waker::noop()));
        assert_eq!((scout.watch, late.watch), (Watch::Scout, Watch::Waker));
        assert_eq!(first.client.help(&one), Helped::No, "it is not alone on its connection");
        assert_eq!(first.client.scout(&late.cell), Helped::No, "there is a scout");
        assert_eq!(first.client.scout(&scout.cell), Helped::Scouted);
        assert_eq!(second.client.help(&two), Helped::Scouted);
        first.answer_some(3, &SHORT);
        assert_eq!(first.client.scout(&scout.cell), Helped::Scouted);
        assert!([&one, &scout.cell, &late.cell].iter().all(|cell| cell.has_news()));
    }

    #[test]
    fn what_sleeps_is_woken_by_the_first_look_to_nap_and_leaves_the_set() {
        let crowd = Crowd::new(2, true);
        let left = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&left);
        let pair = Pair::rigged(&crowd, |rigged| {
            rigged.at_leave_set = Box::new(move || _ = count.fetch_add(1, Ordering::Relaxed));
        });
        let [(_other, _)] = pairs(&crowd);
        let Begun { cell, .. } = pair.begin(Some(Waker::noop()));
        let driver = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&driver));
        pair.client.with_owner(|owner| (owner.asleep, owner.sleeper) = (true, Some(waker.clone())));
        for _ in 0..3 {
            assert_eq!(pair.client.help(&cell), Helped::Scouted);
            assert_eq!(driver.0.load(Ordering::Relaxed), 1, "once");
        }
        assert_eq!(left.load(Ordering::Relaxed), 0);
        assert_eq!(pair.client.with_owner(|owner| owner.nap(&waker, false, false)), Some(true));
        assert_eq!(left.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_connection_that_is_over_counts_no_longer() {
        let crowd = Crowd::new(2, true);
        let [(first, one), (_second, _)] = pairs(&crowd);
        first.client.with_owner(|owner| owner.fail(Failure::Abandoned));
        assert!(one.has_failed());
        assert_eq!((outside(&crowd), crowd.waiting_calls.load(Ordering::Relaxed)), (1, 0));
    }

    #[test]
    fn calls_of_the_runtime_s_own_tasks_make_it_no_round() {
        let crowd = Crowd::new(2, true);
        let [(first, _), (_second, _)] = pairs(&crowd);
        assert!(first.client.in_rounds());
        // As a task's, which gives no waker to be polled in its place.
        let _task = first.begin(None);
        assert!(!first.client.in_rounds());
        assert_eq!((outside(&crowd), crowd.waiting_calls.load(Ordering::Relaxed)), (1, 2));
    }
}
