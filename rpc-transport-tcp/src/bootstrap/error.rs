//! Why a handshake failed: whose doing it was, at which byte, and what was expected there.

use std::fmt;
use std::io;

use super::RejectCode;

/// Whose doing a failure was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Culprit {
    /// The other end sent something wrong, nothing, or a refusal.
    Peer,
    /// This end: its arguments, its socket, its network.
    Local,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Connect,
    Io,
    Closed,
    Timeout,
    Malformed,
    Rejected(RejectCode),
    VersionMismatch,
    Misuse,
}

/// Why a handshake failed.
#[derive(Clone)]
pub struct BootstrapError {
    inner: Box<Inner>,
}

#[derive(Clone)]
struct Inner {
    kind: Kind,
    culprit: Culprit,
    /// Position in what the peer has sent, counted from its first byte.
    offset: Option<u64>,
    message: String,
    io_kind: Option<io::ErrorKind>,
}

impl BootstrapError {
    fn new(kind: Kind, culprit: Culprit, offset: Option<u64>, message: String) -> BootstrapError {
        BootstrapError { inner: Box::new(Inner { kind, culprit, offset, message, io_kind: None }) }
    }

    pub(super) fn connect(error: &io::Error) -> BootstrapError {
        let kind = match error.kind() {
            io::ErrorKind::TimedOut => Kind::Timeout,
            _ => Kind::Connect,
        };
        let mut this = BootstrapError::new(kind, Culprit::Local, None, error.to_string());
        this.inner.io_kind = Some(error.kind());
        this
    }

    pub(super) fn io(doing: &str, peer: &str, offset: u64, error: &io::Error) -> BootstrapError {
        let message = format!("{doing} {peer} failed: {error}");
        // A reset is the peer's close seen from this side.
        let (kind, culprit) = match error.kind() {
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted => (Kind::Closed, Culprit::Peer),
            _ => (Kind::Io, Culprit::Local),
        };
        let mut this = BootstrapError::new(kind, culprit, Some(offset), message);
        this.inner.io_kind = Some(error.kind());
        this
    }

    pub(super) fn closed(peer: &str, expected: &str, offset: u64) -> BootstrapError {
        let message =
            format!("{peer} closed the connection at byte {offset}: expected {expected}, got end");
        BootstrapError::new(Kind::Closed, Culprit::Peer, Some(offset), message)
    }

    pub(super) fn timeout(peer: &str, expected: &str, offset: u64) -> BootstrapError {
        let message = format!(
            "{peer} did not send {expected} in time: {offset} bytes had arrived when the \
             handshake timeout ran out"
        );
        BootstrapError::new(Kind::Timeout, Culprit::Peer, Some(offset), message)
    }

    pub(super) fn send_timeout(peer: &str, what: &str, unsent: usize) -> BootstrapError {
        let message = format!(
            "{peer} did not take {what} in time: {unsent} bytes were unsent when the handshake \
             timeout ran out"
        );
        BootstrapError::new(Kind::Timeout, Culprit::Peer, None, message)
    }

    pub(super) fn malformed(expected: &str, got: &str, offset: u64) -> BootstrapError {
        let message = format!("at byte {offset} the peer sent {got}: expected {expected}");
        BootstrapError::new(Kind::Malformed, Culprit::Peer, Some(offset), message)
    }

    pub(super) fn rejected(code: RejectCode, text: &str) -> BootstrapError {
        let kind = match code {
            RejectCode::VersionMismatch => Kind::VersionMismatch,
            code => Kind::Rejected(code),
        };
        let message = format!("the server turned the connection away ({code}): {text}");
        BootstrapError::new(kind, Culprit::Peer, None, message)
    }

    pub(super) fn version_mismatch(text: String, offset: u64) -> BootstrapError {
        BootstrapError::new(Kind::VersionMismatch, Culprit::Peer, Some(offset), text)
    }

    pub(super) fn misuse(message: String) -> BootstrapError {
        BootstrapError::new(Kind::Misuse, Culprit::Local, None, message)
    }

    /// Names the stage and peer of an error made where neither was known.
    pub(super) fn sent_by(mut self, peer: &str) -> BootstrapError {
        if !self.inner.message.contains(peer) {
            self.inner.message = format!("{}, from {peer}", self.inner.message);
        }
        self
    }

    /// Whose doing it was.
    pub fn culprit(&self) -> Culprit {
        self.inner.culprit
    }

    /// Position of the byte it failed at, in what the peer has sent, where there is one.
    pub fn byte_offset(&self) -> Option<u64> {
        self.inner.offset
    }

    /// No connection could be made at all: name, address, network, nobody listening.
    pub fn is_connect(&self) -> bool {
        self.inner.kind == Kind::Connect
    }

    /// Time ran out, while connecting or in the handshake.
    pub fn is_timeout(&self) -> bool {
        self.inner.kind == Kind::Timeout
    }

    /// The two ends have no protocol version in common.
    pub fn is_version_mismatch(&self) -> bool {
        self.inner.kind == Kind::VersionMismatch
    }

    /// The peer closed before the handshake was done.
    pub fn is_closed(&self) -> bool {
        self.inner.kind == Kind::Closed
    }

    /// The peer sent bytes that are not a handshake.
    pub fn is_malformed(&self) -> bool {
        self.inner.kind == Kind::Malformed
    }

    /// The server answered with a refusal.
    pub fn is_rejected(&self) -> bool {
        self.reject_code().is_some()
    }

    /// The code of the server's refusal.
    pub fn reject_code(&self) -> Option<RejectCode> {
        match self.inner.kind {
            Kind::Rejected(code) => Some(code),
            Kind::VersionMismatch => Some(RejectCode::VersionMismatch),
            _ => None,
        }
    }

    /// This end passed arguments that cannot be sent.
    pub fn is_misuse(&self) -> bool {
        self.inner.kind == Kind::Misuse
    }

    /// The same error for an interface that speaks [`io::Error`].
    pub fn to_io(&self) -> io::Error {
        let kind = self.inner.io_kind.unwrap_or(match self.inner.kind {
            Kind::Connect | Kind::Io => io::ErrorKind::Other,
            Kind::Closed => io::ErrorKind::UnexpectedEof,
            Kind::Timeout => io::ErrorKind::TimedOut,
            Kind::Malformed => io::ErrorKind::InvalidData,
            Kind::Rejected(_) => io::ErrorKind::ConnectionRefused,
            Kind::VersionMismatch => io::ErrorKind::Unsupported,
            Kind::Misuse => io::ErrorKind::InvalidInput,
        });
        io::Error::new(kind, self.clone())
    }
}

impl fmt::Debug for BootstrapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "BootstrapError({:?}, {:?}: {})",
            self.inner.kind, self.inner.culprit, self.inner.message
        )
    }
}

impl fmt::Display for BootstrapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.message)
    }
}

impl std::error::Error for BootstrapError {}
