//! The memory of one device: pages that are worth registering, bounded, in huge pages where the
//! kernel has them.
//!
//! Rings and small buffers are cut out of arenas of 2 MiB, so that a device translates few
//! addresses however many connections there are; longer buffers are mapped by themselves. The
//! pool hands out memory, not keys: each connection registers its own blocks in a protection
//! domain of its own, so that no key means anything to another connection's peer, and a block
//! that was used before is zeroed before anybody else gets it.
#![allow(unsafe_code)]

use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::buddy::{ARENA_BYTES, Buddy, PAGE_BYTES, block_bytes, order_of};
use crate::ranges::Ranges;
use crate::verbs::VerbError;

/// Anonymous memory of this process.
#[derive(Debug)]
struct Pages {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and lives until drop.
unsafe impl Send for Pages {}
// SAFETY: `&Pages` gives out an address and a length only.
unsafe impl Sync for Pages {}

impl Pages {
    /// Maps `len` zeroed bytes: a multiple of a huge page in huge pages if there are any
    /// reserved, else in pages the kernel may make huge by itself.
    fn map(len: usize) -> Result<Pages, VerbError> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let anonymous = |flags: MapFlags| {
            // SAFETY: a null hint lets the kernel choose an unused range, so no memory of anybody
            // else is replaced.
            unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), len, prot, flags) }
        };
        let huge = len.is_multiple_of(ARENA_BYTES);
        let reserved = huge.then(|| anonymous(MapFlags::PRIVATE | MapFlags::HUGETLB));
        let mapped = match reserved {
            Some(Ok(address)) => Ok(address),
            _ => anonymous(MapFlags::PRIVATE),
        };
        let failed = |errno: i32| VerbError {
            verb: "mmap",
            errno,
            context: format!("{len} bytes to register; free memory, or raise RLIMIT_AS"),
        };
        let address = mapped.map_err(|errno| failed(errno.raw_os_error()))?;
        let start = NonNull::new(address.cast::<u8>())
            .ok_or_else(|| failed(rustix::io::Errno::NOMEM.raw_os_error()))?;
        if huge {
            // SAFETY: advice about the mapping just made; it changes no byte. Without
            // transparent huge pages it fails, and nothing is lost.
            let _ = unsafe { rustix::mm::madvise(address, len, Advice::LinuxHugepage) };
        }
        // SAFETY: as above. A child that forks shall not share pages a device writes: the
        // parent's would be copied away from under the device at the next write.
        let _ = unsafe { rustix::mm::madvise(address, len, Advice::LinuxDontFork) };
        Ok(Pages { start, len })
    }

    fn address(&self) -> usize {
        self.start.as_ptr().addr()
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length; blocks hold the pool, so none is left.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

#[derive(Debug)]
struct Arena {
    pages: Pages,
    buddy: Buddy,
}

#[derive(Debug, Default)]
struct Inner {
    arenas: Vec<Option<Arena>>,
    /// Arenas and longer blocks.
    mapped: Ranges,
    mapped_bytes: usize,
    /// Blocks that came back, ever.
    returned: u64,
    /// Who waits for one to come back.
    waiting: Vec<Waker>,
}

/// The pool.
#[derive(Debug)]
pub(super) struct MemoryPool {
    limit_bytes: usize,
    inner: Mutex<Inner>,
}

/// Where a block came from.
#[derive(Debug)]
enum Place {
    Arena { index: usize, offset: usize, order: usize },
    Own(Pages),
}

/// Zeroed memory out of a pool; goes back when dropped.
#[derive(Debug)]
pub(super) struct Block {
    start: NonNull<u8>,
    len: usize,
    place: Place,
    pool: Arc<MemoryPool>,
}

// SAFETY: the memory belongs to the process, not to a thread, and this block is its only owner.
unsafe impl Send for Block {}
// SAFETY: `&Block` gives out an address and a length only.
unsafe impl Sync for Block {}

impl Block {
    /// The first byte. `len` bytes from here are mapped, zeroed at first, and nobody else's for
    /// as long as this block lives.
    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }
}

impl MemoryPool {
    /// A pool that maps at most `limit_bytes`, rounded down to whole arenas but at least one.
    pub(super) fn new(limit_bytes: usize) -> Arc<MemoryPool> {
        let limit_bytes = limit_bytes.max(ARENA_BYTES);
        Arc::new(MemoryPool { limit_bytes, inner: Mutex::default() })
    }

    /// Bytes mapped now.
    #[cfg(test)]
    pub(super) fn mapped_bytes(&self) -> usize {
        self.lock().mapped_bytes
    }

    /// Blocks that came back, ever.
    pub(super) fn returned(&self) -> u64 {
        self.lock().returned
    }

    /// Asks to be woken when a block comes back; `false` if one has since `seen` had.
    pub(super) fn wait(&self, seen: u64, waker: &Waker) -> bool {
        let mut inner = self.lock();
        if inner.returned != seen {
            return false;
        }
        if !inner.waiting.iter().any(|kept| kept.will_wake(waker)) {
            inner.waiting.push(waker.clone());
        }
        true
    }

    /// Whether bytes lie in memory of this pool.
    pub(super) fn holds(&self, bytes: &[u8]) -> bool {
        self.lock().mapped.hold(bytes)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// At least `len` zeroed bytes, aligned to a page.
    ///
    /// # Errors
    /// When the limit is reached or the system has no memory.
    pub(super) fn take(self: &Arc<Self>, len: usize) -> Result<Block, VerbError> {
        match order_of(len) {
            Some(order) => self.take_from_arena(len, order),
            None => self.take_alone(len),
        }
    }

    fn take_from_arena(self: &Arc<Self>, len: usize, order: usize) -> Result<Block, VerbError> {
        let mut inner = self.lock();
        let taken = inner.arenas.iter_mut().enumerate().find_map(|(index, arena)| {
            let arena = arena.as_mut()?;
            let (offset, dirty) = arena.buddy.take(order)?;
            Some((index, offset, dirty))
        });
        let (index, offset, dirty) = match taken {
            Some(taken) => taken,
            None => {
                let index = self.add_arena(&mut inner)?;
                let arena = inner.arenas[index].as_mut();
                let taken = arena.and_then(|arena| arena.buddy.take(order));
                let (offset, dirty) = taken.ok_or_else(|| self.exhausted(len))?;
                (index, offset, dirty)
            }
        };
        let base = inner.arenas[index].as_ref().map(|arena| arena.pages.start);
        let base = base.ok_or_else(|| self.exhausted(len))?;
        // SAFETY: the allocator gives offsets of whole blocks inside the arena's mapping.
        let start = unsafe { base.add(offset) };
        drop(inner);
        if dirty {
            // SAFETY: the block is mapped, and from here on ours alone.
            unsafe { start.write_bytes(0, block_bytes(order)) };
        }
        let place = Place::Arena { index, offset, order };
        Ok(Block { start, len: block_bytes(order), place, pool: self.clone() })
    }

    fn add_arena(&self, inner: &mut Inner) -> Result<usize, VerbError> {
        if inner.mapped_bytes + ARENA_BYTES > self.limit_bytes {
            return Err(self.exhausted(ARENA_BYTES));
        }
        let pages = Pages::map(ARENA_BYTES)?;
        inner.mapped.insert(pages.address(), ARENA_BYTES);
        inner.mapped_bytes += ARENA_BYTES;
        let arena = Some(Arena { pages, buddy: Buddy::new() });
        let vacant = inner.arenas.iter().position(Option::is_none);
        Ok(match vacant {
            Some(index) => {
                inner.arenas[index] = arena;
                index
            }
            None => {
                inner.arenas.push(arena);
                inner.arenas.len() - 1
            }
        })
    }

    fn take_alone(self: &Arc<Self>, len: usize) -> Result<Block, VerbError> {
        let bytes = len.next_multiple_of(PAGE_BYTES);
        {
            let mut inner = self.lock();
            if inner.mapped_bytes.saturating_add(bytes) > self.limit_bytes {
                return Err(self.exhausted(bytes));
            }
            inner.mapped_bytes += bytes;
        }
        match Pages::map(bytes) {
            Ok(pages) => {
                self.lock().mapped.insert(pages.address(), pages.len);
                Ok(Block {
                    start: pages.start,
                    len: pages.len,
                    place: Place::Own(pages),
                    pool: self.clone(),
                })
            }
            Err(error) => {
                self.lock().mapped_bytes -= bytes;
                Err(error)
            }
        }
    }

    fn exhausted(&self, len: usize) -> VerbError {
        VerbError {
            verb: "taking memory to register",
            errno: rustix::io::Errno::NOMEM.raw_os_error(),
            context: format!(
                "{len} bytes more than the {} of this device's pool allow; raise rdma.memory_bytes",
                self.limit_bytes
            ),
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let (freed, waiting) = {
            let mut inner = self.pool.lock();
            inner.returned += 1;
            (inner.give_back(&self.place), std::mem::take(&mut inner.waiting))
        };
        drop(freed);
        for waker in waiting {
            waker.wake();
        }
    }
}

impl Inner {
    /// Takes a block back; the arena that is not needed any more.
    fn give_back(&mut self, place: &Place) -> Option<Arena> {
        match place {
            Place::Own(pages) => {
                self.mapped.remove(pages.address());
                self.mapped_bytes -= pages.len;
                None
            }
            Place::Arena { index, offset, order } => {
                let spare = self.arenas.iter().flatten().any(|arena| arena.buddy.is_idle());
                let slot = self.arenas.get_mut(*index)?;
                let arena = slot.as_mut()?;
                arena.buddy.give_back(*offset, *order);
                // One idle arena is kept for the next connection.
                if !arena.buddy.is_idle() || !spare {
                    return None;
                }
                self.mapped.remove(arena.pages.address());
                self.mapped_bytes -= arena.pages.len;
                slot.take()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(block: &Block, byte: u8) {
        // SAFETY: the block is ours and mapped.
        unsafe { block.start().write_bytes(byte, block.len()) };
    }

    fn all_zero(block: &Block) -> bool {
        // SAFETY: the block is ours and mapped, and nobody writes it meanwhile.
        let bytes = unsafe { std::slice::from_raw_parts(block.start().as_ptr(), block.len()) };
        bytes.iter().all(|byte| *byte == 0)
    }

    #[test]
    fn many_small_blocks_share_an_arena_and_are_zeroed_for_the_next() {
        let pool = MemoryPool::new(64 << 20);
        let blocks: Vec<Block> = (0..8).map(|_| pool.take(256 << 10).unwrap()).collect();
        assert_eq!(pool.mapped_bytes(), ARENA_BYTES);
        for block in &blocks {
            assert!(all_zero(block));
            write(block, 0xAB);
        }
        drop(blocks);
        let again = pool.take(1 << 20).unwrap();
        assert!(all_zero(&again), "nothing of the last owner is left");
        assert_eq!(again.start().as_ptr().addr() % PAGE_BYTES, 0);
    }

    #[test]
    fn a_pool_knows_its_own_memory_as_long_as_it_is_mapped() {
        let pool = MemoryPool::new(64 << 20);
        let bytes = |block: &Block, at: usize| {
            // SAFETY: the block is ours, mapped and zeroed; only the address is looked at.
            unsafe { std::slice::from_raw_parts(block.start().as_ptr().add(at), 1) }
        };
        let (short, long) = (pool.take(PAGE_BYTES).unwrap(), pool.take(2 * ARENA_BYTES).unwrap());
        for block in [&short, &long] {
            assert!(pool.holds(bytes(block, 0)) && pool.holds(bytes(block, block.len() - 1)));
        }
        assert!(!pool.holds(&[1]) && !MemoryPool::new(64 << 20).holds(bytes(&long, 0)));
        drop((short, long));
        assert_eq!(pool.lock().mapped.count(), 1, "of the arena that is kept");
    }

    #[test]
    fn the_limit_holds_and_what_comes_back_counts() {
        let pool = MemoryPool::new(4 * ARENA_BYTES);
        let long = pool.take(3 * ARENA_BYTES).unwrap();
        let small = pool.take(100).unwrap();
        assert_eq!(pool.mapped_bytes(), 4 * ARENA_BYTES);
        let error = pool.take(ARENA_BYTES + 1).unwrap_err().to_string();
        assert!(error.contains("rdma.memory_bytes"), "{error}");
        drop(long);
        pool.take(2 * ARENA_BYTES).unwrap();
        drop(small);
        assert_eq!(pool.mapped_bytes(), ARENA_BYTES, "one idle arena is kept");
    }

    #[test]
    fn who_waits_is_woken_when_something_comes_back() {
        struct Count(std::sync::atomic::AtomicU32);
        impl std::task::Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            }
        }
        let pool = MemoryPool::new(ARENA_BYTES);
        let all = pool.take(ARENA_BYTES).unwrap();
        pool.take(1).unwrap_err();
        let (seen, count) = (pool.returned(), Arc::new(Count(0.into())));
        let waker = Waker::from(count.clone());
        assert!(pool.wait(seen, &waker) && pool.wait(seen, &waker));
        drop(all);
        assert_eq!(count.0.load(std::sync::atomic::Ordering::SeqCst), 1);
        assert!(!pool.wait(seen, &waker), "something has come back since");
    }

    #[test]
    fn idle_arenas_go_but_one() {
        let pool = MemoryPool::new(64 << 20);
        let blocks: Vec<Block> = (0..5).map(|_| pool.take(ARENA_BYTES).unwrap()).collect();
        assert_eq!(pool.mapped_bytes(), 5 * ARENA_BYTES);
        drop(blocks);
        assert_eq!(pool.mapped_bytes(), ARENA_BYTES);
    }
}
