//! Waiting in a poll set: what the set looks at for a queue pair.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use rdma_rpc_core::poll_set::{Look, PollSet};

use super::control::ControlBlock;
use super::cq_ring::peek_at;
use super::mapping::prefetch_address;
use super::qp::ShmQueuePair;
use super::regions::ShmRegion;
use crate::verbs::VerbError;

/// Of so many scans, one looks at the words that seldom change.
const SELDOM: u64 = 16;

/// The words a queue pair waits for.
#[derive(Debug)]
pub(super) struct Watch {
    own: Arc<ControlBlock>,
    peer: Arc<ControlBlock>,
    /// Of the next completion.
    position: AtomicU64,
    /// Where what the completion tells of will lie. An address, because nobody needs it to be one.
    expected: AtomicUsize,
    /// Socket messages received: the peer announces when there are more.
    messages: AtomicU64,
}

impl Watch {
    pub(super) fn new(own: Arc<ControlBlock>, peer: Arc<ControlBlock>) -> Watch {
        Watch {
            own,
            peer,
            position: AtomicU64::new(0),
            expected: AtomicUsize::new(0),
            messages: AtomicU64::new(0),
        }
    }

    pub(super) fn expect_at(&self, region: &ShmRegion, offset: usize) {
        self.expected.store(region.address(offset), Ordering::Relaxed);
    }
}

impl Look for Watch {
    /// One word as a rule. If the owner took the entry since and does not wait yet, this says
    /// yes once too often, which is harmless.
    #[inline]
    fn has_news(&self, scan: u64) -> bool {
        if peek_at(self.own.entries(), self.position.load(Ordering::Relaxed)).is_some() {
            // A set looks at others before the owner has its turn: time to fetch it.
            prefetch_address(self.expected.load(Ordering::Relaxed));
            return true;
        }
        scan.is_multiple_of(SELDOM)
            && (self.peer.state().load(Ordering::Acquire) != 0
                || self.peer.announced().load(Ordering::Acquire)
                    > self.messages.load(Ordering::Relaxed))
    }
}

impl ShmQueuePair {
    /// [`crate::verbs::QueuePair::poll_event_in`]. What is not a word in shared memory (a
    /// deadline, a request held up, a full socket) is waited for with the kernel instead.
    pub(super) fn wait_in_set(
        &mut self,
        cx: &mut Context<'_>,
        set: &PollSet,
    ) -> Poll<Result<(), VerbError>> {
        let words_suffice = self.ended().is_none()
            && self.blocked.is_none()
            && !self.regions.has_unsent()
            && self.consumer.outstanding() > 0;
        if !words_suffice {
            return self.wait_for_event(cx);
        }
        if self.has_work() {
            return Poll::Ready(Ok(()));
        }
        // The peer's death is told by the kernel; its messages too, at the latest.
        let mut reactor = self.take_reactor()?;
        let taken = self.poll_socket(&mut reactor, cx);
        self.reactor = Some(reactor);
        if taken.is_ready() {
            return taken;
        }
        let watch = self.watched.source();
        watch.position.store(self.consumer.position(), Ordering::Relaxed);
        watch.messages.store(self.received_messages, Ordering::Relaxed);
        set.watch(&self.watched, cx.waker());
        Poll::Pending
    }
}
