//! What the owner of a connection does: one pass takes what arrived and sends what waits.

use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::body::INLINE_BYTES;
use super::calls::{Applied, Calls};
use super::cell::{End, SharedCell};
use super::clock::Clock;
use super::portion::Portion;
use super::scout::Scouting;
use crate::link::{Link, LinkError, LinkErrorKind, Received};
use crate::metadata::MetadataMap;
use crate::poll_set::PollSet;
use crate::session::{
    BareRequest, CANCELLED, FrameRef, Payload, Role, Session, SessionError, StreamId,
};
use crate::status::{Code, RequestSeen, Status};

/// How long a connection that is otherwise done waits for the peer to pull what it was sent. The
/// driver wakes at least every ten seconds, so it can be that much longer.
const BULK_WAIT: Duration = Duration::from_secs(5);

/// So many acts of calls while the driver sleeps are a burst, which it is woken to send together.
const ACTS_OF_A_BURST: u32 = 3;

/// A request that arrived at a server.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) id: StreamId,
    pub(crate) request: Arrived,
    pub(crate) method: u16,
    pub(crate) deadline: Option<Instant>,
    pub(crate) metadata: MetadataMap,
}

impl Arrival {
    const fn blank() -> Arrival {
        let (id, request) = (StreamId::FIRST, Arrived::Short { start: 0, end: 0 });
        Arrival { id, request, method: 0, deadline: None, metadata: MetadataMap::new() }
    }
}

/// The messages of a request that arrived.
#[derive(Debug)]
pub(crate) enum Arrived {
    /// All of them: one, which is short: these bytes of [`ArrivalBatch::short`]. The call has no
    /// mailbox yet; see [`Conn::attach`](super::Conn::attach).
    Short { start: usize, end: usize },
    /// The same of one that is long.
    Long(Bytes),
    /// What has come so far is here, and what follows will be.
    In(SharedCell),
}

/// Requests that arrived together.
#[derive(Debug, Default)]
pub(crate) struct ArrivalBatch {
    pub(crate) arrivals: Vec<Arrival>,
    /// The short messages of those that are whole, one behind the other.
    pub(crate) short: Vec<u8>,
}

impl ArrivalBatch {
    /// The place of a whole message.
    #[inline]
    pub(super) fn put(&mut self, message: Payload<'_>) -> Arrived {
        let slice = message.as_slice();
        if slice.len() > INLINE_BYTES {
            return Arrived::Long(message.into_bytes());
        }
        let start = self.short.len();
        self.short.extend_from_slice(slice);
        Arrived::Short { start, end: self.short.len() }
    }

    /// A whole unary call.
    #[inline]
    pub(super) fn put_bare<'a>(
        &mut self,
        bare: &BareRequest<'a>,
        payload: impl FnOnce(&'a [u8]) -> Payload<'a>,
    ) {
        // Filled in where it stays: what is stored field by field and moved as a whole right after
        // waits for the stores. With the place from `put` it is moved again, a hundredth of a call's time.
        self.arrivals.push(const { Arrival::blank() });
        let Some(arrival) = self.arrivals.last_mut() else { return };
        (arrival.id, arrival.method) = (bare.stream, bare.method);
        if bare.deadline.is_some() {
            arrival.deadline = bare.deadline;
        }
        if bare.message.len() <= INLINE_BYTES {
            let start = self.short.len();
            self.short.extend_from_slice(bare.message);
            arrival.request = Arrived::Short { start, end: self.short.len() };
        } else {
            arrival.request = Arrived::Long(payload(bare.message).into_bytes());
        }
    }

    pub(crate) fn clear(&mut self) {
        self.arrivals.clear();
        self.short.clear();
    }
}

/// What a server's connection gives its server. On a client nothing arrives.
pub(crate) trait Arrivals: Send + 'static {
    /// The client calls `path` by `method` from now on. The longest message the method takes.
    fn bind(&mut self, method: u16, path: &str) -> Option<usize>;

    /// Runs the handlers of what arrived, each once, outside the connection's lock; whether any of them
    /// goes on, as a task.
    fn run(&mut self, batch: &mut ArrivalBatch) -> bool;
}

/// Everything one connection owns.
///
/// In this order in memory: what each call touches comes first, so that it lies in few cache lines.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Owner<L> {
    /// It sleeps.
    pub(super) asleep: bool,
    /// It leaves the link to a caller, until that stops or its nap is over.
    pub(super) naps: bool,
    /// Nobody has touched the link since the sleeper armed it.
    pub(super) armed: bool,
    /// A call was opened, or more of a stream was sent, since the driver last looked.
    pub(super) asked: bool,
    /// Messages of a stream have left since the driver last looked.
    pub(super) streamed: bool,
    /// The peer was heard, and it has not been noted yet when.
    heard: bool,
    /// A pulled message has reached its mailbox.
    pub(super) delivered: bool,
    /// The next pull waits for the next pass. A device may do all of a pull at once (shared memory
    /// does), and before that the message that has just come goes to the program, and the
    /// program's answer to the peer, who would wait in vain otherwise.
    pub(super) pull_due: bool,
    /// It is over because of the link, which can carry no last word.
    pub(super) link_failed: bool,
    /// The frames of calls leave in halves.
    pub(super) flushes_early: bool,
    /// Nothing but bulk messages that the peer has not pulled has been left for too long.
    bulk_wait_over: bool,
    /// Acts of calls whose frames wait for the next flush, and how many may.
    pub(super) unflushed: u32,
    pub(super) flush_frames: u32,
    /// Of those, since the driver fell asleep.
    pub(super) acts_in_sleep: u32,
    /// How many calls are likely to follow the answers of the driver's last turn, which has another
    /// turn soon ([`Connection::may_wait`](super::connection::Connection)); until something has been sent.
    pub(super) followers: u32,
    /// Passes of callers that poll in place, since the driver last looked.
    pub(super) help_passes: u32,
    /// Frames and pulled messages of the last pass.
    pub(super) received: usize,
    /// Why the connection is over, once it is.
    pub(super) dead: Option<Status>,
    /// What the next pass takes.
    portion: Portion,
    pub(super) clock: Clock,
    /// The task that moves the connection along; kept, so that it need not be cloned for each sleep.
    pub(super) sleeper: Option<Waker>,
    /// The sleeper waits in this poll set, not in the kernel.
    pub(super) sleeps_in: Option<PollSet>,
    /// The task that moves the connection along, while it leaves that to a caller who polls.
    pub(super) napper: Option<Waker>,
    /// When the sleeping task wakes by itself.
    pub(super) alarm: Option<Instant>,
    /// Since when nothing but those is left.
    only_bulks_since: Option<Instant>,
    /// Looks in a row of callers that go round which brought nothing.
    pub(super) looks_in_vain: usize,
    pub(super) scouting: Scouting,
    pub(super) calls: Calls,
    pub(super) session: Session,
    /// `None` once the connection is over: the peer must not wait for it longer than its calls.
    pub(super) link: Option<L>,
}

impl<L: Link> Owner<L> {
    /// `polls`: whoever moves it along looks for news instead of sleeping.
    pub(super) fn new(session: Session, link: L, polls: bool) -> Owner<L> {
        let calls = Calls::default();
        Owner {
            session,
            calls,
            clock: Clock::new(),
            portion: Portion::new(polls),
            heard: false,
            dead: None,
            link_failed: false,
            sleeper: None,
            asleep: false,
            naps: false,
            armed: false,
            sleeps_in: None,
            napper: None,
            help_passes: 0,
            looks_in_vain: 0,
            scouting: Scouting::default(),
            asked: false,
            streamed: false,
            unflushed: 0,
            followers: 0,
            acts_in_sleep: 0,
            delivered: false,
            received: 0,
            pull_due: false,
            flush_frames: link.flush_frames(),
            flushes_early: link.flushes_early(),
            only_bulks_since: None,
            bulk_wait_over: false,
            alarm: None,
            link: Some(link),
        }
    }

    /// No new calls come, none is left, and nothing waits to be sent or pulled: a stream can end
    /// before its last messages have been pulled, and they are lost with the link. A peer that
    /// never pulls them is not waited for without end.
    pub(super) fn is_drained(&self) -> bool {
        self.session.is_going_away()
            && self.session.open_streams() == 0
            && !self.session.wants_room()
            && (!self.session.has_bulks() || self.bulk_wait_over)
    }

    /// Looks at the link, for longer than a pass would take, whether something has come. There is no
    /// pause among the looks, but one after each pass, for another thread on the same core.
    /// `others`: somebody else wants the connection.
    pub(super) fn wait_for_news(&self, others: impl Fn() -> bool) {
        let Some(link) = &self.link else { return };
        for _ in 0..link.looks_per_pass() {
            if link.may_have_news() || others() {
                return;
            }
        }
    }

    /// One pass, after a tick of the clock: receive, timers if it was read, transmit, flush. Whether
    /// anything happened.
    pub(super) fn pass(&mut self, bind: &mut dyn FnMut(u16, &str) -> Option<usize>) -> bool {
        if self.dead.is_some() {
            return false;
        }
        match self.try_pass(bind) {
            Ok(busy) => busy,
            Err(failure) => {
                self.fail(failure);
                true
            }
        }
    }

    fn try_pass(
        &mut self,
        bind: &mut dyn FnMut(u16, &str) -> Option<usize>,
    ) -> Result<bool, Failure> {
        let before = std::mem::take(&mut self.delivered);
        self.received = self.receive(bind)?;
        let pulled = self.delivered;
        self.delivered |= before;
        let mut busy = self.received > 0;
        self.heard |= busy;
        if let Some(now) = self.clock.fresh() {
            busy |= self.see_to_timers(now)?;
        }
        busy |= self.open_waiting()?;
        self.settle()?;
        self.pull_due = pulled && self.calls.pulls.wait();
        if let Some(link) = &mut self.link
            && !self.pull_due
            && self.calls.pulls.start(&mut self.session, link)?
        {
            busy = true;
            self.settle()?;
        }
        if self.session.is_going_away() && self.session.open_streams() == 0 {
            let now = self.clock.now();
            let since = *self.only_bulks_since.get_or_insert(now);
            self.bulk_wait_over = now.duration_since(since) >= BULK_WAIT;
        }
        Ok(busy)
    }

    /// Whether anything was due.
    fn see_to_timers(&mut self, now: Instant) -> Result<bool, SessionError> {
        self.note_heard(now);
        if self.session.poll_timeout().is_none_or(|due| due > now) {
            return Ok(false);
        }
        while let Some((id, seen)) = self.session.handle_timeout(now)? {
            self.calls.expire(id, seen);
        }
        Ok(true)
    }

    fn note_heard(&mut self, now: Instant) {
        if std::mem::take(&mut self.heard) {
            self.session.note_heard(now);
        }
    }

    /// When something is due next.
    pub(super) fn next_due(&mut self) -> Option<Instant> {
        self.note_heard(self.clock.last());
        self.session.poll_timeout()
    }

    fn receive(
        &mut self,
        bind: &mut dyn FnMut(u16, &str) -> Option<usize>,
    ) -> Result<usize, Failure> {
        let (most_frames, most_bytes) = self.portion.begin();
        let (mut frames, mut bytes) = (0, 0);
        while frames < most_frames && bytes < most_bytes {
            let Owner { link: Some(link), session, calls, clock, .. } = self else {
                return Ok(frames);
            };
            let Some(received) = link.receive()? else {
                self.portion.taken(false);
                return Ok(frames);
            };
            frames += 1;
            let event = match received {
                Received::Frame(frame) => {
                    bytes += frame.len();
                    if calls.take_bare(session, clock, frame) {
                        continue;
                    }
                    let frame = FrameRef { bytes: frame, owner: None };
                    let event = session.handle_frame(clock.now(), frame)?;
                    calls.apply(session.role(), event, bind)
                }
                Received::Owned(frame) => {
                    bytes += frame.len();
                    calls.take_owned(session, clock, &frame, bind)?
                }
                Received::Pulled { ticket, message } => {
                    self.delivered = true;
                    calls.pulls.finished(session, ticket, message);
                    Applied::Nothing
                }
            };
            match event {
                Applied::Nothing => {}
                Applied::Limit(method, bytes) => session.set_method_limit(method, bytes),
                Applied::Thrown(id, position) => {
                    session.consumed(id, position);
                }
                Applied::NotWanted(descriptor, id, position) => {
                    session.bulk_done(&descriptor);
                    session.consumed(id, position);
                }
                Applied::Reject(id, status) => self.finish(id, Err(status))?,
                Applied::GiveUp(id) => session.cancel(id, CANCELLED),
            }
            if let Some(link) = &mut self.link {
                for descriptor in self.calls.released.drain(..) {
                    link.bulk_release(&descriptor)?;
                }
            }
        }
        self.portion.taken(true);
        Ok(frames)
    }

    /// Sends what waits and wakes whom that lets go on.
    #[inline]
    pub(super) fn settle(&mut self) -> Result<(), LinkError> {
        let Some(link) = &mut self.link else { return Ok(()) };
        (self.unflushed, self.followers) = (0, 0);
        self.session.transmit(link)?;
        while let Some(id) = self.session.pop_writable() {
            if let Some(cell) = self.calls.cell(id) {
                cell.put_writable();
            }
        }
        link.flush()
    }

    /// Acts of calls come while the driver sleeps: after some it is woken, so that the rest leaves
    /// together. Whether it has been.
    pub(super) fn is_woken_for_burst(&mut self) -> bool {
        self.acts_in_sleep += 1;
        if self.acts_in_sleep < ACTS_OF_A_BURST {
            return false;
        }
        self.wake_sleeper();
        true
    }

    pub(super) fn wake_sleeper(&mut self) {
        self.asleep = false;
        if let Some(sleeper) = &self.sleeper {
            sleeper.wake_by_ref();
        }
    }

    /// [`Owner::settle`]; an error ends the connection.
    pub(super) fn settle_or_fail(&mut self) {
        if self.dead.is_none()
            && let Err(error) = self.open_waiting().and_then(|_| self.settle())
        {
            self.fail(Failure::Link(error));
        }
    }

    /// Whether one caller waits for something here, and no other: then nobody else's answer is held
    /// up if it polls in place, and the hand-off to the driver's task and back is saved. A stream may
    /// have ended before its last message has been pulled, which is then what its caller waits for.
    pub(super) fn has_one_caller(&self) -> bool {
        match self.session.open_streams() {
            0 => !self.calls.pulls.is_idle(),
            open => open == 1,
        }
    }

    /// Whether nobody waits for anything here.
    pub(super) fn has_no_caller(&self) -> bool {
        self.session.open_streams() == 0 && self.calls.pulls.is_idle()
    }

    /// Whether there is something for the driver that no news of the link will tell it of. It may
    /// have been left between the driver's last pass and its sleep.
    pub(super) fn must_not_sleep(&self) -> bool {
        self.dead.is_some()
            || self.pull_due
            || self.is_drained()
            || !self.calls.batch.arrivals.is_empty()
    }

    /// Before the lock is let go: the task that sleeps must still be woken by what comes. Using
    /// a link disarms it, so it is armed again in the sleeper's name; and the sleeper is woken if
    /// there is something for it already, if it has to wake earlier, or if it is all over.
    pub(super) fn look_after_sleeper(&mut self, crowded: impl FnOnce() -> bool) {
        if self.armed {
            return;
        }
        if self.napper.is_some() && (self.needs_driver() || crowded()) {
            self.wake_napper();
        }
        let Some(sleeper) = self.sleeper.as_ref().filter(|_| self.asleep) else { return };
        // A set looks at a level: what has come it finds, as long as nothing was taken by the link.
        let watched =
            self.sleeps_in.is_some() && self.link.as_ref().is_some_and(|link| !link.holds_news());
        let early = self
            .session
            .poll_timeout()
            .is_some_and(|due| self.alarm.is_none_or(|alarm| due < alarm));
        let mut cx = Context::from_waker(sleeper);
        let awake = self.must_not_sleep()
            || early
            || !watched
                && self.link.as_mut().is_none_or(|link| match &self.sleeps_in {
                    Some(set) => link.poll_ready_in(&mut cx, set).is_ready(),
                    None => link.poll_ready(&mut cx).is_ready(),
                });
        self.armed = !awake;
        if awake {
            self.wake_sleeper();
        }
    }

    /// The connection is over: every call on it learns so, exactly once.
    pub(super) fn fail(&mut self, failure: Failure) {
        if self.dead.is_some() {
            return;
        }
        self.link_failed = matches!(failure, Failure::Link(_) | Failure::Abandoned);
        let place = self.link.as_ref().map_or_else(String::new, |link| {
            let info = link.info();
            // Other links' devices are made of the peer's address.
            let on = if info.transport == "rdma" { " on " } else { "" };
            let device = if on.is_empty() { "" } else { &info.device };
            format!("{} connection to {}{on}{device}", info.transport, info.peer)
        });
        let (code, text) = match &failure {
            Failure::Link(error) if error.kind() == LinkErrorKind::PeerMisbehaved => {
                (Code::Internal, format!("{place}: {error}"))
            }
            Failure::Link(error) => (Code::Unavailable, format!("{place}: {error}")),
            Failure::Abandoned => {
                let text = "this side's runtime has dropped the task that drives the connection";
                (Code::Unavailable, format!("{place}: {text}"))
            }
            Failure::Session(error @ SessionError::KeepaliveTimeout { .. }) => {
                (Code::Unavailable, format!("{place}: {error}"))
            }
            Failure::Session(error) => (Code::Internal, format!("{place}: {error}")),
        };
        match (&failure, self.session.open_streams()) {
            // A process that exits with calls open does so on purpose.
            (Failure::Abandoned, _) => tracing::debug!(reason = %text, "connection dropped"),
            (Failure::Link(error), 0) if error.kind() == LinkErrorKind::Closed => {
                tracing::debug!(reason = %text, "connection ended");
            }
            (_, open) => tracing::warn!(reason = %text, open_calls = open, "connection failed"),
        }
        if let Failure::Session(error) = &failure {
            self.session.go_away(code as u16, &error.to_string());
            // The peer may be gone or deaf: it learns the reason if it still listens.
            let _ = self.settle();
        }
        let status = Status::new(code, text);
        for (id, cell) in self.calls.cells.iter_mut().filter_map(Option::take) {
            let sent = self.session.was_sent(id) || self.session.role() == Role::Server;
            let status = if sent {
                status.clone().with_request_seen(RequestSeen::MayHaveRun)
            } else {
                never_sent(&status)
            };
            cell.put_end(End::Failed(status));
        }
        for open in self.calls.waiting.drain(..) {
            open.cell.put_end(End::Failed(never_sent(&status)));
        }
        // Their streams may have ended before.
        self.calls.pulls.lose(&status.clone().with_request_seen(RequestSeen::MayHaveRun));
        self.dead = Some(status);
    }
}

/// Why a connection is over.
#[derive(Debug)]
pub(super) enum Failure {
    /// The driver's task was dropped.
    Abandoned,
    Link(LinkError),
    Session(SessionError),
}

impl From<LinkError> for Failure {
    fn from(error: LinkError) -> Failure {
        Failure::Link(error)
    }
}

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Failure {
        Failure::Session(error)
    }
}

/// The end of a call that never left a connection that is over. Whatever was wrong with the
/// connection is not wrong with the call, which can be made again on another.
pub(super) fn never_sent(status: &Status) -> Status {
    Status::unavailable(status.message()).with_request_seen(RequestSeen::NeverSent)
}
