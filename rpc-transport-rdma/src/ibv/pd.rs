//! A protection domain: which keys a queue pair's peer may use.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use super::device::Device;
use super::error::failed_now;
use super::ffi;
use super::registration::{Held, Registration};
use super::rest::Rests;
use crate::verbs::VerbError;

/// A protection domain. Each connection has its own, so that a key of one connection means
/// nothing to another one's peer.
#[derive(Debug)]
pub(super) struct ProtectionDomain {
    device: Arc<Device>,
    pd: NonNull<ffi::ibv_pd>,
    /// What is registered in it.
    registrations: Mutex<Vec<Weak<Registration>>>,
    /// What the peer has READ and is done with. Each holds this domain, until the queue pair is gone.
    rests: Rests<Held>,
}

// SAFETY: verbs objects may be used from any thread; this one lives until drop.
unsafe impl Send for ProtectionDomain {}
// SAFETY: as for Send.
unsafe impl Sync for ProtectionDomain {}

impl ProtectionDomain {
    pub(super) fn new(device: &Arc<Device>) -> Result<Arc<ProtectionDomain>, VerbError> {
        // SAFETY: the context is open.
        let pd = unsafe { (device.verbs().ibv_alloc_pd)(device.context()) };
        let pd = NonNull::new(pd)
            .ok_or_else(|| failed_now("ibv_alloc_pd", device.facts().name.clone()))?;
        let (registrations, rests) = (Mutex::default(), Rests::new());
        Ok(Arc::new(ProtectionDomain { device: device.clone(), pd, registrations, rests }))
    }

    pub(super) fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Remembers a registration, to end it with the connection.
    pub(super) fn remember(&self, registration: &Arc<Registration>) {
        let mut all = self.registrations.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|one| one.strong_count() > 0);
        all.push(Arc::downgrade(registration));
    }

    /// It rests from now on, if peers' devices may ask for it again.
    pub(super) fn rest(&self, held: Held) {
        if self.device.facts().iwarp {
            return;
        }
        let bytes = held.len();
        drop(self.rests.add(held, bytes, Instant::now(), self.device.resting_bytes()));
    }

    /// When something has rested for long enough.
    pub(super) fn next_rest_end(&self) -> Option<Instant> {
        self.rests.next_end()
    }

    /// Lets go what has.
    pub(super) fn end_rests(&self) {
        drop(self.rests.take_over(Instant::now(), self.device.resting_bytes()));
    }

    /// Takes memory, or registers it; once more if there was too little and what rests here has gone.
    pub(super) fn with_memory<T>(
        &self,
        take: impl Fn() -> Result<T, VerbError>,
    ) -> Result<T, VerbError> {
        match take() {
            Err(error) if error.is_out_of_memory() => {
                let rested = self.rests.take_all(self.device.resting_bytes());
                if rested.is_empty() {
                    return Err(error);
                }
                drop(rested);
                take()
            }
            taken => taken,
        }
    }

    /// The queue pair is gone: ends every registration. The memory stays with whoever has it: a message
    /// that was pulled and is kept by the program does not keep the device open.
    pub(super) fn end_registrations(&self) {
        let all =
            std::mem::take(&mut *self.registrations.lock().unwrap_or_else(PoisonError::into_inner));
        for registration in all.iter().filter_map(Weak::upgrade) {
            registration.end();
        }
        drop(self.rests.end(self.device.resting_bytes()));
    }

    /// Valid for as long as `self`.
    pub(super) fn as_ptr(&self) -> *mut ffi::ibv_pd {
        self.pd.as_ptr()
    }
}

impl Drop for ProtectionDomain {
    fn drop(&mut self) {
        // SAFETY: regions and queue pairs hold their domain, so none is left.
        let result = unsafe { (self.device.verbs().ibv_dealloc_pd)(self.pd.as_ptr()) };
        if result != 0 {
            tracing::warn!(device = self.device.facts().name, result, "ibv_dealloc_pd failed");
        }
    }
}
