//! A caller that polls in place, calls that leave together, and an answer that takes a link several
//! turns to bring.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::body::View;
use super::cell::SharedCell;
use super::clock::now;
use super::conn::{Begun, Conn, Helped, OpenRequest};
use super::connection::Connection;
use super::owner::Owner;
use super::progress::{Progress, ProgressMode};
use super::tests::{Rigged, Woken};
use crate::crowd::Crowd;
use crate::link::FrameSink;
use crate::memory::{MemoryConfig, MemoryLink, pair};
use crate::metadata::MetadataMap;
use crate::others::OTHERS_TURN;
use crate::session::{Encode, Role, Session, SessionConfig};

/// Turns that a pull takes.
const PULL_TURNS: usize = 5;

/// A client's connection that polls, and the owner of the server's.
pub(crate) struct Pair {
    crowd: Arc<Crowd>,
    pub(crate) client: Arc<Connection<Rigged>>,
    pub(super) server: Owner<MemoryLink>,
}

impl Pair {
    pub(crate) fn new(pull_turns: usize) -> Pair {
        Pair::among(&Crowd::new(1, false), pull_turns)
    }

    fn among(crowd: &Arc<Crowd>, pull_turns: usize) -> Pair {
        Pair::rigged(crowd, |link| link.pull_turns = pull_turns)
    }

    pub(crate) fn rigged(crowd: &Arc<Crowd>, rig: impl FnOnce(&mut Rigged)) -> Pair {
        let busy = Progress { mode: ProgressMode::Busy, ..Progress::default() };
        Pair::with(crowd, busy, rig)
    }

    fn with(crowd: &Arc<Crowd>, progress: Progress, rig: impl FnOnce(&mut Rigged)) -> Pair {
        let (link, far) = pair(MemoryConfig::default());
        let mut rigged = Rigged::new(link);
        rig(&mut rigged);
        let client =
            Connection::new(Role::Client, SessionConfig::default(), progress, rigged, now());
        client.joins(crowd);
        let session = Session::new(Role::Server, SessionConfig::default(), far.limits(), now());
        let server = Owner::new(session, far, true);
        Pair { crowd: Arc::clone(crowd), client: Arc::new(client), server }
    }

    fn open(&self) -> SharedCell {
        self.begin(None).cell
    }

    pub(super) fn begin(&self, waker: Option<&Waker>) -> Begun {
        let (none, short) = (MetadataMap::new(), Bytes::from_static(b"abc"));
        let request = OpenRequest {
            path: "/a/b",
            metadata: &none,
            timeout: None,
            message: Some(&short as &dyn Encode),
            end: true,
            max_message_bytes: 1 << 20,
        };
        self.client.open(&request, waker)
    }

    /// Answers every call that has arrived.
    pub(crate) fn answer(&mut self, message: &Bytes) {
        self.client.flush();
        self.answer_some(usize::MAX, message);
    }

    /// Answers so many of those that have arrived, the first ones.
    pub(super) fn answer_some(&mut self, most: usize, message: &Bytes) {
        self.arrive();
        self.answer_arrived(most, message);
    }

    pub(super) fn arrive(&mut self) {
        assert!(self.server.pass(&mut |_, _| Some(1 << 20)), "{:?}", self.server.dead);
    }

    pub(super) fn answer_arrived(&mut self, most: usize, message: &Bytes) {
        let none = MetadataMap::new();
        let arrivals = &mut self.server.calls.batch.arrivals;
        let some: Vec<_> = arrivals.drain(..most.min(arrivals.len())).collect();
        assert!(!some.is_empty());
        for arrival in some {
            self.server.respond(arrival.id, &none, &none, message).unwrap();
        }
        self.server.settle_or_fail();
    }
}

/// Callers who have just been answered are about to call again, on the thread of the first of them
/// that does: were it to poll in place, it would have its next answer before they get to run, and
/// the next, and the connection to itself.
#[tokio::test(start_paused = true)]
async fn the_first_to_call_again_lets_the_others_run_and_polls_in_place_only_when_none_does() {
    let mut pair = Pair::new(0);
    let short = Bytes::from_static(b"abc");
    for _ in 0..3 {
        let (first, second) = (pair.open(), pair.open());
        pair.answer(&short);
        assert_eq!(pair.client.help(&first), Helped::No, "two callers wait");
        pair.client.with_owner(|owner| owner.pass(&mut |_, _| None));
        assert!(first.has_news() && second.has_news());
        for turn in 0..4 {
            let cell = pair.open();
            pair.answer(&short);
            let helped = if turn > 0 { Helped::Looked } else { Helped::OthersTurn };
            assert_eq!(pair.client.help(&cell), helped, "turn {turn}");
            assert_eq!(cell.has_news(), turn > 0, "turn {turn}");
            pair.client.with_owner(|owner| owner.pass(&mut |_, _| None));
            assert!(cell.has_news());
        }
    }
}

/// The runtime has no turn while a caller polls: it asks the socket itself, as long as that is of use.
#[tokio::test(start_paused = true)]
async fn a_caller_of_a_socket_asks_it_at_each_pass_and_leaves_the_driver_what_only_the_runtime_brings()
 {
    let looks = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&looks);
    let mut pair = Pair::rigged(&Crowd::new(1, false), |link| {
        link.in_place = false;
        link.at_fetch = Box::new(move || counted.fetch_add(1, Ordering::Relaxed) < 3);
    });
    assert_eq!(pair.client.help(&pair.open()), Helped::OthersTurn);
    pair.answer(&Bytes::from_static(b"abc"));
    pair.client.with_owner(|owner| owner.pass(&mut |_, _| None));
    let cell = pair.open();
    assert_eq!(pair.client.help(&cell), Helped::Looked);
    assert_eq!((cell.has_news(), looks.load(Ordering::Relaxed)), (false, 4));
    pair.answer(&Bytes::from_static(b"abc"));
    assert_eq!(pair.client.help(&cell), Helped::Looked);
    assert!(cell.has_news());
}

/// A driver that polls on another thread finds the news there, and has to wake the caller for it: the
/// caller had better have the link.
#[test]
fn a_driver_that_polls_gives_way_to_a_caller_on_another_thread() {
    let mut pair = Pair::new(0);
    // Whoever is alone lets others run first.
    assert_eq!(pair.client.help(&pair.open()), Helped::OthersTurn);
    pair.answer(&Bytes::from_static(b"abc"));
    pair.client.with_owner(|owner| owner.pass(&mut |_, _| None));
    let cell = pair.open();
    pair.answer(&Bytes::from_static(b"abc"));
    let client = &pair.client;
    std::thread::scope(|scope| {
        client.with_owner(|owner| {
            scope.spawn(|| {
                while !cell.has_news() {
                    client.help(&cell);
                }
            });
            while !client.has_jobs() {
                std::thread::yield_now();
            }
            assert!(!owner.nap(Waker::noop(), false, false), "it does not know of the caller yet");
        });
    });
    assert_eq!(client.with_owner(|owner| owner.nap(Waker::noop(), false, false)), Some(true));
}

/// Each call that is sent by itself costs a system call on a socket, and may wake the peer.
#[test]
fn calls_that_come_while_the_driver_sleeps_wake_it_and_leave_together() {
    for (polls, flushes) in [(true, [1, 2, 3, 3, 3]), (false, [1, 2, 3, 4, 5])] {
        let progress = if polls { Progress::default() } else { Progress::EVENT };
        let mut pair =
            Pair::with(&Crowd::new(1, false), progress, |link| link.flushes_early = false);
        pair.open();
        pair.answer(&Bytes::from_static(b"abc"));
        let woken = Arc::new(Woken::default());
        pair.client.with_owner(|owner| {
            owner.pass(&mut |_, _| None);
            owner.sleeper = Some(Waker::from(Arc::clone(&woken)));
            (owner.asleep, owner.armed, owner.alarm) = (true, true, Some(now()));
        });
        let mut arrived = 0;
        let after_each = [(); 5].map(|()| {
            pair.open();
            pair.server.pass(&mut |_, _| Some(1 << 20));
            arrived += pair.server.calls.batch.arrivals.drain(..).count();
            arrived
        });
        assert_eq!(after_each, flushes, "polls: {polls}");
        assert_eq!(woken.0.load(Ordering::Relaxed), usize::from(polls));
    }
}

/// The others may call on other connections: they want the same thread.
#[tokio::test(start_paused = true)]
async fn a_caller_whose_thread_others_want_does_not_poll_in_place() {
    for threads in [1, 2] {
        let crowd = Crowd::new(threads, false);
        let (mut here, mut there) = (Pair::among(&crowd, 0), Pair::among(&crowd, 0));
        let short = Bytes::from_static(b"abc");
        let polls_in_place = |here: &mut Pair| {
            let cell = here.open();
            here.answer(&short);
            here.client.help(&cell);
            let in_place = cell.has_news();
            here.client.with_owner(|owner| owner.pass(&mut |_, _| None));
            in_place
        };
        assert!(!polls_in_place(&mut here), "the first lets others run");
        assert!(polls_in_place(&mut here));
        for _ in 0..3 {
            let other = there.open();
            // With a thread for each the one keeps nobody waiting.
            assert_eq!(polls_in_place(&mut here), threads == 2);
            assert_eq!(polls_in_place(&mut here), threads == 2, "the other still waits");
            there.answer(&short);
            there.client.with_owner(|owner| owner.pass(&mut |_, _| None));
            assert!(other.has_news());
            assert_eq!(polls_in_place(&mut here), threads == 2, "it is about to call again");
            assert!(polls_in_place(&mut here), "it does not");
        }
    }
}

/// And who is alone all the time has others run now and then, however short its calls are.
#[tokio::test(start_paused = true)]
async fn a_caller_that_is_always_alone_polls_in_place_but_for_one_call_in_a_while() {
    let mut pair = Pair::new(0);
    let short = Bytes::from_static(b"abc");
    let mut in_place = Vec::new();
    for _ in 0..20 {
        let cell = pair.open();
        pair.answer(&short);
        let helped = pair.client.help(&cell);
        in_place.push(helped == Helped::Looked && cell.has_news());
        if helped == Helped::OthersTurn {
            assert_eq!(pair.client.help(&cell), Helped::Looked, "it is back");
        }
        assert!(cell.has_news());
        tokio::time::advance(OTHERS_TURN / 5).await;
    }
    let turns: Vec<bool> = (0..20).map(|call| call % 5 > 0).collect();
    assert_eq!(in_place, turns);
}

/// A long answer's stream is over when its one frame has come, long before the message has.
#[tokio::test(start_paused = true)]
async fn a_caller_in_place_waits_for_the_message_and_not_only_for_the_word_that_it_is_there() {
    let mut pair = Pair::new(PULL_TURNS);
    let cell = pair.open();
    let long = Bytes::from(vec![7; 40_000]);
    pair.answer(&long);
    let Pair { crowd, client, .. } = pair;

    // The very first caller lets others run.
    assert!(!crowd.patience.begin_lone_wait(now()));
    assert_eq!(client.help(&cell), Helped::Looked);
    let make = |view: View<'_>, _: MetadataMap, _: MetadataMap| match view {
        View::Shared(bytes) => Ok(bytes.clone()),
        other => panic!("{other:?}"),
    };
    let answer = cell.poll_answer(&mut Context::from_waker(Waker::noop()), make);
    assert!(matches!(answer, Poll::Ready(Ok(bytes)) if bytes == long), "the caller went too early");
    // Nothing is left for which the caller would have to poll.
    let next = SharedCell::default();
    client.with_owner(|owner| assert!(!owner.has_one_caller()));
    assert_eq!(client.help(&next), Helped::No);
}

#[test]
fn half_of_the_open_calls_leave_at_a_time_and_the_first_ones_at_once() {
    let mut pair = Pair::new(0);
    let mut arrived = 0;
    let mut after_each_call = || {
        pair.open();
        pair.server.pass(&mut |_, _| Some(1 << 20));
        arrived += pair.server.calls.batch.arrivals.drain(..).count();
        arrived
    };
    let arrived: Vec<_> = (0..14).map(|_| after_each_call()).collect();
    // Of the fourth call on half of the calls is more than one.
    assert_eq!(arrived, [1, 2, 3, 3, 5, 5, 5, 5, 9, 9, 9, 9, 9, 9]);
    pair.client.flush();
    pair.server.pass(&mut |_, _| Some(1 << 20));
    assert_eq!(pair.server.calls.batch.arrivals.len(), 5, "the driver's turn brings the rest");
}

/// Whether it sends decides who looks for the answers.
#[test]
fn a_call_in_a_used_mailbox_does_not_send_because_the_last_one_did() {
    let mut pair = Pair::new(0);
    let first = pair.open();
    first.set_sending(true);
    pair.answer(&Bytes::from_static(b"abc"));
    pair.client.with_owner(|owner| owner.pass(&mut |_, _| None));
    assert!(first.has_news());
    let address = SharedCell::as_ptr(&first);
    drop(first);
    let second = pair.open();
    assert_eq!(SharedCell::as_ptr(&second), address);
    assert!(!second.is_sending());
}
