//! Metadata: keys with text or binary values that travel beside messages.
//!
//! Names and rules are gRPC's. Keys are 1 to 255 of the characters `0-9 a-z _ - .`; upper case
//! is turned to lower case where a key is parsed. Values under keys that end in `-bin` are any
//! bytes; other values are text of the characters 0x20 to 0x7E, kept as they are (spaces at
//! either end too).
//!
//! The names in [`RESERVED_KEYS`] say in gRPC over HTTP/2 what frames say here. A map may hold
//! them, and they are left out when it is encoded, so that a program that forwards what it
//! received cannot confuse the next hop. Other names that begin with `grpc-` are ordinary; none
//! of them is given a meaning: a deadline, for one, is set with
//! [`Request::set_timeout`](crate::Request::set_timeout).
//!
//! # Where a program written for tonic may notice
//!
//! - Binary values are never base64, so there is no `from_static` and no `as_encoded_bytes` for
//!   them: `from_bytes` and `from_static_bytes` take the bytes themselves.
//! - Tab and the bytes 0x80 to 0xFF are refused in text values, and ``! # $ % & ' * + ^ ` | ~``
//!   in keys: HTTP allows them, gRPC does not.
//! - Setting the key `grpc-timeout` limits nothing.
//! - Entries are iterated in the order in which they were added.
//!
//! # The metadata block
//!
//! How a map looks on the wire. Numbers are little endian, without padding. An empty map is an
//! absent block: no bytes at all.
//!
//! ```text
//! offset  bytes  field
//! 0       2      count        entries that follow: 1 to 1024
//! then for each entry:
//! 0       1      key_len      1 to 255
//! 1       1      flags        0; all bits are reserved
//! 2       4      value_len
//! 6       k      key          lower case; "-bin" at its end means a binary value
//! 6 + k   v      value        text or bytes, as they are: no base64
//! ```
//!
//! The block ends with its last entry and has at most [`MAX_METADATA_BYTES`] bytes. Entries are
//! in the order in which they were added; a key may occur many times, and the order of its
//! values counts.
//!
//! Test vector: `x-user: ann`, then `t-bin: 00 ff`.
//!
//! ```text
//! 02 00
//! 06 00 03 00 00 00  78 2d 75 73 65 72  61 6e 6e
//! 05 00 02 00 00 00  74 2d 62 69 6e     00 ff
//! ```

mod encoding;
mod entry;
mod iter;
mod key;
mod map;
mod value;
mod wire;

pub use self::encoding::{Ascii, Binary, ValueEncoding};
pub use self::entry::{Entry, OccupiedEntry, VacantEntry};
pub use self::iter::{
    GetAll, Iter, IterMut, KeyAndMutValueRef, KeyAndValueRef, KeyRef, Keys, ValueIter, ValueRef,
    ValueRefMut, Values, ValuesMut,
};
pub use self::key::{AsciiMetadataKey, BinaryMetadataKey, MAX_METADATA_KEY_BYTES, MetadataKey};
pub use self::map::{AsEncodingAgnosticMetadataKey, AsMetadataKey, IntoMetadataKey, MetadataMap};
pub use self::value::{AsciiMetadataValue, BinaryMetadataValue, MetadataValue};
pub use self::wire::{
    MAX_METADATA_BYTES, MAX_METADATA_ENTRIES, MetadataDecodeError, MetadataTooLarge, RESERVED_KEYS,
};

/// What can be wrong with keys and values.
pub mod errors {
    pub use super::key::InvalidMetadataKey;
    pub use super::value::{InvalidMetadataValue, InvalidMetadataValueBytes, ToStrError};
}

#[cfg(test)]
mod tests;
