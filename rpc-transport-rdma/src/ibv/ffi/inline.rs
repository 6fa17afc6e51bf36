//! The verbs that C has as inline code: they go through the context's table of the driver's own
//! functions, with no call in between.
//!
//! A driver leaves none of these out, but the table's type allows it; then they answer EOPNOTSUPP.

use std::ffi::c_int;

use libc::EOPNOTSUPP;

use super::{ibv_cq, ibv_qp, ibv_recv_wr, ibv_send_wr, ibv_wc};

/// Posts a chain of work requests to the send queue. Returns 0, or an errno with `bad_wr` at the
/// first request that was not posted.
///
/// # Safety
///
/// `qp` is a live queue pair; `wr` is a chain of requests whose lists, and the memory they name,
/// are valid (that memory until the request completes); `bad_wr` is writable.
#[inline]
pub(crate) unsafe fn ibv_post_send(
    qp: *mut ibv_qp,
    wr: *mut ibv_send_wr,
    bad_wr: *mut *mut ibv_send_wr,
) -> c_int {
    // SAFETY: a live queue pair points to its context, whose table outlives it.
    match unsafe { (*(*qp).context).ops.post_send } {
        // SAFETY: this function's contract is the driver's.
        Some(post_send) => unsafe { post_send(qp, wr, bad_wr) },
        None => EOPNOTSUPP,
    }
}

/// Posts a chain of work requests to the receive queue. Returns as [`ibv_post_send`] does.
///
/// # Safety
///
/// That of [`ibv_post_send`].
#[inline]
pub(crate) unsafe fn ibv_post_recv(
    qp: *mut ibv_qp,
    wr: *mut ibv_recv_wr,
    bad_wr: *mut *mut ibv_recv_wr,
) -> c_int {
    // SAFETY: a live queue pair points to its context, whose table outlives it.
    match unsafe { (*(*qp).context).ops.post_recv } {
        // SAFETY: this function's contract is the driver's.
        Some(post_recv) => unsafe { post_recv(qp, wr, bad_wr) },
        None => EOPNOTSUPP,
    }
}

/// Takes up to `num_entries` completions. Returns how many, or a negative number.
///
/// # Safety
///
/// `cq` is a live completion queue; `wc` has room for `num_entries` completions.
#[inline]
pub(crate) unsafe fn ibv_poll_cq(cq: *mut ibv_cq, num_entries: c_int, wc: *mut ibv_wc) -> c_int {
    // SAFETY: a live completion queue points to its context, whose table outlives it.
    match unsafe { (*(*cq).context).ops.poll_cq } {
        // SAFETY: this function's contract is the driver's.
        Some(poll_cq) => unsafe { poll_cq(cq, num_entries, wc) },
        None => -EOPNOTSUPP,
    }
}

/// Arms the queue: its channel tells of the next completion (with `solicited_only`, the next
/// solicited one). Returns 0 or an errno.
///
/// # Safety
///
/// `cq` is a live completion queue.
#[inline]
pub(crate) unsafe fn ibv_req_notify_cq(cq: *mut ibv_cq, solicited_only: c_int) -> c_int {
    // SAFETY: a live completion queue points to its context, whose table outlives it.
    match unsafe { (*(*cq).context).ops.req_notify_cq } {
        // SAFETY: this function's contract is the driver's.
        Some(req_notify_cq) => unsafe { req_notify_cq(cq, solicited_only) },
        None => EOPNOTSUPP,
    }
}
