//! A memory region: a block of the device's pool, registered for one connection.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;

use super::ffi;
use super::pd::ProtectionDomain;
use super::registration::{Held, Keys};
use crate::copy::copy_out;
use crate::verbs::{Access, Region, RemoteAddr, VerbError};

/// Registered memory.
///
/// Invariants the SAFETY comments name:
///
/// * **mapped**: `held` has at least `len` bytes from `start` on, mapped as long as this lives, and until the
///   region is deregistered.
/// * **private**: unless `access` is [`Access::RemoteWrite`], no peer can write it: it was
///   registered without the right to. A device writes it only by a READ of ours.
#[derive(Debug)]
pub struct IbvRegion {
    /// `None` only as it is dropped.
    held: Option<Held>,
    start: NonNull<u8>,
    len: usize,
    access: Access,
    lkey: u32,
    rkey: u32,
}

// SAFETY: verbs objects may be used from any thread, and the block is Send.
unsafe impl Send for IbvRegion {}
// SAFETY: `&IbvRegion` gives volatile copies, and slices of memory that is **private**; those who
// write it need `&mut`.
unsafe impl Sync for IbvRegion {}

impl IbvRegion {
    pub(super) fn new(
        pd: &Arc<ProtectionDomain>,
        len: usize,
        access: Access,
    ) -> Result<IbvRegion, VerbError> {
        let (held, Keys { lkey, rkey }) = Held::of_pool(pd, len.max(1), access)?;
        let start = held.start();
        Ok(IbvRegion { held: Some(held), start, len, access, lkey, rkey })
    }

    /// A scatter/gather element for some of the bytes.
    ///
    /// # Panics
    /// If they are not inside.
    pub(super) fn element(&self, offset: usize, len: usize) -> ffi::ibv_sge {
        assert!(self.holds(offset, len), "{offset}+{len} is outside {} bytes", self.len);
        ffi::ibv_sge {
            addr: self.start.as_ptr().addr() as u64 + offset as u64,
            // A request is at most 1 GiB long: `RingConfig::read_piece_bytes`.
            length: u32::try_from(len).expect("a work request below 4 GiB"),
            lkey: self.lkey,
        }
    }

    fn holds(&self, offset: usize, len: usize) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.len)
    }
}

impl Region for IbvRegion {
    fn len(&self) -> usize {
        self.len
    }

    fn remote(&self) -> RemoteAddr {
        RemoteAddr { addr: self.start.as_ptr().addr() as u64, rkey: self.rkey }
    }

    fn read(&self, offset: usize, into: &mut [u8]) {
        assert!(self.holds(offset, into.len()), "read outside a region of {}", self.len);
        // SAFETY: **mapped**, checked just now; `into` is ours and elsewhere.
        unsafe {
            let from = self.start.as_ptr().add(offset);
            copy_out(from, into.as_mut_ptr(), into.len());
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        assert_ne!(self.access, Access::RemoteWrite, "the peer writes this region");
        // SAFETY: **mapped** and **private**; `&mut self` excludes every other slice, and the
        // trait's contract excludes READs under way into the bytes that are touched.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    fn bytes(&self) -> &[u8] {
        assert_ne!(self.access, Access::RemoteWrite, "the peer writes this region");
        // SAFETY: **mapped** and **private**; writers need `&mut self`, and the trait's contract
        // excludes READs under way into the bytes that are looked at.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl Drop for IbvRegion {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            held.let_go();
        }
    }
}
