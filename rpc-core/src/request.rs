//! A request: a message, or a stream of messages, with what travels beside it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_core::Stream;

use crate::extensions::Extensions;
use crate::link::LinkInfo;
use crate::link_handle::LinkHandle;
use crate::metadata::MetadataMap;

/// A message (or a stream of messages) with metadata, a time limit, and extensions.
///
/// ```
/// use rdma_rpc_core::Request;
/// use std::time::Duration;
///
/// let mut request = Request::new("message");
/// request.metadata_mut().insert("x-user", "ann".parse().unwrap());
/// request.set_timeout(Duration::from_millis(50));
/// assert_eq!(*request.get_ref(), "message");
/// ```
pub struct Request<T> {
    metadata: MetadataMap,
    extensions: Extensions,
    context: Context,
    message: T,
}

/// What the library knows about a request; travels with it through `map`, and through
/// `into_parts` and `from_parts` in the extensions.
#[derive(Clone, Default)]
struct Context {
    timeout: Option<Duration>,
    deadline: Option<Instant>,
    link: LinkHandle,
}

impl Context {
    fn is_empty(&self) -> bool {
        self.timeout.is_none() && self.deadline.is_none() && self.link.get().is_none()
    }
}

// One request is made and moved for every call.
const _: () = assert!(size_of::<Request<()>>() <= 72);

impl<T> Request<T> {
    /// A request with this message and nothing else; allocates nothing.
    #[inline]
    pub fn new(message: T) -> Request<T> {
        Request {
            metadata: MetadataMap::new(),
            extensions: Extensions::new(),
            context: Context::default(),
            message,
        }
    }

    /// The message.
    pub fn get_ref(&self) -> &T {
        &self.message
    }

    /// The message, to change.
    pub fn get_mut(&mut self) -> &mut T {
        &mut self.message
    }

    /// The metadata that travels with the request.
    pub fn metadata(&self) -> &MetadataMap {
        &self.metadata
    }

    /// The metadata, to change.
    pub fn metadata_mut(&mut self) -> &mut MetadataMap {
        &mut self.metadata
    }

    /// The message alone.
    pub fn into_inner(self) -> T {
        self.message
    }

    /// Takes the request apart.
    ///
    /// Timeout, deadline and peer go into the extensions, where [`Request::from_parts`] finds
    /// them again.
    pub fn into_parts(mut self) -> (MetadataMap, Extensions, T) {
        if !self.context.is_empty() {
            self.extensions.insert(self.context);
        }
        (self.metadata, self.extensions, self.message)
    }

    /// Puts a request together.
    pub fn from_parts(metadata: MetadataMap, mut extensions: Extensions, message: T) -> Request<T> {
        let context = extensions.remove().unwrap_or_default();
        Request { metadata, extensions, context, message }
    }

    /// Changes the message and keeps everything else.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Request<U> {
        Request {
            metadata: self.metadata,
            extensions: self.extensions,
            context: self.context,
            message: change(self.message),
        }
    }

    /// Limits how long the call may take, from when it is made to its last message. Then it ends
    /// with [`Code::DeadlineExceeded`](crate::Code::DeadlineExceeded) at both ends.
    ///
    /// The time left travels in the request's frame, not in the metadata.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.context.timeout = Some(timeout);
    }

    /// How long the call may take: at the client what was set, at the server what was left when
    /// the request arrived.
    pub fn timeout(&self) -> Option<Duration> {
        self.context.timeout
    }

    /// At the server, when the client stops waiting; `None` if it never does.
    ///
    /// A request that is sent on as it is, or taken apart and put together again, keeps its
    /// deadline, and the call made with it ends by then.
    pub fn deadline(&self) -> Option<Instant> {
        self.context.deadline
    }

    /// At the server, the client's address, as far as the transport knows it.
    pub fn peer(&self) -> Option<&str> {
        let peer = self.context.link.get()?.peer.as_str();
        if peer.is_empty() { None } else { Some(peer) }
    }

    /// At the server, the client's address if it is an IP address with a port.
    pub fn remote_addr(&self) -> Option<SocketAddr> {
        self.peer()?.parse().ok()
    }

    /// At the server, what the request came over: transport, device and peer.
    pub fn link_info(&self) -> Option<&LinkInfo> {
        self.context.link.get()
    }

    /// The extensions: values for interceptors and handlers in this process.
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// The extensions, to change.
    pub fn extensions_mut(&mut self) -> &mut Extensions {
        &mut self.extensions
    }

    /// When a call made now with this request must end: the earlier of the deadline it came with
    /// and the timeout that was set.
    pub(crate) fn call_deadline(&self, now: Instant) -> Option<Instant> {
        // A timeout too long to add is no limit.
        let set = self.context.timeout.and_then(|timeout| now.checked_add(timeout));
        match (set, self.context.deadline) {
            (Some(set), Some(deadline)) => Some(set.min(deadline)),
            (set, deadline) => set.or(deadline),
        }
    }

    /// A request that arrived, with what the server knows about it: its metadata, the time the
    /// client left, when that ends, and where it came from.
    #[inline]
    pub(crate) fn arrived(
        message: T,
        metadata: MetadataMap,
        timeout: Option<Duration>,
        deadline: Option<Instant>,
        link: &Arc<LinkInfo>,
    ) -> Request<T> {
        let context = Context { timeout, deadline, link: LinkHandle::of(link) };
        Request { metadata, extensions: Extensions::new(), context, message }
    }
}

impl<T: fmt::Debug> fmt::Debug for Request<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Request");
        out.field("metadata", &self.metadata).field("message", &self.message);
        if let Some(timeout) = self.context.timeout {
            out.field("timeout", &timeout);
        }
        if let Some(peer) = self.peer() {
            out.field("peer", &peer);
        }
        out.field("extensions", &self.extensions).finish()
    }
}

/// What generated clients take for a unary request: the message, or a [`Request`] around it.
pub trait IntoRequest<T>: sealed::Sealed {
    /// The request.
    fn into_request(self) -> Request<T>;
}

impl<T> IntoRequest<T> for T {
    fn into_request(self) -> Request<T> {
        Request::new(self)
    }
}

impl<T> IntoRequest<T> for Request<T> {
    fn into_request(self) -> Request<T> {
        self
    }
}

/// What generated clients take for a streaming request: a stream of messages, or a [`Request`]
/// around one.
pub trait IntoStreamingRequest: sealed::Sealed {
    /// The stream.
    type Stream: Stream<Item = Self::Message> + Send + 'static;
    /// A message of the stream.
    type Message;

    /// The request.
    fn into_streaming_request(self) -> Request<Self::Stream>;
}

impl<S: Stream + Send + 'static> IntoStreamingRequest for S {
    type Stream = S;
    type Message = S::Item;

    fn into_streaming_request(self) -> Request<S> {
        Request::new(self)
    }
}

impl<S: Stream + Send + 'static> IntoStreamingRequest for Request<S> {
    type Stream = S;
    type Message = S::Item;

    fn into_streaming_request(self) -> Request<S> {
        self
    }
}

mod sealed {
    /// Keeps the two traits ours.
    pub trait Sealed {}

    impl<T> Sealed for T {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_keep_everything() {
        let (now, limit) = (Instant::now(), Duration::from_secs(3));
        let link = Arc::new(LinkInfo::new("tcp", "eth0", "127.0.0.1:7400"));
        let none = MetadataMap::new();
        let mut request = Request::arrived(1u8, none, Some(limit), Some(now + limit), &link);
        request.metadata_mut().insert("k", "v".parse().unwrap());
        request.extensions_mut().insert("mine");

        let (metadata, extensions, message) = request.into_parts();
        let request = Request::from_parts(metadata, extensions, message).map(u32::from);
        assert_eq!(request.metadata().get("k").unwrap(), "v");
        assert_eq!(request.extensions().get(), Some(&"mine"));
        assert_eq!(request.extensions().len(), 1);
        assert_eq!(request.timeout(), Some(limit));
        assert_eq!(request.deadline(), Some(now + limit));
        assert_eq!(request.peer(), Some("127.0.0.1:7400"));
        assert_eq!(request.remote_addr(), Some(([127, 0, 0, 1], 7400).into()));
        assert_eq!(request.link_info().unwrap().transport, "tcp");
        assert_eq!(request.into_inner(), 1u32);
    }

    #[test]
    fn nothing_is_there_unless_set() {
        let (metadata, extensions, ()) = Request::new(()).into_parts();
        assert!(metadata.is_empty() && extensions.is_empty());
        let mut request = Request::new(());
        assert_eq!(request.peer(), None);
        assert_eq!(request.remote_addr(), None);
        let from = |link| Request::arrived((), MetadataMap::new(), None, None, &Arc::new(link));
        request = from(LinkInfo::default());
        assert_eq!(request.peer(), None);
        request = from(LinkInfo::new("shm", "", "pid 7"));
        assert_eq!((request.peer(), request.remote_addr()), (Some("pid 7"), None));
        assert_eq!(request.call_deadline(Instant::now()), None);
    }

    #[test]
    fn the_earlier_limit_holds() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let mut request = Request::new(());
        request.set_timeout(second);
        assert_eq!(request.call_deadline(now), Some(now + second));
        request.set_timeout(Duration::MAX);
        assert_eq!(request.call_deadline(now), None);
        let (none, link) = (MetadataMap::new(), Arc::default());
        request = Request::arrived((), none, Some(2 * second), Some(now + second), &link);
        assert_eq!(request.call_deadline(now), Some(now + second));
        request.set_timeout(second / 2);
        assert_eq!(request.call_deadline(now), Some(now + second / 2));
    }

    #[test]
    fn debug_hides_what_is_sensitive() {
        let mut request = Request::new(7);
        let mut password: crate::metadata::AsciiMetadataValue = "secret".parse().unwrap();
        password.set_sensitive(true);
        request.metadata_mut().insert("authorization", password);
        request.set_timeout(Duration::from_secs(1));
        assert_eq!(
            format!("{request:?}"),
            "Request { metadata: {\"authorization\": Sensitive}, message: 7, timeout: 1s, \
             extensions: Extensions { len: 0 } }"
        );
    }

    fn message_of<T>(request: impl IntoRequest<T>) -> T {
        request.into_request().into_inner()
    }

    fn timeout_of(request: impl IntoStreamingRequest<Message = u8>) -> Option<Duration> {
        request.into_streaming_request().timeout()
    }

    #[test]
    fn messages_and_requests_are_taken_alike() {
        assert_eq!(message_of::<u8>(1), 1);
        assert_eq!(message_of::<u8>(Request::new(2)), 2);
        let stream = || futures_util::stream::iter([1u8, 2]);
        assert_eq!(timeout_of(stream()), None);
        let mut request = Request::new(stream());
        request.set_timeout(Duration::from_secs(1));
        assert_eq!(timeout_of(request), Some(Duration::from_secs(1)));
    }
}
