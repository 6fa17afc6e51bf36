//! What a completion of the device means to its queue pair. A device that contradicts itself is not
//! trusted any further, and a peer that sends what no ring sends fails the connection.

use rustix::io::Errno;

use super::error::failed;
use super::ffi::{self, ibv_wc_opcode, ibv_wc_status};
use super::queue_pair::{IMM_BYTES, IbvQueuePair};
use super::status::status_of;
use super::wr_id::WrId;
use crate::verbs::{Completed, Completion, Region, Status, VerbError};

impl IbvQueuePair {
    pub(super) fn translate(&mut self, wc: &ffi::ibv_wc) -> Completion {
        let id = WrId::from_raw(ffi::wc_wr_id(wc));
        let status = status_of(ffi::wc_status(wc));
        if status != Status::Success {
            if status != Status::Flushed {
                let (device, qp) = (self.device_name(), ffi::wc_qp_num(wc));
                let vendor = ffi::wc_vendor_err(wc);
                tracing::debug!(%device, qp, ?status, vendor, "a work request failed");
                let number = ffi::wc_status(wc);
                self.fail_because(Some(VerbError {
                    verb: "ibv_poll_cq",
                    errno: Errno::NOTCONN.raw_os_error(),
                    context: format!(
                        "{device}: queue pair {qp}: a work request failed: {status:?} (status \
                         {number}, vendor error {vendor})"
                    ),
                }));
            }
            self.fail_because(None);
        }
        if !id.is_receive() {
            let position = id.number_after(self.sends.freed());
            let Some(id) = self.sends.completed(position) else {
                return self.broken_completion("a request that was not outstanding has completed");
            };
            return Completion { what: Completed::Send { id }, status };
        }
        if self.receives_completed == self.receives_posted {
            return self.broken_completion("a receive that was not posted has completed");
        }
        let number = id.number_after(self.receives_completed);
        self.receives_completed += 1;
        if status != Status::Success {
            return Completion { what: Completed::Receive { imm: 0 }, status };
        }
        match self.immediate(wc, number) {
            Some(imm) => Completion { what: Completed::Receive { imm }, status },
            None => {
                let why = format!(
                    "the peer sent what no ring sends (opcode {}, {} bytes)",
                    ffi::wc_opcode(wc),
                    ffi::wc_byte_len(wc)
                );
                let error = failed("ibv_poll_cq", Errno::PROTO.raw_os_error(), why);
                self.fail_because(Some(error));
                let status = Status::Other(ibv_wc_status::IBV_WC_BAD_RESP_ERR);
                Completion { what: Completed::Receive { imm: 0 }, status }
            }
        }
    }

    /// The device contradicts itself: nothing it says of this queue pair can be trusted.
    fn broken_completion(&mut self, what: &str) -> Completion {
        let why = format!("{}: {what}", self.device_name());
        self.fail_because(Some(failed("ibv_poll_cq", Errno::PROTO.raw_os_error(), why)));
        let status = Status::Other(ibv_wc_status::IBV_WC_BAD_RESP_ERR);
        Completion { what: Completed::Receive { imm: 0 }, status }
    }

    /// The immediate of a receive, or of the SEND that stands for one.
    fn immediate(&self, wc: &ffi::ibv_wc, number: u64) -> Option<u32> {
        match &self.received {
            None => {
                let with_imm = ffi::wc_opcode(wc) == ibv_wc_opcode::IBV_WC_RECV_RDMA_WITH_IMM;
                with_imm.then(|| ffi::wc_imm_data(wc))
            }
            Some(region) => {
                let sent = ffi::wc_opcode(wc) == ibv_wc_opcode::IBV_WC_RECV
                    && ffi::wc_byte_len(wc) == IMM_BYTES as u32;
                if !sent {
                    return None;
                }
                let mut bytes = [0; IMM_BYTES];
                region.read(self.receive_place(number), &mut bytes);
                Some(u32::from_le_bytes(bytes))
            }
        }
    }

    pub(super) fn receive_place(&self, number: u64) -> usize {
        let depth = u64::from(self.caps.receive_depth) + 1;
        (number % depth) as usize * IMM_BYTES
    }
}
