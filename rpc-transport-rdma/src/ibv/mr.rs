//! A memory region: a block of the device's pool, registered for one connection.
#![allow(unsafe_code)]

use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::slice;
use std::sync::{Arc, Mutex, PoisonError};

use super::error::failed_now;
use super::ffi;
use super::pd::ProtectionDomain;
use super::pool::Block;
use crate::copy::copy_out;
use crate::verbs::{Access, Region, RemoteAddr, VerbError};

/// What makes memory known to a device. Ends with the region, or with its connection's queue pair
/// if that goes first.
#[derive(Debug)]
pub(super) struct Registration(Mutex<Registered>);

#[derive(Debug)]
enum Registered {
    At(NonNull<ffi::ibv_mr>, Arc<ProtectionDomain>),
    Ended,
    /// The device did not let go of the memory.
    Stuck,
}

// SAFETY: verbs objects may be used from any thread.
unsafe impl Send for Registration {}
// SAFETY: as for Send; the lock keeps two from ending it.
unsafe impl Sync for Registration {}

/// What a device knows registered memory by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keys {
    pub(super) lkey: u32,
    pub(super) rkey: u32,
}

impl Registration {
    /// Makes `len` bytes from `start` on, at least one, known to the domain's device.
    ///
    /// # Safety
    /// They are mapped until [`Registration::end`] has said that the device has let go of them. Nobody
    /// has a slice of them while the device, or with [`Access::RemoteWrite`] the peer, writes them.
    pub(super) unsafe fn new(
        pd: &Arc<ProtectionDomain>,
        start: NonNull<u8>,
        len: usize,
        access: Access,
    ) -> Result<(Arc<Registration>, Keys), VerbError> {
        let flags = match access {
            // Nobody views memory through a card.
            Access::Local | Access::Viewed => 0,
            Access::ReadTarget => ffi::ibv_access_flags::IBV_ACCESS_LOCAL_WRITE.0,
            Access::RemoteRead => ffi::ibv_access_flags::IBV_ACCESS_REMOTE_READ.0,
            Access::RemoteWrite => {
                // The specification couples the two (section 10.6.3.1).
                ffi::ibv_access_flags::IBV_ACCESS_LOCAL_WRITE.0
                    | ffi::ibv_access_flags::IBV_ACCESS_REMOTE_WRITE.0
            }
        };
        // SAFETY: mapped, as the caller promises; the domain lives in `pd`.
        let mr = unsafe {
            (pd.device().verbs().ibv_reg_mr)(
                pd.as_ptr(),
                start.as_ptr().cast(),
                len,
                flags.cast_signed(),
            )
        };
        let mr = NonNull::new(mr).ok_or_else(|| {
            failed_now("ibv_reg_mr", format!("{}: {len} bytes", pd.device().facts().name))
        })?;
        // SAFETY: a region just made; its keys never change.
        let keys = unsafe { Keys { lkey: mr.as_ref().lkey, rkey: mr.as_ref().rkey } };
        let registration = Arc::new(Registration(Mutex::new(Registered::At(mr, Arc::clone(pd)))));
        pd.remember(&registration);
        Ok((registration, keys))
    }

    /// Ends it. Whether the device has let go of the memory.
    pub(super) fn end(&self) -> bool {
        let mut registered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Registered::At(mr, pd) = &*registered {
            // SAFETY: made by ibv_reg_mr, and ended once: the state changes below.
            let result = unsafe { (pd.device().verbs().ibv_dereg_mr)(mr.as_ptr()) };
            if result != 0 {
                let device = &pd.device().facts().name;
                tracing::error!(%device, result, "ibv_dereg_mr failed");
            }
            *registered = if result == 0 { Registered::Ended } else { Registered::Stuck };
        }
        matches!(*registered, Registered::Ended)
    }
}

/// Registered memory.
///
/// Invariants the SAFETY comments name:
///
/// * **mapped**: `block` is at least `len` bytes, mapped until it is dropped, after the region is
///   deregistered.
/// * **private**: unless `access` is [`Access::RemoteWrite`], no peer can write it: it was
///   registered without the right to. A device writes it only by a READ of ours.
#[derive(Debug)]
pub struct IbvRegion {
    registration: Arc<Registration>,
    block: ManuallyDrop<Block>,
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
        let block = pd.device().pool().take(len.max(1))?;
        assert!(block.len() >= len, "the pool gives what is asked for");
        // SAFETY: **mapped**; slices are given of no memory that a peer may write (**private**).
        let registered = unsafe { Registration::new(pd, block.start(), len.max(1), access) };
        let (registration, Keys { lkey, rkey }) = registered?;
        let block = ManuallyDrop::new(block);
        Ok(IbvRegion { registration, block, len, access, lkey, rkey })
    }

    /// A scatter/gather element for some of the bytes.
    ///
    /// # Panics
    /// If they are not inside.
    pub(super) fn element(&self, offset: usize, len: usize) -> ffi::ibv_sge {
        assert!(self.holds(offset, len), "{offset}+{len} is outside {} bytes", self.len);
        ffi::ibv_sge {
            addr: self.block.start().as_ptr().addr() as u64 + offset as u64,
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
        RemoteAddr { addr: self.block.start().as_ptr().addr() as u64, rkey: self.rkey }
    }

    fn read(&self, offset: usize, into: &mut [u8]) {
        assert!(self.holds(offset, into.len()), "read outside a region of {}", self.len);
        // SAFETY: **mapped**, checked just now; `into` is ours and elsewhere.
        unsafe {
            let from = self.block.start().as_ptr().add(offset);
            copy_out(from, into.as_mut_ptr(), into.len());
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        assert_ne!(self.access, Access::RemoteWrite, "the peer writes this region");
        // SAFETY: **mapped** and **private**; `&mut self` excludes every other slice, and the
        // trait's contract excludes READs under way into the bytes that are touched.
        unsafe { slice::from_raw_parts_mut(self.block.start().as_ptr(), self.len) }
    }

    fn bytes(&self) -> &[u8] {
        assert_ne!(self.access, Access::RemoteWrite, "the peer writes this region");
        // SAFETY: **mapped** and **private**; writers need `&mut self`, and the trait's contract
        // excludes READs under way into the bytes that are looked at.
        unsafe { slice::from_raw_parts(self.block.start().as_ptr(), self.len) }
    }
}

impl Drop for IbvRegion {
    fn drop(&mut self) {
        if self.registration.end() {
            // SAFETY: taken once, here; the device has let go of it.
            unsafe { ManuallyDrop::drop(&mut self.block) };
        } else {
            // The device may still write there: better lost than given to somebody else.
            tracing::error!(bytes = self.len, "registered memory is lost");
        }
    }
}
