//! Hints to the processor: what to bring into its cache before it is needed.
//!
//! A hint takes an address and no more: it reads and changes nothing, and of an address where nothing
//! is mapped it does nothing at all. So it may outlive the mapping it was made for. On processors other
//! than x86-64 there is none.

#[cfg(all(target_arch = "x86_64", not(miri)))]
pub(super) use x86_64::{prefetch_line, prefetch_write};

/// Of a processor's cache.
const LINE_BYTES: usize = 64;
/// What a burst with one short message takes.
pub(super) const SHORT_BURST_BYTES: usize = 2 * LINE_BYTES;

/// The lines of `len_bytes` from an address on, or one more.
fn lines(address: usize, len_bytes: usize) -> impl Iterator<Item = usize> {
    (0..len_bytes).step_by(LINE_BYTES).map(move |at| address.wrapping_add(at))
}

/// What a short burst at an address takes, to be read.
#[inline]
pub(super) fn prefetch_read(address: usize) {
    lines(address, SHORT_BURST_BYTES).for_each(prefetch_line);
}

#[cfg(not(all(target_arch = "x86_64", not(miri))))]
mod other {
    pub(in crate::shm) fn prefetch_line(_address: usize) {}
    pub(in crate::shm) fn prefetch_write(_address: usize, _len_bytes: usize) {}
}
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
pub(super) use other::{prefetch_line, prefetch_write};

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod x86_64 {
    #![allow(unsafe_code)]

    use std::arch::x86_64::{__cpuid, _MM_HINT_T0, _mm_prefetch};
    use std::ptr;
    use std::sync::LazyLock;

    /// Whether the processor can fetch a line in order to write it. The compiler's own hint for that
    /// is one for reading unless all processors it compiles for can do better: the line then comes as
    /// one that others have too, and has to be asked for again when it is written.
    static CAN_FETCH_TO_WRITE: LazyLock<bool> = LazyLock::new(|| {
        #[allow(unused_unsafe, reason = "safe in newer standard libraries only")]
        // SAFETY: every x86-64 processor has the instruction and this leaf.
        let features = unsafe { __cpuid(0x8000_0001) };
        // AMD64 Architecture Programmer's Manual, volume 3, E.4.2: 3DNowPrefetch.
        features.ecx & 1 << 8 != 0
    });

    /// One line, to be read.
    #[inline]
    pub(in crate::shm) fn prefetch_line(address: usize) {
        // SAFETY: a hint (see the module).
        unsafe { _mm_prefetch::<_MM_HINT_T0>(ptr::without_provenance(address)) }
    }

    /// Bytes from an address on, to be written: out of the other processor's cache before they are
    /// needed.
    #[inline]
    pub(in crate::shm) fn prefetch_write(address: usize, len_bytes: usize) {
        if !*CAN_FETCH_TO_WRITE {
            return super::lines(address, len_bytes).for_each(prefetch_line);
        }
        for at in super::lines(address, len_bytes) {
            // SAFETY: a hint (see the module), which the processor has.
            unsafe {
                std::arch::asm!(
                    "prefetchw [{}]",
                    in(reg) at,
                    options(nostack, preserves_flags, readonly),
                );
            }
        }
    }
}
