//! Memory of long messages, used again.
//!
//! An allocator gives memory of this size back to the system as soon as it is freed, or soon after,
//! and takes it page by page when it is asked again: with several messages of a megabyte under way on
//! a socket, half of the time went there. So what a long message lay in is kept for the next one, up to
//! [`MAX_IDLE_BYTES`] for the whole process.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

/// Shorter buffers are left to the allocator, which keeps them itself.
pub const LEAST_BYTES: usize = 64 * 1024;
/// Bytes that lie idle, at most.
pub const MAX_IDLE_BYTES: usize = 32 * 1024 * 1024;
/// A buffer is not used for less than a part in so many of it: a message keeps all of it.
const MOST_WASTE: usize = 2;

static IDLE: Mutex<Idle> = Mutex::new(Idle { buffers: VecDeque::new(), bytes: 0 });

/// Buffers nobody uses, the last used one last.
#[derive(Debug)]
struct Idle {
    buffers: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl Idle {
    fn take(&mut self, capacity: usize) -> Option<Vec<u8>> {
        let fits = capacity..=capacity.saturating_mul(MOST_WASTE);
        // The last used one is the warmest.
        let index = self.buffers.iter().rposition(|buffer| fits.contains(&buffer.capacity()))?;
        let buffer = self.buffers.remove(index)?;
        self.bytes -= buffer.capacity();
        Some(buffer)
    }

    /// Keeps a buffer; gives what is to be freed for it.
    fn keep(&mut self, buffer: Vec<u8>) -> Vec<Vec<u8>> {
        if buffer.capacity() > MAX_IDLE_BYTES {
            return vec![buffer];
        }
        let mut freed = Vec::new();
        self.bytes += buffer.capacity();
        self.buffers.push_back(buffer);
        while self.bytes > MAX_IDLE_BYTES
            && let Some(oldest) = self.buffers.pop_front()
        {
            self.bytes -= oldest.capacity();
            freed.push(oldest);
        }
        freed
    }
}

/// An empty buffer with room for `capacity` bytes or up to twice as many.
pub fn buffer(capacity: usize) -> Vec<u8> {
    idle_buffer(capacity).unwrap_or_else(|| Vec::with_capacity(capacity))
}

/// The same, if there is one that need not be allocated.
pub fn idle_buffer(capacity: usize) -> Option<Vec<u8>> {
    if capacity < LEAST_BYTES {
        return None;
    }
    IDLE.lock().unwrap_or_else(PoisonError::into_inner).take(capacity)
}

/// A buffer is not needed any more.
pub fn give_back(mut buffer: Vec<u8>) {
    if buffer.capacity() < LEAST_BYTES {
        return;
    }
    buffer.clear();
    // Freed after the lock is gone.
    let freed = IDLE.lock().unwrap_or_else(PoisonError::into_inner).keep(buffer);
    drop(freed);
}

/// What is in a buffer, whose memory comes back when nobody shares it any more.
pub fn share(buffer: Vec<u8>) -> Bytes {
    if buffer.capacity() < LEAST_BYTES {
        return Bytes::from(buffer);
    }
    Bytes::from_owner(Shared(buffer))
}

struct Shared(Vec<u8>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        give_back(std::mem::take(&mut self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle() -> Idle {
        Idle { buffers: VecDeque::new(), bytes: 0 }
    }

    #[test]
    fn a_buffer_serves_what_fits_it_and_not_much_less() {
        let mut idle = idle();
        assert!(idle.keep(Vec::with_capacity(1000)).is_empty());
        assert_eq!(idle.take(1001), None);
        assert_eq!(idle.take(499), None);
        assert_eq!(idle.take(500).map(|buffer| buffer.capacity()), Some(1000));
        assert_eq!((idle.take(500), idle.bytes), (None, 0));
    }

    #[test]
    fn the_last_used_comes_first_and_the_oldest_goes() {
        let mut idle = idle();
        let most = MAX_IDLE_BYTES / 4;
        for tag in 0..4u8 {
            let mut buffer = Vec::with_capacity(most);
            buffer.push(tag);
            assert!(idle.keep(buffer).is_empty());
        }
        assert_eq!(idle.bytes, MAX_IDLE_BYTES);
        assert_eq!(idle.take(most).map(|buffer| buffer[0]), Some(3));
        let freed = idle.keep(Vec::with_capacity(2 * most));
        assert_eq!(freed.iter().map(|buffer| buffer[0]).collect::<Vec<_>>(), [0]);
        assert_eq!(idle.bytes, MAX_IDLE_BYTES);
        // One that is too long by itself drives nobody out.
        assert_eq!(idle.keep(Vec::with_capacity(MAX_IDLE_BYTES + 1)).len(), 1);
        assert_eq!((idle.buffers.len(), idle.bytes), (3, MAX_IDLE_BYTES));
    }

    #[test]
    fn what_was_shared_comes_back_when_all_have_let_go() {
        // A length nobody else in this process asks for.
        let capacity = 7 * LEAST_BYTES + 12_345;
        let mut first = Vec::with_capacity(capacity);
        first.extend_from_slice(b"abc");
        let place = first.as_ptr();
        let bytes = share(first);
        let part = bytes.slice(1..);
        drop(bytes);
        assert_eq!(part, b"bc"[..]);
        assert!(idle_buffer(capacity).is_none_or(|other| other.as_ptr() != place));
        drop(part);
        let again = buffer(capacity);
        assert!(again.is_empty());
        assert_eq!(again.as_ptr(), place);
        assert_eq!(share(b"short".to_vec()), b"short"[..]);
    }
}
