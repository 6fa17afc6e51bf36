//! A completion queue.
#![allow(unsafe_code)]

use std::ptr::{self, NonNull};
use std::sync::Arc;

use super::channel::CompletionChannel;
use super::error::{clear_errno, failed, failed_perhaps_silently};
use super::ffi;
use crate::verbs::VerbError;

/// Completions taken at a time.
pub(super) const BATCH: usize = 16;

/// A completion queue with its channel.
#[derive(Debug)]
pub(super) struct CompletionQueue {
    channel: Arc<CompletionChannel>,
    cq: NonNull<ffi::ibv_cq>,
}

// SAFETY: verbs objects may be used from any thread; this one lives until drop.
unsafe impl Send for CompletionQueue {}
// SAFETY: as for Send.
unsafe impl Sync for CompletionQueue {}

impl CompletionQueue {
    /// A queue of `entries` completions at least.
    pub(super) fn new(
        channel: &Arc<CompletionChannel>,
        entries: u32,
    ) -> Result<CompletionQueue, VerbError> {
        let device = channel.device();
        clear_errno();
        // SAFETY: context and channel are open; no context pointer is kept.
        let cq = unsafe {
            (device.verbs().ibv_create_cq)(
                device.context(),
                entries.cast_signed(),
                ptr::null_mut(),
                channel.as_ptr(),
                0,
            )
        };
        let cq = NonNull::new(cq).ok_or_else(|| {
            let what = format!("{}: {entries} completions", device.facts().name);
            failed_perhaps_silently("ibv_create_cq", what)
        })?;
        Ok(CompletionQueue { channel: channel.clone(), cq })
    }

    /// Valid for as long as `self`.
    pub(super) fn as_ptr(&self) -> *mut ffi::ibv_cq {
        self.cq.as_ptr()
    }

    /// Takes completions, oldest first; no system call on a real card.
    pub(super) fn poll(&self, into: &mut [ffi::ibv_wc; BATCH]) -> Result<usize, VerbError> {
        // SAFETY: the queue lives, and `into` has room for as many as are asked for.
        let count = unsafe { ffi::ibv_poll_cq(self.as_ptr(), BATCH as i32, into.as_mut_ptr()) };
        usize::try_from(count)
            .map_err(|_| failed("ibv_poll_cq", count, self.channel.device().facts().name.clone()))
    }

    /// The next completion makes an event.
    pub(super) fn arm(&self) -> Result<(), VerbError> {
        // SAFETY: the queue lives.
        let result = unsafe { ffi::ibv_req_notify_cq(self.as_ptr(), 0) };
        if result != 0 {
            let device = self.channel.device().facts().name.clone();
            return Err(failed("ibv_req_notify_cq", result, device));
        }
        Ok(())
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        // SAFETY: queue pairs hold their completion queue, so none is left; every event was
        // acknowledged as it was taken, so this does not wait.
        let result = unsafe { (self.channel.device().verbs().ibv_destroy_cq)(self.as_ptr()) };
        if result != 0 {
            let device = &self.channel.device().facts().name;
            tracing::warn!(%device, result, "ibv_destroy_cq failed");
        }
    }
}
