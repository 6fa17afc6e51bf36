//! The calls of a connection: their mailboxes by slot, those that wait for a free stream, and
//! what each event of the session means to them.

use std::collections::VecDeque;
use std::task::Waker;

use bytes::Bytes;

use super::body::{Around, Body, INLINE_BYTES};
use super::cell::{Cell, End, SharedCell};
use super::clock::Clock;
use super::job::OwnedOpen;
use super::owner::{Arrival, ArrivalBatch, Arrived};
use super::pulls::Pulls;
use crate::link::BulkDescriptor;
use crate::metadata::MetadataMap;
use crate::session::{Event, FrameRef, NewStream, Payload, Role, Session, SessionError, StreamId};
use crate::status::{Code, RequestSeen, Status};

/// Used cells kept for the next calls.
const SPARE_CELLS: usize = 256;

/// The calls of a connection.
///
/// In this order in memory: what each call touches comes first, so that it lies in few cache lines.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Calls {
    /// The peer said GOAWAY.
    pub(super) going_away: bool,
    /// By slot.
    pub(super) cells: Vec<Option<(StreamId, SharedCell)>>,
    pub(super) spare: VecDeque<SharedCell>,
    pub(super) batch: ArrivalBatch,
    /// Calls that wait for a free stream.
    pub(super) waiting: VecDeque<OwnedOpen>,
    pub(super) pulls: Pulls,

    /// How many of them nobody wants any more.
    pub(super) waiting_abandoned: usize,
    /// Bulk buffers the peer gave back in this pass.
    pub(super) released: Vec<BulkDescriptor>,
}

impl Calls {
    /// A mailbox for a new stream, a used one if there is any. What comes into it wakes `reader`.
    pub(super) fn new_cell(&mut self, id: StreamId, reader: Option<Waker>) -> SharedCell {
        if let Some(mut cell) = self.spare.pop_front() {
            if let Some(inner) = SharedCell::get_mut(&mut cell) {
                inner.renew(id, reader);
                self.put(id, SharedCell::clone(&cell));
                return cell;
            }
            // Its call has not let go of it yet: later.
            self.spare.push_back(cell);
        }
        let cell = SharedCell::new(Cell::new(id, reader));
        self.put(id, SharedCell::clone(&cell));
        cell
    }

    /// Takes the frame if it is all there is to a plain call, or to its answer.
    #[inline]
    pub(super) fn take_bare(
        &mut self,
        session: &mut Session,
        clock: &mut Clock,
        frame: &[u8],
    ) -> bool {
        self.take_bare_of(session, clock, frame, Payload::Borrowed)
    }

    /// Takes a frame that was given away: its messages stay in it. (Not inlined, so that what short ones
    /// take is the shorter.)
    #[inline(never)]
    pub(super) fn take_owned(
        &mut self,
        session: &mut Session,
        clock: &mut Clock,
        frame: &Bytes,
        bind: &mut dyn FnMut(u16, &str) -> Option<usize>,
    ) -> Result<Applied, SessionError> {
        let frame = FrameRef { bytes: frame, owner: Some(frame) };
        if self.take_bare_of(session, clock, frame.bytes, |message| frame.payload(message)) {
            return Ok(Applied::Nothing);
        }
        let event = session.handle_frame(clock.now(), frame)?;
        Ok(self.apply(session.role(), event, bind))
    }

    /// `payload`: what is kept of a message that is not short.
    #[inline(always)]
    fn take_bare_of<'a>(
        &mut self,
        session: &mut Session,
        clock: &mut Clock,
        frame: &'a [u8],
        payload: impl FnOnce(&'a [u8]) -> Payload<'a>,
    ) -> bool {
        if session.role() == Role::Client {
            let Some((stream, message)) = session.bare_response(frame) else { return false };
            let Some(cell) = self.take(stream) else { return true };
            let keep = if message.len() <= INLINE_BYTES {
                cell.put_answer(message)
            } else {
                let body = Body::new(payload(message));
                cell.put_response(MetadataMap::new(), body, MetadataMap::new())
            };
            if keep {
                self.keep(cell);
            }
        } else {
            let Some(bare) = session.bare_request(|| clock.now(), frame) else { return false };
            self.batch.put_bare(&bare, payload);
        }
        true
    }

    pub(super) fn cell(&self, id: StreamId) -> Option<&SharedCell> {
        match self.cells.get(id.slot()) {
            Some(Some((theirs, cell))) if *theirs == id => Some(cell),
            _ => None,
        }
    }

    pub(super) fn put(&mut self, id: StreamId, cell: SharedCell) {
        if self.cells.len() <= id.slot() {
            self.cells.resize_with(id.slot() + 1, || None);
        }
        let place = &mut self.cells[id.slot()];
        // There is hardly ever one; it is dropped before the new one is moved, not in between.
        drop(place.take());
        *place = Some((id, cell));
    }

    pub(super) fn take(&mut self, id: StreamId) -> Option<SharedCell> {
        let place = self.cells.get_mut(id.slot())?;
        if place.as_ref().is_some_and(|(theirs, _)| *theirs == id) {
            return place.take().map(|(_, cell)| cell);
        }
        None
    }

    /// The stream is over for both sides: its cell may serve another call once this one has
    /// let go of it.
    pub(super) fn forget(&mut self, id: StreamId) {
        if let Some(cell) = self.take(id) {
            self.retire(cell);
        }
    }

    pub(super) fn retire(&mut self, cell: SharedCell) {
        if cell.is_worth_keeping() {
            self.keep(cell);
        }
    }

    fn keep(&mut self, cell: SharedCell) {
        if self.spare.len() < SPARE_CELLS {
            self.spare.push_back(cell);
        }
    }

    #[cfg(test)]
    pub(super) fn waiting_len(&self) -> usize {
        self.waiting.len()
    }

    /// A call that waited for a stream does not want one any more. They are taken out in bulk, so
    /// that many calls that expire behind a server that is full cost little, and keep no memory.
    pub(super) fn forget_waiting(&mut self) {
        self.waiting_abandoned += 1;
        if self.waiting_abandoned * 2 > self.waiting.len() {
            self.waiting.retain(|open| !open.cell.is_abandoned());
            self.waiting_abandoned = 0;
        }
    }

    pub(super) fn opened(&mut self, id: StreamId, cell: &SharedCell, request: &NewStream<'_>) {
        cell.set_id(id);
        if !request.end {
            // Whether the request went at once or not, the first message needs no wait: the
            // session takes one message per stream in any case.
            cell.put_writable();
        }
        self.put(id, SharedCell::clone(cell));
    }

    pub(super) fn end(&mut self, id: StreamId, end: End) {
        if let Some(cell) = self.take(id) {
            cell.put_end(end);
            self.retire(cell);
        }
    }

    pub(super) fn expire(&mut self, id: StreamId, seen: bool) {
        let seen = if seen { RequestSeen::MayHaveRun } else { RequestSeen::NeverSent };
        let status =
            Status::deadline_exceeded("the call's deadline passed").with_request_seen(seen);
        self.end(id, End::Failed(status));
    }

    pub(super) fn apply(
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
                let request = match message {
                    // Nothing follows: the handler may be done before anybody asks for a mailbox.
                    Some(message) if end => self.batch.put(message.payload),
                    message => {
                        let cell = self.new_cell(stream, None);
                        if let Some(message) = message {
                            cell.put_message(Body::new(message.payload), message.position);
                        }
                        if end {
                            cell.put_end(End::Ok(MetadataMap::new()));
                        }
                        Arrived::In(cell)
                    }
                };
                self.batch.arrivals.push(Arrival {
                    id: stream,
                    request,
                    method,
                    deadline,
                    metadata,
                });
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
            Event::Messages { stream, messages, end } => {
                let Some(cell) = self.cell(stream) else { return Applied::Nothing };
                let last = messages.end();
                let wanted = cell.put_messages(messages);
                if end && role == Role::Server {
                    cell.put_end(End::Ok(MetadataMap::new()));
                }
                if !wanted {
                    return Applied::Thrown(stream, last);
                }
            }
            Event::Bulk { stream, descriptor, head, len, tail, position, end } => {
                let ticket = self.pulls.ticket();
                let Some(cell) = self.cell(stream).cloned() else {
                    return Applied::NotWanted(descriptor, stream, position);
                };
                let wanted = cell.put_pulling(ticket, position, Around::new(head, tail));
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
                Err(error) => {
                    self.end(stream, End::Failed(malformed(&error)));
                    return Applied::GiveUp(stream);
                }
            },
            Event::Response { stream, metadata, trailers, message } => {
                let Some(cell) = self.take(stream) else { return Applied::Nothing };
                match (MetadataMap::decode(metadata), MetadataMap::decode(trailers)) {
                    (Ok(metadata), Ok(trailers)) => {
                        if cell.put_response(metadata, Body::new(message), trailers) {
                            self.keep(cell);
                        }
                    }
                    (Err(error), _) | (_, Err(error)) => {
                        cell.put_end(End::Failed(malformed(&error)));
                    }
                }
            }
            Event::Finished { stream, finish } => {
                let Some(cell) = self.take(stream) else { return Applied::Nothing };
                match MetadataMap::decode(finish.metadata) {
                    Err(error) => cell.put_end(End::Failed(malformed(&error))),
                    Ok(trailers) if finish.code == 0 => cell.put_end(End::Ok(trailers)),
                    Ok(trailers) => {
                        let seen = if finish.refused {
                            RequestSeen::NeverSent
                        } else {
                            RequestSeen::Unknown
                        };
                        let status = Status::with_details_and_metadata(
                            Code::from(i32::from(finish.code)),
                            finish.message,
                            Bytes::copy_from_slice(finish.details),
                            trailers,
                        );
                        cell.put_status(status.with_request_seen(seen));
                    }
                }
                self.retire(cell);
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
pub(super) enum Applied {
    Nothing,
    Limit(u16, usize),
    /// The reader throws messages away up to here.
    Thrown(StreamId, u64),
    /// The same for a message that need not be pulled.
    NotWanted(BulkDescriptor, StreamId, u64),
    Reject(StreamId, Status),
    /// Nobody is left who reads the stream.
    GiveUp(StreamId),
}

fn malformed(error: &crate::metadata::MetadataDecodeError) -> Status {
    Status::internal(format!("malformed response metadata: {error}"))
        .with_request_seen(RequestSeen::MayHaveRun)
}
