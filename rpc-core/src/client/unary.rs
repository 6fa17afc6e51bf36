//! One message each way: the future of a unary call.
//!
//! Written out, not an `async fn`: the request stays where it was put first, and the waker of the
//! task is at hand when the call is opened, so that most calls look at their mailbox once.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use prost::Message;

use super::call::{Call, Deadline, Opening, may_retry};
use super::connection::Held;
use super::stub::{ATTEMPTS, Client};
use crate::codec::ProstMessage;
use crate::request::Request;
use crate::response::Response;
use crate::service::MethodDescriptor;
use crate::status::Status;

/// A unary call. Nothing happens before it is polled; dropped before its end, the call is cancelled
/// at the server.
#[must_use = "a call is made when it is awaited"]
pub struct Unary<'a, Req, Res> {
    client: &'a Client,
    method: &'static MethodDescriptor,
    request: Request<Req>,
    /// Since the first poll.
    deadline: Option<Deadline>,
    attempts: usize,
    stage: Stage<'a>,
    response: PhantomData<fn() -> Res>,
}

/// How far it is.
enum Stage<'a> {
    /// No connection is at hand, or none was asked for.
    Begin,
    Connecting(Pin<Box<dyn Future<Output = Result<Held<'a>, Status>> + Send + 'a>>),
    Open(Call<'a>),
    Over,
}

impl<'a, Req, Res> Unary<'a, Req, Res> {
    #[inline]
    pub(super) fn new(
        client: &'a Client,
        method: &'static MethodDescriptor,
        request: Request<Req>,
    ) -> Unary<'a, Req, Res> {
        let (deadline, stage, response) = (None, Stage::Begin, PhantomData);
        Unary { client, method, request, deadline, attempts: 0, stage, response }
    }
}

// Nothing in it is ever pinned.
impl<Req, Res> Unpin for Unary<'_, Req, Res> {}

impl<'a, Req: Message, Res: Message + Default> Unary<'a, Req, Res> {
    /// Opens the call on a connection.
    #[inline]
    fn open(
        &mut self,
        cx: &mut Context<'_>,
        deadline: Deadline,
        connection: Held<'a>,
    ) -> Result<(), Status> {
        let limits = self.client.limits();
        let message = ProstMessage::new(self.request.get_ref(), limits.encode_bytes)?;
        let opening = Opening {
            method: self.method,
            metadata: self.request.metadata(),
            deadline,
            message: Some(&message),
            max_message_bytes: limits.decode_bytes,
        };
        self.attempts += 1;
        let call = Call::open(connection, &opening, Some(cx.waker()));
        let before = std::mem::replace(&mut self.stage, Stage::Open(call));
        // There is nothing to drop, which the compiler does not see.
        debug_assert!(matches!(before, Stage::Begin));
        std::mem::forget(before);
        Ok(())
    }

    #[inline]
    fn poll_call(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<Res>, Status>> {
        loop {
            let deadline = *self.deadline.get_or_insert_with(|| Deadline::of(&self.request));
            match &mut self.stage {
                Stage::Open(call) => {
                    let polled = call.poll_response(cx, self.method.path);
                    match &polled {
                        // It never left: once more, on another connection.
                        Poll::Ready(Err(status))
                            if self.attempts < ATTEMPTS && may_retry(status) =>
                        {
                            self.stage = Stage::Begin;
                        }
                        _ => return polled,
                    }
                }
                Stage::Begin => match self.client.channel().current() {
                    Some(connection) => self.open(cx, deadline, connection)?,
                    None => {
                        // A message that must not be sent need not wait for a connection.
                        ProstMessage::new(
                            self.request.get_ref(),
                            self.client.limits().encode_bytes,
                        )?;
                        let connecting = self.client.connect(deadline);
                        self.stage = Stage::Connecting(Box::pin(connecting));
                    }
                },
                Stage::Connecting(connecting) => {
                    let connection = ready!(connecting.as_mut().poll(cx))?;
                    self.stage = Stage::Begin;
                    self.open(cx, deadline, connection)?;
                }
                Stage::Over => unreachable!("a call is over once"),
            }
        }
    }
}

impl<Req: Message, Res: Message + Default> Future for Unary<'_, Req, Res> {
    type Output = Result<Response<Res>, Status>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let polled = this.poll_call(cx);
        if polled.is_ready() {
            this.stage = Stage::Over;
        }
        polled
    }
}

impl<Req, Res> fmt::Debug for Unary<'_, Req, Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unary").field("method", &self.method.path).finish_non_exhaustive()
    }
}
