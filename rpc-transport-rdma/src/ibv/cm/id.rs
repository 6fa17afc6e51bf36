//! An identifier of the connection manager: what a socket is to TCP.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::net::SocketAddr;
use std::ptr::{self, NonNull};
use std::sync::{Arc, OnceLock};

use socket2::SockAddr;

use super::super::error::failed_now;
use super::super::ffi;
use super::channel::EventChannel;
use super::kept::{self, Kept, Library};
use crate::verbs::VerbError;

/// What both ends say when they connect.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct ConnectParams {
    /// The queue pair, which the connection manager did not make.
    pub(in super::super) qp_num: u32,
    /// READs of the peer that may be in flight here.
    pub(in super::super) reads_responder: u8,
    /// READs of ours that may be in flight there.
    pub(in super::super) reads_initiator: u8,
}

/// An identifier.
#[derive(Debug)]
pub(super) struct CmId {
    id: NonNull<ffi::rdma_cm_id>,
    channel: Arc<EventChannel>,
    /// Its device as the library holds it, once it is bound to one.
    context: OnceLock<Arc<Kept>>,
}

// SAFETY: librdmacm may be used from any thread; the id lives until drop.
unsafe impl Send for CmId {}
// SAFETY: as for Send.
unsafe impl Sync for CmId {}

impl CmId {
    pub(super) fn new(channel: &Arc<EventChannel>) -> Result<CmId, VerbError> {
        let mut id = ptr::null_mut();
        // SAFETY: the channel lives; the place is written by the call.
        let result = unsafe {
            (channel.cm().rdma_create_id)(
                channel.as_ptr(),
                &raw mut id,
                ptr::null_mut(),
                ffi::RDMA_PS_TCP,
            )
        };
        let id = NonNull::new(id).filter(|_| result == 0);
        let id =
            id.ok_or_else(|| failed_now("rdma_create_id", "opening the connection manager"))?;
        Ok(CmId { id, channel: channel.clone(), context: OnceLock::new() })
    }

    /// Takes over the id of a request.
    ///
    /// # Safety
    /// `id` came with a request on `channel`, and nobody else destroys it.
    pub(super) unsafe fn from_request(
        id: NonNull<ffi::rdma_cm_id>,
        channel: &Arc<EventChannel>,
    ) -> CmId {
        let taken = CmId { id, channel: channel.clone(), context: OnceLock::new() };
        taken.note_device(&mut kept::lock());
        taken
    }

    pub(super) fn channel(&self) -> &Arc<EventChannel> {
        &self.channel
    }

    /// Valid for as long as `self`.
    pub(super) fn as_ptr(&self) -> *mut ffi::rdma_cm_id {
        self.id.as_ptr()
    }

    /// Remembers the device the library has opened for it, if it has.
    pub(super) fn note_device(&self, library: &mut Library) {
        // SAFETY: the id lives; once bound it names an open context.
        let kept = unsafe {
            let context = self.id.as_ref().verbs;
            if context.is_null() || self.context.get().is_some() {
                return;
            }
            library.met(context)
        };
        if let Some(kept) = kept {
            let _ = self.context.set(kept);
        }
    }

    /// The device it is bound to.
    pub(super) fn device_name(&self) -> Option<String> {
        // SAFETY: the id lives; once bound it names an open context, which names its device.
        let name = unsafe {
            let context = self.id.as_ref().verbs;
            if context.is_null() || (*context).device.is_null() {
                return None;
            }
            CStr::from_ptr((&raw const (*(*context).device).name).cast())
        };
        Some(name.to_string_lossy().into_owned())
    }

    pub(super) fn bind(&self, address: SocketAddr) -> Result<(), VerbError> {
        let c_address = SockAddr::from(address);
        let mut library = kept::lock();
        // SAFETY: id and address live during the call, which only reads the address.
        let result = unsafe {
            (self.channel.cm().rdma_bind_addr)(self.as_ptr(), c_address.as_ptr().cast_mut().cast())
        };
        self.note_device(&mut library);
        self.done("rdma_bind_addr", result, || format!("the address {}", address.ip()))
    }

    pub(super) fn listen(&self) -> Result<(), VerbError> {
        let _library = kept::lock();
        // SAFETY: the id lives.
        let result = unsafe { (self.channel.cm().rdma_listen)(self.as_ptr(), 1) };
        self.done("rdma_listen", result, || "awaiting the client".to_owned())
    }

    pub(super) fn port(&self) -> u16 {
        // SAFETY: the id lives.
        u16::from_be(unsafe { (self.channel.cm().rdma_get_src_port)(self.as_ptr()) })
    }

    pub(super) fn resolve_address(
        &self,
        remote: SocketAddr,
        timeout_ms: i32,
    ) -> Result<(), VerbError> {
        let c_address = SockAddr::from(remote);
        let mut library = kept::lock();
        // SAFETY: id and address live during the call, which only reads the address.
        let result = unsafe {
            (self.channel.cm().rdma_resolve_addr)(
                self.as_ptr(),
                ptr::null_mut(),
                c_address.as_ptr().cast_mut().cast(),
                timeout_ms,
            )
        };
        self.note_device(&mut library);
        self.done("rdma_resolve_addr", result, || format!("the server at {remote}"))
    }

    pub(super) fn resolve_route(&self, timeout_ms: i32) -> Result<(), VerbError> {
        // SAFETY: the id lives.
        let result = unsafe { (self.channel.cm().rdma_resolve_route)(self.as_ptr(), timeout_ms) };
        self.done("rdma_resolve_route", result, String::new)
    }

    pub(super) fn connect(&self, params: &ConnectParams, token: &[u8]) -> Result<(), VerbError> {
        let mut raw = c_params(params);
        raw.private_data = token.as_ptr().cast();
        raw.private_data_len = u8::try_from(token.len()).expect("a token of a few bytes");
        // SAFETY: id, parameters and token live during the call, which copies them.
        let result = unsafe { (self.channel.cm().rdma_connect)(self.as_ptr(), &raw mut raw) };
        self.done("rdma_connect", result, || format!("queue pair {}", params.qp_num))
    }

    pub(super) fn accept(&self, params: &ConnectParams) -> Result<(), VerbError> {
        let mut raw = c_params(params);
        // SAFETY: id and parameters live during the call, which copies them.
        let result = unsafe { (self.channel.cm().rdma_accept)(self.as_ptr(), &raw mut raw) };
        self.done("rdma_accept", result, || format!("queue pair {}", params.qp_num))
    }

    /// Turns a request down; whoever asked learns it.
    pub(super) fn reject(&self) {
        // SAFETY: the id lives. If it fails, destroying the id does the same, less politely.
        let _ = unsafe { (self.channel.cm().rdma_reject)(self.as_ptr(), ptr::null(), 0) };
    }

    /// Ends a connection. That it may have ended already is no error.
    pub(super) fn disconnect(&self) {
        // SAFETY: the id lives.
        let _ = unsafe { (self.channel.cm().rdma_disconnect)(self.as_ptr()) };
    }

    fn done(
        &self,
        verb: &'static str,
        result: i32,
        what: impl FnOnce() -> String,
    ) -> Result<(), VerbError> {
        if result == 0 { Ok(()) } else { Err(failed_now(verb, what())) }
    }
}

fn c_params(params: &ConnectParams) -> ffi::rdma_conn_param {
    ffi::rdma_conn_param {
        responder_resources: params.reads_responder,
        initiator_depth: params.reads_initiator,
        qp_num: params.qp_num,
        ..Default::default()
    }
}

impl Drop for CmId {
    fn drop(&mut self) {
        let _library = kept::lock();
        // SAFETY: made or taken over once, destroyed once; events are acknowledged as they are
        // taken, so this does not wait for any.
        let result = unsafe { (self.channel.cm().rdma_destroy_id)(self.as_ptr()) };
        if result != 0 {
            tracing::warn!(result, "rdma_destroy_id failed");
        }
    }
}
