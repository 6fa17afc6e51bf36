//! What a session is told at its start.

use std::time::Duration;

use crate::wire::INITIAL_WINDOW_BYTES;

/// Which end of the connection a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Opens streams.
    Client,
    /// Accepts streams.
    Server,
}

/// Limits of one connection. Every one of them bounds memory a peer can make us hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionConfig {
    /// Streams the peer may have open at once (server). 1 to 1,048,576. A client that has not
    /// heard of a limit below 128 yet may open more; they are refused and can be tried again.
    pub max_streams: u32,
    /// How far a peer may run ahead of the reader of one stream, in bytes. At least 64 KiB,
    /// which is what a peer assumes before it has heard from us, and at most 1 TiB.
    pub window_bytes: u64,
    /// The longest message accepted where a stream has no limit of its own, in bytes.
    pub max_message_bytes: usize,
    /// Bytes of messages and of open streams' metadata held for the connection at once; beyond it
    /// the stream that brings more ends with `RESOURCE_EXHAUSTED`.
    pub max_buffered_bytes: u64,
    /// With calls open and nothing heard for this long, a PING goes out. Zero: never.
    pub keepalive_interval: Duration,
    /// With a PING unanswered for this long, the connection is dead.
    pub keepalive_timeout: Duration,
}

impl Default for SessionConfig {
    fn default() -> SessionConfig {
        SessionConfig {
            max_streams: 16 * 1024,
            window_bytes: 256 * 1024,
            max_message_bytes: 4 * 1024 * 1024,
            max_buffered_bytes: 512 * 1024 * 1024,
            keepalive_interval: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(10),
        }
    }
}

/// The most streams a server can be told to allow: a slot's number alone makes it allocate the
/// slots below.
const MOST_STREAMS: u32 = 1 << 20;

/// The largest window: positions must never come near the end of their 64 bits.
const LARGEST_WINDOW_BYTES: u64 = 1 << 40;

impl SessionConfig {
    /// The same limits, each brought to what this protocol can work with.
    pub(super) fn clamped(mut self) -> SessionConfig {
        self.max_streams = self.max_streams.clamp(1, MOST_STREAMS);
        self.window_bytes = self.window_bytes.clamp(INITIAL_WINDOW_BYTES, LARGEST_WINDOW_BYTES);
        self
    }
}
