//! Reading a work completion.
//!
//! `ibverbs-sys` writes [`ibv_wc`] by hand: some fields are private, and the union around the
//! immediate is gone. These read either form. All values are plain integers, whatever a device
//! put there. Only `wr_id`, [`wc_status`], [`wc_vendor_err`] and [`wc_qp_num`] mean something in a
//! completion that failed.

use super::{ibv_wc, ibv_wc_opcode, ibv_wc_status};

/// The number the work request was posted with.
#[inline]
pub(crate) fn wc_wr_id(wc: &ibv_wc) -> u64 {
    #[cfg(not(feature = "ibverbs"))]
    return wc.wr_id;
    #[cfg(feature = "ibverbs")]
    return wc.wr_id();
}

/// How it went: compare with the constants of [`ibv_wc_status`].
#[inline]
pub(crate) fn wc_status(wc: &ibv_wc) -> ibv_wc_status::Type {
    #[cfg(not(feature = "ibverbs"))]
    return wc.status;
    #[cfg(feature = "ibverbs")]
    return wc.error().map_or(ibv_wc_status::IBV_WC_SUCCESS, |(status, _)| status);
}

/// The driver's own code of a failure; 0 in a success.
#[inline]
pub(crate) fn wc_vendor_err(wc: &ibv_wc) -> u32 {
    #[cfg(not(feature = "ibverbs"))]
    return if wc.status == ibv_wc_status::IBV_WC_SUCCESS { 0 } else { wc.vendor_err };
    #[cfg(feature = "ibverbs")]
    return wc.error().map_or(0, |(_, vendor_err)| vendor_err);
}

/// What was done: compare with the constants of [`ibv_wc_opcode`].
#[inline]
pub(crate) fn wc_opcode(wc: &ibv_wc) -> ibv_wc_opcode::Type {
    #[cfg(not(feature = "ibverbs"))]
    return wc.opcode;
    #[cfg(feature = "ibverbs")]
    return wc.opcode();
}

/// How many bytes were received, or read.
#[inline]
pub(crate) fn wc_byte_len(wc: &ibv_wc) -> u32 {
    #[cfg(not(feature = "ibverbs"))]
    return wc.byte_len;
    // It was widened from 32 bits by the crate.
    #[cfg(feature = "ibverbs")]
    return wc.len() as u32;
}

/// The immediate, in the host's byte order. There is one only if the opcode is
/// `IBV_WC_RECV_RDMA_WITH_IMM`.
#[inline]
pub(crate) fn wc_imm_data(wc: &ibv_wc) -> u32 {
    #[cfg(not(feature = "ibverbs"))]
    // SAFETY: both fields of the union are integers of 32 bits, which any bits are.
    let network_order = unsafe { wc.__bindgen_anon_1.imm_data };
    #[cfg(feature = "ibverbs")]
    let network_order = wc.imm_data;
    u32::from_be(network_order)
}

/// The queue pair of this side.
#[inline]
pub(crate) fn wc_qp_num(wc: &ibv_wc) -> u32 {
    wc.qp_num
}
