//! Long frames under way, as many as the caches take that both ends share.
//!
//! Where the device copies within one host, a message of some ten kilobytes is faster through the ring
//! than by a pull, which is a system call: by a third alone, and by up to three times with four calls
//! open. That is so only as long as the rings' lines stay in the caches. With 64 connections, a
//! message of 60 KB on each, the ring took four times as long as pulls, whose buffers all connections share.

use std::sync::atomic::{AtomicUsize, Ordering};

/// What the links of a process may have under way together.
const PROCESS_BYTES: usize = 1024 * 1024;
/// Longer messages are pulled, even alone: so many times the length from which others are.
const MOST_THRESHOLDS: usize = 3;

/// The links of this process that have a share.
static SHARERS: AtomicUsize = AtomicUsize::new(0);

/// One link's share.
#[derive(Debug)]
pub(super) struct CacheShare {
    most_bytes: usize,
    longest: usize,
}

impl CacheShare {
    /// At most `most_bytes` under way; 0: none. Messages longer than `threshold_bytes` are pulled if this
    /// does not take them.
    pub(super) fn new(most_bytes: usize, threshold_bytes: usize) -> CacheShare {
        if most_bytes > 0 {
            SHARERS.fetch_add(1, Ordering::Relaxed);
        }
        CacheShare { most_bytes, longest: threshold_bytes.saturating_mul(MOST_THRESHOLDS) }
    }

    /// Whether it takes a frame of `len` bytes and those of other calls, `calls` in all.
    pub(super) fn takes(&self, len: usize, calls: usize) -> bool {
        self.takes_among(len, calls, SHARERS.load(Ordering::Relaxed))
    }

    fn takes_among(&self, len: usize, calls: usize, sharers: usize) -> bool {
        let most = self.most_bytes.min(PROCESS_BYTES / sharers.max(1));
        len <= self.longest && len.saturating_mul(calls.max(1)) <= most
    }
}

impl Drop for CacheShare {
    fn drop(&mut self) {
        if self.most_bytes > 0 {
            SHARERS.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_few_long_frames_and_none_where_there_are_many_links() {
        let share = CacheShare::new(264 << 10, 24 << 10);
        assert!(share.takes_among(72 << 10, 1, 1));
        assert!(!share.takes_among((72 << 10) + 1, 1, 1), "too long to go by the ring");
        assert!(share.takes_among(64 << 10, 4, 1));
        assert!(!share.takes_among(64 << 10, 5, 1));
        assert!(share.takes_among(64 << 10, 1, 16));
        assert!(!share.takes_among(64 << 10, 1, 17));
        assert!(!share.takes_among(usize::MAX, usize::MAX, usize::MAX));
        assert!(!CacheShare::new(0, 24 << 10).takes_among(1, 1, 0), "it has no share");
    }
}
