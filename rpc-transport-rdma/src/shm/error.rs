//! Why a shared-memory connection could not be made.

use std::fmt;
use std::io;

use crate::verbs::VerbError;

/// Why a shared-memory connection could not be made. None of these leaves anything behind.
#[derive(Debug)]
#[non_exhaustive]
pub enum ShmError {
    /// A system call of ours failed.
    Verb(VerbError),
    /// A number of the configuration is out of bounds.
    Config {
        /// Which.
        name: &'static str,
        /// What it should be.
        rule: String,
    },
    /// The two ends do not share a host and a network namespace.
    OtherHost {
        /// Ours and theirs.
        detail: String,
    },
    /// The process at the other end runs as a user who is not allowed.
    PeerUser {
        /// The peer's user id.
        uid: u32,
        /// Ours.
        own: u32,
    },
    /// The other end said no.
    Refused {
        /// Its reason.
        reason: String,
    },
    /// The other end broke the handshake.
    Misbehaved {
        /// What it did.
        what: String,
    },
    /// The bootstrap connection failed.
    Exchange(io::Error),
}

impl ShmError {
    /// A system call of ours failed.
    pub(super) fn verb(
        verb: &'static str,
        errno: rustix::io::Errno,
        context: impl Into<String>,
    ) -> ShmError {
        ShmError::Verb(VerbError { verb, errno: errno.raw_os_error(), context: context.into() })
    }

    /// A call of the standard library or tokio failed.
    pub(super) fn io(verb: &'static str, error: &io::Error, context: &str) -> ShmError {
        let errno = error.raw_os_error().unwrap_or(rustix::io::Errno::IO.raw_os_error());
        ShmError::Verb(VerbError { verb, errno, context: format!("{context} ({error})") })
    }

    /// Whether the bootstrap connection itself broke, so that no other transport can use it.
    pub fn is_exchange(&self) -> bool {
        matches!(self, ShmError::Exchange(_))
    }
}

impl fmt::Display for ShmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ShmError::Verb(error) => write!(f, "shared memory: {error}"),
            ShmError::Config { name, rule } => write!(f, "shared memory: {name}: {rule}"),
            ShmError::OtherHost { detail } => {
                write!(f, "shared memory: the peer is not on this host: {detail}")
            }
            ShmError::PeerUser { uid, own } => write!(
                f,
                "shared memory: the peer runs as uid {uid} and we as {own}; allow it in \
                 allowed_uids, or run both as one user"
            ),
            ShmError::Refused { reason } => {
                write!(f, "shared memory: the peer refused: {reason}")
            }
            ShmError::Misbehaved { what } => {
                write!(f, "shared memory: the peer broke the handshake: {what}")
            }
            ShmError::Exchange(error) => {
                write!(f, "shared memory: the bootstrap connection failed: {error}")
            }
        }
    }
}

impl std::error::Error for ShmError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ShmError::Verb(error) => Some(error),
            ShmError::Exchange(error) => Some(error),
            _ => None,
        }
    }
}

impl From<VerbError> for ShmError {
    fn from(error: VerbError) -> ShmError {
        ShmError::Verb(error)
    }
}
