//! Copies to and from memory that another process may be reading or writing at the same moment.
//!
//! Such memory is only ever touched by single aligned atomic words, by volatile bytes at the
//! edges, or by instructions the compiler cannot look into. So the compiler may not
//! assume that a value read once is still there when it is read again, and a hostile peer that
//! changes bytes under a copy can spoil the copy, never this process.
//!
//! Relaxed is enough here: what orders a copy against the other process is the Release store of
//! the completion entry after it, and the Acquire load of that entry before the reads.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(all(target_arch = "x86_64", not(miri)))]
use rdma_rpc_core::copy::lies_badly;

/// From this many bytes on, x86-64 copies in whole blocks, by vector registers or by `rep movsb`.
const LONG_BYTES: usize = 512;

/// What `rep movsb` copies, unless it lies badly (`rdma_rpc_core::copy`): it moves whole cache lines, but has to start up (some
/// 30 to 100 cycles).
const STRING_COPY_BYTES: usize = 2048;

/// Bytes of a block of vector registers.
const BLOCK_BYTES: usize = 64;

const WORD_BYTES: usize = size_of::<u64>();

/// Copies into shared memory from memory only this process writes.
///
/// # Safety
/// `src` is valid for reads and `dst` for writes of `len` bytes; the two do not overlap; nobody
/// writes `src` meanwhile; no Rust reference to the bytes at `dst` exists.
pub(crate) unsafe fn copy_in(src: *const u8, dst: *mut u8, len: usize) {
    if is_long(len) {
        // SAFETY: the caller's promise is `long_copy`'s.
        return unsafe { long_copy(src, dst, len) };
    }
    let head = edge_bytes(dst.addr(), len);
    let words = (len - head) / WORD_BYTES;
    // SAFETY: head + words * 8 <= len, so every pointer made here stays inside the caller's two
    // ranges; after `head` bytes `dst` is 8-aligned, which `AtomicU64` needs, and `src` is read
    // unaligned.
    unsafe {
        copy_bytes(src, dst, head);
        let from = src.add(head);
        let to = dst.add(head);
        for index in 0..words {
            let value = from.add(index * WORD_BYTES).cast::<u64>().read_unaligned();
            let word = AtomicU64::from_ptr(to.add(index * WORD_BYTES).cast());
            word.store(value, Ordering::Relaxed);
        }
        let done = head + words * WORD_BYTES;
        copy_bytes(src.add(done), dst.add(done), len - done);
    }
}

/// Copies out of shared memory into memory only this process touches.
///
/// # Safety
/// `src` is valid for reads and `dst` for writes of `len` bytes; the two do not overlap; nobody
/// else touches `dst` meanwhile; no Rust reference to the bytes at `src` exists.
pub(crate) unsafe fn copy_out(src: *const u8, dst: *mut u8, len: usize) {
    if is_long(len) {
        // SAFETY: the caller's promise is `long_copy`'s.
        return unsafe { long_copy(src, dst, len) };
    }
    let head = edge_bytes(src.addr(), len);
    let words = (len - head) / WORD_BYTES;
    // SAFETY: as in `copy_in`, with the aligned side being `src`. A relaxed load of a word never
    // writes, so `src` may be mapped read-only.
    unsafe {
        copy_bytes(src, dst, head);
        let from = src.add(head);
        let to = dst.add(head);
        for index in 0..words {
            let word = AtomicU64::from_ptr(from.add(index * WORD_BYTES).cast_mut().cast());
            let value = word.load(Ordering::Relaxed);
            to.add(index * WORD_BYTES).cast::<u64>().write_unaligned(value);
        }
        let done = head + words * WORD_BYTES;
        copy_bytes(src.add(done), dst.add(done), len - done);
    }
}

/// Copies from shared memory to shared memory.
///
/// # Safety
/// `src` is valid for reads and `dst` for writes of `len` bytes; the two do not overlap; no Rust
/// reference to either exists.
pub(crate) unsafe fn copy_across(src: *const u8, dst: *mut u8, len: usize) {
    if is_long(len) {
        // SAFETY: the caller's promise is `long_copy`'s.
        return unsafe { long_copy(src, dst, len) };
    }
    let same_alignment = src.addr() % WORD_BYTES == dst.addr() % WORD_BYTES;
    let head = if same_alignment { edge_bytes(dst.addr(), len) } else { len };
    let words = (len - head) / WORD_BYTES;
    // SAFETY: as in `copy_in`; words are used only where both sides are 8-aligned after `head`.
    unsafe {
        copy_bytes(src, dst, head);
        let from = src.add(head);
        let to = dst.add(head);
        for index in 0..words {
            let source = AtomicU64::from_ptr(from.add(index * WORD_BYTES).cast_mut().cast());
            let target = AtomicU64::from_ptr(to.add(index * WORD_BYTES).cast());
            target.store(source.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        let done = head + words * WORD_BYTES;
        copy_bytes(src.add(done), dst.add(done), len - done);
    }
}

/// Bytes before the first aligned word, at most `len`.
fn edge_bytes(addr: usize, len: usize) -> usize {
    (addr.wrapping_neg() % WORD_BYTES).min(len)
}

/// # Safety
/// `src` is valid for reads and `dst` for writes of `len` bytes.
unsafe fn copy_bytes(src: *const u8, dst: *mut u8, len: usize) {
    for index in 0..len {
        // SAFETY: index < len, inside both ranges by the caller's promise; a byte is aligned.
        unsafe { dst.add(index).write_volatile(src.add(index).read_volatile()) };
    }
}

fn is_long(len: usize) -> bool {
    cfg!(all(target_arch = "x86_64", not(miri))) && len >= LONG_BYTES
}

/// # Safety
/// `src` is valid for reads and `dst` for writes of `len` bytes; the two do not overlap; `len` is at
/// least [`LONG_BYTES`].
#[cfg(all(target_arch = "x86_64", not(miri)))]
unsafe fn long_copy(src: *const u8, dst: *mut u8, len: usize) {
    if len >= STRING_COPY_BYTES && !lies_badly(src.addr(), dst.addr()) {
        // SAFETY: the caller's promise.
        return unsafe { string_copy(src, dst, len) };
    }
    let last = len - BLOCK_BYTES;
    // SAFETY: whole blocks from the start, and one that ends with the last byte: inside the ranges,
    // because one is shorter than `len`.
    unsafe {
        block_copy(src, dst, len / BLOCK_BYTES);
        block_copy(src.add(last), dst.add(last), 1);
    }
}

/// # Safety
/// `src` is valid for reads and `dst` for writes of `len` bytes; the two do not overlap.
#[cfg(all(target_arch = "x86_64", not(miri)))]
unsafe fn string_copy(src: *const u8, dst: *mut u8, len: usize) {
    // SAFETY: the instruction reads `len` bytes at rsi and writes them at rdi, which the caller
    // promised; the ABI keeps the direction flag clear; flags are not touched. To the compiler
    // this is memory somebody else changed, which is exactly what shared memory is. Stores after
    // it (the completion entry) stay after it on x86-64.
    unsafe {
        std::arch::asm!(
            "rep movsb",
            inout("rcx") len => _,
            inout("rsi") src => _,
            inout("rdi") dst => _,
            options(nostack, preserves_flags),
        );
    }
}

/// # Safety
/// `src` is valid for reads and `dst` for writes of `blocks` blocks, of which there is one at least; the
/// two do not overlap.
#[cfg(all(target_arch = "x86_64", not(miri)))]
unsafe fn block_copy(src: *const u8, dst: *mut u8, blocks: usize) {
    // SAFETY: each turn reads and writes one block, and there are `blocks` turns: what the caller
    // promised. Every x86-64 processor has these instructions, which ask for no alignment. Otherwise
    // as in `string_copy`.
    unsafe {
        std::arch::asm!(
            "2:",
            "movdqu {a}, [{src}]",
            "movdqu {b}, [{src} + 16]",
            "movdqu {c}, [{src} + 32]",
            "movdqu {d}, [{src} + 48]",
            "movdqu [{dst}], {a}",
            "movdqu [{dst} + 16], {b}",
            "movdqu [{dst} + 32], {c}",
            "movdqu [{dst} + 48], {d}",
            "add {src}, 64",
            "add {dst}, 64",
            "dec {blocks}",
            "jnz 2b",
            src = inout(reg) src => _,
            dst = inout(reg) dst => _,
            blocks = inout(reg) blocks => _,
            a = out(xmm_reg) _,
            b = out(xmm_reg) _,
            c = out(xmm_reg) _,
            d = out(xmm_reg) _,
            options(nostack),
        );
    }
}

/// # Safety
/// Never called: [`is_long`] is false here.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
unsafe fn long_copy(src: *const u8, dst: *mut u8, len: usize) {
    // SAFETY: the caller's promise is `copy_bytes`'s.
    unsafe { copy_bytes(src, dst, len) };
}

#[cfg(test)]
mod tests {
    use super::*;

    type Copy = unsafe fn(*const u8, *mut u8, usize);

    #[test]
    fn every_alignment_and_length_copies_exactly_its_bytes() {
        let copies: [Copy; 3] = [copy_in, copy_out, copy_across];
        let lens: &[usize] = if cfg!(miri) {
            &[0, 1, 7, 8, 23, 64]
        } else {
            &[0, 1, 7, 8, 9, 63, 64, 511, 512, 700, 2047, 2048, 4099]
        };
        for copy in copies {
            for src_offset in 0..9 {
                for dst_offset in 0..9 {
                    for &len in lens {
                        check(copy, src_offset, dst_offset, len);
                    }
                }
            }
        }
    }

    #[test]
    fn a_target_that_lies_badly_gets_the_same_bytes() {
        const PAGES: usize = 8192;
        for ahead in [0, 1, 8, 33, 63, 64, 4095] {
            let mut memory: Vec<u8> = (0..3 * PAGES).map(|i| (i * 7 + i / 256) as u8).collect();
            let expected = memory[..4099].to_vec();
            let start = memory.as_mut_ptr();
            // SAFETY: both ranges are inside the vector and do not overlap.
            unsafe { copy_in(start, start.add(PAGES + ahead), 4099) };
            assert_eq!(memory[PAGES + ahead..][..4099], expected);
        }
    }

    fn check(copy: Copy, src_offset: usize, dst_offset: usize, len: usize) {
        let src: Vec<u8> = (0..src_offset + len).map(|i| (i * 7 + 1) as u8).collect();
        let mut dst = vec![0xEE_u8; dst_offset + len + 9];
        // SAFETY: both vectors are long enough for the offsets and `len`, and are distinct.
        unsafe { copy(src.as_ptr().add(src_offset), dst.as_mut_ptr().add(dst_offset), len) };
        assert_eq!(&dst[dst_offset..dst_offset + len], &src[src_offset..]);
        assert!(dst[..dst_offset].iter().all(|&b| b == 0xEE), "wrote before the target");
        assert!(dst[dst_offset + len..].iter().all(|&b| b == 0xEE), "wrote past the target");
    }
}
