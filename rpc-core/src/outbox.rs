//! Sends a stream's messages as its window lets them go: short ones that are ready at the same
//! time together, in one frame. A stream that is always ready at once, but slow, has its messages
//! sent when a frame is full or a turn is over, not one by one.

use std::task::{Context, Poll};

use prost::Message;

use crate::codec::ProstMessage;
use crate::driver::Conn;
use crate::driver::cell::SharedCell;
use crate::session::{Batch, Encode, StreamId};
use crate::status::Status;

/// Messages sent before others may run.
const MESSAGES_PER_TURN: usize = 256;

/// What became of a stream's messages.
#[derive(Debug)]
pub(crate) enum Sent {
    /// All have been handed over.
    All,
    /// The call is over: nobody wants the rest.
    Unwanted,
    /// The program has ended the stream so, or made a message that must not be sent.
    Failed(Status),
}

/// The sending half of a stream.
#[derive(Debug)]
pub(crate) struct Outbox<M> {
    batch: Batch,
    /// A message that did not fit the batch before it.
    next: Option<M>,
    limit_bytes: Option<usize>,
    /// The stream, once it is open.
    id: Option<StreamId>,
    /// The mailbox has said so, and nothing was sent since.
    writable: bool,
    /// Something was sent and is held.
    unflushed: bool,
}

impl<M: Message> Outbox<M> {
    pub(crate) fn new(limit_bytes: Option<usize>) -> Outbox<M> {
        Outbox {
            batch: Batch::default(),
            next: None,
            limit_bytes,
            id: None,
            writable: false,
            unflushed: false,
        }
    }

    /// Sends what `poll_next`, the stream's, has ready. Ready when it has ended, or need not go on.
    pub(crate) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        conn: &dyn Conn,
        cell: &SharedCell,
        poll_next: impl FnMut(&mut Context<'_>) -> Poll<Option<Result<M, Status>>>,
    ) -> Poll<Sent> {
        let poll = self.poll_turn(cx, conn, cell, poll_next);
        if std::mem::take(&mut self.unflushed) {
            conn.let_leave();
        }
        poll
    }

    fn poll_turn(
        &mut self,
        cx: &mut Context<'_>,
        conn: &dyn Conn,
        cell: &SharedCell,
        mut poll_next: impl FnMut(&mut Context<'_>) -> Poll<Option<Result<M, Status>>>,
    ) -> Poll<Sent> {
        for _ in 0..MESSAGES_PER_TURN {
            if !self.writable {
                match cell.poll_writable(cx) {
                    Poll::Ready(writable) => self.writable = writable,
                    Poll::Pending => return Poll::Pending,
                }
                if !self.writable {
                    return Poll::Ready(Sent::Unwanted);
                }
            }
            // A cell is writable once its stream is open.
            let Some(id) = self.id.or_else(|| cell.id()) else { return Poll::Pending };
            self.id = Some(id);
            let next = match self.next.take() {
                Some(message) => Poll::Ready(Some(Ok(message))),
                None => poll_next(cx),
            };
            match next {
                Poll::Ready(Some(Ok(message))) => {
                    if let Err(status) = self.push(conn, id, cell, message) {
                        self.send_batch(conn, id, cell);
                        return Poll::Ready(Sent::Failed(status));
                    }
                }
                Poll::Ready(end) => {
                    self.send_batch(conn, id, cell);
                    return Poll::Ready(match end {
                        Some(Err(status)) => Sent::Failed(status),
                        _ => Sent::All,
                    });
                }
                Poll::Pending => {
                    self.send_batch(conn, id, cell);
                    return Poll::Pending;
                }
            }
        }
        if let Some(id) = self.id {
            self.send_batch(conn, id, cell);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes one message: into the batch, to be sent, or to be the next.
    fn push(
        &mut self,
        conn: &dyn Conn,
        id: StreamId,
        cell: &SharedCell,
        message: M,
    ) -> Result<(), Status> {
        let encode = ProstMessage::new(&message, self.limit_bytes)?;
        if let Some(room) = self.batch.push(encode.encoded_len()) {
            encode.encode(room);
        } else if self.batch.is_empty() {
            self.writable = conn.send(id, cell, &encode, false, true);
            self.unflushed = true;
        } else {
            self.next = Some(message);
            self.send_batch(conn, id, cell);
        }
        Ok(())
    }

    fn send_batch(&mut self, conn: &dyn Conn, id: StreamId, cell: &SharedCell) {
        if self.batch.is_empty() {
            return;
        }
        self.writable = conn.send_batch(id, cell, &self.batch);
        self.batch.clear();
        self.unflushed = true;
    }
}
