//! The answering half of a call. It answers exactly once: a handler that is dropped or panics
//! before it answered answers by being dropped.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use futures_core::Stream;
use prost::Message;

use crate::codec::ProstMessage;
use crate::driver::cell::{Cell, End};
use crate::driver::{Arrived, Conn};
use crate::metadata::MetadataMap;
use crate::response::Response;
use crate::service::MessageLimits;
use crate::session::StreamId;
use crate::status::Status;
use crate::wire::MESSAGE_OVERHEAD_BYTES;

/// Messages a handler may send before it lets others run.
const MESSAGES_PER_TURN: usize = 128;

pub(super) struct Reply {
    pub(super) conn: Arc<dyn Conn>,
    pub(super) id: StreamId,
    pub(super) limits: MessageLimits,
    pub(super) answered: bool,
}

impl Reply {
    /// The call's mailbox, with what has come of the request.
    pub(super) fn mailbox(&self, request: Arrived) -> Arc<Cell> {
        match request {
            Arrived::In(cell) => cell,
            Arrived::Whole(body) => {
                let cell = self.conn.attach(self.id);
                let position = body.len() as u64 + MESSAGE_OVERHEAD_BYTES;
                cell.put_message(body, position);
                cell.put_end(End::Ok(MetadataMap::new()));
                cell
            }
        }
    }

    pub(super) fn fail(mut self, status: Status) {
        self.end(Err(status));
    }

    pub(super) fn unary<M: Message>(mut self, answer: Result<Response<M>, Status>) {
        let (metadata, trailers, message) = match answer {
            Ok(response) => response.into_answer(),
            Err(status) => return self.end(Err(status)),
        };
        match ProstMessage::new(&message, self.limits.encode_bytes) {
            Ok(message) => {
                self.conn.respond(self.id, metadata, trailers, &message);
                // Not before: a message that panics while it encodes is answered by our drop.
                self.answered = true;
            }
            Err(status) => self.end(Err(status)),
        }
    }

    pub(super) async fn stream<M, S>(mut self, cell: Arc<Cell>, answer: Result<Response<S>, Status>)
    where
        M: Message,
        S: Stream<Item = Result<M, Status>> + Send,
    {
        let (metadata, trailers, messages) = match answer {
            Ok(response) => response.into_answer(),
            Err(status) => return self.end(Err(status)),
        };
        self.conn.headers(self.id, metadata);
        let mut stream = pin!(messages);
        let mut sent = 0;
        let end = poll_fn(|cx| {
            let mut writable = false;
            for _ in 0..MESSAGES_PER_TURN {
                if !writable {
                    match cell.poll_writable(cx) {
                        Poll::Ready(true) => {}
                        // The call is over: there is nobody to answer.
                        Poll::Ready(false) => return Poll::Ready(None),
                        Poll::Pending => {
                            self.flush(&mut sent);
                            return Poll::Pending;
                        }
                    }
                }
                let message = match stream.as_mut().poll_next(cx) {
                    Poll::Ready(None) => return Poll::Ready(Some(Ok(()))),
                    Poll::Ready(Some(Err(status))) => return Poll::Ready(Some(Err(status))),
                    Poll::Ready(Some(Ok(message))) => message,
                    Poll::Pending => {
                        self.flush(&mut sent);
                        return Poll::Pending;
                    }
                };
                match ProstMessage::new(&message, self.limits.encode_bytes) {
                    Ok(message) => {
                        writable = self.conn.send(self.id, &cell, &message, false, true);
                    }
                    Err(status) => return Poll::Ready(Some(Err(status))),
                }
                sent += 1;
            }
            self.flush(&mut sent);
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
        match end {
            Some(Ok(())) => self.end(Ok(trailers)),
            Some(Err(status)) => self.end(Err(status)),
            None => self.answered = true,
        }
    }

    fn flush(&self, sent: &mut usize) {
        if *sent > 0 {
            *sent = 0;
            self.conn.flush();
        }
    }

    fn end(&mut self, end: Result<MetadataMap, Status>) {
        self.conn.finish(self.id, end);
        self.answered = true;
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        // Cancelled calls end here too; their stream is over and this reaches nobody.
        let why = if std::thread::panicking() {
            Status::internal("the handler panicked")
        } else {
            Status::cancelled("the server dropped the call")
        };
        self.end(Err(why));
    }
}
