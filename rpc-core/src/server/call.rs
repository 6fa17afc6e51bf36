//! A call that arrived, on its way to its handler.

use std::fmt;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::time::Instant;

use futures_core::Stream;
use prost::Message;

use super::handler::{Handler, HandlerSlot};
use super::reply::Reply;
use crate::codec::decode;
use crate::driver::body::View;
use crate::driver::cell::{Cell, Fetched, Next};
use crate::driver::{Arrival, Arrived, Conn, now};
use crate::link::LinkInfo;
use crate::metadata::MetadataMap;
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
    // Where they lie: a short message with all its room is not carried about.
    conn: &'a Arc<dyn Conn>,
    arrival: &'a mut Arrival,
    path: &'a Arc<str>,
    limits: MessageLimits,
    slot: Option<HandlerSlot>,
}

impl<'a> IncomingCall<'a> {
    pub(super) fn new(
        conn: &'a Arc<dyn Conn>,
        arrival: &'a mut Arrival,
        path: &'a Arc<str>,
        limits: MessageLimits,
        slot: Option<HandlerSlot>,
    ) -> IncomingCall<'a> {
        IncomingCall { conn, arrival, path, limits, slot }
    }

    /// The method's path.
    pub fn path(&self) -> &str {
        self.path
    }

    /// Limits the messages of the answer; what is not said stays as the server has it.
    #[must_use]
    pub fn with_limits(mut self, limits: MessageLimits) -> IncomingCall<'a> {
        self.limits.encode_bytes = limits.encode_bytes.or(self.limits.encode_bytes);
        self.limits.decode_bytes = limits.decode_bytes.or(self.limits.decode_bytes);
        self
    }

    /// One message in, one out.
    pub fn unary<Req, Res, F, Fut>(self, method: F) -> Handler
    where
        Req: Message + Default + 'static,
        Res: Message + 'static,
        F: FnOnce(Request<Req>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Response<Res>, Status>> + Send + 'static,
    {
        let Parts { slot, context, reply, request } = self.split();
        let message = match request {
            Arrived::Whole(body) => {
                let message = decode(body.view(), "request", &context.path);
                body.free();
                Ok(message)
            }
            Arrived::In(cell) => Err(Arc::clone(cell)),
        };
        Handler::new(slot, message.as_ref().err().cloned(), async move {
            let message = match message {
                Ok(message) => message,
                // In memory of its own: few calls come here, and all would carry its state about.
                Err(cell) => Box::pin(only_message(&cell, &context.path)).await,
            };
            match message {
                Ok(message) => reply.unary(method(context.request(message)).await),
                Err(status) => reply.fail(status),
            }
        })
    }

    /// One message in, many out.
    pub fn server_streaming<Req, Res, S, F, Fut>(self, method: F) -> Handler
    where
        Req: Message + Default + 'static,
        Res: Message + 'static,
        S: Stream<Item = Result<Res, Status>> + Send + 'static,
        F: FnOnce(Request<Req>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Response<S>, Status>> + Send + 'static,
    {
        let Parts { slot, context, reply, request } = self.split();
        let cell = reply.mailbox(request);
        Handler::new(slot, Some(Arc::clone(&cell)), async move {
            match only_message(&cell, &context.path).await {
                Ok(message) => {
                    let answer = method(context.request(message)).await;
                    reply.stream(cell, answer).await;
                }
                Err(status) => reply.fail(status),
            }
        })
    }

    /// Many messages in, one out.
    pub fn client_streaming<Req, Res, F, Fut>(self, method: F) -> Handler
    where
        Req: Message + Default + 'static,
        Res: Message + 'static,
        F: FnOnce(Request<Streaming<Req>>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Response<Res>, Status>> + Send + 'static,
    {
        let Parts { slot, context, reply, request } = self.split();
        let cell = reply.mailbox(request);
        Handler::new(slot, Some(Arc::clone(&cell)), async move {
            let messages = context.messages(&reply, cell);
            let answer = method(context.request(messages)).await;
            reply.unary(answer);
        })
    }

    /// Many messages in, many out.
    pub fn bidi_streaming<Req, Res, S, F, Fut>(self, method: F) -> Handler
    where
        Req: Message + Default + 'static,
        Res: Message + 'static,
        S: Stream<Item = Result<Res, Status>> + Send + 'static,
        F: FnOnce(Request<Streaming<Req>>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Response<S>, Status>> + Send + 'static,
    {
        let Parts { slot, context, reply, request } = self.split();
        let cell = reply.mailbox(request);
        Handler::new(slot, Some(Arc::clone(&cell)), async move {
            let messages = context.messages(&reply, Arc::clone(&cell));
            let answer = method(context.request(messages)).await;
            reply.stream(cell, answer).await;
        })
    }

    /// Answers that there is no such method.
    pub fn unimplemented(self) -> Handler {
        let Parts { slot, context, reply, .. } = self.split();
        reply.fail(Status::unimplemented(format!("method {} is not implemented", context.path)));
        Handler::new(slot, None, std::future::ready(()))
    }

    fn split(self) -> Parts<'a> {
        let IncomingCall { conn, arrival, path, limits, slot } = self;
        let Arrival { id, request, deadline, metadata, .. } = arrival;
        let context = Context {
            path: Arc::clone(path),
            deadline: *deadline,
            metadata: std::mem::take(metadata),
            link: Arc::clone(conn.info()),
        };
        let reply = Reply { conn: Arc::clone(conn), id: *id, limits, answered: false };
        Parts { slot, context, reply, request }
    }
}

impl fmt::Debug for IncomingCall<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IncomingCall").field("path", &self.path).finish_non_exhaustive()
    }
}

struct Parts<'a> {
    slot: Option<HandlerSlot>,
    context: Context,
    // Before the request: if its decoding panics, the reply is still there to say so.
    reply: Reply,
    request: &'a mut Arrived,
}

/// What the handler is told beside the message.
struct Context {
    path: Arc<str>,
    deadline: Option<Instant>,
    metadata: MetadataMap,
    link: Arc<LinkInfo>,
}

impl Context {
    fn messages<T>(&self, reply: &Reply, cell: Arc<Cell>) -> Streaming<T> {
        Streaming::new(Arc::clone(&reply.conn), cell, Arc::clone(&self.path), Side::Server)
    }

    fn request<T>(self, message: T) -> Request<T> {
        let mut request = Request::new(message).with_metadata(self.metadata);
        let timeout = self.deadline.map(|deadline| deadline.saturating_duration_since(now()));
        request.set_arrival(timeout, self.deadline, Some(self.link));
        request
    }
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
