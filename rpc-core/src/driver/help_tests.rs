//! A caller that polls in place, and an answer that takes a link several turns to bring.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::body::View;
use super::cell::Cell;
use super::clock::now;
use super::connection::{Conn, Connection, OpenRequest};
use super::owner::{LONELY_WAITS, Owner};
use super::task::{Progress, ProgressMode};
use super::tests::Rigged;
use crate::link::FrameSink;
use crate::memory::{MemoryConfig, MemoryLink, pair};
use crate::metadata::MetadataMap;
use crate::session::{Encode, Role, Session, SessionConfig};

/// Turns that a pull takes.
const PULL_TURNS: usize = 5;

/// A client's connection that polls, and the owner of the server's.
struct Pair {
    client: Connection<Rigged>,
    server: Owner<MemoryLink>,
}

impl Pair {
    fn new(pull_turns: usize) -> Pair {
        let (link, far) = pair(MemoryConfig::default());
        let busy = Progress { mode: ProgressMode::Busy, ..Progress::default() };
        let mut rigged = Rigged::new(link);
        rigged.pull_turns = pull_turns;
        let client = Connection::new(Role::Client, SessionConfig::default(), busy, rigged, now());
        let session = Session::new(Role::Server, SessionConfig::default(), far.limits(), now());
        Pair { client, server: Owner::new(session, far) }
    }

    fn open(&self) -> Arc<Cell> {
        let (none, short) = (MetadataMap::new(), Bytes::from_static(b"abc"));
        let request = OpenRequest {
            path: "/a/b",
            metadata: &none,
            timeout: None,
            message: Some(&short as &dyn Encode),
            end: true,
            max_message_bytes: 1 << 20,
        };
        self.client.open(&request, None).cell
    }

    /// Answers every call that has arrived.
    fn answer(&mut self, message: &Bytes) {
        self.client.flush();
        assert!(self.server.pass(&mut |_, _| Some(1 << 20)), "{:?}", self.server.dead);
        let none = MetadataMap::new();
        let arrivals = std::mem::take(&mut self.server.calls.batch.arrivals);
        assert!(!arrivals.is_empty());
        for arrival in arrivals {
            self.server.respond(arrival.id, &none, &none, message).unwrap();
        }
        self.server.settle_or_fail();
    }
}

/// Callers who have just been answered are about to call again, on the thread of the first of them
/// that does: were it to poll in place, it would have its next answer before they get to run, and
/// the next, and the connection to itself.
#[test]
fn the_first_to_call_again_lets_the_others_run_and_polls_in_place_only_when_none_does() {
    let mut pair = Pair::new(0);
    let short = Bytes::from_static(b"abc");
    for _ in 0..3 {
        let (first, second) = (pair.open(), pair.open());
        pair.answer(&short);
        assert!(!pair.client.help(&first), "two callers wait");
        pair.client.with_owner(|owner| owner.pass(&mut |_, _| None));
        assert!(first.has_news() && second.has_news());
        for turn in 0..4 {
            let cell = pair.open();
            pair.answer(&short);
            assert!(pair.client.help(&cell));
            assert_eq!(cell.has_news(), turn > 0, "turn {turn}");
            pair.client.with_owner(|owner| owner.pass(&mut |_, _| None));
            assert!(cell.has_news());
        }
    }
}

/// And who is alone all the time has others run now and then.
#[test]
fn a_caller_that_is_always_alone_polls_in_place_but_for_one_call_of_many() {
    let mut pair = Pair::new(0);
    let short = Bytes::from_static(b"abc");
    let mut in_place = 0;
    for _ in 0..2 * LONELY_WAITS {
        let cell = pair.open();
        pair.answer(&short);
        assert!(pair.client.help(&cell));
        in_place += u32::from(cell.has_news());
        pair.client.with_owner(|owner| owner.pass(&mut |_, _| None));
    }
    assert_eq!(in_place, 2 * (LONELY_WAITS - 1));
}

/// A long answer's stream is over when its one frame has come, long before the message has.
#[test]
fn a_caller_in_place_waits_for_the_message_and_not_only_for_the_word_that_it_is_there() {
    let mut pair = Pair::new(PULL_TURNS);
    let cell = pair.open();
    let long = Bytes::from(vec![7; 40_000]);
    pair.answer(&long);
    let client = pair.client;

    // The very first caller lets others run.
    client.with_owner(|owner| owner.lonely = 1);
    assert!(client.help(&cell));
    let make = |view: View<'_>, _: MetadataMap, _: MetadataMap| match view {
        View::Shared(bytes) => Ok(bytes.clone()),
        other => panic!("{other:?}"),
    };
    let answer = cell.poll_answer(&mut Context::from_waker(Waker::noop()), make);
    assert!(matches!(answer, Poll::Ready(Ok(bytes)) if bytes == long), "the caller went too early");
    // Nothing is left for which the caller would have to poll.
    let next = Arc::<Cell>::default();
    client.with_owner(|owner| assert!(!owner.may_wait_here()));
    assert!(!client.help(&next));
}
