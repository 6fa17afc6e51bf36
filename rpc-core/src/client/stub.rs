//! What generated clients are made of: the four kinds of call.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Poll;

use futures_core::Stream;
use prost::Message;
use tokio::runtime::Handle;

use super::call::{Call, Deadline, Opening, expired, may_retry, response};
use super::channel::Channel;
use super::connection::Held;
use super::pump::pump;
use super::unary::Unary;
use crate::codec::ProstMessage;
use crate::driver::Conn;
use crate::driver::cell::{End, SharedCell};
use crate::metadata::MetadataMap;
use crate::request::Request;
use crate::response::Response;
use crate::service::{MessageLimits, MethodDescriptor};
use crate::session::{CANCELLED, Encode};
use crate::status::Status;
use crate::streaming::Streaming;

/// How often a call that was never sent is tried on a new connection before its failure is the
/// caller's.
pub(super) const ATTEMPTS: usize = 3;

/// A channel and the limits of one client: what a generated client holds.
///
/// # Errors
/// Every call ends with the status the server or the transport gave it. A call that never left
/// is tried again on a new connection; any other failure is the caller's to judge, by
/// [`Status::request_seen`].
///
/// # Cancel safety
/// Dropping the future of a call, or the [`Streaming`] it gave, cancels the call at the server.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
    limits: MessageLimits,
}

impl Client {
    /// A client on a channel.
    pub fn new(channel: Channel) -> Client {
        Client { limits: channel.limits(), channel }
    }

    /// Accepts messages of up to this many bytes (4 MiB unless configured).
    #[must_use]
    pub fn max_decoding_message_size(mut self, limit_bytes: usize) -> Client {
        self.limits.decode_bytes = Some(limit_bytes);
        self
    }

    /// Refuses to send messages of more than this many bytes (no limit unless said).
    #[must_use]
    pub fn max_encoding_message_size(mut self, limit_bytes: usize) -> Client {
        self.limits.encode_bytes = Some(limit_bytes);
        self
    }

    pub(super) fn limits(&self) -> MessageLimits {
        self.limits
    }

    /// The channel.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// One message each way.
    ///
    /// # Errors
    /// See [`Client`].
    #[inline]
    pub fn unary<'a, Req, Res>(
        &'a self,
        method: &'static MethodDescriptor,
        request: Request<Req>,
    ) -> Unary<'a, Req, Res>
    where
        Req: Message,
        Res: Message + Default,
    {
        Unary::new(self, method, request)
    }

    /// One message to the server, many back.
    ///
    /// # Errors
    /// See [`Client`]; what happens after the first answer comes from the [`Streaming`].
    pub async fn server_streaming<Req, Res>(
        &self,
        method: &'static MethodDescriptor,
        request: Request<Req>,
    ) -> Result<Response<Streaming<Res>>, Status>
    where
        Req: Message,
        Res: Message + Default,
    {
        let deadline = Deadline::of(&request);
        let message = ProstMessage::new(request.get_ref(), self.limits.encode_bytes)?;
        let opening = self.opening(method, request.metadata(), deadline, Some(&message));
        for attempt in 1.. {
            let call = Call::open(self.connection(deadline).await?, &opening, None);
            match call.streaming(method.path).await {
                Ok((headers, messages)) => return Ok(response(headers, messages)),
                Err(status) if attempt < ATTEMPTS && may_retry(&status) => {}
                Err(status) => return Err(status),
            }
        }
        unreachable!("the last attempt returns")
    }

    /// Many messages to the server, one back. The messages are sent while the returned future is
    /// polled, until one is not ready at once, and then by a task of their own: whoever makes it may be
    /// on another thread than the caller, whom each message would have to wake.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn client_streaming<Req, Res, S>(
        &self,
        method: &'static MethodDescriptor,
        request: Request<S>,
    ) -> Result<Response<Res>, Status>
    where
        Req: Message + 'static,
        Res: Message + Default,
        S: Stream<Item = Req> + Send + 'static,
    {
        let mut call = self.open_streaming(method, &request).await?;
        let (conn, cell) = (Arc::clone(call.conn()), SharedCell::clone(call.cell()));
        let (messages, limit) = (request.into_inner(), self.limits.encode_bytes);
        let pump = pump(Arc::clone(&conn), SharedCell::clone(&cell), messages, limit);
        let mut unsent = Some(Box::pin(pump));
        poll_fn(|cx| {
            if let Some(mut pump) = unsent.take() {
                match pump.as_mut().poll(cx) {
                    Poll::Ready(sent) => sent?,
                    Poll::Pending => match Handle::try_current() {
                        Ok(runtime) => {
                            runtime.spawn(Sending::new(&conn, &cell).run_to_end(pump));
                        }
                        Err(_) => unsent = Some(pump),
                    },
                }
            }
            call.poll_response(cx, method.path)
        })
        .await
    }

    /// Many messages each way. The messages are sent by a task of their own, so that reading the
    /// answers is not needed for them to go on; the stream's window and the server's pace bound
    /// them.
    ///
    /// # Errors
    /// See [`Client`]; what happens after the first answer comes from the [`Streaming`].
    pub async fn bidi_streaming<Req, Res, S>(
        &self,
        method: &'static MethodDescriptor,
        request: Request<S>,
    ) -> Result<Response<Streaming<Res>>, Status>
    where
        Req: Message + 'static,
        Res: Message + Default,
        S: Stream<Item = Req> + Send + 'static,
    {
        let call = self.open_streaming(method, &request).await?;
        let (conn, cell) = (Arc::clone(call.conn()), SharedCell::clone(call.cell()));
        let (messages, limit) = (request.into_inner(), self.limits.encode_bytes);
        let sending = Sending::new(&conn, &cell);
        tokio::spawn(sending.run_to_end(pump(conn, cell, messages, limit)));
        let (headers, messages) = call.streaming(method.path).await?;
        Ok(response(headers, messages))
    }

    /// Opens a call whose messages come later, on a new connection if the present one turns out
    /// to be over.
    async fn open_streaming<T>(
        &self,
        method: &'static MethodDescriptor,
        request: &Request<T>,
    ) -> Result<Call<'_>, Status> {
        let deadline = Deadline::of(request);
        let opening = self.opening(method, request.metadata(), deadline, None);
        for attempt in 1.. {
            let call = Call::open(self.connection(deadline).await?, &opening, None);
            match call.cell().failure() {
                Some(status) if attempt < ATTEMPTS && may_retry(&status) => {}
                Some(status) => return Err(status),
                None => return Ok(call),
            }
        }
        unreachable!("the last attempt returns")
    }

    fn opening<'a>(
        &self,
        method: &'static MethodDescriptor,
        metadata: &'a MetadataMap,
        deadline: Deadline,
        message: Option<&'a dyn Encode>,
    ) -> Opening<'a> {
        let max_message_bytes = self.limits.decode_bytes;
        Opening { method, metadata, deadline, message, max_message_bytes }
    }

    async fn connection(&self, deadline: Deadline) -> Result<Held<'_>, Status> {
        match self.channel.current() {
            Some(connection) => Ok(connection),
            None => self.connect(deadline).await,
        }
    }

    /// A connection that has to be made first, or is over and has to be made again.
    pub(super) async fn connect(&self, deadline: Deadline) -> Result<Held<'_>, Status> {
        match deadline.at() {
            None => self.channel.connection().await,
            Some(at) => tokio::time::timeout_at(at.into(), self.channel.connection())
                .await
                .unwrap_or_else(|_| Err(expired("connecting"))),
        }
    }
}

/// The sending half of a call, in a task of its own. A stream of messages that panics, or a
/// runtime that drops the task, must not leave the server waiting for the rest.
struct Sending {
    conn: Arc<dyn Conn>,
    cell: SharedCell,
    over: bool,
}

impl Sending {
    fn new(conn: &Arc<dyn Conn>, cell: &SharedCell) -> Sending {
        Sending { conn: Arc::clone(conn), cell: SharedCell::clone(cell), over: false }
    }

    async fn run_to_end(mut self, pump: impl Future<Output = Result<(), Status>>) {
        match pump.await {
            Ok(()) => self.over = true,
            Err(status) => self.fail(status),
        }
    }

    fn fail(&mut self, status: Status) {
        self.over = true;
        self.cell.put_end(End::Failed(status));
        self.conn.cancel(&self.cell, CANCELLED);
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if !self.over {
            self.fail(Status::cancelled(
                "the stream of request messages was dropped before its end",
            ));
        }
    }
}
