//! What a link keeps of each direction, and of its end.

use std::collections::VecDeque;

use rdma_rpc_core::link::LinkError;

use super::bulk_pull::Finished;
use super::cache_share::CacheShare;
use super::credits::{Arrived, ReceiveCredits, SendCredits};
use super::send_queue::SendQueue;
use super::staging::{Burst, Staging};
use crate::verbs::RemoteAddr;

/// What is needed to send.
///
/// In this order in memory: what each call touches comes first, so that it lies in few cache lines.
#[repr(C)]
pub(super) struct Sender<R> {
    pub(super) write_with_imm: bool,
    /// "Credit wanted" was sent and not answered yet.
    pub(super) asked: bool,
    /// A flush left something behind.
    pub(super) flush_blocked: bool,
    /// The staging ring.
    pub(super) region: R,
    /// The peer's ring, unless the peer views ours.
    pub(super) ring: Option<RemoteAddr>,
    pub(super) max_frame_bytes: usize,
    /// The frame length that found no room.
    pub(super) want_room: Option<usize>,
    pub(super) staging: Staging,
    pub(super) credits: SendCredits,
    pub(super) queue: SendQueue,

    pub(super) peer_cell: RemoteAddr,
    /// Where the peer writes our credit.
    pub(super) cell: R,
    /// The bulk length that found no buffer.
    pub(super) want_bulk: Option<usize>,
    pub(super) bulk_threshold_bytes: Option<usize>,
    pub(super) max_bulk_bytes: usize,
    pub(super) lend_threshold_bytes: Option<usize>,
    pub(super) cache_share: CacheShare,
}

impl<R> Sender<R> {
    /// The position up to which staging memory may be filled: the peer has released the ring
    /// there, and our own device, if it reads staging memory at all, has finished with it.
    pub(super) fn fill_limit(&self) -> u64 {
        let released = self.credits.writable_until();
        if self.ring.is_none() {
            return released;
        }
        released.min(self.queue.staging_done() + self.staging.ring_bytes())
    }

    /// The position up to which the device reads staging memory for a burst.
    pub(super) fn device_reads_until(&self, burst: &Burst) -> u64 {
        if self.ring.is_none() { self.queue.staging_posted() } else { burst.end }
    }

    /// Requests a burst takes: a WRITE and a SEND that tells of it, or what does both, or what only
    /// tells.
    pub(super) fn burst_requests(&self) -> u64 {
        if self.write_with_imm || self.ring.is_none() { 1 } else { 2 }
    }
}

/// What is needed to receive.
///
/// In this order in memory: what each call touches comes first, so that it lies in few cache lines.
#[repr(C)]
pub(super) struct Receiver<R> {
    /// Whether it is copied out frame by frame, and not in `scratch`.
    pub(super) in_ring: bool,
    /// There may be a reason to tell the peer of credit, or to post receives again.
    pub(super) credit_due: bool,
    /// The device was asked for completions and had no more; its owner has not been told so yet.
    pub(super) drained: bool,
    pub(super) ring: R,
    pub(super) long_frame_bytes: usize,
    /// The burst whose frames are given out: its length, where it lay, and its next frame.
    pub(super) burst_bytes: usize,
    pub(super) burst_position: u64,
    pub(super) cursor: usize,
    /// Receives the device holds.
    pub(super) receives_posted: u64,
    /// Receives consumed that may be posted again.
    pub(super) receives_due: u64,
    /// They are posted so many at a time, unless there is a reason to hurry.
    pub(super) receive_batch: u64,
    pub(super) credits: ReceiveCredits,
    /// Bursts that wait to be copied out. As many as there are receives for data, at most.
    pub(super) arrived: VecDeque<Arrived>,
    /// What is lent frame by frame: private memory, as long as the longest such burst so far.
    pub(super) scratch: Vec<u8>,
    pub(super) finished: VecDeque<Finished>,
    /// The peer sleeps until more bursts than this are released.
    pub(super) wanted: Option<u64>,

    /// The count of the last answer.
    pub(super) answered_bursts: u64,
    pub(super) max_pull_bytes: u64,
    /// The message length that could not be pulled at once.
    pub(super) want_pull: Option<usize>,
}

impl<R> Receiver<R> {
    /// Something was released: whether there is a reason to see to credit.
    #[inline]
    pub(super) fn look_at_credit(&mut self) {
        self.credit_due = self.wanted.is_some()
            || self.receives_due >= self.receive_batch
            || self.credits.untold_eighths(1);
    }
}

/// How the link ends.
///
/// In this order in memory: what each call touches comes first, so that it lies in few cache lines.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Ending {
    /// The reason is only that something was flushed: a better one may follow.
    pub(super) failed_by_flush: bool,
    /// The bootstrap connection has closed.
    pub(super) liveness_closed: bool,
    /// The peer said that nothing follows.
    pub(super) peer_closed: bool,
    /// `poll_close` was called.
    pub(super) closing: bool,
    /// Our close was posted.
    pub(super) close_posted: bool,
    /// Our close has reached the peer, and so has everything before it.
    pub(super) close_done: bool,

    /// The queue pair has failed, for this reason. What has arrived is still delivered.
    pub(super) failed: Option<LinkError>,
    /// The link is over; every call says so.
    pub(super) over: Option<LinkError>,
}

impl Ending {
    /// Whether anything of it has happened.
    pub(super) fn has_begun(&self) -> bool {
        self.failed.is_some()
            || self.peer_closed
            || self.closing
            || self.liveness_closed
            || self.over.is_some()
    }
}
