//! Asynchronous events of a device: what goes wrong without a work request that could say so
//! (InfiniBand Architecture Specification 1.4, section 11.6.3).
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

use super::device::Device;
use super::error::{failed, last_errno, not_watched};
use super::ffi;
use crate::verbs::VerbError;

/// Who wants to hear of trouble.
pub(super) trait Listener: Send + Sync + std::fmt::Debug {
    /// The queue pair cannot be used any more.
    fn failed(&self, why: &str);
}

/// What an event means to the queue pairs of its device.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Meaning {
    /// One queue pair has failed.
    QueuePair(u32),
    /// The device, or something every queue pair may depend on.
    Device,
    /// Nothing fails: a port that is down may come back before the retries are used up, and if
    /// not, the requests themselves say so.
    Note,
}

fn meaning(kind: ffi::ibv_event_type, qp_num: impl FnOnce() -> u32) -> Meaning {
    match kind {
        ffi::IBV_EVENT_QP_FATAL | ffi::IBV_EVENT_QP_REQ_ERR | ffi::IBV_EVENT_QP_ACCESS_ERR => {
            Meaning::QueuePair(qp_num())
        }
        ffi::IBV_EVENT_CQ_ERR | ffi::IBV_EVENT_DEVICE_FATAL => Meaning::Device,
        _ => Meaning::Note,
    }
}

/// Takes the events there are, and tells those whom they concern.
fn take_events(device: &Device) -> Result<(), VerbError> {
    let verbs = device.verbs();
    let name = &device.facts().name;
    loop {
        let mut event = ffi::ibv_async_event::default();
        // SAFETY: the context is open, its descriptor does not block, and `event` is written.
        let result = unsafe { (verbs.ibv_get_async_event)(device.context(), &raw mut event) };
        if result != 0 {
            let errno = last_errno();
            if errno == Errno::AGAIN.raw_os_error() {
                return Ok(());
            }
            if errno == Errno::INTR.raw_os_error() {
                continue;
            }
            return Err(failed("ibv_get_async_event", errno, name.clone()));
        }
        // SAFETY: an event of a queue pair names it, and it waits in ibv_destroy_qp until the
        // event is acknowledged below.
        let meaning = meaning(event.event_type, || unsafe { (*event.element.qp).qp_num });
        // SAFETY: the function gives a constant string for every number.
        let text =
            unsafe { std::ffi::CStr::from_ptr((verbs.ibv_event_type_str)(event.event_type)) };
        let text = text.to_string_lossy().into_owned();
        // SAFETY: taken just now, acknowledged once.
        unsafe { (verbs.ibv_ack_async_event)(&raw mut event) };
        tracing::warn!(device = %name, event = %text, "the RDMA device reports");
        let why = format!("the RDMA device {name} reports: {text}");
        match meaning {
            Meaning::QueuePair(number) => device.tell(Some(number), &why),
            Meaning::Device => {
                device.mark_gone(&why);
                device.tell(None, &why);
            }
            Meaning::Note => {}
        }
    }
}

/// The event channel for the reactor, by a descriptor of its own: several queues of one runtime
/// may watch one device, and a reactor takes each descriptor once.
#[derive(Debug)]
struct Watched {
    device: Arc<Device>,
    fd: OwnedFd,
}

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Watches a device's events in the current runtime, until it is aborted. Several may watch one
/// device; whoever sees an event tells everybody.
pub(super) fn watch(device: &Arc<Device>) -> Result<tokio::task::AbortHandle, VerbError> {
    let fd = device.as_fd().try_clone_to_owned();
    let fd = fd.map_err(|error| not_watched("a device's events", error))?;
    // SAFETY: the descriptor stays the same and open for as long as the value lives.
    let fd = unsafe { AsyncFd::register(Watched { device: device.clone(), fd }) };
    let fd = fd.map_err(|error| not_watched("a device's events", error.into()))?;
    let task = tokio::spawn(async move {
        while let Ok(mut guard) = fd.readable().await {
            guard.clear_ready();
            let device = &fd.get_ref().device;
            if let Err(error) = take_events(device) {
                device.mark_gone(&error.to_string());
                device.tell(None, &error.to_string());
                return;
            }
        }
    });
    Ok(task.abort_handle())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_cannot_recover_fails_connections() {
        assert_eq!(meaning(ffi::IBV_EVENT_QP_FATAL, || 7), Meaning::QueuePair(7));
        assert_eq!(meaning(ffi::IBV_EVENT_QP_ACCESS_ERR, || 8), Meaning::QueuePair(8));
        let no_queue_pair = || panic!("the event has no queue pair");
        assert_eq!(meaning(ffi::IBV_EVENT_DEVICE_FATAL, no_queue_pair), Meaning::Device);
        assert_eq!(meaning(ffi::IBV_EVENT_PORT_ERR, no_queue_pair), Meaning::Note);
        assert_eq!(meaning(9999, no_queue_pair), Meaning::Note);
    }
}
