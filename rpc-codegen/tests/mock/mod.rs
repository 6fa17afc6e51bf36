//! What stubs reach through the codegen path, as far as they see it: small and in one process.
//!
//! A call goes from [`Client`] through a [`Channel`] to a [`Service`] as encoded messages.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use prost::Message;

/// As `futures_core::Stream`.
pub trait Stream {
    type Item;
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>>;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status(pub String);

impl Status {
    pub fn unimplemented(message: impl Into<String>) -> Status {
        Status(message.into())
    }
}

#[derive(Debug)]
pub struct Request<T>(pub T);

#[derive(Debug)]
pub struct Response<T>(pub T);

pub trait IntoRequest<T> {
    fn into_request(self) -> Request<T>;
}

impl<T> IntoRequest<T> for T {
    fn into_request(self) -> Request<T> {
        Request(self)
    }
}

impl<T> IntoRequest<T> for Request<T> {
    fn into_request(self) -> Request<T> {
        self
    }
}

pub trait IntoStreamingRequest {
    type Message;
    type Stream: Stream<Item = Self::Message> + Send + 'static;
    fn into_streaming_request(self) -> Request<Self::Stream>;
}

impl<T: Send + Unpin + 'static> IntoStreamingRequest for Vec<T> {
    type Message = T;
    type Stream = Items<T>;
    fn into_streaming_request(self) -> Request<Items<T>> {
        Request(Items(self.into()))
    }
}

/// A stream of what is already there.
#[derive(Debug)]
pub struct Items<T>(pub VecDeque<T>);

impl<T: Unpin> Stream for Items<T> {
    type Item = T;
    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<T>> {
        Poll::Ready(self.0.pop_front())
    }
}

/// Messages decoded one by one.
#[derive(Debug)]
pub struct Streaming<T> {
    messages: VecDeque<Vec<u8>>,
    decoded: std::marker::PhantomData<fn() -> T>,
}

impl<T: Message + Default> Streaming<T> {
    fn new(messages: Vec<Vec<u8>>) -> Streaming<T> {
        Streaming { messages: messages.into(), decoded: std::marker::PhantomData }
    }

    pub async fn message(&mut self) -> Result<Option<T>, Status> {
        self.messages.pop_front().map(|bytes| decode(&bytes)).transpose()
    }
}

fn decode<T: Message + Default>(bytes: &[u8]) -> Result<T, Status> {
    T::decode(bytes).map_err(|error| Status(error.to_string()))
}

async fn collect<S: Stream>(stream: S) -> Vec<S::Item> {
    let mut stream = pin!(stream);
    let mut items = Vec::new();
    while let Some(item) = poll_fn(|cx| stream.as_mut().poll_next(cx)).await {
        items.push(item);
    }
    items
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MethodKind {
    Unary,
    ClientStreaming,
    ServerStreaming,
    BidiStreaming,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idempotency {
    Unknown,
    NoSideEffects,
    Idempotent,
}

#[derive(Debug)]
pub struct MethodDescriptor {
    pub name: &'static str,
    pub path: &'static str,
    pub kind: MethodKind,
    pub idempotency: Idempotency,
}

#[derive(Debug)]
pub struct ServiceDescriptor {
    pub name: &'static str,
    pub methods: &'static [MethodDescriptor],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MessageLimits {
    pub decoding: Option<usize>,
    pub encoding: Option<usize>,
}

impl MessageLimits {
    pub fn max_decoding_message_size(mut self, limit_bytes: usize) -> MessageLimits {
        self.decoding = Some(limit_bytes);
        self
    }

    pub fn max_encoding_message_size(mut self, limit_bytes: usize) -> MessageLimits {
        self.encoding = Some(limit_bytes);
        self
    }
}

pub trait Service: Send + Sync + 'static {
    fn descriptor(&self) -> &'static ServiceDescriptor;
    fn limits(&self) -> MessageLimits;
    fn call(&self, method: usize, call: IncomingCall<'_>) -> Handler;
}

type Responses = Result<Vec<Vec<u8>>, Status>;

/// Encoded responses, in the end.
pub struct Handler(Pin<Box<dyn Future<Output = Responses> + Send>>);

pub struct IncomingCall<'a> {
    lifetime: std::marker::PhantomData<&'a ()>,
    messages: Vec<Vec<u8>>,
    limits: MessageLimits,
}

impl<'a> IncomingCall<'a> {
    pub fn with_limits(mut self, limits: MessageLimits) -> IncomingCall<'a> {
        self.limits = limits;
        self
    }

    fn first<T: Message + Default>(&self) -> Result<T, Status> {
        let message = &self.messages[0];
        if self.limits.decoding.is_some_and(|limit| message.len() > limit) {
            return Err(Status("too long".to_owned()));
        }
        decode(message)
    }

    fn owned(self) -> IncomingCall<'static> {
        let IncomingCall { messages, limits, .. } = self;
        IncomingCall { lifetime: std::marker::PhantomData, messages, limits }
    }

    pub fn unary<S, Q, P, F, Fut>(self, service: &Arc<S>, handle: F) -> Handler
    where
        S: Send + Sync + 'static,
        Q: Message + Default,
        P: Message,
        F: FnOnce(Arc<S>, Request<Q>) -> Fut + Send + 'static,
        Fut: Future<Output = (Result<Response<P>, Status>, Arc<S>)> + Send + 'static,
    {
        let (call, service) = (self.owned(), Arc::clone(service));
        Handler(Box::pin(async move {
            let request = call.first()?;
            let (answer, _) = handle(service, Request(request)).await;
            Ok(vec![answer?.0.encode_to_vec()])
        }))
    }

    pub fn client_streaming<Q, P, F, Fut>(self, handle: F) -> Handler
    where
        Q: Message + Default + 'static,
        P: Message,
        F: FnOnce(Request<Streaming<Q>>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Response<P>, Status>> + Send + 'static,
    {
        let call = self.owned();
        Handler(Box::pin(async move {
            let request = Request(Streaming::new(call.messages));
            Ok(vec![handle(request).await?.0.encode_to_vec()])
        }))
    }

    pub fn server_streaming<Q, P, S, F, Fut>(self, handle: F) -> Handler
    where
        Q: Message + Default,
        P: Message,
        S: Stream<Item = Result<P, Status>> + Send + 'static,
        F: FnOnce(Request<Q>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Response<S>, Status>> + Send + 'static,
    {
        let call = self.owned();
        Handler(Box::pin(async move {
            let request = call.first()?;
            encode_all(handle(Request(request)).await?).await
        }))
    }

    pub fn bidi_streaming<Q, P, S, F, Fut>(self, handle: F) -> Handler
    where
        Q: Message + Default + 'static,
        P: Message,
        S: Stream<Item = Result<P, Status>> + Send + 'static,
        F: FnOnce(Request<Streaming<Q>>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Response<S>, Status>> + Send + 'static,
    {
        let call = self.owned();
        Handler(Box::pin(async move {
            let request = Request(Streaming::new(call.messages));
            encode_all(handle(request).await?).await
        }))
    }

    pub fn unimplemented(self) -> Handler {
        Handler(Box::pin(async { Err(Status::unimplemented("no such method")) }))
    }
}

async fn encode_all<P, S>(response: Response<S>) -> Result<Vec<Vec<u8>>, Status>
where
    P: Message,
    S: Stream<Item = Result<P, Status>>,
{
    collect(response.0).await.into_iter().map(|item| Ok(item?.encode_to_vec())).collect()
}

/// Leads to one service in this process.
#[derive(Clone)]
pub struct Channel(pub Arc<dyn Service>);

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.descriptor().name)
    }
}

#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
    pub limits: MessageLimits,
}

impl Client {
    pub fn new(channel: Channel) -> Client {
        Client { channel, limits: MessageLimits::default() }
    }

    pub fn max_decoding_message_size(mut self, limit_bytes: usize) -> Client {
        self.limits = self.limits.max_decoding_message_size(limit_bytes);
        self
    }

    pub fn max_encoding_message_size(mut self, limit_bytes: usize) -> Client {
        self.limits = self.limits.max_encoding_message_size(limit_bytes);
        self
    }

    async fn call(
        &self,
        method: &'static MethodDescriptor,
        kind: MethodKind,
        messages: Vec<Vec<u8>>,
    ) -> Result<Vec<Vec<u8>>, Status> {
        assert_eq!(method.kind, kind, "{}", method.path);
        let service = &self.channel.0;
        let methods = service.descriptor().methods;
        let index = methods.iter().position(|known| std::ptr::eq(known, method));
        let call = IncomingCall {
            lifetime: std::marker::PhantomData,
            messages,
            limits: MessageLimits::default(),
        };
        service.call(index.unwrap_or(usize::MAX), call).0.await
    }

    pub async fn unary<Q: Message, P: Message + Default>(
        &self,
        method: &'static MethodDescriptor,
        request: Request<Q>,
    ) -> Result<Response<P>, Status> {
        let messages = vec![request.0.encode_to_vec()];
        decode_one(self.call(method, MethodKind::Unary, messages).await?)
    }

    pub async fn client_streaming<S, P>(
        &self,
        method: &'static MethodDescriptor,
        request: Request<S>,
    ) -> Result<Response<P>, Status>
    where
        S: Stream<Item: Message> + Send + 'static,
        P: Message + Default,
    {
        let messages = collect(request.0).await.iter().map(Message::encode_to_vec).collect();
        decode_one(self.call(method, MethodKind::ClientStreaming, messages).await?)
    }

    pub async fn server_streaming<Q: Message, P: Message + Default>(
        &self,
        method: &'static MethodDescriptor,
        request: Request<Q>,
    ) -> Result<Response<Streaming<P>>, Status> {
        let messages = vec![request.0.encode_to_vec()];
        let responses = self.call(method, MethodKind::ServerStreaming, messages).await?;
        Ok(Response(Streaming::new(responses)))
    }

    pub async fn bidi_streaming<S, P>(
        &self,
        method: &'static MethodDescriptor,
        request: Request<S>,
    ) -> Result<Response<Streaming<P>>, Status>
    where
        S: Stream<Item: Message> + Send + 'static,
        P: Message + Default,
    {
        let messages = collect(request.0).await.iter().map(Message::encode_to_vec).collect();
        let responses = self.call(method, MethodKind::BidiStreaming, messages).await?;
        Ok(Response(Streaming::new(responses)))
    }
}

fn decode_one<P: Message + Default>(mut responses: Vec<Vec<u8>>) -> Result<Response<P>, Status> {
    let response = responses.pop().ok_or_else(|| Status("no response".to_owned()))?;
    decode(&response).map(Response)
}
