//! A completion channel: how a sleeping program hears of completions.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use rustix::io::Errno;

use super::device::Device;
use super::error::{failed, failed_now, last_errno, make_non_blocking};
use super::ffi;
use crate::verbs::VerbError;

/// A completion channel that never blocks.
#[derive(Debug)]
pub(super) struct CompletionChannel {
    device: Arc<Device>,
    channel: NonNull<ffi::ibv_comp_channel>,
}

// SAFETY: verbs objects may be used from any thread; this one lives until drop.
unsafe impl Send for CompletionChannel {}
// SAFETY: as for Send.
unsafe impl Sync for CompletionChannel {}

impl CompletionChannel {
    pub(super) fn new(device: &Arc<Device>) -> Result<Arc<CompletionChannel>, VerbError> {
        // SAFETY: the context is open.
        let channel = unsafe { (device.verbs().ibv_create_comp_channel)(device.context()) };
        let channel = NonNull::new(channel)
            .ok_or_else(|| failed_now("ibv_create_comp_channel", device.facts().name.clone()))?;
        let made = CompletionChannel { device: device.clone(), channel };
        make_non_blocking(&made, "completion channel")?;
        Ok(Arc::new(made))
    }

    pub(super) fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Valid for as long as `self`.
    pub(super) fn as_ptr(&self) -> *mut ffi::ibv_comp_channel {
        self.channel.as_ptr()
    }

    /// Takes and acknowledges all events there are: the descriptor is watched for edges, so none
    /// may be left. How many there were.
    pub(super) fn take_events(&self) -> Result<usize, VerbError> {
        let verbs = self.device.verbs();
        let mut count = 0;
        loop {
            let mut cq = ptr::null_mut();
            let mut context = ptr::null_mut();
            // SAFETY: the channel lives; both places are written by the call.
            let result =
                unsafe { (verbs.ibv_get_cq_event)(self.as_ptr(), &raw mut cq, &raw mut context) };
            if result != 0 {
                let errno = last_errno();
                if errno == Errno::AGAIN.raw_os_error() {
                    return Ok(count);
                }
                if errno == Errno::INTR.raw_os_error() {
                    continue;
                }
                return Err(failed("ibv_get_cq_event", errno, self.device.facts().name.clone()));
            }
            // SAFETY: the event names a queue that waits in ibv_destroy_cq until it is
            // acknowledged, so it still exists.
            unsafe { (verbs.ibv_ack_cq_events)(cq, 1) };
            count += 1;
        }
    }
}

impl AsFd for CompletionChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the channel lives, its descriptor never changes, and is closed with it.
        unsafe { BorrowedFd::borrow_raw(self.channel.as_ref().fd) }
    }
}

impl Drop for CompletionChannel {
    fn drop(&mut self) {
        // SAFETY: queues hold their channel, so none is left on it.
        let result = unsafe { (self.device.verbs().ibv_destroy_comp_channel)(self.as_ptr()) };
        if result != 0 {
            let device = &self.device.facts().name;
            tracing::warn!(%device, result, "ibv_destroy_comp_channel failed");
        }
    }
}
