//! The ring as a link: the contract's methods.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use rdma_rpc_core::link::{
    BulkDescriptor, FrameSink, Link, LinkError, LinkErrorKind, LinkInfo, LinkLimits, Received,
};
use rdma_rpc_core::poll_set::PollSet;
use rdma_rpc_core::standing::StandingWaker;
use rdma_rpc_core::upgrade::Liveness;

use super::bulk_pull::{Finished, Pulls};
use super::bulk_send::{BulkSendPool, Described};
use super::copy_out::NextFrame;
use super::error::verb_failed;
use super::halves::{Ending, Receiver, Sender};
use super::layout::{FRAME_PREFIX_BYTES, begin_frame};
use super::pull_pool::PullPool;
use super::wait::SHORT_ANSWER_BYTES;
use crate::verbs::{QueuePair, Region, VerbError};

/// A burst costs about as much as a call, so that more frames together would save little; and a peer
/// that sleeps is woken the later.
const FLUSH_FRAMES: u32 = 16;

/// Ordered, reliable frames through a pair of rings. See the [module](super) for how.
///
/// An owner may spin on `receive`, `reserve` and `flush` alone and will never be stuck for want of
/// credit; but only `poll_ready` and `poll_close` look at the bootstrap connection, so it should
/// call one of them now and then to learn of a peer that died without a word.
///
/// In this order in memory: what each call touches comes first, so that it lies in few cache lines.
#[repr(C)]
pub struct RingLink<Q: QueuePair> {
    // First, so that it is dropped first: with the queue pair destroyed no request is
    // outstanding when the regions below go.
    pub(super) queue_pair: Q,
    /// The last request that took a data slot was a READ: where slots are short, data is next.
    pub(super) read_was_last: bool,
    /// It waits in a poll set, or did until what has not been received yet.
    pub(super) waits_in_set: bool,
    /// There was no memory to register; bulk waits for some.
    pub(super) starved: bool,
    /// The device refused a post though slots were free; try again soon.
    pub(super) device_full: bool,
    pub(super) liveness: Option<Box<dyn Liveness>>,
    pub(super) liveness_waker: StandingWaker,
    pub(super) sender: Sender<Q::Region>,
    pub(super) receiver: Receiver<Q::Region>,
    pub(super) ending: Ending,
    pub(super) pulls: Pulls<Q::Region>,

    pub(super) bulk_out: BulkSendPool<Q::Region>,
    pub(super) pull_pool: Arc<PullPool<Q::Region>>,
    pub(super) transport: &'static str,
    pub(super) peer: String,
}

/// What a link holds at this moment, for metrics and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RingUsage {
    /// Bulk buffers the peer has been told of and has not released.
    pub bulk_buffers_busy: usize,
    /// Buffers being pulled into, or lent out as `Bytes`.
    pub pull_buffers_busy: usize,
    /// Receives the device holds.
    pub receives_posted: u64,
}

impl<Q: QueuePair> fmt::Debug for RingLink<Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RingLink")
            .field("transport", &self.transport)
            .field("peer", &self.peer)
            .field("staging", &self.sender.staging)
            .field("send_credits", &self.sender.credits)
            .field("send_queue", &self.sender.queue)
            .field("asked", &self.sender.asked)
            .field("receive_credits", &self.receiver.credits)
            .field("arrived", &self.receiver.arrived.len())
            .field("wanted", &self.receiver.wanted)
            .field("ending", &self.ending)
            .field("usage", &self.usage())
            .finish_non_exhaustive()
    }
}

impl<Q: QueuePair> Drop for RingLink<Q> {
    fn drop(&mut self) {
        self.pull_pool.close();
    }
}

impl<Q: QueuePair> RingLink<Q> {
    /// Watches the peer by `liveness` from now on: the bootstrap needs its socket until both ends
    /// have agreed to move to the link.
    pub fn set_liveness(&mut self, liveness: Box<dyn Liveness>) {
        self.liveness = Some(liveness);
        self.liveness_waker = StandingWaker::default();
    }

    /// What the link holds now.
    pub fn usage(&self) -> RingUsage {
        RingUsage {
            bulk_buffers_busy: self.bulk_out.busy(),
            pull_buffers_busy: self.pull_pool.busy(),
            receives_posted: self.receiver.receives_posted,
        }
    }

    pub(super) fn check_over(&self) -> Result<(), LinkError> {
        match &self.ending.over {
            None => Ok(()),
            Some(error) => Err(error.clone()),
        }
    }

    /// Ends the link for good.
    pub(super) fn end(&mut self, error: LinkError) -> LinkError {
        if error.kind() != LinkErrorKind::Closed {
            self.queue_pair.fail();
        }
        self.ending.over.get_or_insert(error).clone()
    }

    /// Ends the link if `result` is an error.
    pub(super) fn ending<T>(&mut self, result: Result<T, LinkError>) -> Result<T, LinkError> {
        result.map_err(|error| self.end(error))
    }

    /// Whether nothing can be sent any more, though there may be things to receive.
    fn send_is_over(&self) -> bool {
        self.ending.failed.is_some() || self.ending.peer_closed || self.ending.closing
    }
}

impl<Q: QueuePair> FrameSink for RingLink<Q> {
    fn limits(&self) -> LinkLimits {
        LinkLimits {
            max_frame_bytes: self.sender.max_frame_bytes,
            bulk_threshold_bytes: self.sender.bulk_threshold_bytes,
            max_bulk_bytes: self.sender.max_bulk_bytes,
            lend_threshold_bytes: self.sender.lend_threshold_bytes,
        }
    }

    fn prefers_frame(&self, len: usize, calls: usize) -> bool {
        self.sender.cache_share.takes(len, calls)
    }

    fn reserve(&mut self, len: usize) -> Result<Option<&mut [u8]>, LinkError> {
        self.check_over()?;
        if len > self.sender.max_frame_bytes {
            return Err(LinkError::io(format!(
                "a frame of {len} bytes was reserved; the longest is {}",
                self.sender.max_frame_bytes
            )));
        }
        if self.send_is_over() {
            return Ok(None);
        }
        let mut place = self.sender.staging.join(len);
        if place.is_none() {
            place = self.sender.staging.reserve(len, self.sender.fill_limit());
        }
        if place.is_none() {
            self.progress()?;
            self.look_at_cell()?;
            let limit = self.sender.fill_limit();
            place = self.sender.staging.reserve(len, limit);
            if place.is_none() {
                self.sender.staging.ran_short(limit);
            }
        }
        let Some(slot) = place else {
            self.sender.want_room = Some(len);
            return Ok(None);
        };
        self.sender.want_room = None;
        if let Some(ahead) = self.sender.staging.close_ahead(&slot) {
            self.sender.region.will_write(ahead.offset, ahead.len_bytes);
        }
        let bytes = &mut self.sender.region.bytes_mut()[slot.offset..][..slot.slot_bytes];
        begin_frame(bytes, len);
        Ok(Some(&mut bytes[FRAME_PREFIX_BYTES as usize..][..len]))
    }

    #[inline]
    fn commit(&mut self) {
        self.sender.staging.commit();
    }

    fn bulk_reserve(&mut self, len: usize) -> Result<Option<&mut [u8]>, LinkError> {
        self.check_over()?;
        if len > self.sender.max_bulk_bytes {
            return Err(LinkError::io(format!(
                "a bulk message of {len} bytes was reserved; the longest is {}",
                self.sender.max_bulk_bytes
            )));
        }
        if self.send_is_over() {
            return Ok(None);
        }
        self.sender.want_bulk = None;
        match self.bulk_out.prepare(&mut self.queue_pair, len) {
            Ok(true) => return Ok(self.bulk_out.filling()),
            Ok(false) => {}
            Err(error) if error.is_out_of_memory() => self.starve(&error),
            Err(error) => return Err(verb_failed(&error)),
        }
        self.sender.want_bulk = Some(len);
        Ok(None)
    }

    /// # Panics
    /// If no `bulk_reserve` has lent a buffer since the last commit: there is nothing to describe.
    fn bulk_commit(&mut self) -> BulkDescriptor {
        self.bulk_out.commit().expect("bulk_commit follows a bulk_reserve that lent a buffer")
    }

    fn bulk_lend(&mut self, body: &Bytes) -> Result<Option<BulkDescriptor>, LinkError> {
        self.check_over()?;
        if self.send_is_over() || body.len() > self.sender.max_bulk_bytes {
            return Ok(None);
        }
        Ok(self.bulk_out.lend(&mut self.queue_pair, body))
    }

    fn bulk_release(&mut self, descriptor: &BulkDescriptor) -> Result<(), LinkError> {
        self.check_over()?;
        let released = self.bulk_out.release(&mut self.queue_pair, descriptor);
        self.starved = false;
        self.ending(released)
    }

    fn bulk_pull(
        &mut self,
        ticket: u64,
        descriptor: &BulkDescriptor,
        len: usize,
    ) -> Result<bool, LinkError> {
        self.check_over()?;
        let described = self.check_described(descriptor, len);
        let described = self.ending(described)?;
        self.begin_pull(ticket, described, len)
    }
}

impl<Q: QueuePair> RingLink<Q> {
    /// There is no memory to register: bulk waits until some is given back, by this link or by
    /// another one of the device.
    pub(super) fn starve(&mut self, error: &VerbError) {
        if !self.starved {
            tracing::warn!(peer = %self.peer, %error, "a long message waits for memory");
        }
        self.starved = true;
    }

    /// What comes when the last burst's frames have been given out: another burst, a message that
    /// was pulled, or the end.
    fn receive_more(&mut self) -> Result<Option<Received<'_>>, LinkError> {
        // What came since the first look is as well seen at the next.
        let look_again = !self.receiver.drained || self.queue_pair.may_have_completions();
        if !self.has_received() && look_again {
            self.progress()?;
        }
        if let Some(finished) = self.receiver.finished.pop_front() {
            let Finished { ticket, message } = finished;
            return Ok(Some(Received::Pulled { ticket, message }));
        }
        if self.receiver.cursor >= self.receiver.burst_bytes
            && (self.receiver.arrived.is_empty() || !self.copy_out_burst()?)
        {
            self.receiver.drained = false;
            return match self.end_of_stream() {
                None => Ok(None),
                Some(error) => Err(self.end(error)),
            };
        }
        self.lend_frame()
    }

    #[inline]
    fn lend_frame(&mut self) -> Result<Option<Received<'_>>, LinkError> {
        let frame = self.next_frame();
        Ok(Some(match self.ending(frame)? {
            NextFrame::InScratch(range) => Received::Frame(&self.receiver.scratch[range]),
            NextFrame::Own(frame) => Received::Owned(frame),
        }))
    }

    fn check_described(
        &self,
        descriptor: &BulkDescriptor,
        len: usize,
    ) -> Result<Described, LinkError> {
        let described = Described::decode(descriptor)?;
        if described.len != len as u64 {
            return Err(LinkError::misbehaved(format!(
                "bulk descriptor, byte 8: {} bytes; the message is said to have {len}",
                described.len
            )));
        }
        if described.len > self.receiver.max_pull_bytes {
            return Err(LinkError::misbehaved(format!(
                "bulk descriptor, byte 8: {} bytes; the most this side pulls is {}",
                described.len, self.receiver.max_pull_bytes
            )));
        }
        if described.at.offset(described.len).is_none() {
            return Err(LinkError::misbehaved(format!(
                "bulk descriptor, byte 0: {} bytes from address {:#x} on run over the address \
                 space",
                described.len, described.at.addr
            )));
        }
        Ok(described)
    }
}

impl<Q: QueuePair> Link for RingLink<Q> {
    fn flush(&mut self) -> Result<(), LinkError> {
        self.check_over()?;
        self.sender.flush_blocked = false;
        if self.has_unsent() {
            self.post_bursts()?;
        }
        if self.has_unsent() {
            // Completions may free slots, and the cell may hold credit: look, then try again.
            self.progress()?;
            self.look_at_cell()?;
            self.post_bursts()?;
            self.sender.flush_blocked = self.has_unsent();
        }
        self.return_credit(false)
    }

    fn flush_frames(&self) -> u32 {
        FLUSH_FRAMES
    }

    fn flushes_early(&self) -> bool {
        true
    }

    #[inline]
    fn receive(&mut self) -> Result<Option<Received<'_>>, LinkError> {
        self.check_over()?;
        let receiver = &self.receiver;
        if receiver.cursor < receiver.burst_bytes && receiver.finished.is_empty() {
            return self.lend_frame();
        }
        self.receive_more()
    }
    fn has_unsent(&self) -> bool {
        !self.sender.staging.is_empty()
    }

    fn may_have_news(&self) -> bool {
        if self.queue_pair.may_have_completions() {
            let receiver = &self.receiver;
            receiver.ring.prefetch(receiver.credits.next_offset());
            self.fetch_ahead(SHORT_ANSWER_BYTES);
            return true;
        }
        self.holds_news()
    }

    fn holds_news(&self) -> bool {
        let (sender, receiver) = (&self.sender, &self.receiver);
        self.has_received()
            || self.has_unsent()
            || sender.want_room.is_some()
            || sender.want_bulk.is_some()
            || receiver.want_pull.is_some()
            || receiver.wanted.is_some()
            || self.pulls.is_active()
            || self.ending.has_begun()
    }

    fn looks_per_pass(&self) -> u32 {
        self.queue_pair.looks_per_pass()
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        self.wait_ready(cx, None)
    }

    fn was_woken_here(&mut self) -> Option<bool> {
        Some(self.queue_pair.was_woken_here())
    }

    fn poll_ready_in(
        &mut self,
        cx: &mut Context<'_>,
        set: &PollSet,
    ) -> Poll<Result<(), LinkError>> {
        self.wait_ready(cx, Some(set))
    }

    fn leave_set(&mut self) {
        self.queue_pair.leave_set();
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        self.wait_closed(cx)
    }

    fn info(&self) -> LinkInfo {
        LinkInfo::new(self.transport, self.queue_pair.device(), self.peer.clone())
    }
}
