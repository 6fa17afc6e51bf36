//! Mapped memory, and the only doors to it.
//!
//! Together with [`crate::copy`] this is the unsafe room of the device. A [`Mapping`] is either
//! *exclusive* (no other process can write it: private memory, or a memfd sealed against further
//! writers) or *shared*. Shared bytes leave and enter only by [`crate::copy`] and as atomic
//! words; slices exist of exclusive memory alone.
//!
//! Invariants the SAFETY comments name:
//!
//! * **mapped**: `start..start + len` is mapped readable (and writable if `writable`) from
//!   construction to drop, and nothing but this value, or the block it is a part of, unmaps it.
//! * **sized**: a memfd behind a mapping is at least `len` bytes long and can never shrink (it
//!   carries the seal), so no access raises SIGBUS.
//! * **exclusive**: no other process has, or can get, a writable mapping of the bytes.
//! * **apart**: no byte is in two [`Stretch`]es, and a block lends nothing itself once it has become
//!   one. They are made by [`Stretch::whole`], which takes the block by value, and cut and joined
//!   here only.
#![allow(unsafe_code)]

use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use rustix::mm::{MapFlags, ProtFlags};

use super::blocks;
use super::memfd::{self, OfferedMemfd};
use crate::copy::{copy_across, copy_in, copy_out};
use crate::verbs::VerbError;

/// A huge page, and where one may begin.
pub(super) const HUGE_BYTES: usize = 2 << 20;

/// Memory of this process, or shared with the peer.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<u8>,
    len: usize,
    writable: bool,
    exclusive: bool,
    /// Of a block, and to be given back to it; without one the mapping is whole.
    part: Option<Stretch>,
}

// SAFETY: the mapping belongs to the process, not to a thread; by **mapped** it lives until drop.
unsafe impl Send for Mapping {}
// SAFETY: `&Mapping` gives volatile or atomic copies, atomic words, and shared slices of exclusive
// memory. The one writer through `&Mapping` is `copy_from`, whose use beside a slice of the same
// bytes `verbs::Region::bytes` forbids.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Private, zeroed memory.
    pub(super) fn private(len: usize) -> Result<Mapping, VerbError> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a null hint lets the kernel choose an unused range, so no memory of anybody
        // else is replaced.
        let mapped =
            unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), len, prot, MapFlags::PRIVATE) };
        Mapping::from_mmap(mapped, len, true, true)
    }

    /// Private, zeroed memory that begins where a huge page may. As many of its pages as are whole
    /// huge ones are asked to be such when they are first touched: with a page for each 4 KiB, the
    /// kernel spends a fifth to three quarters of a READ on looking them up and pinning them, one by one.
    pub(super) fn private_huge(len: usize) -> Result<Mapping, VerbError> {
        // Somewhere in so much there are `len` bytes behind such an address.
        let mut mapping = Mapping::private(len.saturating_add(HUGE_BYTES))?;
        let start = mapping.start.as_ptr();
        let before = start.align_offset(HUGE_BYTES);
        debug_assert!(before < HUGE_BYTES, "the address of a byte can be aligned");
        // Whole pages: the start is on one, and what follows the last byte's page goes.
        let end = (before + len).next_multiple_of(rustix::param::page_size());
        // SAFETY: before <= HUGE_BYTES, so the address is inside the mapping.
        let aligned = unsafe { mapping.start.add(before) };
        for (from, count) in [(0, before), (end, mapping.len - end.min(mapping.len))] {
            if count > 0 {
                // SAFETY: inside the mapping and on pages of which nobody has heard yet; from here
                // on `start` and `len` say what is left (**mapped**).
                let unmapped = unsafe { rustix::mm::munmap(start.add(from).cast(), count) };
                debug_assert!(unmapped.is_ok(), "munmap of a mapping's end cannot fail");
            }
        }
        (mapping.start, mapping.len) = (aligned, len);
        let advice = rustix::mm::Advice::LinuxHugepage;
        // SAFETY: the range is this mapping, whole (**mapped**); no byte of it changes.
        // A kernel without huge pages refuses, and nothing is lost.
        let _ = unsafe { rustix::mm::madvise(mapping.start.as_ptr().cast(), len, advice) };
        Ok(mapping)
    }

    /// The first `len` bytes of a stretch of private memory, which is given back in the end. What
    /// was there before still is.
    ///
    /// # Panics
    /// If the stretch is shorter.
    pub(super) fn part(stretch: Stretch, len: usize) -> Mapping {
        assert!(len <= stretch.len && stretch.block.exclusive, "a part of private memory");
        let at = stretch.block.at(stretch.offset, stretch.len);
        let start = NonNull::new(at).expect("no mapping begins at address 0");
        // **exclusive** and **mapped** as long as the stretch keeps its block; **apart**.
        Mapping { start, len, writable: true, exclusive: true, part: Some(stretch) }
    }

    /// New zeroed memory both processes write, and the memfd to give to the peer.
    pub(super) fn for_both(len: usize) -> Result<(Mapping, OwnedFd), VerbError> {
        let fd = memfd::create(len)?;
        let mapping = Mapping::shared(&fd, len, true, false)?;
        memfd::seal(&fd)?;
        Ok((mapping, fd))
    }

    /// New zeroed memory that this process writes and the peer can only read, and the memfd to
    /// give to the peer.
    pub(super) fn for_peer_to_read(len: usize) -> Result<(Mapping, OwnedFd), VerbError> {
        let fd = memfd::create(len)?;
        // Exclusive from here on: nobody else has the memfd yet, and after the seal the kernel
        // refuses every new writable mapping and every write call.
        let mapping = Mapping::shared(&fd, len, true, true)?;
        memfd::seal_against_writers(&fd)?;
        Ok((mapping, fd))
    }

    /// The peer's memory, of which the seals and the size have been checked.
    pub(super) fn of_peer(memfd: &OfferedMemfd, writable: bool) -> Result<Mapping, VerbError> {
        Mapping::shared(memfd.fd(), memfd.len(), writable, false)
    }

    /// Callers guarantee **sized** and, with `exclusive`, **exclusive**: that is why this is
    /// private.
    fn shared(
        fd: impl std::os::fd::AsFd,
        len: usize,
        writable: bool,
        exclusive: bool,
    ) -> Result<Mapping, VerbError> {
        let fd: BorrowedFd<'_> = fd.as_fd();
        let prot = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        // SAFETY: a null hint lets the kernel choose an unused range, so no memory of anybody
        // else is replaced.
        let mapped =
            unsafe { rustix::mm::mmap(ptr::null_mut(), len, prot, MapFlags::SHARED, fd, 0) };
        Mapping::from_mmap(mapped, len, writable, exclusive)
    }

    fn from_mmap(
        mapped: rustix::io::Result<*mut std::ffi::c_void>,
        len: usize,
        writable: bool,
        exclusive: bool,
    ) -> Result<Mapping, VerbError> {
        let failed = |errno: i32| VerbError {
            verb: "mmap",
            errno,
            context: format!(
                "mapping {len} bytes; ENOMEM: free memory, or raise RLIMIT_AS or vm.max_map_count; \
                 EPERM: the peer sealed this memory against writing"
            ),
        };
        let address = mapped.map_err(|errno| failed(errno.raw_os_error()))?;
        let start = NonNull::new(address.cast::<u8>())
            .ok_or_else(|| failed(rustix::io::Errno::NOMEM.raw_os_error()))?;
        Ok(Mapping { start, len, writable, exclusive, part: None })
    }

    /// Length in bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether `offset..offset + len` is inside.
    pub(super) fn contains(&self, offset: usize, len: usize) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.len)
    }

    /// The address of `offset`, of which `len` bytes are inside. It is good as long as `self` is
    /// borrowed.
    ///
    /// # Panics
    /// If they are not: callers check what comes from a peer first.
    pub(super) fn at(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(
            self.contains(offset, len),
            "{len} bytes at {offset} are beyond a region of {} bytes",
            self.len
        );
        // SAFETY: offset <= len by the assertion, and `start..start + len` is one mapping
        // (**mapped**).
        unsafe { self.start.as_ptr().add(offset) }
    }

    /// As [`Mapping::at`], of bytes that only this process writes, and may write.
    ///
    /// # Panics
    /// If they are not inside, or no such bytes.
    pub(super) fn own_bytes(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(self.exclusive && self.writable, "only this process may write the target");
        self.at(offset, len)
    }

    /// Private memory that a child made by `fork` finds zeroed.
    pub(super) fn private_wiped_on_fork(len: usize) -> Result<Mapping, VerbError> {
        let mapping = Mapping::private(len)?;
        let advice = rustix::mm::Advice::LinuxWipeOnFork;
        // SAFETY: the range is this mapping, whole (**mapped**); the advice changes nothing in
        // this process.
        unsafe { rustix::mm::madvise(mapping.start.as_ptr().cast(), len, advice) }.map_err(
            |errno| VerbError {
                verb: "madvise",
                errno: errno.raw_os_error(),
                context: "memory that a child does not inherit; EINVAL: this needs Linux 4.14"
                    .into(),
            },
        )?;
        Ok(mapping)
    }

    /// An address for a hint ([`super::prefetch`]), which may outlive the mapping.
    #[inline]
    pub(super) fn address(&self, offset: usize) -> usize {
        self.start.as_ptr().addr().wrapping_add(offset)
    }

    /// Copies out. Ordered after the Acquire load that made the caller look here.
    pub(super) fn read(&self, offset: usize, into: &mut [u8]) {
        let from = self.at(offset, into.len());
        // SAFETY: `from` has `into.len()` readable bytes (**mapped**, **sized**); `into` is
        // borrowed mutably, so nobody else touches it and it cannot be the mapping itself.
        unsafe { copy_out(from, into.as_mut_ptr(), into.len()) };
        // A reader that finds a newer word here (a credit cell) may rely on it before it writes
        // what the word allows.
        fence(Ordering::Acquire);
    }

    /// As [`Mapping::read`], into new memory.
    pub(super) fn read_new(&self, offset: usize, len: usize) -> Vec<u8> {
        let from = self.at(offset, len);
        let mut bytes = Vec::with_capacity(len);
        // SAFETY: `from` has `len` readable bytes (**mapped**, **sized**); the vector has room for as
        // many, which nobody else knows of, and they are written before they become part of it.
        unsafe {
            copy_out(from, bytes.as_mut_ptr(), len);
            bytes.set_len(len);
        }
        fence(Ordering::Acquire);
        bytes
    }

    /// Copies `len` bytes from `source` into this mapping.
    ///
    /// # Panics
    /// If either range is beyond its mapping, or this one may not be written.
    pub(super) fn copy_from(
        &self,
        offset: usize,
        source: &Mapping,
        source_offset: usize,
        len: usize,
    ) {
        assert!(self.writable, "this memory may only be read");
        let to = self.at(offset, len);
        let from = source.at(source_offset, len);
        if ptr::eq(self, source) {
            // A queue pair copies between its own and its peer's memory, which are different
            // mappings; only this could make the ranges overlap.
            assert!(offset.abs_diff(source_offset) >= len, "overlapping copy");
        }
        // SAFETY: both ranges are inside their mappings (`at`, **mapped**, **sized**), the target
        // is writable and they do not overlap (above). `copy_in` needs a source nobody writes and
        // `copy_out` a target nobody else touches: that is **exclusive**, plus the rule of
        // `verbs::Region::bytes` that the owner leaves memory of outstanding requests alone.
        unsafe {
            match (source.exclusive, self.exclusive) {
                (true, _) => copy_in(from, to, len),
                (false, true) => copy_out(from, to, len),
                (false, false) => copy_across(from, to, len),
            }
        }
    }

    /// The 64-bit word at `offset`.
    ///
    /// # Panics
    /// If it is not inside, not aligned, or not writable.
    pub(super) fn word(&self, offset: usize) -> &AtomicU64 {
        &self.words(offset, 1)[0]
    }

    /// `count` 64-bit words from `offset` on.
    ///
    /// # Panics
    /// If they are not inside, not aligned, or not writable.
    pub(super) fn words(&self, offset: usize, count: usize) -> &[AtomicU64] {
        assert!(self.writable, "atomic words need writable memory");
        assert!(offset.is_multiple_of(align_of::<AtomicU64>()), "word at {offset} is not aligned");
        let start = self.at(offset, count * size_of::<AtomicU64>()).cast::<AtomicU64>();
        // SAFETY: `count` aligned words are inside the mapping (above, and mappings start on a
        // page) for as long as `self` is borrowed (**mapped**, **sized**). `AtomicU64` allows
        // others, here another process, to write them.
        unsafe { std::slice::from_raw_parts(start, count) }
    }

    /// The bytes.
    ///
    /// # Panics
    /// If another process may write them.
    fn bytes(&self) -> &[u8] {
        assert!(self.exclusive, "no slices of memory that the peer may write");
        // SAFETY: **mapped** for the borrow of `self`; **exclusive**, so no other process writes.
        // This process writes by `bytes_mut` (excluded by the borrow) or by a READ of ours that
        // is outstanding, whose bytes `verbs::Region::bytes` tells the caller to leave alone.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The bytes, to write. `&self`, because a request under way shares the mapping: the region
    /// handle, of which there is one, lends them as `&mut`.
    ///
    /// # Safety
    /// No other slice of these bytes is alive: the caller holds the only handle, mutably.
    ///
    /// # Panics
    /// If another process may write them.
    #[expect(clippy::mut_from_ref, reason = "the one handle of the region is borrowed mutably")]
    unsafe fn bytes_unique(&self) -> &mut [u8] {
        assert!(self.exclusive && self.writable, "no slices of memory that the peer may write");
        // SAFETY: as in `bytes`, and the caller promises that no other slice is alive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if let Some(stretch) = self.part.take() {
            return blocks::give_back(stretch);
        }
        // SAFETY: **mapped**: the range is ours alone to unmap, and no borrow of it outlives
        // `self`.
        let unmapped = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "munmap of a whole mapping cannot fail");
    }
}

/// Bytes of a block of private memory that nobody else has (**apart**).
#[derive(Debug)]
pub(super) struct Stretch {
    block: Arc<Mapping>,
    offset: usize,
    len: usize,
}

impl Stretch {
    /// All of a block.
    pub(super) fn whole(block: Mapping) -> Stretch {
        let len = block.len;
        Stretch { block: Arc::new(block), offset: 0, len }
    }

    /// Length in bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Length of its block in bytes.
    pub(super) fn block_len(&self) -> usize {
        self.block.len
    }

    /// Where it begins.
    pub(super) fn address(&self) -> usize {
        self.block.address(self.offset)
    }

    /// Whether it is all of its block.
    pub(super) fn is_whole(&self) -> bool {
        self.len == self.block.len
    }

    /// Keeps the first `len` bytes and gives away the others.
    ///
    /// # Panics
    /// If there are not so many.
    pub(super) fn split_off(&mut self, len: usize) -> Stretch {
        assert!(len <= self.len, "a stretch is cut beyond its end");
        let rest = self.len - len;
        self.len = len;
        Stretch { block: Arc::clone(&self.block), offset: self.offset + len, len: rest }
    }

    /// Whether `other` begins where this ends.
    pub(super) fn is_before(&self, other: &Stretch) -> bool {
        Arc::ptr_eq(&self.block, &other.block) && self.offset + self.len == other.offset
    }

    /// One of two.
    ///
    /// # Panics
    /// If `other` does not begin where this ends.
    pub(super) fn join(&mut self, other: Stretch) {
        assert!(self.is_before(&other), "stretches that do not touch");
        self.len += other.len;
    }
}

/// The one handle that may lend a mapping's bytes mutably. Requests under way hold plain
/// `Arc<Mapping>`, which lends none.
#[derive(Debug)]
pub(super) struct OwnedMapping(Arc<Mapping>);

impl OwnedMapping {
    /// Takes the mapping in; nobody else can have it yet.
    pub(super) fn new(mapping: Mapping) -> OwnedMapping {
        OwnedMapping(Arc::new(mapping))
    }

    /// Memory of the peer's, which lends no bytes: other handles may have it too.
    ///
    /// # Panics
    /// If it is not.
    pub(super) fn of_peer(mapping: Arc<Mapping>) -> OwnedMapping {
        assert!(!mapping.exclusive, "memory of this process has one handle");
        OwnedMapping(mapping)
    }

    /// The mapping, to copy from or into.
    pub(super) fn mapping(&self) -> &Arc<Mapping> {
        &self.0
    }

    /// The bytes.
    ///
    /// # Panics
    /// If another process may write them.
    pub(super) fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }

    /// The bytes, to write.
    ///
    /// # Panics
    /// If another process may write them.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: this is the only handle that lends slices (`new` took the mapping by value, one
        // `of_peer` lends none, and neither does `Mapping` outside this file), and it is borrowed mutably.
        unsafe { self.0.bytes_unique() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_memory_is_zeroed_and_lends_slices() {
        let mut owned = OwnedMapping::new(Mapping::private(5000).unwrap());
        assert!(owned.bytes().iter().all(|&b| b == 0));
        owned.bytes_mut()[4999] = 7;
        let mut byte = [0];
        owned.mapping().read(4999, &mut byte);
        assert_eq!(byte, [7]);
    }

    #[test]
    fn memory_for_huge_pages_begins_where_one_may_and_is_no_longer_than_asked_for() {
        for len in [1, 4096, 100_000, HUGE_BYTES, HUGE_BYTES + 1, 3 * HUGE_BYTES - 4096] {
            let mut owned = OwnedMapping::new(Mapping::private_huge(len).unwrap());
            assert_eq!((owned.bytes().len(), owned.bytes().as_ptr().addr() % HUGE_BYTES), (len, 0));
            assert!(owned.bytes().iter().all(|&b| b == 0));
            owned.bytes_mut()[len - 1] = 7;
        }
    }

    #[test]
    fn stretches_are_cut_and_joined_without_sharing_a_byte() {
        let mut first = Stretch::whole(Mapping::private(3 * 4096).unwrap());
        let mut second = first.split_off(4096);
        let third = second.split_off(4096);
        assert!(first.is_before(&second) && second.is_before(&third));
        assert!(!first.is_before(&third) && !second.is_before(&first));
        assert_eq!([first.len(), second.len(), third.len()], [4096; 3]);
        first.join(second);
        assert!(!first.is_whole());
        first.join(third);
        assert!(first.is_whole());
    }

    #[test]
    #[should_panic(expected = "do not touch")]
    fn stretches_of_different_blocks_are_not_joined() {
        let mut one = Stretch::whole(Mapping::private(4096).unwrap());
        one.join(Stretch::whole(Mapping::private(4096).unwrap()));
    }

    #[test]
    fn what_one_mapping_writes_the_other_reads() {
        let (ours, fd) = Mapping::for_both(8192).unwrap();
        let offered = OfferedMemfd::check(fd, 8192).unwrap();
        let theirs = Mapping::of_peer(&offered, true).unwrap();
        let mut source = OwnedMapping::new(Mapping::private(100).unwrap());
        source.bytes_mut().fill(0x5A);
        theirs.copy_from(4001, source.mapping(), 0, 100);
        let mut seen = [0; 102];
        ours.read(4000, &mut seen);
        assert_eq!((seen[0], seen[1], seen[100], seen[101]), (0, 0x5A, 0x5A, 0));
        theirs.word(8184).store(9, Ordering::Release);
        assert_eq!(ours.word(8184).load(Ordering::Acquire), 9);
    }

    #[test]
    fn memory_for_the_peer_to_read_cannot_be_mapped_writable() {
        let (mapping, fd) = Mapping::for_peer_to_read(4096).unwrap();
        let mut ours = OwnedMapping::new(mapping);
        ours.bytes_mut()[0] = 3;
        let offered = OfferedMemfd::check(fd, 4096).unwrap();
        let refused = Mapping::of_peer(&offered, true).unwrap_err();
        assert_eq!(refused.errno, rustix::io::Errno::PERM.raw_os_error());
        let theirs = Mapping::of_peer(&offered, false).unwrap();
        let mut byte = [0];
        theirs.read(0, &mut byte);
        assert_eq!(byte, [3]);
    }

    #[test]
    #[should_panic(expected = "beyond a region")]
    fn a_read_past_the_end_panics() {
        Mapping::private(16).unwrap().read(10, &mut [0; 7]);
    }

    #[test]
    #[should_panic(expected = "no slices")]
    fn shared_memory_lends_no_slice() {
        let (mapping, _fd) = Mapping::for_both(16).unwrap();
        let _ = OwnedMapping::new(mapping).bytes();
    }
}
