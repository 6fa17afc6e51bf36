//! Memory that a device knows: it is made known, and the device lets go of it before it is freed.
#![allow(unsafe_code)]

use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::error::failed_now;
use super::ffi;
use super::pd::ProtectionDomain;
use super::pool::Block;
use crate::verbs::{Access, VerbError};

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
    unsafe fn new(
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

    /// The domain, unless it has ended.
    fn pd(&self) -> Option<Arc<ProtectionDomain>> {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Registered::At(_, pd) => Some(Arc::clone(pd)),
            Registered::Ended | Registered::Stuck => None,
        }
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

/// Whose it is.
#[derive(Debug)]
enum Memory {
    Pool(Block),
    /// A share of what the program has. Nobody writes it.
    Program(Bytes),
}

/// Memory that is registered. Dropped, it is so no longer, and then it goes; if the device does not let go of
/// it, it is lost instead.
#[derive(Debug)]
pub(super) struct Held {
    registration: Arc<Registration>,
    memory: ManuallyDrop<Memory>,
    len: usize,
    access: Access,
}

impl Memory {
    fn start(&self) -> NonNull<u8> {
        match self {
            Memory::Pool(block) => block.start(),
            Memory::Program(bytes) => NonNull::from(&**bytes).cast(),
        }
    }
}

impl Held {
    /// `len` bytes of the device's pool, at least one.
    pub(super) fn of_pool(
        pd: &Arc<ProtectionDomain>,
        len: usize,
        access: Access,
    ) -> Result<(Held, Keys), VerbError> {
        let block = pd.with_memory(|| pd.device().pool().take(len))?;
        assert!(block.len() >= len, "the pool gives what is asked for");
        // SAFETY: the block is mapped as long as it is held; `IbvRegion` gives slices of no memory that a
        // peer may write.
        unsafe { Held::new(pd, Memory::Pool(block), len, access) }
    }

    /// Memory of the program, at least one byte, which the peer may READ.
    pub(super) fn of_program(
        pd: &Arc<ProtectionDomain>,
        bytes: &Bytes,
    ) -> Result<(Held, Keys), VerbError> {
        let memory = Memory::Program(bytes.clone());
        // SAFETY: a share of the bytes is held, and so their memory stays mapped. Nobody writes them: the
        // device may only read.
        unsafe { Held::new(pd, memory, bytes.len(), Access::RemoteRead) }
    }

    /// # Safety
    /// As for [`Registration::new`], of the memory's first bytes and as long as it is not dropped.
    unsafe fn new(
        pd: &Arc<ProtectionDomain>,
        memory: Memory,
        len: usize,
        access: Access,
    ) -> Result<(Held, Keys), VerbError> {
        let start = memory.start();
        // SAFETY: the caller's promise; `drop` frees the memory only when the registration has ended.
        let registered = pd.with_memory(|| unsafe { Registration::new(pd, start, len, access) });
        let (registration, keys) = registered?;
        Ok((Held { registration, memory: ManuallyDrop::new(memory), len, access }, keys))
    }

    /// The first byte.
    pub(super) fn start(&self) -> NonNull<u8> {
        self.memory.start()
    }

    /// How much it is.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Nobody here needs it any more. If a peer has read it, the peer's device may yet ask for it again.
    pub(super) fn let_go(self) {
        let pd = if self.access == Access::RemoteRead { self.registration.pd() } else { None };
        if let Some(pd) = pd {
            pd.rest(self);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.registration.end() {
            // SAFETY: taken once, here; the device has let go of it.
            unsafe { ManuallyDrop::drop(&mut self.memory) };
        } else {
            // The device may still write there, or a peer read: better lost than given to somebody else.
            tracing::error!(bytes = self.len, "registered memory is lost");
        }
    }
}
