//! Reading memory of the peer's process where it lies, by `process_vm_readv`.
//!
//! # Which memory was read
//!
//! A process id names a process only until it is free again, and even a living process changes its
//! memory for another by `exec`. So each read fetches the peer's mark, sixteen unguessable bytes it
//! keeps at one address from start to end, before the bytes that are wanted, **in one call**. The
//! kernel takes hold of an address space once a call (`mm_access`) and keeps it until the call
//! returns, so if the mark is there, the rest came from the same address space: not from a process
//! that has got the id since, and not from the program the peer has become. Nothing else has to be
//! asked: a killed peer's memory stays whole while a call holds it, and is not found afterwards.
//! (An end-of-file on the socket would say less: a child of the peer may hold a copy of it.)
//!
//! Whether the peer still lends what was read is another question: [`super::lend`].
//!
//! # What a hostile peer can do
//!
//! The address and the length are its own claim about its own memory, and what is there is copied
//! into memory of ours whose bounds we know. It can make the kernel wait for a page (userfaultfd)
//! and so hold the calling thread; but it is a process of the same user, which can stop this one by
//! signals too. Processes of different users do not read each other at all: one that may (root)
//! would otherwise lend its rights to a peer that hands its process id on.
#![allow(unsafe_code)]

use std::ffi::{c_ulong, c_void};
use std::ptr;

use rustix::io::Errno;
use rustix::process::Pid;

use super::mapping::Mapping;

/// Length of a mark.
pub(super) const MARK_BYTES: usize = 16;

/// The memory of the peer's process.
#[derive(Debug)]
pub(super) struct PeerMemory {
    pid: Pid,
    mark_at: u64,
    mark: [u8; MARK_BYTES],
}

/// Why bytes could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unread {
    /// The peer's process is gone, or its program is.
    Gone,
    /// The kernel did not let us.
    Refused(Errno),
}

impl PeerMemory {
    /// Reads the mark that process `pid` says it has at `mark_at`. Whether it is the peer's, the
    /// peer says.
    pub(super) fn discover(pid: Pid, mark_at: u64) -> Result<PeerMemory, Errno> {
        let mut mark = [0; MARK_BYTES];
        let nothing = Piece { into: ptr::null_mut(), at: 0, len: 0 };
        // SAFETY: `of` borrows `mark` mutably, and no byte goes anywhere else.
        let count = unsafe { read_process(pid, [Piece::of(&mut mark, mark_at), nothing]) }?;
        if count < MARK_BYTES {
            return Err(Errno::FAULT);
        }
        Ok(PeerMemory { pid, mark_at, mark })
    }

    /// What was found at the mark's address.
    pub(super) fn mark(&self) -> [u8; MARK_BYTES] {
        self.mark
    }

    /// Fills `len` bytes of `target` from `offset` on with what the peer has at `at`. Unless this
    /// is `Ok`, any of them may have changed.
    ///
    /// # Panics
    /// If they are beyond the mapping, or another process may write them.
    pub(super) fn read(
        &self,
        at: u64,
        target: &Mapping,
        offset: usize,
        len: usize,
    ) -> Result<(), Unread> {
        let mut done = 0;
        while done < len {
            let mut seen = [0; MARK_BYTES];
            let into = target.own_bytes(offset + done, len - done);
            let Some(from) = at.checked_add(done as u64) else {
                return Err(Unread::Refused(Errno::FAULT));
            };
            let wanted = Piece { into, at: from, len: len - done };
            // SAFETY: `of` borrows `seen` mutably. `own_bytes` says that `into` has so many
            // writable bytes while `target` is borrowed; no slice of them is alive, because the
            // owner leaves the memory of outstanding requests alone (`verbs::Region::bytes`).
            let count =
                unsafe { read_process(self.pid, [Piece::of(&mut seen, self.mark_at), wanted]) };
            match count {
                // EFAULT: there is nothing at the mark's address, so the program is another.
                Err(Errno::SRCH | Errno::FAULT) => return Err(Unread::Gone),
                Err(errno) => return Err(Unread::Refused(errno)),
                Ok(count) if count < MARK_BYTES || seen != self.mark => return Err(Unread::Gone),
                Ok(MARK_BYTES) => return Err(Unread::Refused(Errno::FAULT)),
                // The kernel stops early where memory ends, and may elsewhere.
                Ok(count) => done += count - MARK_BYTES,
            }
        }
        Ok(())
    }
}

/// A stretch of the peer's memory, and where it goes here.
#[derive(Debug, Clone, Copy)]
struct Piece {
    into: *mut u8,
    at: u64,
    len: usize,
}

impl Piece {
    fn of(into: &mut [u8], at: u64) -> Piece {
        Piece { into: into.as_mut_ptr(), at, len: into.len() }
    }
}

/// Reads the pieces, in order, out of one address space; how many bytes came.
///
/// # Safety
/// Each `into` is valid for writes of its `len` bytes, and nobody else touches them meanwhile.
unsafe fn read_process(pid: Pid, pieces: [Piece; 2]) -> Result<usize, Errno> {
    // An address this process could not have is none of the peer's either: EFAULT says so.
    let [(a, x), (b, y)] = pieces.map(|piece| {
        let there = usize::try_from(piece.at).unwrap_or(usize::MAX);
        let there = ptr::without_provenance_mut::<c_void>(there);
        let (ours, theirs) = (piece.into.cast::<c_void>(), there);
        let vector = |base| libc::iovec { iov_base: base, iov_len: piece.len };
        (vector(ours), vector(theirs))
    });
    let (local, remote) = ([a, b], [x, y]);
    let count = local.len() as c_ulong;
    let pid = pid.as_raw_nonzero().get();
    // SAFETY: both arrays live through the call and have `count` entries. The kernel writes to
    // the local vectors only, which the caller vouches for; the remote ones name memory of `pid`.
    let read =
        unsafe { libc::process_vm_readv(pid, local.as_ptr(), count, remote.as_ptr(), count, 0) };
    usize::try_from(read).map_err(|_| {
        let error = std::io::Error::last_os_error();
        Errno::from_io_error(&error).unwrap_or(Errno::IO)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::mapping::OwnedMapping;
    use crate::shm::mark;

    fn own_memory() -> PeerMemory {
        let mark = mark::own().unwrap();
        let memory = PeerMemory::discover(rustix::process::getpid(), mark.address()).unwrap();
        assert_eq!(memory.mark(), mark.bytes());
        memory
    }

    fn address(bytes: &[u8]) -> u64 {
        bytes.as_ptr().addr() as u64
    }

    #[test]
    fn exactly_the_bytes_asked_for_change() {
        let memory = own_memory();
        let there: Vec<u8> = (0..100_000).map(|i| (i % 251) as u8).collect();
        for (offset, len) in [(0, 100_000), (1, 4095), (4095, 2), (77, 0), (99_999, 1)] {
            let target = OwnedMapping::new(Mapping::private(100_000).unwrap());
            memory.read(address(&there[5..]) - 5, target.mapping(), offset, len).unwrap();
            let bytes = target.bytes();
            assert_eq!(bytes[offset..offset + len], there[..len]);
            assert!(bytes[..offset].iter().chain(&bytes[offset + len..]).all(|&byte| byte == 0));
        }
    }

    #[test]
    fn memory_that_is_not_there_or_ends_is_refused() {
        let memory = own_memory();
        let target = Mapping::private(1 << 20).unwrap();
        for at in [0, 4096, u64::MAX, u64::MAX - 100, 1 << 63] {
            let refused = memory.read(at, &target, 0, 200);
            assert_eq!(refused, Err(Unread::Refused(Errno::FAULT)), "{at:#x}");
        }
        // The kernel gives what there is, then nothing.
        let page = rustix::param::page_size();
        let short = Mapping::private(2 * page).unwrap();
        let hole = short.at(page, page);
        // SAFETY: the second page is the mapping's, and nobody touches it but the kernel.
        unsafe { rustix::mm::mprotect(hole.cast(), page, rustix::mm::MprotectFlags::empty()) }
            .unwrap();
        let at = short.at(0, 1).addr() as u64;
        assert_eq!(memory.read(at, &target, 0, page), Ok(()));
        let refused = memory.read(at + 1, &target, 0, page);
        assert_eq!(refused, Err(Unread::Refused(Errno::FAULT)));
    }

    #[test]
    #[should_panic(expected = "beyond a region")]
    fn a_read_past_the_targets_end_panics() {
        let there = [0; 100];
        let _ = own_memory().read(address(&there), &Mapping::private(100).unwrap(), 1, 100);
    }

    #[test]
    #[should_panic(expected = "only this process")]
    fn a_read_into_memory_the_peer_may_write_panics() {
        let (target, _fd) = Mapping::for_both(100).unwrap();
        let _ = own_memory().read(address(&[0; 100]), &target, 0, 100);
    }

    #[test]
    fn another_process_with_the_same_id_is_not_taken_for_the_peer() {
        let there = [1_u8; MARK_BYTES];
        let target = Mapping::private(100).unwrap();
        let mut memory = own_memory();
        memory.mark[0] ^= 1;
        assert_eq!(memory.read(address(&there), &target, 0, 10), Err(Unread::Gone));
        let mut memory = own_memory();
        memory.mark_at = 4096;
        assert_eq!(memory.read(address(&there), &target, 0, 10), Err(Unread::Gone));
        let mut memory = own_memory();
        // Beyond what the kernel gives out.
        memory.pid = Pid::from_raw(i32::MAX).unwrap();
        assert_eq!(memory.read(address(&there), &target, 0, 10), Err(Unread::Gone));
    }
}
