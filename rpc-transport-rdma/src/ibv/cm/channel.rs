//! The event channel of the connection manager, and its events.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

use super::super::error::{failed, failed_now, last_errno, make_non_blocking, not_watched};
use super::super::ffi::{self, RdmaCm};
use super::id::CmId;
use super::kept;
use crate::verbs::VerbError;

/// What cannot be watched when an event channel cannot.
const WATCHED: &str = "the connection manager's events";

/// The C object.
#[derive(Debug)]
struct Raw {
    cm: &'static RdmaCm,
    channel: NonNull<ffi::rdma_event_channel>,
}

// SAFETY: librdmacm may be used from any thread; the channel lives until drop.
unsafe impl Send for Raw {}
// SAFETY: as for Send.
unsafe impl Sync for Raw {}

impl AsFd for Raw {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the channel lives, its descriptor never changes, and is closed with it.
        unsafe { BorrowedFd::borrow_raw(self.channel.as_ref().fd) }
    }
}

impl AsRawFd for Raw {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // SAFETY: ids hold their channel, so none is left; every event was acknowledged when it
        // was taken.
        unsafe { (self.cm.rdma_destroy_event_channel)(self.channel.as_ptr()) };
    }
}

/// An event channel that never blocks.
#[derive(Debug)]
pub(super) struct EventChannel {
    raw: AsyncFd<Raw>,
}

impl EventChannel {
    pub(super) fn new() -> Result<Arc<EventChannel>, VerbError> {
        let cm = RdmaCm::get().map_err(|error| {
            let errno = Errno::NOENT.raw_os_error();
            VerbError { verb: "dlopen", errno, context: error.to_string() }
        })?;
        // SAFETY: a function without arguments.
        let channel = unsafe { (cm.rdma_create_event_channel)() };
        let channel = NonNull::new(channel).ok_or_else(|| {
            failed_now("rdma_create_event_channel", "opening the connection manager")
        })?;
        let raw = Raw { cm, channel };
        make_non_blocking(&raw, "event channel")?;
        // SAFETY: the descriptor stays the same and open for as long as `raw` lives.
        let raw = unsafe { AsyncFd::register(raw) };
        let raw = raw.map_err(|error| not_watched(WATCHED, error.into()))?;
        Ok(Arc::new(EventChannel { raw }))
    }

    pub(super) fn cm(&self) -> &'static RdmaCm {
        self.raw.get_ref().cm
    }

    /// Valid for as long as `self`.
    pub(super) fn as_ptr(&self) -> *mut ffi::rdma_event_channel {
        self.raw.get_ref().channel.as_ptr()
    }

    /// The next event.
    pub(super) async fn next(&self) -> Result<Event, VerbError> {
        loop {
            let mut ready =
                self.raw.readable().await.map_err(|error| not_watched(WATCHED, error))?;
            if let Some(event) = self.take()? {
                return Ok(event);
            }
            ready.clear_ready();
        }
    }

    /// The next event; one task may wait at a time.
    pub(super) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Result<Event, VerbError>> {
        loop {
            let mut ready =
                ready!(self.raw.poll_read_ready(cx)).map_err(|e| not_watched(WATCHED, e))?;
            if let Some(event) = self.take()? {
                return Poll::Ready(Ok(event));
            }
            ready.clear_ready();
        }
    }

    /// Ready when there may be an event.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.raw.poll_read_ready(cx).map(drop)
    }

    /// Takes an event, copies what it says, and acknowledges it.
    fn take(&self) -> Result<Option<Event>, VerbError> {
        let mut event = ptr::null_mut();
        // A request, or an address that was found, may open a device.
        let library = kept::lock();
        // SAFETY: the channel lives and does not block; the place is written by the call.
        let result = unsafe { (self.cm().rdma_get_cm_event)(self.as_ptr(), &raw mut event) };
        let errno = last_errno();
        drop(library);
        if result != 0 {
            let again = [Errno::AGAIN, Errno::INTR].map(Errno::raw_os_error);
            if again.contains(&errno) {
                return Ok(None);
            }
            return Err(failed("rdma_get_cm_event", errno, "waiting for the connection manager"));
        }
        // SAFETY: the call has given an event, valid until it is acknowledged below.
        let raw = unsafe { &*event };
        // SAFETY: these connections are not datagrams, so `conn` is the half that is filled in.
        let conn = unsafe { &raw.param.conn };
        let private = if conn.private_data.is_null() {
            Vec::new()
        } else {
            let len = usize::from(conn.private_data_len);
            // SAFETY: the event says how many bytes it carries, and keeps them.
            unsafe { std::slice::from_raw_parts(conn.private_data.cast::<u8>(), len) }.to_vec()
        };
        let copied = Event {
            kind: raw.event,
            status: raw.status,
            id: raw.id,
            private,
            cm: self.cm(),
            request_taken: raw.event != ffi::RDMA_CM_EVENT_CONNECT_REQUEST,
        };
        // SAFETY: taken just now, acknowledged once.
        unsafe { (self.cm().rdma_ack_cm_event)(event) };
        Ok(Some(copied))
    }
}

/// What an event said.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) kind: ffi::rdma_cm_event_type,
    status: i32,
    id: *mut ffi::rdma_cm_id,
    private: Vec<u8>,
    cm: &'static RdmaCm,
    /// The new id of a request has an owner; until then it is this event.
    request_taken: bool,
}

// SAFETY: the pointer is an id that this event owns (a request), or is only compared.
unsafe impl Send for Event {}

impl Event {
    pub(super) fn is_request(&self) -> bool {
        self.kind == ffi::RDMA_CM_EVENT_CONNECT_REQUEST
    }

    pub(super) fn is_of(&self, id: &CmId) -> bool {
        self.id == id.as_ptr()
    }

    /// The connection that is asked for, if whoever asks has brought the token. Others are
    /// rejected.
    pub(super) fn into_request(
        mut self,
        channel: &Arc<EventChannel>,
        token: &[u8],
    ) -> Option<CmId> {
        let id = NonNull::new(self.id).filter(|_| !self.request_taken)?;
        self.request_taken = true;
        // SAFETY: a request brings a new id on this channel, and nobody else has taken it.
        let id = unsafe { CmId::from_request(id, channel) };
        // Padded by some providers.
        let known = !token.is_empty() && self.private.starts_with(token);
        if !known {
            id.reject();
            return None;
        }
        Some(id)
    }

    pub(super) fn unexpected(&self, when: &str) -> VerbError {
        let errno = match self.status.saturating_abs() {
            0 => Errno::CONNABORTED.raw_os_error(),
            errno if self.kind == ffi::RDMA_CM_EVENT_REJECTED && errno < 64 => {
                Errno::CONNREFUSED.raw_os_error()
            }
            errno => errno,
        };
        failed("rdma_get_cm_event", errno, format!("{self} {when}"))
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: the function gives a constant string for every number.
        let name = unsafe { CStr::from_ptr((self.cm.rdma_event_str)(self.kind)) };
        write!(f, "{}", name.to_string_lossy())?;
        if self.status != 0 { write!(f, " (status {})", self.status) } else { Ok(()) }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if !self.request_taken {
            let _library = kept::lock();
            // SAFETY: a request's id that nobody has taken is ours to destroy.
            unsafe { (self.cm.rdma_destroy_id)(self.id) };
        }
    }
}
