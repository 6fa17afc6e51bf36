//! What each side tells the other before the first burst.
//!
//! All fields little-endian:
//!
//! ```text
//! byte  0  u32  magic "rrng"
//!       4  u16  version, 1
//!       6  u16  flags: bit 0, the device has WRITE with immediate; bit 1, the ring is this side's
//!               staging ring, which the peer views, and not the receive ring, which it writes
//!       8  u64  ring: address               (multiple of 8)
//!      16  u64  credit cell: address        (multiple of 8)
//!      24  u32  ring: rkey
//!      28  u32  credit cell: rkey
//!      32  u64  ring: bytes                 (power of two)
//!      40  u32  receives posted
//!      44  u32  zero
//!      48  u64  the longest bulk message this side pulls; 0: it has no READs
//! 56 bytes
//! ```

use rdma_rpc_core::link::LinkError;

use super::config::{MAX_RECEIVE_DEPTH, MAX_RING_BYTES, MIN_RECEIVE_DEPTH, MIN_RING_BYTES};
use crate::verbs::RemoteAddr;

const MAGIC: u32 = u32::from_le_bytes(*b"rrng");
const VERSION: u16 = 1;
const HELLO_BYTES: usize = 56;
const HAS_IMMEDIATE: u16 = 1;
const VIEWED: u16 = 2;

/// What each side tells the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) write_with_imm: bool,
    /// The ring is where its sender makes the bursts.
    pub(super) viewed: bool,
    pub(super) ring: RemoteAddr,
    pub(super) ring_bytes: u64,
    pub(super) cell: RemoteAddr,
    pub(super) receives: u32,
    pub(super) max_pull_bytes: u64,
}

impl Hello {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HELLO_BYTES);
        bytes.extend_from_slice(&MAGIC.to_le_bytes());
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        let flag = |set: bool, flag: u16| if set { flag } else { 0 };
        let flags = flag(self.write_with_imm, HAS_IMMEDIATE) | flag(self.viewed, VIEWED);
        bytes.extend_from_slice(&flags.to_le_bytes());
        bytes.extend_from_slice(&self.ring.addr.to_le_bytes());
        bytes.extend_from_slice(&self.cell.addr.to_le_bytes());
        bytes.extend_from_slice(&self.ring.rkey.to_le_bytes());
        bytes.extend_from_slice(&self.cell.rkey.to_le_bytes());
        bytes.extend_from_slice(&self.ring_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.receives.to_le_bytes());
        bytes.extend_from_slice(&0u32.to_le_bytes());
        bytes.extend_from_slice(&self.max_pull_bytes.to_le_bytes());
        debug_assert_eq!(bytes.len(), HELLO_BYTES);
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Hello, LinkError> {
        let mut fields = Fields { bytes, at: 0 };
        let magic = fields.u32()?;
        require(magic == MAGIC, 0, "magic", u64::from(magic), "0x676e7272")?;
        let version = fields.u16()?;
        if version != VERSION {
            return Err(LinkError::misbehaved(format!(
                "ring hello, byte 4: the peer speaks ring version {version}, this side {VERSION}"
            )));
        }
        let flags = fields.u16()?;
        let known = HAS_IMMEDIATE | VIEWED;
        require(flags & !known == 0, 6, "flags", u64::from(flags), "0 to 3")?;
        let ring_addr = fields.u64()?;
        let cell_addr = fields.u64()?;
        let ring_rkey = fields.u32()?;
        let cell_rkey = fields.u32()?;
        let ring_bytes = fields.u64()?;
        let receives = fields.u32()?;
        let zero = fields.u32()?;
        let max_pull_bytes = fields.u64()?;
        if bytes.len() != HELLO_BYTES {
            return Err(LinkError::misbehaved(format!(
                "ring hello has {} bytes; version {VERSION} has {HELLO_BYTES}",
                bytes.len()
            )));
        }
        let rings = MIN_RING_BYTES as u64..=MAX_RING_BYTES as u64;
        let ring_ok = ring_bytes.is_power_of_two() && rings.contains(&ring_bytes);
        require(ring_ok, 32, "ring bytes", ring_bytes, "a power of two from 16384 to 268435456")?;
        let fits =
            |addr: u64, bytes: u64| addr.is_multiple_of(8) && addr.checked_add(bytes).is_some();
        require(fits(ring_addr, ring_bytes), 8, "ring address", ring_addr, "a multiple of 8")?;
        require(fits(cell_addr, 16), 16, "cell address", cell_addr, "a multiple of 8")?;
        let depth = MIN_RECEIVE_DEPTH..=MAX_RECEIVE_DEPTH;
        require(depth.contains(&receives), 40, "receives", u64::from(receives), "4 to 32768")?;
        require(zero == 0, 44, "reserved", u64::from(zero), "0")?;
        Ok(Hello {
            write_with_imm: flags & HAS_IMMEDIATE != 0,
            viewed: flags & VIEWED != 0,
            ring: RemoteAddr { addr: ring_addr, rkey: ring_rkey },
            ring_bytes,
            cell: RemoteAddr { addr: cell_addr, rkey: cell_rkey },
            receives,
            max_pull_bytes,
        })
    }
}

fn require(
    holds: bool,
    byte: usize,
    name: &str,
    value: u64,
    expected: &str,
) -> Result<(), LinkError> {
    if holds {
        return Ok(());
    }
    Err(LinkError::misbehaved(format!(
        "ring hello, byte {byte}: {name} is {value:#x}; expected {expected}"
    )))
}

struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], LinkError> {
        let field = self.bytes.get(self.at..self.at + N).ok_or_else(|| {
            LinkError::misbehaved(format!(
                "ring hello ends at byte {} inside the field at byte {}",
                self.bytes.len(),
                self.at
            ))
        })?;
        self.at += N;
        let mut out = [0; N];
        out.copy_from_slice(field);
        Ok(out)
    }

    fn u16(&mut self) -> Result<u16, LinkError> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, LinkError> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, LinkError> {
        self.take().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Hello {
        Hello {
            write_with_imm: true,
            viewed: false,
            ring: RemoteAddr { addr: 0x1000, rkey: 7 },
            ring_bytes: 65_536,
            cell: RemoteAddr { addr: 0x2000, rkey: 8 },
            receives: 64,
            max_pull_bytes: 1 << 28,
        }
    }

    #[test]
    fn the_document_shows_what_is_sent() {
        assert_eq!(sample().encode(), crate::protocol_text::vector("ring/hello"));
        let viewed = Hello { viewed: true, ..sample() };
        assert_eq!(viewed.encode(), crate::protocol_text::vector("ring/hello-viewed"));
    }

    #[test]
    fn comes_back_as_it_went() {
        for viewed in [false, true] {
            let hello = Hello { viewed, ..sample() };
            assert_eq!(Hello::decode(&hello.encode()).unwrap(), hello);
        }
    }

    #[test]
    fn every_truncation_is_refused_with_its_byte() {
        let bytes = sample().encode();
        for len in 0..bytes.len() {
            let message = Hello::decode(&bytes[..len]).unwrap_err().to_string();
            assert!(message.contains(&format!("ends at byte {len}")), "{message}");
        }
        let mut longer = bytes;
        longer.push(0);
        assert!(Hello::decode(&longer).unwrap_err().to_string().contains("57 bytes"));
    }

    #[test]
    fn bad_fields_are_named() {
        let cases: [(usize, &[u8], &str); 8] = [
            (0, b"x", "byte 0: magic"),
            (4, &[9], "ring version 9, this side 1"),
            (6, &[4], "byte 6: flags"),
            (8, &[1], "byte 8: ring address"),
            (16, &[0xFF; 8], "byte 16: cell address"),
            (32, &[1], "byte 32: ring bytes"),
            (40, &[3], "byte 40: receives"),
            (44, &[1], "byte 44: reserved"),
        ];
        for (at, patch, expected) in cases {
            let mut bytes = sample().encode();
            bytes[at..at + patch.len()].copy_from_slice(patch);
            let message = Hello::decode(&bytes).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Hello::decode(&bytes);
        }
    }
}
