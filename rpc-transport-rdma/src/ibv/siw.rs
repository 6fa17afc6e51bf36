//! What Soft-iWARP's user library gets wrong, and how it is kept from it.
//!
//! The kernel gives each queue that a program maps a key: the page it starts at, of all that the
//! context has mapped. libsiw takes the key `SIW_INVAL_UOBJ_KEY` (rdma/siw-abi.h) for "there is none"
//! and refuses the queue, without an errno; but to kernels since 5.6 it is the key of page 144 like
//! any other. A program with some dozens of connections gets there, and then no queue of that context
//! can be made until something else has taken the page, which nothing can.
//!
//! A completion queue that is made first, starts at page 0 and is longer than that, so no other
//! queue ever starts there.
#![allow(unsafe_code)]

use std::ptr::{self, NonNull};

use super::facts::DeviceFacts;
use super::ffi::{self, Verbs};

/// `SIW_VENDOR_ID` of the kernel's driver (drivers/infiniband/sw/siw/siw.h): "bmt".
const VENDOR_ID: u32 = 0x62_6d74;
/// `SIW_INVAL_UOBJ_KEY` of rdma/siw-abi.h.
const REFUSED_KEY: u32 = 0x8_ffff + 1;
/// Of `struct siw_cqe`.
const ENTRY_BYTES: u32 = 32;

/// Takes the place of the key that libsiw refuses, in a context that has no queues yet. The kernel
/// locks 1 MiB for it. Nothing on other devices.
pub(super) fn take_refused_key(
    verbs: &Verbs,
    context: NonNull<ffi::ibv_context>,
    facts: &DeviceFacts,
) -> Option<NonNull<ffi::ibv_cq>> {
    if !facts.iwarp || facts.vendor_id != VENDOR_ID {
        return None;
    }
    let entries = (REFUSED_KEY / ENTRY_BYTES + 1).cast_signed();
    // SAFETY: the context is open; the queue has no channel, and no context pointer is kept.
    let cq = unsafe {
        (verbs.ibv_create_cq)(context.as_ptr(), entries, ptr::null_mut(), ptr::null_mut(), 0)
    };
    let cq = NonNull::new(cq);
    if cq.is_none() {
        tracing::warn!(
            device = facts.name,
            "Soft-iWARP refused a queue of {entries} entries; later ones may fail without a reason"
        );
    }
    cq
}
