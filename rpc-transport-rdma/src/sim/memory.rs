//! Simulated registered memory.
//!
//! The device and the owner of a region never share bytes, so that no unsafe code is needed: the
//! owner of a region that no peer writes works on a view of its own, which
//! is published to the device whenever the region is named in a post or described to the peer
//! ([`Region::remote`]), and taken anew when a READ has changed it.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::fabric::Shared;
use crate::verbs::{Access, Region, RemoteAddr};

/// What the device sees.
pub(super) struct Memory {
    inner: Mutex<Contents>,
}

struct Contents {
    bytes: Vec<u8>,
    /// Counts changes.
    version: u64,
}

impl Memory {
    pub(super) fn new(len: usize) -> Arc<Memory> {
        Arc::new(Memory { inner: Mutex::new(Contents { bytes: vec![0; len], version: 0 }) })
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies out; the caller has checked the bounds.
    pub(super) fn copy(&self, offset: usize, len: usize) -> Vec<u8> {
        self.lock().bytes[offset..offset + len].to_vec()
    }

    /// Whether the bytes at `offset` are still these.
    pub(super) fn still(&self, offset: usize, bytes: &[u8]) -> bool {
        self.lock().bytes[offset..offset + bytes.len()] == *bytes
    }

    /// Writes; the caller has checked the bounds.
    pub(super) fn write(&self, offset: usize, bytes: &[u8]) {
        let mut inner = self.lock();
        inner.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
        inner.version += 1;
    }
}

/// The owner's copy of the contents at one version. Older ones stay while they may be lent.
struct View {
    version: AtomicU64,
    bytes: Vec<u8>,
    newer: OnceLock<Box<View>>,
}

/// A registered region of the simulated device.
pub struct SimRegion {
    pub(super) memory: Arc<Memory>,
    pub(super) owner: usize,
    pub(super) fabric: Arc<Shared>,
    pub(super) at: RemoteAddr,
    len: usize,
    access: Access,
    view: View,
    /// The newest view was lent to be written since it was last published.
    dirty: AtomicBool,
    /// It is the peer's.
    foreign: bool,
}

impl fmt::Debug for SimRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimRegion")
            .field("at", &self.at)
            .field("len", &self.len)
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}

impl SimRegion {
    pub(super) fn new(
        fabric: Arc<Shared>,
        owner: usize,
        memory: Arc<Memory>,
        at: RemoteAddr,
        len: usize,
        access: Access,
    ) -> SimRegion {
        let view = View { version: AtomicU64::new(0), bytes: vec![0; len], newer: OnceLock::new() };
        let dirty = AtomicBool::new(false);
        SimRegion { memory, owner, fabric, at, len, access, view, dirty, foreign: false }
    }

    /// What `owner` sees of its peer's memory.
    pub(super) fn of_peer(
        fabric: Arc<Shared>,
        owner: usize,
        memory: Arc<Memory>,
        len: usize,
    ) -> SimRegion {
        let at = RemoteAddr { addr: 0, rkey: 0 };
        let mut region = SimRegion::new(fabric, owner, memory, at, len, Access::RemoteWrite);
        region.foreign = true;
        region
    }

    fn newest(&self) -> &View {
        let mut view = &self.view;
        while let Some(newer) = view.newer.get() {
            view = newer;
        }
        view
    }
}

impl Region for SimRegion {
    fn len(&self) -> usize {
        self.len
    }

    fn remote(&self) -> RemoteAddr {
        self.publish();
        self.at
    }

    fn read(&self, offset: usize, into: &mut [u8]) {
        into.copy_from_slice(&self.memory.lock().bytes[offset..offset + into.len()]);
    }

    /// Shows the device, and so the peer, what the owner has written.
    fn publish(&self) {
        if self.dirty.swap(false, Ordering::Relaxed) {
            let view = self.newest();
            let mut inner = self.memory.lock();
            inner.bytes.copy_from_slice(&view.bytes);
            inner.version += 1;
            view.version.store(inner.version, Ordering::Relaxed);
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        assert_ne!(self.access, Access::RemoteWrite, "a peer can write this region");
        let version = self.newest().version.load(Ordering::Relaxed);
        let contents = self.memory.lock();
        let taken_anew = (!self.dirty.load(Ordering::Relaxed) && contents.version != version)
            .then(|| contents.bytes.clone());
        drop(contents);
        // With `&mut self` nothing is lent: older views can go.
        while let Some(newer) = self.view.newer.take() {
            self.view = *newer;
        }
        if let Some(bytes) = taken_anew {
            self.view.bytes = bytes;
        }
        self.dirty.store(true, Ordering::Relaxed);
        &mut self.view.bytes
    }

    fn bytes(&self) -> &[u8] {
        assert_ne!(self.access, Access::RemoteWrite, "a peer can write this region");
        let view = self.newest();
        if self.dirty.load(Ordering::Relaxed) {
            return &view.bytes;
        }
        let contents = self.memory.lock();
        if contents.version == view.version.load(Ordering::Relaxed) {
            return &view.bytes;
        }
        let newer = View {
            version: AtomicU64::new(contents.version),
            bytes: contents.bytes.clone(),
            newer: OnceLock::new(),
        };
        &view.newer.get_or_init(|| Box::new(newer)).bytes
    }
}

impl Drop for SimRegion {
    fn drop(&mut self) {
        if self.foreign {
            return;
        }
        self.fabric.deregister(self.owner, self.at.rkey, &self.memory);
    }
}
