//! The metadata block: encoding and decoding. The layout is in the documentation of the
//! [module above](super).

use std::error::Error;
use std::fmt;

use bytes::Bytes;
use thin_vec::ThinVec;

use super::encoding::{Ascii, Binary, ValueEncoding};
use super::key::{InvalidMetadataKey, MetadataKey};
use super::map::{MetadataMap, Slot};
use super::value::MetadataValue;
use crate::status::Status;

/// The most bytes a metadata block may have.
pub const MAX_METADATA_BYTES: usize = 64 * 1024;

/// The most entries a metadata block may have.
pub const MAX_METADATA_ENTRIES: usize = 1024;

/// Names that never travel, because frames say these things: gRPC keeps them for itself.
pub const RESERVED_KEYS: [&str; 5] =
    ["te", "content-type", "grpc-message", "grpc-message-type", "grpc-status"];

/// The bytes of the count before the entries.
const COUNT_BYTES: usize = 2;
/// The bytes before the key of an entry.
const ENTRY_HEAD_BYTES: usize = 6;

impl MetadataMap {
    /// How many bytes the map has when encoded; 0 if nothing in it travels. Counts beyond the
    /// limits too.
    #[inline]
    pub fn encoded_len(&self) -> usize {
        // Most calls have none.
        if self.is_empty() { 0 } else { self.travelling_size().1 }
    }

    /// Like [`MetadataMap::encoded_len`], for a map within the limits: at most
    /// [`MAX_METADATA_ENTRIES`] entries and [`MAX_METADATA_BYTES`] bytes.
    #[inline]
    pub fn checked_encoded_len(&self) -> Result<usize, MetadataTooLarge> {
        if self.is_empty() {
            return Ok(0);
        }
        match self.travelling_size() {
            (entries, bytes) if entries > MAX_METADATA_ENTRIES || bytes > MAX_METADATA_BYTES => {
                Err(MetadataTooLarge { entries, bytes })
            }
            (_, bytes) => Ok(bytes),
        }
    }

    /// Encodes the map into a buffer of exactly [`MetadataMap::encoded_len`] bytes, all of which
    /// are written.
    ///
    /// # Panics
    ///
    /// If the buffer has another length, or the map is beyond the limits that
    /// [`MetadataMap::checked_encoded_len`] checks.
    pub fn encode(&self, out: &mut [u8]) {
        let (entries, bytes) = self.travelling_size();
        assert_eq!(out.len(), bytes, "a metadata block of {bytes} bytes");
        assert!(entries <= MAX_METADATA_ENTRIES && bytes <= MAX_METADATA_BYTES);
        if bytes == 0 {
            return;
        }
        let (count, mut rest) = out.split_at_mut(COUNT_BYTES);
        count.copy_from_slice(&(entries as u16).to_le_bytes());
        for slot in self.travelling() {
            let (key, value) = (slot.key_bytes(), slot.value_bytes());
            let (entry, after) = rest.split_at_mut(entry_bytes(slot));
            entry[0] = key.len() as u8;
            entry[1] = 0;
            entry[2..ENTRY_HEAD_BYTES].copy_from_slice(&(value.len() as u32).to_le_bytes());
            let (to_key, to_value) = entry[ENTRY_HEAD_BYTES..].split_at_mut(key.len());
            to_key.copy_from_slice(key);
            to_value.copy_from_slice(value);
            rest = after;
        }
    }

    /// Decodes a block that is exactly `block`; no bytes make an empty map.
    ///
    /// Bytes that are no block give an error, whatever they are. Keys and values share one copy
    /// of the block, so memory is bounded by its length, and a value that is kept keeps the whole
    /// copy (at most [`MAX_METADATA_BYTES`]).
    #[inline]
    pub fn decode(block: &[u8]) -> Result<MetadataMap, MetadataDecodeError> {
        // Most calls have none.
        if block.is_empty() { Ok(MetadataMap::new()) } else { MetadataMap::decode_block(block) }
    }

    fn decode_block(block: &[u8]) -> Result<MetadataMap, MetadataDecodeError> {
        if block.len() > MAX_METADATA_BYTES {
            return Err(error(0, Reason::TooLong { len: block.len() }));
        }
        let Some(count) = block.first_chunk() else {
            return Err(error(0, Reason::Truncated { needed: COUNT_BYTES, left: block.len() }));
        };
        let count = usize::from(u16::from_le_bytes(*count));
        if count == 0 || count > MAX_METADATA_ENTRIES {
            return Err(error(0, Reason::BadCount { count }));
        }
        let needed = count * (ENTRY_HEAD_BYTES + 1);
        let left = block.len() - COUNT_BYTES;
        if needed > left {
            return Err(error(COUNT_BYTES, Reason::Truncated { needed, left }));
        }
        let block = Bytes::copy_from_slice(block);
        let mut slots = ThinVec::with_capacity(count);
        let mut at = COUNT_BYTES;
        for _ in 0..count {
            let (slot, end) = decode_entry(&block, at)?;
            slots.push(slot);
            at = end;
        }
        if at < block.len() {
            return Err(error(at, Reason::TrailingBytes { left: block.len() - at }));
        }
        Ok(MetadataMap { slots })
    }

    /// The entries that go over the wire.
    fn travelling(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(|slot| !is_reserved(slot.key_bytes()))
    }

    /// How many entries go over the wire, and the bytes of their block.
    fn travelling_size(&self) -> (usize, usize) {
        let mut entries = 0;
        let mut bytes = COUNT_BYTES;
        for slot in self.travelling() {
            entries += 1;
            bytes += entry_bytes(slot);
        }
        if entries == 0 { (0, 0) } else { (entries, bytes) }
    }
}

fn entry_bytes(slot: &Slot) -> usize {
    ENTRY_HEAD_BYTES + slot.key_bytes().len() + slot.value_bytes().len()
}

fn is_reserved(key: &[u8]) -> bool {
    RESERVED_KEYS.iter().any(|reserved| reserved.as_bytes() == key)
}

/// Decodes the entry that begins at `at`; gives where it ends, too.
fn decode_entry(block: &Bytes, at: usize) -> Result<(Slot, usize), MetadataDecodeError> {
    let Some(&[key_len, flags, v0, v1, v2, v3]) = block[at..].first_chunk::<ENTRY_HEAD_BYTES>()
    else {
        let left = block.len() - at;
        return Err(error(at, Reason::Truncated { needed: ENTRY_HEAD_BYTES, left }));
    };
    if flags != 0 {
        return Err(error(at + 1, Reason::BadFlags { flags }));
    }
    let key_at = at + ENTRY_HEAD_BYTES;
    let left = block.len() - key_at;
    let key_len = usize::from(key_len);
    let value_len = u32::from_le_bytes([v0, v1, v2, v3]) as usize;
    // `key_len` is at most 255, so on a 32-bit machine only the sum can overflow.
    let needed = key_len.saturating_add(value_len);
    if needed > left {
        return Err(error(key_at, Reason::Truncated { needed, left }));
    }
    let value_at = key_at + key_len;
    let end = value_at + value_len;
    let (key, value) = (block.slice(key_at..value_at), block.slice(value_at..end));
    let slot = if key.ends_with(b"-bin") {
        Slot::Binary(decode_key::<Binary>(key, key_at)?, decode_value(value, value_at)?)
    } else {
        Slot::Ascii(decode_key::<Ascii>(key, key_at)?, decode_value(value, value_at)?)
    };
    Ok((slot, end))
}

fn decode_key<VE: ValueEncoding>(
    key: Bytes,
    at: usize,
) -> Result<MetadataKey<VE>, MetadataDecodeError> {
    MetadataKey::from_wire(key).map_err(|bad| error(at + bad.offset(), Reason::BadKey(bad)))
}

fn decode_value<VE: ValueEncoding>(
    value: Bytes,
    at: usize,
) -> Result<MetadataValue<VE>, MetadataDecodeError> {
    MetadataValue::<VE>::checked(value)
        .map_err(|bad| error(at + bad.offset(), Reason::BadValue { byte: bad.byte() }))
}

/// A map that is too large to travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetadataTooLarge {
    entries: usize,
    bytes: usize,
}

impl fmt::Display for MetadataTooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "metadata is too large: {} entries in {} bytes, of at most {MAX_METADATA_ENTRIES} \
             entries in {MAX_METADATA_BYTES} bytes",
            self.entries, self.bytes
        )
    }
}

impl Error for MetadataTooLarge {}

impl From<MetadataTooLarge> for Status {
    fn from(error: MetadataTooLarge) -> Status {
        Status::resource_exhausted(error.to_string())
    }
}

/// Why bytes are no metadata block: where, and what is wrong there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetadataDecodeError {
    offset: usize,
    reason: Reason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    TooLong { len: usize },
    BadCount { count: usize },
    Truncated { needed: usize, left: usize },
    BadFlags { flags: u8 },
    BadKey(InvalidMetadataKey),
    BadValue { byte: u8 },
    TrailingBytes { left: usize },
}

fn error(offset: usize, reason: Reason) -> MetadataDecodeError {
    MetadataDecodeError { offset, reason }
}

impl MetadataDecodeError {
    /// The byte of the block where the trouble is.
    pub fn offset(&self) -> usize {
        self.offset
    }
}

impl fmt::Display for MetadataDecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "metadata block, byte {}: ", self.offset)?;
        match self.reason {
            Reason::TooLong { len } => {
                write!(f, "the block has {len} bytes, more than {MAX_METADATA_BYTES}")
            }
            Reason::BadCount { count } => {
                write!(f, "the count is {count}, not 1 to {MAX_METADATA_ENTRIES}")
            }
            Reason::Truncated { needed, left } => {
                write!(f, "{needed} bytes or more should follow, {left} do")
            }
            Reason::BadFlags { flags } => write!(f, "the flags are {flags:#04x}, not 0"),
            Reason::BadKey(error) => error.fmt(f),
            Reason::BadValue { byte } => {
                write!(f, "a text value has the byte {byte:#04x}, not 0x20 to 0x7e")
            }
            Reason::TrailingBytes { left } => {
                write!(f, "{left} bytes follow the last entry")
            }
        }
    }
}

impl Error for MetadataDecodeError {}
