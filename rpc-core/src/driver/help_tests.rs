//! A caller that polls in place, and an answer that takes a link several turns to bring.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::body::View;
use super::connection::{Conn, Connection, OpenRequest};
use super::owner::Owner;
use super::task::{Progress, ProgressMode, now};
use super::tests::Rigged;
use crate::link::FrameSink;
use crate::memory::{MemoryConfig, pair};
use crate::metadata::MetadataMap;
use crate::session::{Encode, Role, Session, SessionConfig};

/// Turns that a pull takes.
const PULL_TURNS: usize = 5;

/// A long answer's stream is over when its one frame has come, long before the message has.
#[test]
fn a_caller_in_place_waits_for_the_message_and_not_only_for_the_word_that_it_is_there() {
    let (link, far) = pair(MemoryConfig::default());
    let busy = Progress { mode: ProgressMode::Busy, ..Progress::default() };
    let mut slow = Rigged::new(link);
    slow.pull_turns = PULL_TURNS;
    let client = Connection::new(Role::Client, SessionConfig::default(), busy, slow, now());
    let session = Session::new(Role::Server, SessionConfig::default(), far.limits(), now());
    let mut server = Owner::new(session, far);
    let (none, short) = (MetadataMap::new(), Bytes::from_static(b"abc"));
    let request = OpenRequest {
        path: "/a/b",
        metadata: &none,
        timeout: None,
        message: Some(&short as &dyn Encode),
        end: true,
        max_message_bytes: 1 << 20,
    };
    let cell = client.open(&request, None).cell;
    assert!(server.pass(now(), &mut |_, _| Some(1 << 20)), "{:?}", server.dead);
    let id = server.calls.batch.arrivals[0].id;
    let long = Bytes::from(vec![7; 40_000]);
    server.respond(id, &none, &none, &long).unwrap();
    server.settle_or_fail();

    // At its very first looks a caller lets others run.
    client.with_owner(|owner| owner.lonely = 2);
    assert!(client.help(&cell));
    let make = |view: View<'_>, _: MetadataMap, _: MetadataMap| match view {
        View::Shared(bytes) => Ok(bytes.clone()),
        other => panic!("{other:?}"),
    };
    let answer = cell.poll_answer(&mut Context::from_waker(Waker::noop()), make);
    assert!(matches!(answer, Poll::Ready(Ok(bytes)) if bytes == long), "the caller went too early");
    // Nothing is left for which the caller would have to poll.
    let next = Arc::<super::cell::Cell>::default();
    client.with_owner(|owner| assert!(!owner.may_wait_here()));
    assert!(!client.help(&next));
}
