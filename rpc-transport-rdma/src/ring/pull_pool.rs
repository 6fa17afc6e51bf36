//! Buffers that bulk messages are pulled into. They are lent out as `Bytes` and come back when
//! the last of these is dropped, in whatever thread that happens.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use bytes::Bytes;

use super::config::PoolLimits;
use super::size_class::{class_bytes, fits};
use crate::verbs::{Access, QueuePair, Region, VerbError};

struct Inner<R> {
    idle: Vec<R>,
    idle_bytes: usize,
    /// Registered buffers and their bytes, busy and idle.
    buffers: usize,
    registered_bytes: usize,
    /// The link is gone: buffers that come back are given to the system.
    closed: bool,
    /// Woken when a buffer comes back.
    waiting: Option<Waker>,
}

/// The pool. The lock is held for a few instructions, and only where a bulk message begins or
/// ends.
pub(super) struct PullPool<R> {
    limits: PoolLimits,
    inner: Mutex<Inner<R>>,
}

impl<R> fmt::Debug for PullPool<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.lock();
        f.debug_struct("PullPool")
            .field("buffers", &inner.buffers)
            .field("registered_bytes", &inner.registered_bytes)
            .field("idle_bytes", &inner.idle_bytes)
            .finish()
    }
}

impl<R> PullPool<R> {
    fn lock(&self) -> MutexGuard<'_, Inner<R>> {
        // Nothing that can panic runs under the lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R: Region> PullPool<R> {
    pub(super) fn new(limits: PoolLimits) -> Arc<PullPool<R>> {
        let inner = Inner {
            idle: Vec::new(),
            idle_bytes: 0,
            buffers: 0,
            registered_bytes: 0,
            closed: false,
            waiting: None,
        };
        Arc::new(PullPool { limits, inner: Mutex::new(inner) })
    }

    /// Whether an idle buffer fits.
    pub(super) fn has_idle(&self, len: usize) -> bool {
        self.lock().idle.iter().any(|region| fits(region.len(), len))
    }

    /// Whether a message of `len` bytes would find a buffer now.
    pub(super) fn has_room(&self, len: usize) -> bool {
        let inner = self.lock();
        let busy_bytes = inner.registered_bytes - inner.idle_bytes;
        inner.idle.iter().any(|region| fits(region.len(), len))
            || (inner.buffers - inner.idle.len() < self.limits.max_buffers
                && busy_bytes + class_bytes(len) <= self.limits.max_bytes)
    }

    /// Keeps a waker until a buffer comes back.
    pub(super) fn wake_on_return(&self, waker: &Waker) {
        let mut inner = self.lock();
        match &mut inner.waiting {
            Some(kept) => kept.clone_from(waker),
            None => inner.waiting = Some(waker.clone()),
        }
    }

    /// A buffer for a message of `len` bytes, or `None` when the bounds are reached.
    pub(super) fn take<Q>(&self, queue_pair: &mut Q, len: usize) -> Result<Option<R>, VerbError>
    where
        Q: QueuePair<Region = R>,
    {
        if !self.has_room(len) {
            return Ok(None);
        }
        let bytes = class_bytes(len);
        {
            let mut inner = self.lock();
            let fitting = inner.idle.iter().enumerate().filter(|(_, r)| fits(r.len(), len));
            if let Some(at) = fitting.min_by_key(|(_, r)| r.len()).map(|(at, _)| at) {
                let region = inner.idle.swap_remove(at);
                inner.idle_bytes -= region.len();
                return Ok(Some(region));
            }
            while inner.registered_bytes + bytes > self.limits.max_bytes
                || inner.buffers >= self.limits.max_buffers
            {
                let Some(region) = inner.idle.pop() else { return Ok(None) };
                inner.idle_bytes -= region.len();
                inner.registered_bytes -= region.len();
                inner.buffers -= 1;
            }
        }
        // Only this thread registers; what others do in between gives room, and takes none.
        let region = loop {
            match queue_pair.register(bytes, Access::ReadTarget) {
                // What lies idle here may be what is missing.
                Err(error) if error.is_out_of_memory() && self.drop_idle() => {}
                registered => break registered?,
            }
        };
        let mut inner = self.lock();
        inner.buffers += 1;
        inner.registered_bytes += region.len();
        Ok(Some(region))
    }

    /// Gives an idle buffer back to the system, if there is one.
    fn drop_idle(&self) -> bool {
        let mut inner = self.lock();
        let Some(region) = inner.idle.pop() else { return false };
        inner.idle_bytes -= region.len();
        inner.registered_bytes -= region.len();
        inner.buffers -= 1;
        true
    }

    /// Takes a buffer back that no work request can touch any more.
    pub(super) fn give_back(&self, region: R) {
        let (dropped, waiting) = {
            let mut inner = self.lock();
            let keep =
                !inner.closed && inner.idle_bytes + region.len() <= self.limits.max_idle_bytes;
            let dropped = if keep {
                inner.idle_bytes += region.len();
                inner.idle.push(region);
                None
            } else {
                inner.registered_bytes -= region.len();
                inner.buffers -= 1;
                Some(region)
            };
            (dropped, inner.waiting.take())
        };
        drop(dropped);
        if let Some(waker) = waiting {
            waker.wake();
        }
    }

    /// The link ends: idle buffers go now, lent ones when they come back.
    pub(super) fn close(&self) {
        let idle = {
            let mut inner = self.lock();
            inner.closed = true;
            let bytes = inner.idle_bytes;
            inner.buffers -= inner.idle.len();
            inner.registered_bytes -= bytes;
            inner.idle_bytes = 0;
            inner.waiting = None;
            std::mem::take(&mut inner.idle)
        };
        drop(idle);
    }

    /// Buffers that are lent out or being pulled into.
    pub(super) fn busy(&self) -> usize {
        let inner = self.lock();
        inner.buffers - inner.idle.len()
    }

    /// Lends the first `len` bytes of a buffer, without a copy; it comes back when the last
    /// `Bytes` of it is dropped.
    pub(super) fn lend(self: &Arc<Self>, region: R, len: usize) -> Bytes {
        Bytes::from_owner(Lent { region: Some(region), len, pool: self.clone() })
    }
}

/// A buffer that is out.
struct Lent<R: Region> {
    region: Option<R>,
    len: usize,
    pool: Arc<PullPool<R>>,
}

impl<R: Region> AsRef<[u8]> for Lent<R> {
    fn as_ref(&self) -> &[u8] {
        self.region.as_ref().map_or(&[], |region| &region.bytes()[..self.len])
    }
}

impl<R: Region> Drop for Lent<R> {
    fn drop(&mut self) {
        if let Some(region) = self.region.take() {
            self.pool.give_back(region);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{Fabric, SimConfig, SimQueuePair, SimRegion};

    fn setup(max_bytes: usize, max_idle_bytes: usize) -> (Arc<PullPool<SimRegion>>, SimQueuePair) {
        let limits = PoolLimits { max_bytes, max_idle_bytes, max_buffers: 3 };
        let (one, _) = Fabric::new(1).pair(SimConfig::default(), SimConfig::default());
        (PullPool::new(limits), one.queue_pair)
    }

    #[test]
    fn a_lent_buffer_comes_back_with_the_last_of_its_bytes() {
        let (pool, mut queue_pair) = setup(1 << 20, 1 << 20);
        let mut region = pool.take(&mut queue_pair, 5000).unwrap().unwrap();
        let key = region.remote().rkey;
        region.bytes_mut()[..5].copy_from_slice(b"hello");
        let message = pool.lend(region, 5000);
        let part = message.slice(1..5);
        assert_eq!(message.len(), 5000);
        drop(message);
        assert_eq!(pool.busy(), 1);
        assert_eq!(&part[..], b"ello");
        drop(part);
        assert_eq!(pool.busy(), 0);
        assert_eq!(pool.take(&mut queue_pair, 4500).unwrap().unwrap().remote().rkey, key);
    }

    #[test]
    fn a_short_message_does_not_pin_a_long_buffer() {
        let (pool, mut queue_pair) = setup(1 << 20, 1 << 20);
        let long = pool.take(&mut queue_pair, 500_000).unwrap().unwrap();
        pool.give_back(long);
        let short = pool.take(&mut queue_pair, 4000).unwrap().unwrap();
        assert_eq!(short.len(), 4096);
    }

    #[test]
    fn both_bounds_hold_and_idle_buffers_make_room() {
        let (pool, mut queue_pair) = setup(64 * 1024, 64 * 1024);
        let first = pool.take(&mut queue_pair, 48 * 1024).unwrap().unwrap();
        assert!(pool.take(&mut queue_pair, 32 * 1024).unwrap().is_none(), "too many bytes");
        pool.give_back(first);
        let kept: Vec<_> =
            (0..3).map(|_| pool.take(&mut queue_pair, 4096).unwrap().unwrap()).collect();
        assert!(pool.take(&mut queue_pair, 4096).unwrap().is_none(), "too many buffers");
        assert_eq!(pool.busy(), 3);
        drop(kept);
    }

    #[test]
    fn after_the_link_nothing_is_kept() {
        let (pool, mut queue_pair) = setup(1 << 20, 1 << 20);
        let lent = pool.take(&mut queue_pair, 100).unwrap().unwrap();
        let idle = pool.take(&mut queue_pair, 100).unwrap().unwrap();
        pool.give_back(idle);
        let message = pool.lend(lent, 100);
        pool.close();
        drop(queue_pair);
        assert_eq!(message.len(), 100, "still readable");
        drop(message);
        let inner = pool.lock();
        assert_eq!((inner.buffers, inner.registered_bytes, inner.idle.len()), (0, 0, 0));
    }
}
