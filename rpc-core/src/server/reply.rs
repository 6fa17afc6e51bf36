//! The answering half of a call. It answers exactly once: a handler that is dropped or panics
//! before it answered answers by being dropped.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;

use futures_core::Stream;
use prost::Message;

use super::call::{Messages, Site};
use crate::codec::ProstMessage;
use crate::driver::cell::{End, SharedCell};
use crate::metadata::MetadataMap;
use crate::outbox::{Outbox, Sent};
use crate::response::Response;
use crate::service::MessageLimits;
use crate::session::StreamId;
use crate::status::Status;
use crate::wire::MESSAGE_OVERHEAD_BYTES;

pub(super) struct Reply {
    pub(super) site: Arc<Site>,
    pub(super) id: StreamId,
    limits: MessageLimits,
    answered: bool,
}

impl Reply {
    #[inline]
    pub(super) fn new(site: Arc<Site>, id: StreamId, limits: MessageLimits) -> Reply {
        Reply { site, id, limits, answered: false }
    }

    /// For the next call of the same method on the same connection; this one has been answered.
    #[inline]
    pub(super) fn renew(&mut self, id: StreamId, limits: MessageLimits) {
        debug_assert!(self.answered);
        (self.id, self.limits, self.answered) = (id, limits, false);
    }

    /// The call's mailbox, with what has come of the request.
    pub(super) fn mailbox(&self, request: Messages<'_>) -> SharedCell {
        match request {
            Messages::In(cell) => SharedCell::clone(cell),
            Messages::Whole(view) => {
                let cell = self.site.conn.attach(self.id);
                let position = view.len() as u64 + MESSAGE_OVERHEAD_BYTES;
                cell.put_message(view.into(), position);
                cell.put_end(End::Ok(MetadataMap::new()));
                cell
            }
        }
    }

    pub(super) fn fail(&mut self, status: Status) {
        self.end(Err(status));
    }

    /// The handler panicked; if it had answered before, nobody learns of it.
    pub(super) fn panicked(&mut self) {
        if !self.answered {
            self.end(Err(panicked()));
        }
    }

    /// Takes what there is beside the message.
    pub(super) fn unary<M: Message>(&mut self, answer: &mut Result<Response<M>, Status>) {
        let response = match answer {
            Ok(response) => response,
            Err(status) => return self.end(Err(status.clone())),
        };
        let (metadata, trailers) = response.take_metadata();
        match ProstMessage::new(response.get_ref(), self.limits.encode_bytes) {
            Ok(message) => {
                self.site.conn.respond(self.id, metadata, trailers, &message);
                // Not before: a message that panics while it encodes is answered by our drop.
                self.answered = true;
            }
            Err(status) => self.end(Err(status)),
        }
    }

    pub(super) async fn stream<M, S>(
        mut self,
        cell: SharedCell,
        answer: Result<Response<S>, Status>,
    ) where
        M: Message,
        S: Stream<Item = Result<M, Status>> + Send,
    {
        let mut response = match answer {
            Ok(response) => response,
            Err(status) => return self.end(Err(status)),
        };
        let (metadata, trailers) = response.take_metadata();
        self.site.conn.headers(self.id, metadata);
        let mut stream = pin!(response.into_inner());
        let mut outbox = Outbox::new(self.limits.encode_bytes);
        let sent = poll_fn(|cx| {
            outbox.poll_send(cx, &*self.site.conn, &cell, |cx| stream.as_mut().poll_next(cx))
        })
        .await;
        match sent {
            Sent::All => self.end(Ok(trailers)),
            Sent::Failed(status) => self.end(Err(status)),
            // There is nobody to answer.
            Sent::Unwanted => self.answered = true,
        }
    }

    fn end(&mut self, end: Result<MetadataMap, Status>) {
        self.site.conn.finish(self.id, end);
        self.answered = true;
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        // Cancelled calls end here too; their stream is over and this reaches nobody. Others end here
        // when the runtime goes down with their handlers' tasks, sooner or later than the connection.
        let why = if std::thread::panicking() {
            panicked()
        } else {
            Status::unavailable("the server is going down with the call's handler unfinished")
        };
        self.end(Err(why));
    }
}

fn panicked() -> Status {
    Status::internal("the handler panicked")
}
