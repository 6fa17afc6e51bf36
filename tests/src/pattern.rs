//! Payloads that show where they were cut, swapped or overwritten.

use bytes::{BufMut, Bytes};
use rdma_rpc::BulkBuffer;

/// A payload of this many bytes; another seed gives other bytes at every place. Those of odd lengths
/// lie in the memory that the library has for long messages.
pub fn payload(bytes: usize, seed: u64) -> Bytes {
    if bytes % 2 == 1 {
        let mut payload = BulkBuffer::with_capacity(bytes + 8);
        fill(&mut payload, bytes, seed);
        return payload.freeze().slice(..bytes);
    }
    let mut payload = Vec::with_capacity(bytes + 8);
    fill(&mut payload, bytes, seed);
    payload.truncate(bytes);
    payload.into()
}

/// Writes at least so many bytes.
fn fill(payload: &mut impl BufMut, bytes: usize, seed: u64) {
    let mut word = seed;
    for _ in 0..bytes.div_ceil(8) {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        payload.put_u64_le(word ^ (word >> 29));
    }
}

/// A checksum over the bytes and their places.
pub fn checksum(bytes: &[u8]) -> u64 {
    let mut sum = bytes.len() as u64;
    let words = bytes.chunks_exact(8);
    let rest = words.remainder();
    for word in words {
        let word = u64::from_le_bytes(word.try_into().unwrap_or_default());
        sum = (sum.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
    rest.iter().fold(sum, |sum, byte| sum.rotate_left(8) ^ u64::from(*byte))
}
