//! What calls ask of the owner: streams opened, messages sent, answers given, calls ended.

use std::task::Waker;

use super::cell::{Cell, End, SharedCell};
use super::clock::now;
use super::job::{Job, OwnedOpen};
use super::owner::{Failure, Owner, never_sent};
use super::scout::Outsider;
use crate::link::{Link, LinkError};
use crate::metadata::MetadataMap;
use crate::session::{Batch, Encode, NewStream, Opened, Sending, StreamId};
use crate::status::{RequestSeen, Status};

impl<L: Link> Owner<L> {
    /// Opens a stream now, if there is one; gives its mailbox, and whether it is open. `Ok(None)`:
    /// the call has to wait.
    fn open_now(
        &mut self,
        request: &NewStream<'_>,
        waker: Option<&Waker>,
        outsider: Option<Outsider>,
    ) -> Result<Option<(SharedCell, bool)>, LinkError> {
        let Some(link) = &mut self.link else { return Ok(None) };
        if !self.calls.waiting.is_empty() {
            return Ok(None);
        }
        // By reference, so that what is not needed is not moved.
        match &self.session.open(link, request) {
            Ok(Opened::Stream(id)) => {
                self.asked = true;
                self.scouting.opened(*id, outsider, self.session.open_streams());
                Ok(Some((self.calls.new_cell(*id, waker.cloned()), true)))
            }
            Ok(Opened::NoSlot) => Ok(None),
            Ok(refused) => {
                Ok(Some((SharedCell::new(Cell::failed(refusal(*refused, request))), false)))
            }
            Err(error) => Err(error.clone()),
        }
    }

    /// Opens a stream for a call, now or when there is one; gives the call's mailbox, in which it
    /// learns of an end of the connection too, and whether the stream is open. If it is, what
    /// comes wakes `waker`. `outsider`: what its caller is.
    pub(super) fn open(
        &mut self,
        request: &NewStream<'_>,
        waker: Option<&Waker>,
        outsider: Option<Outsider>,
    ) -> (SharedCell, bool) {
        if self.dead.is_none() {
            match self.open_now(request, waker, outsider) {
                Ok(Some(opened)) => return opened,
                Ok(None) => {}
                Err(error) => self.fail(Failure::Link(error)),
            }
        }
        if let Some(status) = &self.dead {
            return (SharedCell::new(Cell::failed(never_sent(status))), false);
        }
        let cell = SharedCell::default();
        cell.block_writer();
        self.calls.waiting.push_back(OwnedOpen::new(&cell, request, outsider));
        (cell, false)
    }

    /// The same for a call that has its mailbox already: it waited for the connection.
    fn open_left(&mut self, open: OwnedOpen) {
        if open.outsider.is_none() {
            // Its caller may not poll: the driver must not rely on one that did.
            self.end_help();
        }
        self.calls.waiting.push_back(open);
        if let Err(error) = self.open_waiting() {
            // The call learns of it with the others that wait.
            self.fail(Failure::Link(error));
        }
    }

    /// Server: a mailbox for a call whose handler is not done yet. A call that is over meanwhile
    /// finds that in it.
    pub(super) fn attach(&mut self, id: StreamId, cell: &SharedCell) {
        if self.dead.is_none() && self.session.is_open(id) {
            self.calls.put(id, SharedCell::clone(cell));
        } else {
            let text = "the call ended before its handler did";
            cell.put_end(End::Failed(Status::cancelled(text)));
        }
    }

    /// Opens streams for calls that wait for one, as many as there are.
    #[inline]
    pub(super) fn open_waiting(&mut self) -> Result<bool, LinkError> {
        if self.calls.waiting.is_empty() { Ok(false) } else { self.open_some_waiting() }
    }

    fn open_some_waiting(&mut self) -> Result<bool, LinkError> {
        let mut busy = false;
        let Some(link) = &mut self.link else { return Ok(busy) };
        let now = now();
        while let Some(open) = self.calls.waiting.front() {
            let expired = open.timeout.is_some_and(|(_, at)| at <= now);
            if open.cell.is_abandoned() {
                self.calls.waiting_abandoned = self.calls.waiting_abandoned.saturating_sub(1);
            } else if expired {
                let text = "the call's deadline passed while waiting for a free stream";
                let status =
                    Status::deadline_exceeded(text).with_request_seen(RequestSeen::NeverSent);
                open.cell.put_end(End::Failed(status));
            } else {
                let mut request = open.borrow();
                // The wait has used up some of the time.
                request.timeout = open.timeout.map(|(_, at)| (at - now, at));
                match self.session.open(link, &request)? {
                    Opened::NoSlot => break,
                    Opened::Stream(id) => {
                        self.asked = true;
                        if let Some(open) = self.calls.waiting.pop_front() {
                            self.scouting.opened(id, open.outsider, self.session.open_streams());
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

    /// Whether the next message may follow at once.
    pub(super) fn send(
        &mut self,
        id: StreamId,
        cell: &SharedCell,
        message: &dyn Encode,
        end: bool,
    ) -> Result<bool, LinkError> {
        let Some(link) = &mut self.link else { return Ok(true) };
        self.asked = true;
        let sending = self.session.send_message(link, id, message, end)?;
        Ok(Self::sent(sending, cell))
    }

    /// The same for several messages together.
    pub(super) fn send_batch(
        &mut self,
        id: StreamId,
        cell: &SharedCell,
        batch: &Batch,
    ) -> Result<bool, LinkError> {
        let Some(link) = &mut self.link else { return Ok(true) };
        self.asked = true;
        let sending = self.session.send_batch(link, id, batch)?;
        Ok(Self::sent(sending, cell))
    }

    fn sent(sending: Sending, cell: &Cell) -> bool {
        match sending {
            // Whoever sends to a call that is over learns it from its mailbox.
            Sending::Sent | Sending::Closed => return true,
            Sending::Queued => cell.block_writer(),
            Sending::Busy => debug_assert!(false, "a second message before the first was taken"),
        }
        false
    }

    pub(super) fn end_messages(&mut self, id: StreamId) -> Result<(), LinkError> {
        let Some(link) = &mut self.link else { return Ok(()) };
        self.session.end_messages(link, id)
    }

    pub(super) fn finish(
        &mut self,
        id: StreamId,
        end: Result<MetadataMap, Status>,
    ) -> Result<(), LinkError> {
        let Some(link) = &mut self.link else { return Ok(()) };
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
        let Some(link) = &mut self.link else { return Ok(()) };
        self.session.respond(link, id, metadata, trailers, message)?;
        self.calls.forget(id);
        Ok(())
    }

    pub(super) fn cancel(&mut self, cell: &SharedCell, code: u16) {
        if let Some(id) = cell.id() {
            self.session.cancel(id, code);
            self.calls.forget(id);
        } else {
            self.calls.forget_waiting();
        }
    }

    pub(super) fn run_job(&mut self, job: Job) {
        if let Some(status) = &self.dead {
            match job {
                Job::Open(open) => open.cell.put_end(End::Failed(never_sent(status))),
                // Whoever sends learns of the end before the next message.
                Job::Send { cell, .. } | Job::SendBatch { cell, .. } => cell.put_writable(),
                Job::Attach { id, cell } => self.attach(id, &cell),
                Job::Wake(waker) => waker.wake(),
                _ => {}
            }
            return;
        }
        let done = match job {
            Job::Wake(waker) => {
                if !self.nap(&waker, false, false) {
                    waker.wake();
                }
                Ok(())
            }
            Job::Help => {
                self.help_passes = self.help_passes.saturating_add(1);
                Ok(())
            }
            Job::EndHelp => {
                self.end_help();
                Ok(())
            }
            Job::Open(open) if open.cell.is_abandoned() => Ok(()),
            Job::Open(open) => {
                self.open_left(open);
                Ok(())
            }
            Job::Attach { id, cell } => {
                self.attach(id, &cell);
                Ok(())
            }
            Job::Send { id, cell, message, end } => {
                self.send(id, &cell, &message, end).map(|sent| unblock(&cell, sent))
            }
            Job::SendBatch { id, cell, batch } => {
                self.send_batch(id, &cell, &batch).map(|sent| unblock(&cell, sent))
            }
            Job::EndMessages { id } => self.end_messages(id),
            Job::Flush => Ok(()),
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
        let Some(link) = &mut self.link else { return Ok(()) };
        match self.session.send_headers(link, id, metadata)? {
            None => Ok(()),
            Some(bytes) => {
                let text = format!("response metadata of {bytes} bytes does not fit a frame");
                self.finish(id, Err(Status::resource_exhausted(text)))
            }
        }
    }
}

/// Its sender was blocked when the message was left to the owner.
fn unblock(cell: &Cell, sent: bool) {
    if sent {
        cell.put_writable();
    }
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
