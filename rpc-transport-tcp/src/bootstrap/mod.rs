//! One port, one handshake: the bytes both ends exchange before the first frame.
//!
//! ```text
//!   client                                     server
//!     magic, HELLO                  ------>      versions, features, target, offers
//!                                   <------      magic, HELLO-REPLY   (or magic, REJECT)
//!     if the reply chose an upgrade (shm, rdma):
//!     EXCHANGE ...                  <----->      EXCHANGE ...          opaque to this module
//!     CONFIRM                       <----->      CONFIRM               each end sends exactly one
//!     both UPGRADED: the other transport has the connection, this socket stays as its liveness
//!     otherwise:     both ends stay on this socket, the reason is kept
//! ```
//!
//! # Bytes
//!
//! All numbers are little-endian. Each end's first frame is preceded by the eight magic bytes
//! `F2 52 52 50 43 0D 0A 1A` (`F2` "RRPC" CR LF SUB): no HTTP or TLS client starts like this, and
//! a channel that translates line ends shows itself at once. The first eight bytes of a frame:
//!
//! ```text
//!   offset size
//!        0    1  kind: 1 HELLO, 2 HELLO-REPLY, 3 REJECT, 4 EXCHANGE, 5 CONFIRM
//!        1    3  zero
//!        4    4  payload length, at most 65528 (a frame is at most 64 KiB)
//!        8       payload
//! ```
//!
//! HELLO (client, first). These offsets, REJECT and the frame header are the same in every
//! version; later versions append, and bytes after the known part are skipped.
//!
//! ```text
//!        0    2  lowest protocol version the client speaks
//!        2    2  highest
//!        4    8  feature bits
//!       12    4  the client's handshake timeout in milliseconds; 0: not told
//!       16    4  the longest link frame the client receives, at least 4096
//!       20    2  a = length of the authority, at most 1024
//!       22    a  authority: the target's name as the client knows it, UTF-8
//!     22+a    1  number of offers, at most 8; TCP is implied and never listed
//!                each offer, no transport twice:
//!              1  transport: 2 shm, 3 rdma; others are unknown and declined
//!              1  zero
//!              2  b = length of the body, at most 1024
//!              b  body, opaque to this module
//! ```
//!
//! HELLO-REPLY (server, first):
//!
//! ```text
//!        0    2  chosen version: the highest both ends speak
//!        2    2  zero
//!        4    8  feature bits both ends have
//!       12    4  the longest link frame the server receives, at least 4096
//!       16    1  chosen transport: 1 tcp, or one of those offered
//!       17    1  number of declined offers, at most 8
//!       18    2  b = length of the body, at most 1024
//!       20    b  body, opaque to this module
//!                each declined offer:
//!              1  transport
//!              1  zero
//!              2  r = length of the reason, at most 512
//!              r  reason, UTF-8
//! ```
//!
//! REJECT (server, instead of HELLO-REPLY; the server closes after it):
//!
//! ```text
//!        0    2  code: 1 version mismatch, 2 draining, 3 too many connections,
//!                4 malformed hello, 5 refused
//!        2    2  lowest protocol version the server speaks
//!        4    2  highest
//!        6    2  t = length of the text, at most 1024
//!        8    t  text for people, UTF-8
//! ```
//!
//! EXCHANGE: the payload is one opaque message of at most 16384 bytes. Only after a reply that
//! chose an upgrade.
//!
//! CONFIRM: each end sends exactly one, which is its last bootstrap frame, and waits for the
//! peer's:
//!
//! ```text
//!        0    1  verdict: 1 UPGRADED, 2 FALLBACK
//!        1    1  zero
//!        2    2  r = length of the reason, at most 512 (0 with UPGRADED)
//!        4    r  reason, UTF-8
//! ```
//!
//! The client sends its verdict when its side of the upgrade is done; the server answers. A
//! server whose side has failed sends FALLBACK without waiting, so that the client learns of it
//! at its next receive. An end that falls back skips EXCHANGE frames until the peer's CONFIRM.
//! After HELLO-REPLY with transport tcp, or after the two CONFIRMs, the very next byte belongs to
//! the [`link`](crate::link).
//!
//! # Time
//!
//! One timeout bounds the whole handshake on each side, whatever the peer sends and however
//! slowly. The upgrade has the first half of what is left after the replies
//! ([`ClientBootstrap::upgrade_deadline`]); the second half is kept for falling back. A server
//! with a longer timeout than its client's uses the client's.
//!
//! # Example
//!
//! A HELLO for `kv:7400` with versions 1 to 1, no features, 5000 ms, frames of 80 KiB and one shm offer with the
//! body `AB CD`:
//!
//! ```text
//!   F2 52 52 50 43 0D 0A 1A
//!   01 00 00 00 24 00 00 00
//!   01 00 01 00  00 00 00 00 00 00 00 00  88 13 00 00  00 40 01 00
//!   07 00 6B 76 3A 37 34 30 30
//!   01  02 00 02 00 AB CD
//! ```
//!
//! The file `wire/tests.rs` holds this vector and one for each other kind.

mod client;
mod confirm;
mod error;
mod framed;
mod server;
mod wire;

use std::fmt;
use std::time::Duration;

pub use client::{Answer, ClientBootstrap};
pub use confirm::{Confirmed, Outcome};
pub use error::{BootstrapError, Culprit};
pub use server::ServerBootstrap;
pub use wire::{
    Declined, MAGIC, MAX_AUTHORITY_BYTES, MAX_BODY_BYTES, MAX_BOOTSTRAP_FRAME_BYTES, MAX_OFFERS,
    MAX_REASON_BYTES, MAX_TEXT_BYTES, Offer,
};

use crate::link::{TcpLinkOptions, clamp_max_frame_bytes};
use crate::socket::SocketOptions;

/// The protocol version this build speaks; there is no older one.
pub const PROTOCOL_VERSION: u16 = 1;

/// A way to carry a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TransportKind {
    /// The bootstrap's own socket, TCP or Unix.
    Tcp,
    /// Rings in shared memory: both ends on one host.
    Shm,
    /// Rings over RDMA.
    Rdma,
    /// One this build does not know.
    Unknown(u8),
}

impl TransportKind {
    /// The number on the wire.
    pub fn code(self) -> u8 {
        match self {
            TransportKind::Tcp => 1,
            TransportKind::Shm => 2,
            TransportKind::Rdma => 3,
            TransportKind::Unknown(code) => code,
        }
    }

    /// The transport with this number.
    pub fn from_code(code: u8) -> TransportKind {
        match code {
            1 => TransportKind::Tcp,
            2 => TransportKind::Shm,
            3 => TransportKind::Rdma,
            other => TransportKind::Unknown(other),
        }
    }
}

impl fmt::Display for TransportKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TransportKind::Tcp => f.write_str("tcp"),
            TransportKind::Shm => f.write_str("shm"),
            TransportKind::Rdma => f.write_str("rdma"),
            TransportKind::Unknown(code) => write!(f, "transport {code}"),
        }
    }
}

/// Why a server turns a client away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RejectCode {
    /// No protocol version in common.
    VersionMismatch,
    /// The server is going away and takes no new connections.
    Draining,
    /// The server has as many connections as it allows.
    TooManyConnections,
    /// The HELLO could not be read.
    Malformed,
    /// The server does not want this client; its text says why.
    Refused,
    /// A code this build does not know.
    Unknown(u16),
}

impl RejectCode {
    /// The number on the wire.
    pub fn code(self) -> u16 {
        match self {
            RejectCode::VersionMismatch => 1,
            RejectCode::Draining => 2,
            RejectCode::TooManyConnections => 3,
            RejectCode::Malformed => 4,
            RejectCode::Refused => 5,
            RejectCode::Unknown(code) => code,
        }
    }

    /// The code with this number.
    pub fn from_code(code: u16) -> RejectCode {
        match code {
            1 => RejectCode::VersionMismatch,
            2 => RejectCode::Draining,
            3 => RejectCode::TooManyConnections,
            4 => RejectCode::Malformed,
            5 => RejectCode::Refused,
            other => RejectCode::Unknown(other),
        }
    }
}

impl fmt::Display for RejectCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RejectCode::VersionMismatch => f.write_str("version mismatch"),
            RejectCode::Draining => f.write_str("draining"),
            RejectCode::TooManyConnections => f.write_str("too many connections"),
            RejectCode::Malformed => f.write_str("malformed hello"),
            RejectCode::Refused => f.write_str("refused"),
            RejectCode::Unknown(code) => write!(f, "reason code {code}"),
        }
    }
}

/// How an end takes part in handshakes.
#[derive(Debug, Clone)]
pub struct BootstrapOptions {
    /// How long a client may take to have a connected socket.
    pub connect_timeout: Duration,
    /// How long the whole handshake may take once there is a socket.
    pub handshake_timeout: Duration,
    /// The lowest protocol version this end accepts.
    pub min_version: u16,
    /// The highest protocol version this end speaks.
    pub max_version: u16,
    /// Feature bits this end has; the handshake keeps those both have.
    pub features: u64,
    /// The longest frame this end receives on a link over the socket, in bytes. At least 4096.
    pub max_frame_bytes: usize,
    /// The target's name a client sends; `None`: the address's own
    /// ([`Address::authority`](crate::Address::authority)).
    pub authority: Option<String>,
    /// How sockets are set up.
    pub socket: SocketOptions,
}

impl BootstrapOptions {
    /// As a link would clamp it.
    fn max_frame_bytes_on_wire(&self) -> u32 {
        clamp_max_frame_bytes(self.max_frame_bytes) as u32
    }
}

impl Default for BootstrapOptions {
    fn default() -> BootstrapOptions {
        BootstrapOptions {
            connect_timeout: Duration::from_secs(5),
            handshake_timeout: Duration::from_secs(5),
            min_version: PROTOCOL_VERSION,
            max_version: PROTOCOL_VERSION,
            features: 0,
            max_frame_bytes: TcpLinkOptions::default().max_frame_bytes,
            authority: None,
            socket: SocketOptions::default(),
        }
    }
}
