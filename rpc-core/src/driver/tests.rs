//! What the owner owes calls when the link fails under them, and what it keeps of calls that
//! nobody wants any more.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;

use super::body::Body;
use super::cell::{Cell, End, SharedCell};
use super::clock::now;
use super::conn::{Begun, Conn, Helped, OpenRequest, Watch};
use super::connection::Connection;
use super::job::{Job, OwnedOpen};
use super::owner::{Failure, Owner};
use super::progress::{Progress, ProgressMode};
use super::task::Driver;
use crate::client::Nothing;
use crate::link::{BulkDescriptor, FrameSink, Link, LinkError, LinkInfo, LinkLimits, Received};
use crate::memory::{MemoryConfig, MemoryLink, pair};
use crate::metadata::MetadataMap;
use crate::poll_set::PollSet;
use crate::session::{CANCELLED, Encode, Payload, Role, Session, SessionConfig};
use crate::status::{Code, RequestSeen, Status};

/// A link of which a test decides when it fails and how long a pull takes, and which does something
/// for the test each time it is asked what has come.
pub(crate) struct Rigged {
    link: MemoryLink,
    /// Frames until it fails.
    frames_left: usize,
    pub(super) at_receive: Box<dyn FnMut() + Send>,
    /// A pull comes when the link is asked for the so manieth time, as with a link whose owner
    /// makes the copies itself; 0: it is passed on at once.
    pub(super) pull_turns: usize,
    pull: Option<(u64, BulkDescriptor, usize)>,
    turns_left: usize,
    /// As a socket is not.
    pub(super) in_place: bool,
    pub(super) flushes_early: bool,
    pub(super) at_leave_set: Box<dyn FnMut() + Send>,
    /// What a caller's look finds out, on a socket.
    pub(super) at_fetch: Box<dyn FnMut() -> bool + Send>,
}

impl Rigged {
    /// One that is like any other.
    pub(super) fn new(link: MemoryLink) -> Rigged {
        Rigged {
            link,
            frames_left: usize::MAX,
            at_receive: Box::new(|| {}),
            pull_turns: 0,
            pull: None,
            turns_left: 0,
            in_place: true,
            flushes_early: true,
            at_leave_set: Box::new(|| {}),
            at_fetch: Box::new(|| true),
        }
    }

    /// How often it is looked at from now on.
    pub(crate) fn count_looks(&mut self) -> Arc<AtomicUsize> {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        self.at_receive = Box::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        count
    }
}

impl FrameSink for Rigged {
    fn limits(&self) -> LinkLimits {
        self.link.limits()
    }

    fn reserve(&mut self, len: usize) -> Result<Option<&mut [u8]>, LinkError> {
        if self.frames_left == 0 {
            return Err(LinkError::io("the test's cable was cut"));
        }
        self.frames_left -= 1;
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
        if self.pull_turns == 0 {
            return self.link.bulk_pull(ticket, descriptor, len);
        }
        self.pull = Some((ticket, *descriptor, len));
        self.turns_left = self.pull_turns;
        Ok(true)
    }
}

impl Link for Rigged {
    fn flush(&mut self) -> Result<(), LinkError> {
        self.link.flush()
    }

    fn flushes_early(&self) -> bool {
        self.flushes_early
    }

    fn is_looked_at_in_place(&self) -> bool {
        self.in_place
    }

    fn fetch(&mut self) -> bool {
        (self.at_fetch)()
    }

    fn receive(&mut self) -> Result<Option<Received<'_>>, LinkError> {
        (self.at_receive)();
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

    fn leave_set(&mut self) {
        (self.at_leave_set)();
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        self.link.poll_close(cx)
    }

    fn info(&self) -> LinkInfo {
        self.link.info()
    }
}

fn failing(frames_left: usize) -> (Owner<Rigged>, MemoryLink) {
    let (link, far) = pair(MemoryConfig::default());
    let session = Session::new(Role::Client, SessionConfig::default(), link.limits(), now());
    (Owner::new(session, Rigged { frames_left, ..Rigged::new(link) }, false), far)
}

pub(super) fn unary<'a>(metadata: &'a MetadataMap, message: &'a Bytes) -> OpenRequest<'a> {
    OpenRequest {
        path: "/a/b",
        metadata,
        timeout: None,
        message: Some(message as &dyn Encode),
        end: true,
        max_message_bytes: 1000,
    }
}

fn failure(cell: &Cell) -> (Code, RequestSeen) {
    let status = cell.failure().expect("the call has not ended");
    (status.code(), status.request_seen())
}

#[tokio::test(start_paused = true)]
async fn who_is_done_while_the_driver_is_about_to_sleep_is_not_forgotten_until_its_alarm() {
    let (link, _far) = pair(MemoryConfig::default());
    let itself = Arc::new(OnceLock::<Weak<Connection<Rigged>>>::new());
    let (late, mut looks) = (Arc::clone(&itself), 0);
    // The driver has the connection, so this is done after its pass, which finds nothing.
    let go = move || {
        looks += 1;
        if looks == 1 {
            let connection = late.get().and_then(Weak::upgrade).expect("it lives");
            connection.go_away("the last handle is dropped");
        }
    };
    let link = Rigged { at_receive: Box::new(go), ..Rigged::new(link) };
    let config = SessionConfig::default();
    let connection = Connection::new(Role::Client, config, Progress::EVENT, link, now());
    let connection = Arc::new(connection);
    itself.set(Arc::downgrade(&connection)).expect("once");
    let begin = now();
    let ended = Driver::new(connection, Nothing).seated().await;
    assert!(now() - begin < Duration::from_secs(1), "{ended:?} after {:?}", now() - begin);
}

#[test]
fn a_call_left_to_the_owner_ends_when_opening_it_kills_the_connection() {
    let (metadata, message) = (MetadataMap::new(), Bytes::from_static(b"abc"));
    // SETTINGS, METHOD and REQUEST: the cable can be cut before each.
    for frames_left in 0..3 {
        let (mut owner, _far) = failing(frames_left);
        let cell = SharedCell::default();
        owner.run_job(Job::Open(OwnedOpen::new(&cell, &unary(&metadata, &message), None)));
        assert_eq!(failure(&cell), (Code::Unavailable, RequestSeen::NeverSent), "{frames_left}");
        let late = SharedCell::default();
        owner.run_job(Job::Open(OwnedOpen::new(&late, &unary(&metadata, &message), None)));
        assert_eq!(failure(&late), (Code::Unavailable, RequestSeen::NeverSent));
    }
}

#[test]
fn a_message_left_to_a_dead_owner_does_not_block_its_sender() {
    let (metadata, message) = (MetadataMap::new(), Bytes::from_static(b"abc"));
    let (mut owner, _far) = failing(usize::MAX);
    let cell = SharedCell::default();
    cell.block_writer();
    let request = OpenRequest { message: None, end: false, ..unary(&metadata, &message) };
    owner.run_job(Job::Open(OwnedOpen::new(&cell, &request, None)));
    let id = cell.id().unwrap();
    cell.block_writer();
    owner.fail(Failure::Link(LinkError::io("gone")));
    owner.run_job(Job::Send {
        id,
        cell: SharedCell::clone(&cell),
        message: message.into(),
        end: false,
    });
    let poll = cell.poll_writable(&mut Context::from_waker(Waker::noop()));
    assert_eq!(poll, Poll::Ready(false));
    assert_eq!(failure(&cell), (Code::Unavailable, RequestSeen::MayHaveRun));
}

#[test]
fn calls_given_up_while_they_wait_for_a_stream_keep_no_memory() {
    let (metadata, message) = (MetadataMap::new(), Bytes::from(vec![0; 1000]));
    let (mut owner, _far) = failing(usize::MAX);
    let open: Vec<_> = (0..128)
        .map(|_| {
            let cell = owner.open(&unary(&metadata, &message), None, None).0;
            assert!(cell.id().is_some());
            cell
        })
        .collect();
    let first = owner.open(&unary(&metadata, &message), None, None).0;
    for _ in 0..1000 {
        let cell = owner.open(&unary(&metadata, &message), None, None).0;
        assert!(cell.id().is_none());
        cell.abandon();
        owner.cancel(&cell, CANCELLED);
        assert!(owner.calls.waiting_len() <= 3, "{}", owner.calls.waiting_len());
    }
    assert!(first.id().is_none() && open.len() == 128);
}

#[test]
fn a_mailbox_kept_for_other_calls_keeps_nothing_of_its_own() {
    let (metadata, message) = (MetadataMap::new(), Bytes::from(vec![0; 1000]));
    let (mut owner, _far) = failing(usize::MAX);
    let body = |bytes: usize| Body::new(Payload::Owned(Bytes::from(vec![7; bytes])));
    let some = || {
        let mut map = MetadataMap::new();
        map.insert("key", "value".parse().unwrap());
        map
    };
    // What becomes of the mailbox of a call that ended so, once its reader has gone.
    let mut kept_after = |end: &dyn Fn(&Cell) -> End| {
        let cell = owner.open(&unary(&metadata, &message), None, None).0;
        let id = cell.id().expect("there are streams");
        let end = end(&cell);
        owner.calls.end(id, end);
        SharedCell::strong_count(&cell) > 1
    };
    let ok = || End::Ok(MetadataMap::new());
    assert!(kept_after(&|_| ok()), "nothing was in it");
    assert!(kept_after(&|cell| {
        cell.put_message(body(1000), 1000);
        ok()
    }));
    assert!(!kept_after(&|cell| {
        cell.put_message(body(60_000), 60_000);
        ok()
    }));
    assert!(!kept_after(&|cell| {
        for position in 1..3 {
            cell.put_message(body(1000), position * 1000);
        }
        ok()
    }));
    assert!(!kept_after(&|cell| {
        for position in 1..1000 {
            cell.put_message(body(10), position * 10);
        }
        cell.discard();
        ok()
    }));
    assert!(!kept_after(&|cell| {
        cell.put_headers(some());
        ok()
    }));
    assert!(!kept_after(&|_| End::Ok(some())));
    assert!(!kept_after(&|_| End::Failed(Status::internal("as the test asked"))));
}

/// A message that makes another call, finds the connection taken, and panics.
struct Panics<'a> {
    connection: &'a Connection<MemoryLink>,
    other: std::sync::Mutex<Option<SharedCell>>,
}

impl Encode for Panics<'_> {
    fn encoded_len(&self) -> usize {
        10
    }

    fn encode(&self, _: &mut [u8]) {
        let (metadata, message) = (MetadataMap::new(), Bytes::from_static(b"abc"));
        let other = self.connection.open(&unary(&metadata, &message), None).cell;
        assert!(other.id().is_none(), "the connection is taken");
        *self.other.lock().unwrap() = Some(other);
        panic!("as the test asked");
    }
}

#[test]
fn a_message_that_panics_under_the_lock_takes_nobody_elses_call_along() {
    let (near, _far) = pair(MemoryConfig::default());
    let connection =
        Connection::new(Role::Client, SessionConfig::default(), Progress::EVENT, near, now());
    let message = Panics { connection: &connection, other: std::sync::Mutex::new(None) };
    let (metadata, none) = (MetadataMap::new(), Bytes::new());
    let request = OpenRequest { message: Some(&message), ..unary(&metadata, &none) };
    let open = || connection.open(&request, None).cell;
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(open)).unwrap_err();
    let other = message.other.lock().unwrap().take().unwrap();
    assert!(other.id().is_some(), "its job was forgotten");
}

/// A stream's messages that were left come before its end, which is sent in place.
#[test]
fn whoever_has_the_connection_has_run_what_it_left_before() {
    #[derive(Default)]
    struct Ran(AtomicUsize);
    impl Wake for Ran {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    const JOBS: usize = 20_000;
    let (near, _far) = pair(MemoryConfig::default());
    let connection =
        Connection::new(Role::Client, SessionConfig::default(), Progress::EVENT, near, now());
    let ran = Arc::<Ran>::default();
    let over = std::sync::atomic::AtomicBool::new(false);
    let in_order = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                connection.with_owner(|_| ());
            }
        });
        let runs = || connection.with_owner(|_| ran.0.load(Ordering::Relaxed));
        let in_order = (1..=JOBS).all(|left| {
            connection.leave(Job::Wake(Waker::from(Arc::clone(&ran))));
            std::iter::repeat_with(runs).flatten().next() == Some(left)
        });
        over.store(true, Ordering::Relaxed);
        in_order
    });
    assert!(in_order, "it was the owner, and its job had not been run");
}

#[test]
fn a_job_that_panics_takes_no_other_along() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("as the test wants");
        }
    }
    let (near, _far) = pair(MemoryConfig::default());
    let connection =
        Connection::new(Role::Client, SessionConfig::default(), Progress::EVENT, near, now());
    let (metadata, message, other) = (MetadataMap::new(), Bytes::new(), SharedCell::default());
    let leave_both = || {
        connection.while_taken(|| {
            connection.leave(Job::Wake(Waker::from(Arc::new(Panics))));
            let open = OwnedOpen::new(&other, &unary(&metadata, &message), None);
            connection.leave(Job::Open(open));
        });
    };
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(leave_both)).unwrap_err();
    assert!(other.id().is_none());
    connection.flush();
    assert!(other.id().is_some(), "its job was forgotten");
}

#[test]
fn a_stream_that_was_never_sent_and_is_given_up_goes_to_the_next_call_that_waits() {
    let (metadata, message) = (MetadataMap::new(), Bytes::from(vec![0; 1000]));
    let memory = MemoryConfig { queue_bytes: 8192, ..MemoryConfig::default() };
    let (near, _far) = pair(memory);
    let connection =
        Connection::new(Role::Client, SessionConfig::default(), Progress::EVENT, near, now());
    let cells: Vec<_> =
        (0..129).map(|_| connection.open(&unary(&metadata, &message), None).cell).collect();
    let (waiting, unsent) = (&cells[128], &cells[127]);
    assert!(waiting.id().is_none() && unsent.id().is_some());
    unsent.abandon();
    connection.cancel(unsent, CANCELLED);
    connection.flush();
    assert!(waiting.id().is_some(), "nobody told it that a stream is free");
}

#[tokio::test(start_paused = true)]
async fn a_caller_polls_in_place_only_where_it_keeps_nobody_waiting() {
    let busy = Progress { mode: ProgressMode::Busy, ..Progress::default() };
    let connect = || {
        let (near, far) = pair(MemoryConfig::default());
        (Connection::new(Role::Client, SessionConfig::default(), busy, near, now()), far)
    };
    let ((one, _far), (other, _other_far)) = (connect(), connect());
    let set = PollSet::current(None);
    one.joins(set.crowd());
    other.joins(set.crowd());
    let (metadata, message) = (MetadataMap::new(), Bytes::from_static(b"abc"));
    let cell = one.open(&unary(&metadata, &message), None).cell;
    set.crowd().patience.begin_lone_wait(now());
    assert_eq!(one.help(&cell), Helped::Looked, "it is alone");
    // Until it has been in vain.
    while one.help(&cell) != Helped::No {}
    let rest = || while !set.crowd().patience.may_try() {};
    rest();
    other.counts.count_calls(1);
    assert_eq!(one.help(&cell), Helped::No, "a call elsewhere waits for the same thread");
    other.counts.count_calls(0);
    let waiting: Vec<_> = (0..3).map(|_| connect()).collect();
    for (connection, _) in &waiting {
        connection.joins(set.crowd());
        connection.open(&unary(&metadata, &message), None);
    }
    rest();
    assert_eq!(
        one.help(&cell),
        Helped::No,
        "a call counts from its beginning, before any driver has run"
    );
    waiting.iter().for_each(|(connection, _)| connection.counts.count_calls(0));
    one.counts.count_calls(100);
    rest();
    assert_ne!(one.help(&cell), Helped::No, "its own connection's calls are not others'");
    let _second = one.open(&unary(&metadata, &message), None).cell;
    assert_eq!(one.help(&cell), Helped::No, "another call is on the same connection");
}

/// Counts how often it is woken.
#[derive(Default)]
pub(crate) struct Woken(pub(crate) AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Woken>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_caller_leaves_its_waker_unless_it_had_better_poll_or_has_to_wait() {
    let busy = Progress { mode: ProgressMode::Busy, ..Progress::default() };
    let (metadata, message) = (MetadataMap::new(), Bytes::from_static(b"abc"));
    let request = unary(&metadata, &message);
    for (progress, alone) in [(busy, Watch::Caller), (Progress::EVENT, Watch::Waker)] {
        let (near, _far) = pair(MemoryConfig::default());
        let connection =
            Connection::new(Role::Client, SessionConfig::default(), progress, near, now());
        let woken = Arc::new(Woken::default());
        let (waker, times) = (Waker::from(Arc::clone(&woken)), || woken.0.load(Ordering::Relaxed));
        let calls: Vec<_> = (0..129).map(|_| connection.open(&request, Some(&waker))).collect();
        assert_eq!((calls[0].watch, calls[127].watch), (alone, Watch::Waker));
        assert_eq!(calls[128].watch, Watch::Nobody, "it waits for a stream");
        assert_eq!(connection.open(&request, None).watch, Watch::Nobody);
        connection.with_owner(|owner| {
            let open = usize::from(alone == Watch::Caller);
            let answer = |call: &Begun| {
                owner.calls.end(call.cell.id().unwrap(), End::Ok(MetadataMap::new()));
            };
            calls[..4].iter().for_each(answer);
            assert_eq!(times(), 4 - open, "who left a waker is woken by the answer");
            owner.fail(Failure::Abandoned);
            assert_eq!(times(), 128 - open, "and by the end of the connection");
        });
        // A new call on what is over is told so, and is not left to wait.
        let late = connection.open(&request, Some(&waker));
        assert_eq!((late.watch, late.cell.has_failed()), (Watch::Nobody, true));
    }
}

#[test]
fn a_driver_naps_while_a_caller_polls_and_is_woken_when_it_is_needed() {
    let (metadata, message) = (MetadataMap::new(), Bytes::from_static(b"abc"));
    let (mut owner, _far) = failing(usize::MAX);
    let woken = Arc::new(Woken::default());
    let (waker, times) = (Waker::from(Arc::clone(&woken)), || woken.0.load(Ordering::Relaxed));
    assert!(!owner.nap(&waker, false, false), "nobody polls");
    owner.help_passes = 3;
    assert!(!owner.nap(&waker, true, false), "others wait");
    owner.help_passes = 3;
    assert!(owner.nap(&waker, false, false));
    assert!(owner.nap(&waker, false, true), "what has come woke it before its time");
    assert_eq!(times(), 0);
    owner.end_help();
    assert_eq!(times(), 1, "the caller has stopped");
    assert!(!owner.nap(&waker, false, true), "that was the end of its nap");
    owner.help_passes = 3;
    assert!(owner.nap(&waker, false, false));
    let _first = owner.open(&unary(&metadata, &message), None, None).0;
    owner.look_after_sleeper(|| false);
    assert_eq!(times(), 1, "the caller's own call");
    let _second = owner.open(&unary(&metadata, &message), None, None).0;
    owner.look_after_sleeper(|| false);
    assert_eq!(times(), 2, "a second call is the driver's");
    // A call that found the connection taken may have a caller that does not poll.
    owner.help_passes = 3;
    let cell = SharedCell::default();
    owner.run_job(Job::Open(OwnedOpen::new(&cell, &unary(&metadata, &message), None)));
    assert_eq!(owner.help_passes, 0);
}

#[test]
fn a_call_that_ended_before_its_handler_did_finds_that_in_its_mailbox() {
    let (mut owner, _far) = failing(usize::MAX);
    let call = owner.open(&unary(&MetadataMap::new(), &Bytes::from_static(b"abc")), None, None).0;
    let (id, open, over) = (call.id().unwrap(), SharedCell::default(), SharedCell::default());
    owner.attach(id, &open);
    assert!(!open.has_failed());
    owner.cancel(&call, CANCELLED);
    owner.attach(id, &over);
    assert_eq!(over.failure().map(|status| status.code()), Some(Code::Cancelled));
    let late = SharedCell::default();
    owner.fail(Failure::Link(LinkError::io("gone")));
    owner.run_job(Job::Attach { id, cell: SharedCell::clone(&late) });
    assert!(late.has_failed());
}

#[test]
fn a_message_that_was_pulled_is_out_of_the_driver_before_the_next_pull_begins() {
    let (near, far) = pair(MemoryConfig::default());
    let owner = |role, link: MemoryLink| {
        let session = Session::new(role, SessionConfig::default(), link.limits(), now());
        Owner::new(session, link, false)
    };
    let (mut client, mut server) = (owner(Role::Client, near), owner(Role::Server, far));
    let (metadata, long) = (MetadataMap::new(), Bytes::from(vec![7; 40_000]));
    let _calls = [(); 2].map(|()| client.open(&unary(&metadata, &long), None, None));
    client.settle_or_fail();
    let pass = |owner: &mut Owner<MemoryLink>| {
        owner.delivered = false;
        assert!(owner.pass(&mut |_, _| Some(1 << 20)), "{:?}", owner.dead);
        (owner.delivered, owner.calls.pulls.wait())
    };
    assert_eq!(pass(&mut server), (false, true), "the first of two is being pulled");
    let woken = Arc::new(Woken::default());
    server.sleeper = Some(Waker::from(Arc::clone(&woken)));
    server.asleep = true;
    assert_eq!(pass(&mut server), (true, true), "it has come, and the second still waits");
    // Whatever came of the link and the arrivals is none of this test's.
    server.calls.batch.clear();
    while server.link.as_mut().unwrap().receive().unwrap().is_some() {}
    server.look_after_sleeper(|| false);
    assert_eq!(woken.0.load(Ordering::Relaxed), 1, "who sleeps would forget the second");
    assert!(server.needs_driver(), "and so would a caller who stops to poll");
    assert_eq!(pass(&mut server), (false, false), "the second is being pulled");
    assert!(!server.pull_due);
    assert_eq!(pass(&mut server), (true, false));
}
