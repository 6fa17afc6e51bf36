//! What a session tells its driver.

use std::fmt;
use std::time::Instant;

use bytes::Bytes;

use super::StreamId;
use super::batch::Messages;
use crate::copy;
use crate::link::BulkDescriptor;
use crate::wire::WireError;

/// Message bytes, lent by the link or given away.
#[derive(Debug, Clone)]
pub enum Payload<'a> {
    /// Lent: copy what is kept.
    Borrowed(&'a [u8]),
    /// Given away.
    Owned(Bytes),
}

impl Payload<'_> {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Payload::Borrowed(bytes) => bytes,
            Payload::Owned(bytes) => bytes,
        }
    }

    /// The bytes to keep; copies what was lent.
    pub fn into_bytes(self) -> Bytes {
        match self {
            Payload::Borrowed(bytes) => copy::to_bytes(bytes),
            Payload::Owned(bytes) => bytes,
        }
    }
}

/// A whole message.
#[derive(Debug, Clone)]
pub struct Message<'a> {
    /// Its bytes.
    pub payload: Payload<'a>,
    /// Where the stream stands after it: what the reader reports as consumed.
    pub position: u64,
}

/// How a peer ended a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finish<'a> {
    /// The gRPC status code, as sent.
    pub code: u16,
    /// The status message.
    pub message: &'a str,
    /// The trailing metadata block; empty: none.
    pub metadata: &'a [u8],
    /// The status details.
    pub details: &'a [u8],
    /// Whether the peer refused the stream without giving it to a handler.
    pub refused: bool,
}

/// What one frame meant.
#[derive(Debug)]
pub enum Event<'a> {
    /// Nothing the driver needs to know.
    None,
    /// Server: the client calls `path` by this number from now on. Answer with
    /// [`super::Session::set_method_limit`] where the method has its own limit.
    Bound {
        /// The number.
        method: u16,
        /// The method's path.
        path: &'a str,
    },
    /// Server: a new stream.
    Request {
        /// The stream.
        stream: StreamId,
        /// A number that was bound.
        method: u16,
        /// When the caller gives up.
        deadline: Option<Instant>,
        /// The metadata block; empty: none.
        metadata: &'a [u8],
        /// The first message, where the frame held all of it.
        message: Option<Message<'a>>,
        /// The client will send no more messages.
        end: bool,
    },
    /// A message, the end of the peer's messages, or both.
    Message {
        /// The stream.
        stream: StreamId,
        /// The message.
        message: Option<Message<'a>>,
        /// The peer will send no more messages.
        end: bool,
    },
    /// Several messages.
    Messages {
        /// The stream.
        stream: StreamId,
        /// The messages: at least one.
        messages: Messages,
        /// The peer will send no more messages.
        end: bool,
    },
    /// A message waits to be pulled. Whatever becomes of the stream, the driver must call
    /// [`super::Session::bulk_done`] once, after the pull or instead of it.
    Bulk {
        /// The stream.
        stream: StreamId,
        /// Where it waits.
        descriptor: BulkDescriptor,
        /// The message's first bytes, which came with the frame.
        head: &'a [u8],
        /// The bytes to pull.
        len: usize,
        /// Its last bytes.
        tail: &'a [u8],
        /// Where the stream stands after it.
        position: u64,
        /// The peer will send no more messages.
        end: bool,
    },
    /// The peer is done with a bulk buffer of ours: give it back to the link.
    BulkReleased {
        /// Which.
        descriptor: BulkDescriptor,
    },
    /// Client: initial metadata.
    Headers {
        /// The stream.
        stream: StreamId,
        /// The metadata block; empty: none.
        metadata: &'a [u8],
    },
    /// Client: a whole unary response with status OK. The stream is over.
    Response {
        /// The stream.
        stream: StreamId,
        /// The initial metadata block; empty: none.
        metadata: &'a [u8],
        /// The trailing metadata block; empty: none.
        trailers: &'a [u8],
        /// The message.
        message: Payload<'a>,
    },
    /// Client: the stream is over.
    Finished {
        /// The stream.
        stream: StreamId,
        /// How.
        finish: Finish<'a>,
    },
    /// The stream is over at our own word (a message too long, too much buffered): this side
    /// refused to go on. On a server the peer has been told.
    Refused {
        /// The stream.
        stream: StreamId,
        /// Why.
        why: Refusal,
    },
    /// Server: the client cancelled. The stream is over.
    Cancelled {
        /// The stream.
        stream: StreamId,
        /// The gRPC code of the client's reason (CANCELLED, DEADLINE_EXCEEDED).
        code: u16,
    },
    /// The peer will accept no more streams; those in `unseen` it has never looked at, and they
    /// are over.
    GoAway {
        /// Streams that can safely be tried elsewhere.
        unseen: Vec<StreamId>,
        /// The code the peer gave; 0: an orderly shutdown.
        code: u16,
        /// What the peer says.
        reason: &'a str,
    },
}

/// Why this side ended a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A message longer than the stream's limit.
    MessageTooLong {
        /// Its length in bytes.
        bytes: u64,
        /// The limit in bytes.
        limit_bytes: usize,
    },
    /// Too much held for all streams of the connection.
    TooMuchBuffered {
        /// The limit in bytes.
        limit_bytes: u64,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::MessageTooLong { bytes, limit_bytes } => write!(
                f,
                "message of {bytes} bytes is longer than the receiver's limit of {limit_bytes} bytes"
            ),
            Refusal::TooMuchBuffered { limit_bytes } => write!(
                f,
                "the receiver already holds its limit of {limit_bytes} bytes for this connection"
            ),
        }
    }
}

/// Why a session cannot go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionError {
    /// The peer sent what it must not.
    Protocol {
        /// What and where.
        error: WireError,
        /// The kind byte of the frame.
        kind: u8,
        /// Its stream.
        stream: u32,
        /// How many frames came before it.
        frame: u64,
    },
    /// A PING was not answered.
    KeepaliveTimeout {
        /// For how many milliseconds.
        waited_ms: u64,
    },
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SessionError::Protocol { error, kind, stream, frame } => {
                write!(
                    f,
                    "peer broke the protocol: {error}, in frame {frame} (kind {kind:#04x}, stream {stream})"
                )
            }
            SessionError::KeepaliveTimeout { waited_ms } => {
                write!(f, "peer has not answered a ping for {waited_ms} ms")
            }
        }
    }
}

impl std::error::Error for SessionError {}
