//! Copies of messages of some kilobytes.
//!
//! From about 2 KiB on glibc copies by `rep movsb`, where the processor says that it does so fast. On
//! AMD's Zen 3 and 4 that takes twenty times as long if the target is 1 to some 34 bytes further on in its
//! page than the source in its own (glibc bug 30994). Messages lie in a ring at ever other places, so this
//! happens to some of them, or to none, as the addresses have come out in a process. Shorter copies go by
//! vector registers, which is as fast, or faster, up to the size of a cache. So a long copy is several
//! short ones.
#![allow(unsafe_code)]

use bytes::buf::UninitSlice;
use bytes::{Buf, BufMut, Bytes};

/// What every C library copies by registers, as far as we know.
const PIECE_BYTES: usize = 2048;
/// From here on pieces take some percent longer where nothing is wrong with the addresses.
const LARGE_BYTES: usize = 128 * 1024;

/// Whether a copy is done in pieces.
#[inline]
fn in_pieces(from: &[u8], to_address: usize) -> bool {
    let from_address = from.as_ptr().addr();
    from.len() > PIECE_BYTES && (from.len() < LARGE_BYTES || lies_badly(from_address, to_address))
}

/// Whether `rep movsb` from the one address to the other is twenty times as slow as it should be, on
/// the processors of the module's text.
#[inline]
pub fn lies_badly(from_address: usize, to_address: usize) -> bool {
    const PAGE_BYTES: usize = 4096;
    let ahead = to_address.wrapping_sub(from_address) % PAGE_BYTES;
    (1..64).contains(&ahead)
}

/// `into.copy_from_slice(from)`.
///
/// # Panics
/// If the lengths differ.
#[inline]
pub(crate) fn copy(from: &[u8], into: &mut [u8]) {
    if from.len() != into.len() || !in_pieces(from, into.as_ptr().addr()) {
        return into.copy_from_slice(from);
    }
    for (from, into) in from.chunks(PIECE_BYTES).zip(into.chunks_mut(PIECE_BYTES)) {
        into.copy_from_slice(from);
    }
}

/// `to.extend_from_slice(from)`.
#[inline]
pub(crate) fn append(to: &mut Vec<u8>, from: &[u8]) {
    to.reserve(from.len());
    if !in_pieces(from, to.as_ptr().addr() + to.len()) {
        return to.extend_from_slice(from);
    }
    from.chunks(PIECE_BYTES).for_each(|piece| to.extend_from_slice(piece));
}

/// `to.put(from)`.
pub(crate) fn append_all(to: &mut Vec<u8>, from: impl Buf) {
    each_chunk(from, |chunk| append(to, chunk));
}

#[inline]
fn each_chunk(mut from: impl Buf, mut write: impl FnMut(&[u8])) {
    while from.has_remaining() {
        let chunk = from.chunk();
        let count = chunk.len();
        write(chunk);
        from.advance(count);
    }
}

/// [`Bytes::copy_from_slice`].
#[inline]
pub(crate) fn to_bytes(from: &[u8]) -> Bytes {
    if from.len() <= PIECE_BYTES {
        return Bytes::copy_from_slice(from);
    }
    let mut bytes = Vec::with_capacity(from.len());
    append(&mut bytes, from);
    bytes.into()
}

/// Where a message is encoded to: the slice that is left of it.
pub(crate) struct Target<'a>(pub(crate) &'a mut [u8]);

impl Target<'_> {
    #[inline]
    fn write(&mut self, from: &[u8]) {
        let (here, rest) = std::mem::take(&mut self.0).split_at_mut(from.len());
        copy(from, here);
        self.0 = rest;
    }
}

// SAFETY: `chunk_mut` and `advance_mut` are those of the slice.
unsafe impl BufMut for Target<'_> {
    #[inline]
    fn remaining_mut(&self) -> usize {
        self.0.len()
    }

    #[inline]
    fn chunk_mut(&mut self) -> &mut UninitSlice {
        self.0.chunk_mut()
    }

    #[inline]
    unsafe fn advance_mut(&mut self, count: usize) {
        // SAFETY: the caller's promise is the slice's.
        unsafe { self.0.advance_mut(count) }
    }

    #[inline]
    fn put<T: Buf>(&mut self, from: T) {
        each_chunk(from, |chunk| self.write(chunk));
    }

    #[inline]
    fn put_slice(&mut self, from: &[u8]) {
        self.write(from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENS: [usize; 9] = [0, 1, 100, 2047, 2048, 2049, 4096, 10_000, 200_000];

    fn sample(len: usize) -> Vec<u8> {
        (0..len).map(|index| (index * 7 + index / 256) as u8).collect()
    }

    #[test]
    fn every_length_is_copied_whole() {
        for len in LENS {
            let from = sample(len);
            let mut into = vec![0xEE; len];
            copy(&from, &mut into);
            assert_eq!(into, from);
            assert_eq!(to_bytes(&from), from);
            let mut to = b"before".to_vec();
            append(&mut to, &from);
            assert_eq!((&to[..6], &to[6..]), (&b"before"[..], &from[..]));
            let mut to = b"before".to_vec();
            append_all(&mut to, from[..len / 2].chain(&from[len / 2..]));
            assert_eq!((&to[..6], &to[6..]), (&b"before"[..], &from[..]));
        }
    }

    #[test]
    fn a_large_copy_that_lies_badly_is_done_in_pieces() {
        let memory = vec![0; LARGE_BYTES + 4096];
        let from = &memory[..LARGE_BYTES];
        let start = from.as_ptr().addr();
        for (ahead, badly) in [(0, false), (1, true), (34, true), (64, false), (4095, false)] {
            let target = start + (1 << 30) + ahead;
            assert_eq!(in_pieces(from, target), badly, "{ahead}");
            assert!(in_pieces(&from[1..], target), "shorter ones always are");
            assert!(!in_pieces(&from[..PIECE_BYTES], target), "and short ones never");
            let mut into = vec![0xEE; 2 * 4096 + LARGE_BYTES];
            let at = (start + ahead).wrapping_sub(into.as_ptr().addr()) % 4096;
            copy(from, &mut into[at..][..LARGE_BYTES]);
            assert_eq!(&into[at..][..LARGE_BYTES], from);
            assert!(into[..at].iter().chain(&into[at + LARGE_BYTES..]).all(|&b| b == 0xEE));
        }
    }

    #[test]
    #[should_panic(expected = "length")]
    fn a_target_of_another_length_panics() {
        copy(&[1; 5000], &mut [0; 5001]);
    }

    #[test]
    fn a_target_takes_what_prost_writes_in_every_way() {
        for len in LENS {
            let from = sample(len);
            let mut memory = vec![0xEE; 3 * len + 9];
            let mut target = Target(&mut memory);
            target.put_u8(1);
            target.put_slice(&from);
            target.put(Bytes::from(from.clone()));
            target.put(from[..len / 2].chain(&from[len / 2..]));
            target.put_u64_le(7);
            assert!(!target.has_remaining_mut());
            let expected = [&[1][..], &from, &from, &from, &7_u64.to_le_bytes()].concat();
            assert_eq!(memory, expected);
        }
    }

    #[test]
    #[should_panic(expected = "mid > len")]
    fn a_message_longer_than_it_said_panics_and_writes_nothing_beyond() {
        Target(&mut [0; 3]).put_slice(&[1; 4]);
    }
}
