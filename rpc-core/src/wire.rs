//! The session's frames, byte by byte. PROTOCOL.md is the reference; this file is its code.
//!
//! Every frame begins with sixteen bytes, little-endian:
//!
//! ```text
//!  0      1       2        4          8        12       16
//!  +------+-------+--------+----------+--------+--------+----...
//!  | kind | flags |  code  |  stream  |   a    |   b    | body
//!  +------+-------+--------+----------+--------+--------+----...
//! ```
//!
//! The frame's length comes from the link. `code`, `a` and `b` mean what the kind says.

use std::fmt;

/// Bytes of a frame header.
pub const HEADER_BYTES: usize = 16;

/// A kind with this bit set may be skipped by a peer that does not know it.
pub const SKIPPABLE: u8 = 0x80;

/// What a message costs of its stream's window, in bytes, beyond its own length: it bounds how
/// many empty messages a reader can be made to hold.
pub const MESSAGE_OVERHEAD_BYTES: u64 = 32;

/// The window every stream has before the peer's SETTINGS are known, in bytes.
pub const INITIAL_WINDOW_BYTES: u64 = 64 * 1024;

/// The streams a client may have open before the server's SETTINGS are known.
pub const INITIAL_MAX_STREAMS: u32 = 128;

/// BULK frames one end may have sent whose BULK_DONE has not come. It bounds the answers the other
/// end can be made to owe.
pub const MAX_UNANSWERED_BULKS: u32 = 1024;

/// The most messages in one MESSAGES frame.
pub const MAX_BATCH_MESSAGES: u32 = 256;

/// The longest method path, in bytes.
pub const MAX_PATH_BYTES: usize = 512;

/// The most methods one connection may bind.
pub const MAX_METHODS: u16 = 2048;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Limits of the sender; the first frame each way.
    Settings = 0x01,
    /// Binds a method path to an id for this connection (client to server).
    Method = 0x02,
    /// Opens a stream.
    Request = 0x03,
    /// A message, or a piece of one, or only the end of the sender's messages.
    Message = 0x04,
    /// Initial metadata of a response.
    Headers = 0x05,
    /// A whole unary response with status OK: ends the stream.
    Response = 0x06,
    /// Status and trailing metadata: ends the stream.
    Trailers = 0x07,
    /// From a client: cancels. From a server: refuses, and ends the stream.
    Reset = 0x08,
    /// How far the peer may send on a stream.
    Window = 0x09,
    /// Asks for a PONG.
    Ping = 0x0a,
    /// Answers a PING.
    Pong = 0x0b,
    /// No new streams; which of the peer's were accepted.
    GoAway = 0x0c,
    /// A message that waits to be pulled.
    Bulk = 0x0d,
    /// A pulled (or given up) message's buffer is free again.
    BulkDone = 0x0e,
    /// Several short messages.
    Messages = 0x0f,
}

impl Kind {
    /// The kind a byte names.
    pub fn from_byte(byte: u8) -> Option<Kind> {
        Some(match byte {
            0x01 => Kind::Settings,
            0x02 => Kind::Method,
            0x03 => Kind::Request,
            0x04 => Kind::Message,
            0x05 => Kind::Headers,
            0x06 => Kind::Response,
            0x07 => Kind::Trailers,
            0x08 => Kind::Reset,
            0x09 => Kind::Window,
            0x0a => Kind::Ping,
            0x0b => Kind::Pong,
            0x0c => Kind::GoAway,
            0x0d => Kind::Bulk,
            0x0e => Kind::BulkDone,
            0x0f => Kind::Messages,
            _ => return None,
        })
    }
}

/// Bits of the flags byte.
pub mod flag {
    /// The sender will send no more messages on this stream.
    pub const END: u8 = 0x01;
    /// The body carries message bytes.
    pub const MESSAGE: u8 = 0x02;
    /// More pieces of the same message follow.
    pub const MORE: u8 = 0x04;
    /// The body begins with the remaining time, a u64 of microseconds (REQUEST).
    pub const TIMEOUT: u8 = 0x08;
}

/// The first sixteen bytes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The kind, as its byte.
    pub kind: u8,
    /// Bits of [`flag`].
    pub flags: u8,
    /// A method id, a status code or a reset code.
    pub code: u16,
    /// The stream, or 0 in frames about the connection.
    pub stream: u32,
    /// First number of the kind.
    pub a: u32,
    /// Second number of the kind.
    pub b: u32,
}

impl Header {
    /// A header with nothing but a kind and a stream.
    pub fn new(kind: Kind, stream: u32) -> Header {
        Header { kind: kind as u8, flags: 0, code: 0, stream, a: 0, b: 0 }
    }

    /// The same with flags.
    pub fn flags(self, flags: u8) -> Header {
        Header { flags, ..self }
    }

    /// The same with a code.
    pub fn code(self, code: u16) -> Header {
        Header { code, ..self }
    }

    /// The same with `a` and `b`.
    pub fn numbers(self, a: u32, b: u32) -> Header {
        Header { a, b, ..self }
    }

    /// The same with a 64-bit number across `a` (low half) and `b` (high half).
    pub fn wide(self, number: u64) -> Header {
        Header { a: number as u32, b: (number >> 32) as u32, ..self }
    }

    /// `a` and `b` as one number.
    pub fn wide_number(&self) -> u64 {
        u64::from(self.a) | u64::from(self.b) << 32
    }

    /// The sixteen bytes.
    #[inline]
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        // Two words, so that it is two stores.
        let first = u64::from(self.kind)
            | u64::from(self.flags) << 8
            | u64::from(self.code) << 16
            | u64::from(self.stream) << 32;
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&first.to_le_bytes());
        bytes[8..].copy_from_slice(&self.wide_number().to_le_bytes());
        bytes
    }

    /// What the sixteen bytes say.
    #[inline]
    pub fn of(bytes: &[u8; HEADER_BYTES]) -> Header {
        let [kind, flags, c0, c1, s0, s1, s2, s3, a0, a1, a2, a3, b0, b1, b2, b3] = *bytes;
        Header {
            kind,
            flags,
            code: u16::from_le_bytes([c0, c1]),
            stream: u32::from_le_bytes([s0, s1, s2, s3]),
            a: u32::from_le_bytes([a0, a1, a2, a3]),
            b: u32::from_le_bytes([b0, b1, b2, b3]),
        }
    }

    /// Reads the header of a frame and gives its body.
    pub fn parse(frame: &[u8]) -> Result<(Header, &[u8]), WireError> {
        let Some((head, body)) = frame.split_first_chunk::<HEADER_BYTES>() else {
            return Err(WireError::new(frame.len(), "the frame ends inside its header"));
        };
        Ok((Header::of(head), body))
    }
}

/// Splits `len` bytes off the front of a frame's body. `at` is the offset of `body` in the frame,
/// for the error.
pub fn split<'a>(
    body: &'a [u8],
    len: usize,
    at: usize,
    what: &'static str,
) -> Result<(&'a [u8], &'a [u8]), WireError> {
    body.split_at_checked(len).ok_or_else(|| WireError::new(at + body.len(), what))
}

/// A frame that cannot be read, or that its sender must not send now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireError {
    /// Byte of the frame that is wrong.
    pub offset: usize,
    /// What is wrong.
    pub what: &'static str,
}

impl WireError {
    /// Something wrong at a byte of the frame.
    pub fn new(offset: usize, what: &'static str) -> WireError {
        WireError { offset, what }
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (byte {} of the frame)", self.what, self.offset)
    }
}

impl std::error::Error for WireError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_bytes_are_as_documented() {
        let header = Header::new(Kind::Request, 0x0102_0304)
            .flags(flag::END | flag::MESSAGE)
            .code(0x0506)
            .numbers(0x0708_090a, 0x0b0c_0d0e);
        let bytes = header.to_bytes();
        assert_eq!(bytes, [3, 3, 6, 5, 4, 3, 2, 1, 10, 9, 8, 7, 14, 13, 12, 11]);
        assert_eq!(Header::parse(&bytes), Ok((header, &[][..])));
    }

    #[test]
    fn a_short_frame_names_where_it_ends() {
        assert_eq!(Header::parse(&[1, 2, 3]).unwrap_err().offset, 3);
    }

    #[test]
    fn every_kind_survives_its_byte() {
        for byte in 0..=255 {
            if let Some(kind) = Kind::from_byte(byte) {
                assert_eq!(kind as u8, byte);
                assert_eq!(byte & SKIPPABLE, 0);
            }
        }
    }
}
