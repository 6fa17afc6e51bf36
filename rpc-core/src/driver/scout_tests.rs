//! One caller of several on other threads than the driver's polls for all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;

use bytes::Bytes;

use super::cell::SharedCell;
use super::conn::{Begun, Conn, Helped, Watch};
use super::help_tests::Pair;
use super::tests::{Rigged, Woken};
use crate::crowd::Crowd;

const SHORT: Bytes = Bytes::from_static(b"abc");

/// A call, and how often its caller has been woken.
struct Caller {
    cell: SharedCell,
    watch: Watch,
    woken: Arc<Woken>,
}

impl Caller {
    fn begin(pair: &Pair) -> Caller {
        let woken = Arc::new(Woken::default());
        let Begun { cell, watch } = pair.begin(Some(&Waker::from(Arc::clone(&woken))));
        Caller { cell, watch, woken }
    }

    fn woken(&self) -> usize {
        self.woken.0.load(Ordering::Relaxed)
    }
}

/// A pair of a runtime with threads of its own; this one is none of them.
fn apart(rig: impl FnOnce(&mut Rigged)) -> Pair {
    Pair::rigged(&Crowd::new(1, true), rig)
}

fn callers<const N: usize>(pair: &Pair) -> [Caller; N] {
    [(); N].map(|()| Caller::begin(pair))
}

/// Whether the driver, which looks now, leaves the link to a caller.
fn naps(pair: &Pair, driver: &Arc<Woken>) -> bool {
    let waker = Waker::from(Arc::clone(driver));
    pair.client.with_owner(|owner| owner.nap(&waker, false, false)).expect("nobody has it")
}

#[test]
fn one_caller_of_several_polls_for_all_and_the_driver_naps() {
    let mut pair = apart(|_| ());
    let driver = Arc::new(Woken::default());
    let [first, scout, third, fourth] = callers(&pair);
    let watches = [&first, &scout, &third, &fourth].map(|caller| caller.watch);
    assert_eq!(watches, [Watch::Caller, Watch::Scout, Watch::Waker, Watch::Waker]);
    assert_eq!(pair.client.help(&first.cell), Helped::No, "it is not alone");
    for other in [&first, &third] {
        assert_eq!(pair.client.scout(&other.cell), Helped::No, "there is a scout");
    }
    assert!(!naps(&pair, &driver), "nobody has polled yet");

    // That of the fourth has waited for more to leave with. In vain: the scout sends it.
    assert_eq!(pair.client.scout(&scout.cell), Helped::Looked, "no answer has come");
    pair.answer_some(1, &SHORT);
    assert_eq!(pair.client.scout(&scout.cell), Helped::Scouted);
    assert!(first.cell.has_news() && !scout.cell.has_news());
    assert!(naps(&pair, &driver));
    pair.answer_arrived(3, &SHORT);
    assert_eq!(pair.client.scout(&scout.cell), Helped::Scouted);
    for other in [&third, &fourth] {
        assert!(other.cell.has_news());
        assert_eq!(other.woken(), 1);
    }
    assert!(scout.cell.has_news());
    assert_eq!(driver.0.load(Ordering::Relaxed), 0);
}

#[test]
fn once_the_scout_has_its_answer_the_call_opened_last_goes_on() {
    let mut pair = apart(|_| ());
    let driver = Arc::new(Woken::default());
    let [first, scout, third] = callers(&pair);
    pair.client.flush();
    pair.answer_some(2, &SHORT);
    assert_eq!(pair.client.scout(&scout.cell), Helped::Scouted);
    assert!(first.cell.has_news() && scout.cell.has_news());
    assert_eq!((third.woken(), third.cell.has_news()), (1, false), "it is to poll now");
    assert!(naps(&pair, &driver));

    let [fourth] = callers(&pair);
    assert_eq!(fourth.watch, Watch::Waker);
    pair.client.cancel(&third.cell, 1);
    assert_eq!(fourth.woken(), 1, "the scout wants no answer any more");
    assert_eq!(driver.0.load(Ordering::Relaxed), 0);
    // A call that was given up is open until the server has said so; only the driver waits for that.
    pair.client.cancel(&fourth.cell, 1);
    assert_eq!(driver.0.load(Ordering::Relaxed), 1, "nobody is left who polls");
}

/// Answers may come in any order.
#[test]
fn the_driver_goes_on_if_the_call_opened_last_is_over() {
    let mut pair = apart(|_| ());
    let driver = Arc::new(Woken::default());
    let [first, scout, third] = callers(&pair);
    pair.client.flush();
    pair.arrive();
    pair.server.calls.batch.arrivals.reverse();
    pair.answer_arrived(2, &SHORT);
    assert_eq!(pair.client.scout(&scout.cell), Helped::Scouted);
    assert!(!naps(&pair, &driver), "somebody is left who does not poll");
    assert_eq!((first.woken(), third.woken()), (0, 1));

    // The next one that is opened polls again.
    let [fourth] = callers(&pair);
    assert_eq!(fourth.watch, Watch::Scout);
}

#[tokio::test]
async fn nobody_polls_for_calls_of_the_runtimes_own_tasks() {
    let pair = Arc::new(apart(|_| ()));
    let driver = Arc::new(Woken::default());
    let [_first, scout] = callers(&pair);
    assert_eq!(scout.watch, Watch::Scout);
    assert_eq!(pair.client.scout(&scout.cell), Helped::Looked);
    assert!(naps(&pair, &driver));
    let theirs = Arc::clone(&pair);
    let inside = tokio::spawn(async move { Caller::begin(&theirs) }).await.unwrap();
    assert_eq!(inside.watch, Watch::Waker);
    assert_eq!(driver.0.load(Ordering::Relaxed), 1, "it has something to do");
    assert_eq!(pair.client.scout(&scout.cell), Helped::No);
    assert_eq!(callers::<1>(&pair)[0].watch, Watch::Waker);
    assert!(!naps(&pair, &driver));
}

/// Its caller may have something else to do, or have kept the future for later.
#[test]
fn the_driver_goes_on_if_the_scout_is_not_polled() {
    let mut pair = apart(|_| ());
    let driver = Arc::new(Woken::default());
    let [_first, scout, third] = callers(&pair);
    pair.client.flush();
    pair.answer_some(1, &SHORT);
    assert_eq!(pair.client.scout(&scout.cell), Helped::Scouted);
    assert!(naps(&pair, &driver), "it has polled since the driver last looked");
    assert!(!naps(&pair, &driver), "it has not");
    assert_eq!(third.woken(), 0);
    let [next] = callers(&pair);
    assert_eq!(next.watch, Watch::Scout);
}

/// As with slow handlers.
#[test]
fn who_polls_in_vain_wakes_the_driver_and_some_calls_do_not_try() {
    let pair = apart(|_| ());
    let [_first, scout] = callers(&pair);
    assert_eq!(pair.client.scout(&scout.cell), Helped::Looked);
    pair.client.end_help();
    let later: [Caller; 5] = callers(&pair);
    let watches = later.map(|caller| caller.watch);
    assert_eq!(watches[..4], [Watch::Waker; 4]);
    assert_eq!(watches[4], Watch::Scout);
}

/// The runtime has no turn while a caller polls.
#[test]
fn a_scout_of_a_socket_asks_it_and_leaves_to_the_driver_what_only_the_runtime_brings() {
    let looks = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&looks);
    let pair = apart(|link| {
        link.in_place = false;
        link.at_fetch = Box::new(move || counted.fetch_add(1, Ordering::Relaxed) < 3);
    });
    let [_first, scout] = callers(&pair);
    assert_eq!(pair.client.scout(&scout.cell), Helped::Looked);
    assert_eq!(looks.load(Ordering::Relaxed), 4);
    let patience = &pair.client.crowd().expect("it has one").patience;
    assert!(patience.may_try(), "that was not in vain for others");
}

/// On a socket each look is a system call, and each turn of another thread a wake.
#[test]
fn callers_on_several_threads_poll_for_each_other_on_a_ring_only() {
    for in_place in [true, false] {
        let pair = apart(|link| link.in_place = in_place);
        let [_first, scout] = callers(&pair);
        assert_eq!(scout.watch, Watch::Scout);
        let there = std::thread::scope(|scope| {
            scope.spawn(|| Caller::begin(&pair)).join().expect("it ends")
        });
        assert_eq!(there.watch, Watch::Waker);
        let helped = pair.client.scout(&scout.cell);
        assert_eq!(helped, if in_place { Helped::Looked } else { Helped::No });
    }
}
