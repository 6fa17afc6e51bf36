//! A call that arrived, on its way to its handler.

use std::fmt;
use std::future::{Future, poll_fn};
use std::sync::Arc;

use bytes::Bytes;
use futures_core::Stream;
use prost::Message;

use super::handler::{Handler, HandlerSlot};
use super::reply::Reply;
use super::unary::{Answered, UnaryRunner};
use crate::codec::decode;
use crate::driver::body::View;
use crate::driver::cell::{Cell, Fetched, Next, SharedCell};
use crate::driver::{Arrival, Arrived, Conn, now};
use crate::request::Request;
use crate::response::Response;
use crate::service::MessageLimits;
use crate::status::Status;
use crate::streaming::{Side, Streaming};

/// A call that arrived. Generated code gives it to the user's method by one of
/// [`unary`](IncomingCall::unary), [`client_streaming`](IncomingCall::client_streaming),
/// [`server_streaming`](IncomingCall::server_streaming) and
/// [`bidi_streaming`](IncomingCall::bidi_streaming).
pub struct IncomingCall<'a> {
    site: &'a Arc<Site>,
    arrival: &'a mut Arrival,
    /// Where short messages lie.
    short: &'a [u8],
    limits: MessageLimits,
    slot: Option<HandlerSlot>,
}

impl<'a> IncomingCall<'a> {
    pub(super) fn new(
        site: &'a Arc<Site>,
        arrival: &'a mut Arrival,
        short: &'a [u8],
        limits: MessageLimits,
        slot: Option<HandlerSlot>,
    ) -> IncomingCall<'a> {
        IncomingCall { site, arrival, short, limits, slot }
    }

    /// The method's path.
    pub fn path(&self) -> &str {
        &self.site.path
    }

    /// Limits the messages of the answer; what is not said stays as the server has it.
    #[must_use]
    pub fn with_limits(mut self, limits: MessageLimits) -> IncomingCall<'a> {
        self.limits.encode_bytes = limits.encode_bytes.or(self.limits.encode_bytes);
        self.limits.decode_bytes = limits.decode_bytes.or(self.limits.decode_bytes);
        self
    }

    /// One message in, one out. `method` gets the service, and its future gives it back.
    #[inline]
    pub fn unary<S, Req, Res, F, Fut>(mut self, service: &Arc<S>, method: F) -> Handler
    where
        S: Send + Sync + 'static,
        Req: Message + Default + 'static,
        Res: Message + 'static,
        F: FnOnce(Arc<S>, Request<Req>) -> Fut + Send + 'static,
        Fut: Future<Output = Answered<S, Res>> + Send + 'static,
    {
        let slot = self.slot.take();
        let Messages::Whole(view) = self.messages() else {
            let service = Arc::clone(service);
            self.slot = slot;
            return self.unary_in_pieces(|request| method(service, request));
        };
        let mut runner = UnaryRunner::begin(slot, self.site, self.arrival.id, self.limits);
        let message = decode(view, "request", &self.site.path);
        if let Arrived::Long(bytes) = &mut self.arrival.request {
            // What has been read goes now, and not with its batch.
            *bytes = Bytes::new();
        }
        match message {
            Ok(message) => runner.run(service, |service| method(service, self.request(message))),
            Err(status) => runner.reply.fail(status),
        }
        Handler::of(runner)
    }

    /// The same for a request that came in pieces, or had to be pulled.
    fn unary_in_pieces<S, Req, Res, F, Fut>(mut self, method: F) -> Handler
    where
        S: Send + Sync + 'static,
        Req: Message + Default + 'static,
        Res: Message + 'static,
        F: FnOnce(Request<Req>) -> Fut + Send + 'static,
        Fut: Future<Output = Answered<S, Res>> + Send + 'static,
    {
        let mut reply = self.reply();
        let cell = reply.mailbox(self.messages());
        let request = self.request(());
        Handler::new(self.slot, Some(SharedCell::clone(&cell)), async move {
            match only_message(&cell, &reply.site.path).await {
                Ok(message) => {
                    let (mut answer, _) = method(request.map(|()| message)).await;
                    reply.unary(&mut answer);
                }
                Err(status) => reply.fail(status),
            }
        })
    }

    /// One message in, many out.
    pub fn server_streaming<Req, Res, S, F, Fut>(mut self, method: F) -> Handler
    where
        Req: Message + Default + 'static,
        Res: Message + 'static,
        S: Stream<Item = Result<Res, Status>> + Send + 'static,
        F: FnOnce(Request<Req>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Response<S>, Status>> + Send + 'static,
    {
        let mut reply = self.reply();
        let cell = reply.mailbox(self.messages());
        let request = self.request(());
        Handler::new(self.slot, Some(SharedCell::clone(&cell)), async move {
            match only_message(&cell, &reply.site.path).await {
                Ok(message) => {
                    let answer = method(request.map(|()| message)).await;
                    reply.stream(cell, answer).await;
                }
                Err(status) => reply.fail(status),
            }
        })
    }

    /// Many messages in, one out.
    pub fn client_streaming<Req, Res, F, Fut>(mut self, method: F) -> Handler
    where
        Req: Message + Default + 'static,
        Res: Message + 'static,
        F: FnOnce(Request<Streaming<Req>>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Response<Res>, Status>> + Send + 'static,
    {
        let mut reply = self.reply();
        let cell = reply.mailbox(self.messages());
        let request = self.request(streaming(&reply, SharedCell::clone(&cell)));
        Handler::new(self.slot, Some(cell), async move {
            let mut answer = method(request).await;
            reply.unary(&mut answer);
        })
    }

    /// Many messages in, many out.
    pub fn bidi_streaming<Req, Res, S, F, Fut>(mut self, method: F) -> Handler
    where
        Req: Message + Default + 'static,
        Res: Message + 'static,
        S: Stream<Item = Result<Res, Status>> + Send + 'static,
        F: FnOnce(Request<Streaming<Req>>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Response<S>, Status>> + Send + 'static,
    {
        let reply = self.reply();
        let cell = reply.mailbox(self.messages());
        let request = self.request(streaming(&reply, SharedCell::clone(&cell)));
        Handler::new(self.slot, Some(SharedCell::clone(&cell)), async move {
            let answer = method(request).await;
            reply.stream(cell, answer).await;
        })
    }

    /// Answers that there is no such method.
    pub fn unimplemented(self) -> Handler {
        let mut reply = self.reply();
        let text = format!("method {} is not implemented", reply.site.path);
        reply.fail(Status::unimplemented(text));
        Handler::new(self.slot, None, std::future::ready(()))
    }

    /// What answers the call. To be made before anything of a user's runs: if that panics, it is
    /// there to say so.
    #[inline]
    fn reply(&self) -> Reply {
        Reply::new(Arc::clone(self.site), self.arrival.id, self.limits)
    }

    #[inline]
    fn messages(&self) -> Messages<'_> {
        match &self.arrival.request {
            Arrived::Short { start, end } => {
                Messages::Whole(View::Short(&self.short[*start..*end]))
            }
            Arrived::Long(bytes) => Messages::Whole(View::Shared(bytes)),
            Arrived::In(cell) => Messages::In(cell),
        }
    }

    /// The request, of which `message` is the message or the messages.
    #[inline]
    fn request<T>(&mut self, message: T) -> Request<T> {
        let deadline = self.arrival.deadline;
        let timeout = deadline.map(|deadline| deadline.saturating_duration_since(now()));
        let metadata = std::mem::take(&mut self.arrival.metadata);
        Request::arrived(message, metadata, timeout, deadline, self.site.conn.info())
    }
}

impl fmt::Debug for IncomingCall<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IncomingCall").field("path", &self.site.path).finish_non_exhaustive()
    }
}

/// The messages of the call.
pub(super) enum Messages<'a> {
    /// All of them: one. The call has no mailbox.
    Whole(View<'a>),
    /// What has come so far is here, and what follows will be.
    In(&'a SharedCell),
}

/// What the calls of one method on one connection have in common.
pub(super) struct Site {
    pub(super) conn: Arc<dyn Conn>,
    pub(super) path: Arc<str>,
}

fn streaming<T>(reply: &Reply, cell: SharedCell) -> Streaming<T> {
    let Site { conn, path } = &*reply.site;
    Streaming::new(Arc::clone(conn), cell, Arc::clone(path), Side::Server)
}

/// The one message of a call that has one.
async fn only_message<M: Message + Default>(cell: &Cell, path: &str) -> Result<M, Status> {
    let mut fetched = Fetched::default();
    let decode = |body: View<'_>| decode(body, "request", path);
    let next = poll_fn(|cx| cell.poll_next(cx, &mut fetched, decode)).await;
    let message = match next {
        Next::Message(message, _) => message?,
        Next::End => {
            return Err(Status::internal(format!("the client sent no message for {path}")));
        }
        Next::Failed(status) => return Err(status),
    };
    match poll_fn(|cx| cell.poll_next(cx, &mut fetched, |_| ())).await {
        Next::End => Ok(message),
        Next::Message(..) => Err(Status::internal(format!(
            "the client sent several messages for {path}, which takes one"
        ))),
        Next::Failed(status) => Err(status),
    }
}
