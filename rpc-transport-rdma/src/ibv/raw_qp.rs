//! A reliable connected queue pair as the device has it: states and posts.
#![allow(unsafe_code)]

use std::ptr::{self, NonNull};
use std::sync::Arc;

use super::address::Network;
use super::config::{IbvConfig, Path};
use super::cq::CompletionQueue;
use super::error::{clear_errno, failed, failed_perhaps_silently};
use super::ffi::{
    self, ibv_qp_attr_mask as mask, ibv_qp_state as state, ibv_send_wr, ibv_wr_opcode as opcode,
};
use super::pd::ProtectionDomain;
use crate::verbs::VerbError;

/// RNR NAK timer 12: 0.64 ms (InfiniBand Architecture Specification 1.4, table 45). Credits keep
/// receivers ready, so it matters only while a queue pair is being connected.
const MIN_RNR_TIMER: u8 = 12;

/// A 24-bit number.
pub(super) const MASK_24: u32 = 0x00FF_FFFF;

/// What a queue pair holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Depths {
    pub(super) send: u32,
    pub(super) receive: u32,
    pub(super) inline_bytes: u32,
}

/// What the peer says of its queue pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Remote {
    pub(super) qp_num: u32,
    pub(super) psn: u32,
    /// READs of ours it may have in flight.
    pub(super) reads_responder: u8,
    /// READs of its own it will have in flight.
    pub(super) reads_initiator: u8,
}

/// A queue pair.
#[derive(Debug)]
pub(super) struct RawQueuePair {
    qp: NonNull<ffi::ibv_qp>,
    pd: Arc<ProtectionDomain>,
    depths: Depths,
    // Kept for as long as completions may be added to it.
    _cq: Arc<CompletionQueue>,
}

// SAFETY: verbs objects may be used from any thread; this one lives until drop.
unsafe impl Send for RawQueuePair {}
// SAFETY: as for Send.
unsafe impl Sync for RawQueuePair {}

impl RawQueuePair {
    /// Makes one, in state RESET. Inline room that the device refuses is done without.
    pub(super) fn new(
        pd: &Arc<ProtectionDomain>,
        cq: &Arc<CompletionQueue>,
        wanted: Depths,
    ) -> Result<RawQueuePair, VerbError> {
        let mut inline_bytes = wanted.inline_bytes;
        loop {
            match RawQueuePair::create(pd, cq, Depths { inline_bytes, ..wanted }) {
                Err(_) if inline_bytes > 0 => inline_bytes = 0,
                result => return result,
            }
        }
    }

    fn create(
        pd: &Arc<ProtectionDomain>,
        cq: &Arc<CompletionQueue>,
        wanted: Depths,
    ) -> Result<RawQueuePair, VerbError> {
        let mut init = ffi::ibv_qp_init_attr {
            send_cq: cq.as_ptr(),
            recv_cq: cq.as_ptr(),
            qp_type: ffi::ibv_qp_type::IBV_QPT_RC,
            sq_sig_all: 0,
            cap: ffi::ibv_qp_cap {
                max_send_wr: wanted.send,
                max_recv_wr: wanted.receive,
                max_send_sge: 1,
                max_recv_sge: 1,
                max_inline_data: wanted.inline_bytes,
            },
            ..Default::default()
        };
        // Not every provider says why it has failed; what an older call said would mislead.
        clear_errno();
        // SAFETY: domain and completion queue live; the attributes are written back by the call.
        let qp = unsafe { (pd.device().verbs().ibv_create_qp)(pd.as_ptr(), &raw mut init) };
        let qp = NonNull::new(qp).ok_or_else(|| {
            let what = format!(
                "{}: {} sends, {} receives, {} bytes inline",
                pd.device().facts().name,
                wanted.send,
                wanted.receive,
                wanted.inline_bytes
            );
            failed_perhaps_silently("ibv_create_qp", what)
        })?;
        let inline_bytes = init.cap.max_inline_data.min(wanted.inline_bytes);
        let depths = Depths { inline_bytes, ..wanted };
        Ok(RawQueuePair { qp, pd: pd.clone(), depths, _cq: cq.clone() })
    }

    pub(super) fn depths(&self) -> Depths {
        self.depths
    }

    /// Its number, for the peer and for routing events.
    pub(super) fn number(&self) -> u32 {
        // SAFETY: the queue pair lives and its number never changes.
        unsafe { self.qp.as_ref().qp_num }
    }

    fn modify(
        &self,
        attr: &mut ffi::ibv_qp_attr,
        fields: &[mask],
        to: &str,
    ) -> Result<(), VerbError> {
        let bits = fields.iter().fold(mask::IBV_QP_STATE.0, |bits, field| bits | field.0);
        let verbs = self.pd.device().verbs();
        // SAFETY: the queue pair lives; the call reads the fields that the mask names.
        let result = unsafe { (verbs.ibv_modify_qp)(self.qp.as_ptr(), attr, bits.cast_signed()) };
        if result == 0 {
            return Ok(());
        }
        let device = &self.pd.device().facts().name;
        let what = format!("{device}: queue pair {} to {to}", self.number());
        Err(failed("ibv_modify_qp", result, what))
    }

    /// RESET to INIT: the peer may WRITE and READ where its keys allow it.
    pub(super) fn to_init(&self, port: u8) -> Result<(), VerbError> {
        let access = ffi::ibv_access_flags::IBV_ACCESS_REMOTE_WRITE.0
            | ffi::ibv_access_flags::IBV_ACCESS_REMOTE_READ.0;
        let mut attr = ffi::ibv_qp_attr {
            qp_state: state::IBV_QPS_INIT,
            pkey_index: 0,
            port_num: port,
            qp_access_flags: access,
            ..Default::default()
        };
        let fields = [mask::IBV_QP_PKEY_INDEX, mask::IBV_QP_PORT, mask::IBV_QP_ACCESS_FLAGS];
        self.modify(&mut attr, &fields, "INIT")
    }

    /// INIT to RTR and RTS: connected.
    pub(super) fn connect(
        &self,
        path: &Path,
        psn: u32,
        remote: &Remote,
        reads: Reads,
        config: &IbvConfig,
    ) -> Result<(), VerbError> {
        let mut attr = ffi::ibv_qp_attr {
            qp_state: state::IBV_QPS_RTR,
            path_mtu: u32::from(path.mtu.code()),
            dest_qp_num: remote.qp_num,
            rq_psn: remote.psn & MASK_24,
            max_dest_rd_atomic: reads.responder,
            min_rnr_timer: MIN_RNR_TIMER,
            ah_attr: address_handle(path),
            ..Default::default()
        };
        let fields = [
            mask::IBV_QP_AV,
            mask::IBV_QP_PATH_MTU,
            mask::IBV_QP_DEST_QPN,
            mask::IBV_QP_RQ_PSN,
            mask::IBV_QP_MAX_DEST_RD_ATOMIC,
            mask::IBV_QP_MIN_RNR_TIMER,
        ];
        self.modify(&mut attr, &fields, &format!("RTR, towards {}", path.remote))?;
        let mut attr = ffi::ibv_qp_attr {
            qp_state: state::IBV_QPS_RTS,
            sq_psn: psn & MASK_24,
            timeout: config.ack_timeout,
            retry_cnt: config.retry_count,
            rnr_retry: config.rnr_retry,
            max_rd_atomic: reads.initiator,
            ..Default::default()
        };
        let fields = [
            mask::IBV_QP_SQ_PSN,
            mask::IBV_QP_TIMEOUT,
            mask::IBV_QP_RETRY_CNT,
            mask::IBV_QP_RNR_RETRY,
            mask::IBV_QP_MAX_QP_RD_ATOMIC,
        ];
        self.modify(&mut attr, &fields, "RTS")
    }

    /// Whatever it is in, to ERR: everything outstanding flushes.
    pub(super) fn to_error(&self) -> Result<(), VerbError> {
        let mut attr = ffi::ibv_qp_attr { qp_state: state::IBV_QPS_ERR, ..Default::default() };
        self.modify(&mut attr, &[], "ERR")
    }

    /// Posts a chain of sends. On failure: the errno, and whether some of the chain was posted.
    pub(super) fn post_send(&self, chain: &mut [ibv_send_wr]) -> Result<(), (i32, bool)> {
        let Some(first) = link_chain(chain, |wr, next| wr.next = next) else { return Ok(()) };
        let mut bad = ptr::null_mut();
        // SAFETY: the queue pair lives; the chain and its elements live during the call, and the
        // memory they name is registered memory that the caller keeps until completion.
        let result = unsafe { ffi::ibv_post_send(self.qp.as_ptr(), first, &raw mut bad) };
        if result == 0 { Ok(()) } else { Err((result, !bad.is_null() && bad != first)) }
    }

    /// Posts a chain of receives.
    pub(super) fn post_receive(&self, chain: &mut [ffi::ibv_recv_wr]) -> Result<(), i32> {
        let Some(first) = link_chain(chain, |wr, next| wr.next = next) else { return Ok(()) };
        let mut bad = ptr::null_mut();
        // SAFETY: as for `post_send`.
        let result = unsafe { ffi::ibv_post_recv(self.qp.as_ptr(), first, &raw mut bad) };
        if result == 0 { Ok(()) } else { Err(result) }
    }
}

impl Drop for RawQueuePair {
    fn drop(&mut self) {
        // SAFETY: made by ibv_create_qp and destroyed once. Afterwards the device touches no
        // memory that its requests named.
        let result = unsafe { (self.pd.device().verbs().ibv_destroy_qp)(self.qp.as_ptr()) };
        if result != 0 {
            let device = &self.pd.device().facts().name;
            tracing::warn!(%device, result, "ibv_destroy_qp failed");
        }
    }
}

/// READs both ways, as agreed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reads {
    /// Of the peer, at us.
    pub(super) responder: u8,
    /// Of ours, at the peer.
    pub(super) initiator: u8,
}

impl Reads {
    /// What two ends come to, each being able to do so many.
    pub(super) fn agreed(ours: Reads, peer: &Remote) -> Reads {
        Reads {
            responder: ours.responder.min(peer.reads_initiator),
            initiator: ours.initiator.min(peer.reads_responder),
        }
    }
}

/// Links each request to the next; the first.
fn link_chain<T>(chain: &mut [T], mut set: impl FnMut(&mut T, *mut T)) -> Option<*mut T> {
    let len = chain.len();
    let first = chain.as_mut_ptr();
    for at in 0..len {
        let next = if at + 1 < len { first.wrapping_add(at + 1) } else { ptr::null_mut() };
        // SAFETY: `at` is inside the slice that `first` came from.
        set(unsafe { &mut *first.add(at) }, next);
    }
    (len > 0).then_some(first)
}

/// How packets find the peer (InfiniBand Architecture Specification 1.4, section 11.2.2.1): by LID
/// inside an InfiniBand subnet, by the global route header everywhere else.
fn address_handle(path: &Path) -> ffi::ibv_ah_attr {
    let mut attr = ffi::ibv_ah_attr {
        dlid: path.remote.lid,
        sl: path.service_level,
        port_num: path.port,
        ..Default::default()
    };
    let needs_route_header = path.remote.network != Network::InfiniBand || path.remote.lid == 0;
    if needs_route_header {
        attr.is_global = 1;
        attr.grh.dgid = ffi::ibv_gid { raw: path.remote.gid.0 };
        attr.grh.sgid_index = path.gid_index;
        attr.grh.hop_limit = path.hop_limit;
        attr.grh.traffic_class = path.traffic_class;
    }
    attr
}

/// A request that writes, or with an immediate, tells.
pub(super) fn write_request(
    id: u64,
    flags: u32,
    element: &mut ffi::ibv_sge,
    has_bytes: bool,
    to: crate::verbs::RemoteAddr,
    imm: Option<u32>,
) -> ibv_send_wr {
    let code = match imm {
        Some(_) => opcode::IBV_WR_RDMA_WRITE_WITH_IMM,
        None => opcode::IBV_WR_RDMA_WRITE,
    };
    let mut request = request(id, flags, code, element, has_bytes);
    request.wr.rdma.remote_addr = to.addr;
    request.wr.rdma.rkey = to.rkey;
    request.__bindgen_anon_1.imm_data = imm.unwrap_or(0).to_be();
    request
}

/// A request that reads.
pub(super) fn read_request(
    id: u64,
    flags: u32,
    element: &mut ffi::ibv_sge,
    from: crate::verbs::RemoteAddr,
) -> ibv_send_wr {
    let mut request = request(id, flags, opcode::IBV_WR_RDMA_READ, element, true);
    request.wr.rdma.remote_addr = from.addr;
    request.wr.rdma.rkey = from.rkey;
    request
}

/// A request that sends.
pub(super) fn send_request(id: u64, flags: u32, element: &mut ffi::ibv_sge) -> ibv_send_wr {
    request(id, flags, opcode::IBV_WR_SEND, element, true)
}

fn request(
    id: u64,
    flags: u32,
    code: opcode::Type,
    element: &mut ffi::ibv_sge,
    has_bytes: bool,
) -> ibv_send_wr {
    ibv_send_wr {
        wr_id: id,
        sg_list: if has_bytes { element } else { ptr::null_mut() },
        num_sge: i32::from(has_bytes),
        opcode: code,
        send_flags: flags,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::address::{Endpoint, Gid, PathMtu};
    use super::*;

    fn path(network: Network, lid: u16) -> Path {
        Path {
            port: 2,
            gid_index: 3,
            mtu: PathMtu::from_code(3).unwrap(),
            remote: Endpoint { network, lid, gid: Gid([7; 16]) },
            service_level: 4,
            traffic_class: 106,
            hop_limit: 64,
        }
    }

    #[test]
    fn infiniband_goes_by_lid_and_everything_else_by_the_route_header() {
        let ah = address_handle(&path(Network::InfiniBand, 0x4C));
        assert_eq!((ah.dlid, ah.is_global, ah.sl, ah.port_num), (0x4C, 0, 4, 2));
        for network in [Network::RoceV1, Network::RoceV2] {
            let ah = address_handle(&path(network, 0));
            assert_eq!((ah.is_global, ah.grh.sgid_index, ah.grh.hop_limit), (1, 3, 64));
            assert_eq!(ah.grh.traffic_class, 106);
            // SAFETY: both halves of the union are plain bytes.
            assert_eq!(unsafe { ah.grh.dgid.raw }, [7; 16]);
        }
    }

    #[test]
    fn reads_are_what_both_can_do() {
        let ours = Reads { responder: 16, initiator: 4 };
        let peer = Remote { qp_num: 1, psn: 0, reads_responder: 8, reads_initiator: 2 };
        assert_eq!(Reads::agreed(ours, &peer), Reads { responder: 2, initiator: 4 });
    }

    #[test]
    fn chains_are_linked_to_their_ends() {
        let mut chain = [ibv_send_wr::default(); 3];
        let first = link_chain(&mut chain, |wr, next| wr.next = next).unwrap();
        let second = chain[0].next;
        assert_eq!(second, first.wrapping_add(1));
        assert_eq!(chain[1].next, first.wrapping_add(2));
        assert!(chain[2].next.is_null());
        assert!(link_chain(&mut [] as &mut [ibv_send_wr], |wr, next| wr.next = next).is_none());
    }
}
