//! What the owner of a connection does: one pass takes what arrived and sends what waits.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Instant;

use super::cell::{Body, Cell, End};
use super::job::{Job, OwnedOpen};
use super::pulls::Pulls;
use crate::link::{Link, LinkError, LinkErrorKind, Received};
use crate::metadata::MetadataMap;
use crate::session::{
    Encode, Event, FrameRef, NewStream, Opened, Role, Sending, Session, SessionError, StreamId,
};
use crate::status::{Code, RequestSeen, Status};

/// Frames a pass takes before it sees to the other side: keeps one pass short.
const FRAMES_PER_PASS: usize = 128;

/// Of so many looks in place, the first two let others run instead.
const LONELY_LOOKS: u32 = 8192;

/// Used cells kept for the next calls.
const SPARE_CELLS: usize = 256;

/// A request that arrived at a server.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) id: StreamId,
    pub(crate) cell: Arc<Cell>,
    pub(crate) method: u16,
    pub(crate) deadline: Option<Instant>,
    pub(crate) metadata: MetadataMap,
}

/// What a server's connection gives its server. On a client nothing arrives.
pub(crate) trait Arrivals: Send + 'static {
    /// The client calls `path` by `method` from now on. The longest message the method takes.
    fn bind(&mut self, method: u16, path: &str) -> Option<usize>;

    /// Runs the handlers of what arrived, each once, outside the connection's lock.
    fn run(&mut self, arrivals: &mut Vec<Arrival>);
}

/// Everything one connection owns.
#[derive(Debug)]
pub(super) struct Owner<L> {
    pub(super) session: Session,
    pub(super) link: L,
    pub(super) calls: Calls,
    /// Why the connection is over, once it is.
    pub(super) dead: Option<Status>,
    /// The task that moves the connection along, while it sleeps.
    pub(super) sleeper: Option<Waker>,
    /// Nobody has touched the link since the sleeper armed it.
    pub(super) armed: bool,
    /// Looks in a row at which a waiting caller was alone on the connection.
    lonely: u32,
    /// When the sleeping task wakes by itself.
    pub(super) alarm: Option<Instant>,
}

/// The calls of a connection.
#[derive(Debug, Default)]
pub(super) struct Calls {
    /// By slot.
    cells: Vec<Option<(StreamId, Arc<Cell>)>>,
    spare: VecDeque<Arc<Cell>>,
    /// Calls that wait for a free stream.
    waiting: VecDeque<OwnedOpen>,
    pulls: Pulls,
    pub(super) arrivals: Vec<Arrival>,
    /// Bulk buffers the peer gave back in this pass.
    released: Vec<crate::link::BulkDescriptor>,
    /// The peer said GOAWAY.
    pub(super) going_away: bool,
}

impl<L: Link> Owner<L> {
    pub(super) fn new(session: Session, link: L) -> Owner<L> {
        let calls = Calls::default();
        Owner {
            session,
            link,
            calls,
            dead: None,
            sleeper: None,
            armed: false,
            lonely: 0,
            alarm: None,
        }
    }

    /// One pass: receive, timers, transmit, flush. Whether anything happened.
    pub(super) fn pass(
        &mut self,
        now: Instant,
        bind: &mut dyn FnMut(u16, &str) -> Option<usize>,
    ) -> bool {
        if self.dead.is_some() {
            return false;
        }
        match self.try_pass(now, bind) {
            Ok(busy) => busy,
            Err(failure) => {
                self.fail(failure);
                true
            }
        }
    }

    fn try_pass(
        &mut self,
        now: Instant,
        bind: &mut dyn FnMut(u16, &str) -> Option<usize>,
    ) -> Result<bool, Failure> {
        let received = self.receive(now, bind)?;
        let mut busy = received > 0;
        if received > 0 {
            self.session.note_heard(now);
        }
        if self.session.poll_timeout().is_some_and(|due| due <= now) {
            busy = true;
            while let Some((id, seen)) = self.session.handle_timeout(now)? {
                self.calls.expire(id, seen);
            }
        }
        busy |= self.calls.pulls.start(&mut self.session, &mut self.link)?;
        busy |= self.open_waiting()?;
        self.settle()?;
        Ok(busy)
    }

    fn receive(
        &mut self,
        now: Instant,
        bind: &mut dyn FnMut(u16, &str) -> Option<usize>,
    ) -> Result<usize, Failure> {
        for count in 0..FRAMES_PER_PASS {
            let Owner { link, session, calls, .. } = self;
            let event = match link.receive()? {
                None => return Ok(count),
                Some(Received::Frame(frame)) => {
                    let event =
                        session.handle_frame(now, FrameRef { bytes: frame, owner: None })?;
                    calls.apply(session.role(), event, bind)
                }
                Some(Received::Owned(frame)) => {
                    let frame = FrameRef { bytes: &frame, owner: Some(&frame) };
                    let event = session.handle_frame(now, frame)?;
                    calls.apply(session.role(), event, bind)
                }
                Some(Received::Pulled { ticket, message }) => {
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
            }
            for descriptor in self.calls.released.drain(..) {
                self.link.bulk_release(&descriptor)?;
            }
        }
        Ok(FRAMES_PER_PASS)
    }

    /// Sends what waits and wakes whom that lets go on.
    pub(super) fn settle(&mut self) -> Result<(), LinkError> {
        self.session.transmit(&mut self.link)?;
        while let Some(id) = self.session.pop_writable() {
            if let Some(cell) = self.calls.cell(id) {
                cell.put_writable();
            }
        }
        self.link.flush()
    }

    /// [`Owner::settle`]; an error ends the connection.
    pub(super) fn settle_or_fail(&mut self) {
        if self.dead.is_none()
            && let Err(error) = self.settle()
        {
            self.fail(Failure::Link(error));
        }
    }

    /// Whether a caller that waits may do so in place. Alone on the connection it may: nobody
    /// else's answer is held up, and the hand-off to the driver's task and back is saved. But a
    /// caller that never lets others run is always alone, so now and then it has to let them.
    pub(super) fn may_wait_here(&mut self) -> bool {
        if self.session.open_streams() != 1 {
            self.lonely = 0;
            return false;
        }
        self.lonely = self.lonely.wrapping_add(1);
        self.lonely % LONELY_LOOKS >= 2
    }

    /// Before the lock is let go: the task that sleeps must still be woken by what comes. Using
    /// a link disarms it, so it is armed again in the sleeper's name; and the sleeper is woken if
    /// there is something for it already, if it has to wake earlier, or if it is all over.
    pub(super) fn look_after_sleeper(&mut self) {
        if self.armed {
            return;
        }
        let Some(sleeper) = &self.sleeper else { return };
        let drained = self.session.is_going_away() && self.session.open_streams() == 0;
        let early = self
            .session
            .poll_timeout()
            .is_some_and(|due| self.alarm.is_none_or(|alarm| due < alarm));
        let awake = self.dead.is_some()
            || drained
            || early
            || !self.calls.arrivals.is_empty()
            || self.link.poll_ready(&mut Context::from_waker(sleeper)).is_ready();
        if awake && let Some(sleeper) = self.sleeper.take() {
            sleeper.wake();
        }
        self.armed = !awake;
    }

    // ---- what calls ask for ----

    pub(super) fn open(
        &mut self,
        cell: &Arc<Cell>,
        request: &NewStream<'_>,
    ) -> Result<(), LinkError> {
        if !self.calls.waiting.is_empty() {
            self.calls.waiting.push_back(OwnedOpen::new(cell, request));
            return Ok(());
        }
        match self.session.open(&mut self.link, request)? {
            Opened::Stream(id) => {
                self.calls.opened(id, cell, request);
                if self.session.open_streams() > 1 {
                    self.lonely = 0;
                }
            }
            Opened::NoSlot => self.calls.waiting.push_back(OwnedOpen::new(cell, request)),
            refused => cell.put_end(End::Failed(refusal(refused, request))),
        }
        Ok(())
    }

    fn open_waiting(&mut self) -> Result<bool, LinkError> {
        let mut busy = false;
        while let Some(open) = self.calls.waiting.front() {
            if !open.cell.is_abandoned() {
                let request = open.borrow();
                match self.session.open(&mut self.link, &request)? {
                    Opened::NoSlot => break,
                    Opened::Stream(id) => {
                        if let Some(open) = self.calls.waiting.pop_front() {
                            self.calls.opened(id, &open.cell, &open.borrow());
                        }
                        busy = true;
                        continue;
                    }
                    refused => open.cell.put_end(End::Failed(refusal(refused, &request))),
                }
            }
            self.calls.waiting.pop_front();
            busy = true;
        }
        Ok(busy)
    }

    pub(super) fn send(
        &mut self,
        id: StreamId,
        cell: &Arc<Cell>,
        message: &dyn Encode,
        end: bool,
    ) -> Result<(), LinkError> {
        match self.session.send_message(&mut self.link, id, message, end)? {
            Sending::Sent | Sending::Closed => cell.put_writable(),
            Sending::Queued => cell.block_writer(),
            Sending::Busy => debug_assert!(false, "a second message before the first was taken"),
        }
        Ok(())
    }

    pub(super) fn finish(
        &mut self,
        id: StreamId,
        end: Result<MetadataMap, Status>,
    ) -> Result<(), LinkError> {
        let link = &mut self.link;
        match end {
            Ok(trailers) => self.session.finish(link, id, 0, "", &trailers, &[]),
            Err(status) => self.session.finish(
                link,
                id,
                status.code() as u16,
                status.message(),
                status.metadata(),
                status.details(),
            ),
        }?;
        self.calls.forget(id);
        Ok(())
    }

    pub(super) fn respond(
        &mut self,
        id: StreamId,
        metadata: &MetadataMap,
        trailers: &MetadataMap,
        message: &dyn Encode,
    ) -> Result<(), LinkError> {
        self.session.respond(&mut self.link, id, metadata, trailers, message)?;
        self.calls.forget(id);
        Ok(())
    }

    pub(super) fn cancel(&mut self, cell: &Arc<Cell>, code: u16) {
        if let Some(id) = cell.id() {
            self.session.cancel(id, code);
            self.calls.forget(id);
        }
    }

    pub(super) fn run_job(&mut self, job: Job) {
        if let Some(status) = &self.dead {
            if let Job::Open(open) = job {
                open.cell.put_end(End::Failed(never_sent(status)));
            }
            return;
        }
        let done = match job {
            Job::Open(open) if open.cell.is_abandoned() => Ok(()),
            Job::Open(open) => self.open(&open.cell, &open.borrow()),
            Job::Send { id, cell, message, end } => self.send(id, &cell, &message, end),
            Job::EndMessages { id } => self.session.end_messages(&mut self.link, id),
            Job::Headers { id, metadata } => self.headers(id, &metadata),
            Job::Respond { id, metadata, trailers, message } => {
                self.respond(id, &metadata, &trailers, &message)
            }
            Job::Finish { id, status } => self.finish(id, status),
            Job::Consumed { id, position } => {
                self.session.consumed(id, position);
                Ok(())
            }
            Job::Cancel { cell, code } => {
                self.cancel(&cell, code);
                Ok(())
            }
            Job::GoAway { reason } => {
                self.session.go_away(0, &reason);
                Ok(())
            }
        };
        if let Err(error) = done {
            self.fail(Failure::Link(error));
        }
    }

    pub(super) fn headers(
        &mut self,
        id: StreamId,
        metadata: &MetadataMap,
    ) -> Result<(), LinkError> {
        match self.session.send_headers(&mut self.link, id, metadata)? {
            None => Ok(()),
            Some(bytes) => {
                let text = format!("response metadata of {bytes} bytes does not fit a frame");
                self.finish(id, Err(Status::resource_exhausted(text)))
            }
        }
    }

    /// The connection is over: every call on it learns so, exactly once.
    pub(super) fn fail(&mut self, failure: Failure) {
        if self.dead.is_some() {
            return;
        }
        let info = self.link.info();
        let place = format!("{} connection to {}", info.transport, info.peer);
        let (code, text) = match &failure {
            Failure::Link(error) if error.kind() == LinkErrorKind::PeerMisbehaved => {
                (Code::Internal, format!("{place}: {error}"))
            }
            Failure::Link(error) => (Code::Unavailable, format!("{place}: {error}")),
            Failure::Session(error @ SessionError::KeepaliveTimeout { .. }) => {
                (Code::Unavailable, format!("{place}: {error}"))
            }
            Failure::Session(error) => (Code::Internal, format!("{place}: {error}")),
        };
        match (&failure, self.session.open_streams()) {
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
            let seen = if self.session.was_sent(id) || self.session.role() == Role::Server {
                RequestSeen::MayHaveRun
            } else {
                RequestSeen::NeverSent
            };
            cell.put_end(End::Failed(status.clone().with_request_seen(seen)));
        }
        for open in self.calls.waiting.drain(..) {
            open.cell.put_end(End::Failed(never_sent(&status)));
        }
        self.dead = Some(status);
    }
}

impl Calls {
    /// A mailbox for a new call, a used one if there is any.
    pub(super) fn take_cell(&mut self) -> Arc<Cell> {
        let Some(mut cell) = self.spare.pop_front() else { return Arc::default() };
        if let Some(inner) = Arc::get_mut(&mut cell) {
            inner.reset();
            return cell;
        }
        // Its call has not let go of it yet: later.
        self.spare.push_back(cell);
        Arc::default()
    }

    fn cell(&self, id: StreamId) -> Option<&Arc<Cell>> {
        match self.cells.get(id.slot()) {
            Some(Some((theirs, cell))) if *theirs == id => Some(cell),
            _ => None,
        }
    }

    fn put(&mut self, id: StreamId, cell: Arc<Cell>) {
        if self.cells.len() <= id.slot() {
            self.cells.resize_with(id.slot() + 1, || None);
        }
        self.cells[id.slot()] = Some((id, cell));
    }

    fn take(&mut self, id: StreamId) -> Option<Arc<Cell>> {
        let place = self.cells.get_mut(id.slot())?;
        if place.as_ref().is_some_and(|(theirs, _)| *theirs == id) {
            return place.take().map(|(_, cell)| cell);
        }
        None
    }

    /// The stream is over for both sides: its cell may serve another call once this one has
    /// let go of it.
    fn forget(&mut self, id: StreamId) {
        if let Some(cell) = self.take(id) {
            self.retire(cell);
        }
    }

    fn retire(&mut self, cell: Arc<Cell>) {
        if self.spare.len() < SPARE_CELLS {
            self.spare.push_back(cell);
        }
    }

    fn opened(&mut self, id: StreamId, cell: &Arc<Cell>, request: &NewStream<'_>) {
        cell.set_id(id);
        if !request.end {
            // Whether the request went at once or not, the first message needs no wait: the
            // session takes one message per stream in any case.
            cell.put_writable();
        }
        self.put(id, Arc::clone(cell));
    }

    fn end(&mut self, id: StreamId, end: End) {
        if let Some(cell) = self.take(id) {
            cell.put_end(end);
            self.retire(cell);
        }
    }

    fn expire(&mut self, id: StreamId, seen: bool) {
        let seen = if seen { RequestSeen::MayHaveRun } else { RequestSeen::NeverSent };
        let status =
            Status::deadline_exceeded("the call's deadline passed").with_request_seen(seen);
        self.end(id, End::Failed(status));
    }

    fn apply(
        &mut self,
        role: Role,
        event: Event<'_>,
        bind: &mut dyn FnMut(u16, &str) -> Option<usize>,
    ) -> Applied {
        match event {
            Event::None => {}
            Event::Bound { method, path } => {
                if let Some(bytes) = bind(method, path) {
                    return Applied::Limit(method, bytes);
                }
            }
            Event::Request { stream, method, deadline, metadata, message, end } => {
                let metadata = match MetadataMap::decode(metadata) {
                    Ok(metadata) => metadata,
                    Err(error) => {
                        let text = format!("malformed request metadata: {error}");
                        return Applied::Reject(stream, Status::internal(text));
                    }
                };
                let cell = self.take_cell();
                cell.set_id(stream);
                if let Some(message) = message {
                    cell.put_message(Body::new(message.payload), message.position);
                }
                if end {
                    cell.put_end(End::Ok(MetadataMap::new()));
                }
                self.put(stream, Arc::clone(&cell));
                self.arrivals.push(Arrival { id: stream, cell, method, deadline, metadata });
            }
            Event::Message { stream, message, end } => {
                let Some(cell) = self.cell(stream) else { return Applied::Nothing };
                let mut thrown = None;
                if let Some(message) = message
                    && !cell.put_message(Body::new(message.payload), message.position)
                {
                    thrown = Some(message.position);
                }
                if end && role == Role::Server {
                    cell.put_end(End::Ok(MetadataMap::new()));
                }
                if let Some(position) = thrown {
                    return Applied::Thrown(stream, position);
                }
            }
            Event::Bulk { stream, descriptor, len, position, end } => {
                let ticket = self.pulls.ticket();
                let Some(cell) = self.cell(stream).cloned() else {
                    return Applied::NotWanted(descriptor, stream, position);
                };
                let wanted = cell.put_pulling(ticket, position);
                if end && role == Role::Server {
                    cell.put_end(End::Ok(MetadataMap::new()));
                }
                if !wanted {
                    return Applied::NotWanted(descriptor, stream, position);
                }
                self.pulls.push(ticket, descriptor, len, cell);
            }
            Event::BulkReleased { descriptor } => self.released.push(descriptor),
            Event::Headers { stream, metadata } => match MetadataMap::decode(metadata) {
                Ok(metadata) => {
                    if let Some(cell) = self.cell(stream) {
                        cell.put_headers(metadata);
                    }
                }
                Err(error) => self.end(stream, End::Failed(malformed(&error))),
            },
            Event::Response { stream, metadata, trailers, message } => {
                let Some(cell) = self.take(stream) else { return Applied::Nothing };
                match (MetadataMap::decode(metadata), MetadataMap::decode(trailers)) {
                    (Ok(metadata), Ok(trailers)) => {
                        cell.put_response(metadata, Body::new(message), trailers);
                    }
                    (Err(error), _) | (_, Err(error)) => {
                        cell.put_end(End::Failed(malformed(&error)));
                    }
                }
                self.retire(cell);
            }
            Event::Finished { stream, finish } => {
                let end = match MetadataMap::decode(finish.metadata) {
                    Err(error) => End::Failed(malformed(&error)),
                    Ok(trailers) if finish.code == 0 => End::Ok(trailers),
                    Ok(trailers) => {
                        let seen = if finish.refused {
                            RequestSeen::NeverSent
                        } else {
                            RequestSeen::Unknown
                        };
                        let status = Status::with_details_and_metadata(
                            Code::from(i32::from(finish.code)),
                            finish.message,
                            bytes::Bytes::copy_from_slice(finish.details),
                            trailers,
                        );
                        End::Failed(status.with_request_seen(seen))
                    }
                };
                self.end(stream, end);
            }
            Event::Refused { stream, why } => {
                let status = Status::resource_exhausted(why.to_string())
                    .with_request_seen(RequestSeen::MayHaveRun);
                self.end(stream, End::Failed(status));
            }
            Event::Cancelled { stream, code } => {
                let code = Code::from(i32::from(code));
                let status = Status::new(code, "the client cancelled the call");
                self.end(stream, End::Failed(status));
            }
            Event::GoAway { unseen, code, reason } => {
                self.going_away = true;
                tracing::debug!(code, reason, unseen = unseen.len(), "peer is going away");
                let text = format!("the server is going away: {reason}");
                let status = Status::unavailable(text).with_request_seen(RequestSeen::NeverSent);
                for stream in unseen {
                    self.end(stream, End::Failed(status.clone()));
                }
            }
        }
        Applied::Nothing
    }
}

/// What an event asks for that needs more than the calls.
enum Applied {
    Nothing,
    Limit(u16, usize),
    /// The reader throws messages away up to here.
    Thrown(StreamId, u64),
    /// The same for a message that need not be pulled.
    NotWanted(crate::link::BulkDescriptor, StreamId, u64),
    Reject(StreamId, Status),
}

/// Why a connection is over.
#[derive(Debug)]
pub(super) enum Failure {
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

pub(super) fn never_sent(status: &Status) -> Status {
    status.clone().with_request_seen(RequestSeen::NeverSent)
}

fn malformed(error: &crate::metadata::MetadataDecodeError) -> Status {
    Status::internal(format!("malformed response metadata: {error}"))
        .with_request_seen(RequestSeen::MayHaveRun)
}

fn refusal(refused: Opened, request: &NewStream<'_>) -> Status {
    let status = match refused {
        Opened::MetadataTooLong(bytes, limit) => Status::resource_exhausted(format!(
            "request metadata of {bytes} bytes is longer than the limit of {limit} bytes"
        )),
        Opened::BadPath => Status::invalid_argument(format!(
            "method path {:?} is longer than {} bytes, or more than {} methods are in use",
            request.path,
            crate::wire::MAX_PATH_BYTES,
            crate::wire::MAX_METHODS,
        )),
        _ => Status::unavailable("the server accepts no more calls on this connection"),
    };
    status.with_request_seen(RequestSeen::NeverSent)
}
