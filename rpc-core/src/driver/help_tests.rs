//! A caller that polls in place, and an answer that takes a link several turns to bring.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::body::View;
use super::connection::{Conn, Connection, OpenRequest};
use super::owner::Owner;
use super::task::{Progress, ProgressMode, now};
use crate::link::{BulkDescriptor, FrameSink, Link, LinkError, LinkInfo, LinkLimits, Received};
use crate::memory::{MemoryConfig, MemoryLink, pair};
use crate::metadata::MetadataMap;
use crate::session::{Encode, Role, Session, SessionConfig};

/// Turns that a pull takes.
const PULL_TURNS: usize = 5;

/// A link that moves a pull on only when it is asked what has come, as one does whose owner makes
/// the copies itself.
#[derive(Debug)]
struct Slow {
    link: MemoryLink,
    pull: Option<(u64, BulkDescriptor, usize)>,
    turns_left: usize,
}

impl FrameSink for Slow {
    fn limits(&self) -> LinkLimits {
        self.link.limits()
    }

    fn reserve(&mut self, len: usize) -> Result<Option<&mut [u8]>, LinkError> {
        self.link.reserve(len)
    }

    fn commit(&mut self) {
        self.link.commit();
    }

    fn bulk_reserve(&mut self, len: usize) -> Result<Option<&mut [u8]>, LinkError> {
        self.link.bulk_reserve(len)
    }

    fn bulk_commit(&mut self) -> BulkDescriptor {
        self.link.bulk_commit()
    }

    fn bulk_release(&mut self, descriptor: &BulkDescriptor) -> Result<(), LinkError> {
        self.link.bulk_release(descriptor)
    }

    fn bulk_pull(
        &mut self,
        ticket: u64,
        descriptor: &BulkDescriptor,
        len: usize,
    ) -> Result<bool, LinkError> {
        self.pull = Some((ticket, *descriptor, len));
        self.turns_left = PULL_TURNS;
        Ok(true)
    }
}

impl Link for Slow {
    fn flush(&mut self) -> Result<(), LinkError> {
        self.link.flush()
    }

    fn receive(&mut self) -> Result<Option<Received<'_>>, LinkError> {
        if let Some((ticket, descriptor, len)) = self.pull {
            self.turns_left -= 1;
            if self.turns_left > 0 {
                return Ok(None);
            }
            self.pull = None;
            self.link.bulk_pull(ticket, &descriptor, len)?;
        }
        self.link.receive()
    }

    fn has_unsent(&self) -> bool {
        self.link.has_unsent()
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        self.link.poll_ready(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        self.link.poll_close(cx)
    }

    fn info(&self) -> LinkInfo {
        self.link.info()
    }
}

/// A long answer's stream is over when its one frame has come, long before the message has.
#[test]
fn a_caller_in_place_waits_for_the_message_and_not_only_for_the_word_that_it_is_there() {
    let (link, far) = pair(MemoryConfig::default());
    let busy = Progress { mode: ProgressMode::Busy, ..Progress::default() };
    let slow = Slow { link, pull: None, turns_left: 0 };
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
