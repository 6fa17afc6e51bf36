//! Waiting in a poll set: what the set looks at for a queue pair.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use rdma_rpc_core::poll_set::{Look, PollSet};

use super::control::ControlBlock;
use super::cq_ring::{entry_address, peek_at};
use super::prefetch::{SHORT_BURST_BYTES, prefetch_line, prefetch_read, prefetch_write};
use super::qp::ShmQueuePair;
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
    /// What will be touched after the completion: where what it tells of lies, where the answer is
    /// made and where the peer is told. Addresses, because nobody needs them to be more.
    expected: [AtomicUsize; 3],
    /// Socket messages received: the peer announces when there are more.
    messages: AtomicU64,
}

impl Watch {
    pub(super) fn new(own: Arc<ControlBlock>, peer: Arc<ControlBlock>) -> Watch {
        Watch {
            own,
            peer,
            position: AtomicU64::new(0),
            expected: Default::default(),
            messages: AtomicU64::new(0),
        }
    }

    pub(super) fn expect(&self, addresses: [usize; 3]) {
        for (kept, address) in self.expected.iter().zip(addresses) {
            kept.store(address, Ordering::Relaxed);
        }
    }

    /// Others are looked at before the owner has its turn: time to fetch what it needs.
    fn prefetch_expected(&self) {
        let [arrived, written @ ..] = &self.expected;
        prefetch_read(arrived.load(Ordering::Relaxed));
        prefetch_read(std::ptr::from_ref(self.peer.state()).addr());
        for address in written {
            prefetch_write(address.load(Ordering::Relaxed), SHORT_BURST_BYTES);
        }
    }
}

impl Look for Watch {
    #[inline]
    fn prefetch(&self) {
        let position = self.position.load(Ordering::Relaxed);
        prefetch_line(entry_address(self.own.entries(), position));
    }

    /// One word as a rule. If the owner took the entry since and does not wait yet, this says
    /// yes once too often, which is harmless.
    #[inline]
    fn has_news(&self, scan: u64) -> bool {
        if peek_at(self.own.entries(), self.position.load(Ordering::Relaxed)).is_some() {
            self.prefetch_expected();
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
        if !self.reactor.as_ref().is_some_and(|reactor| reactor.is_socket_quiet(cx.waker())) {
            let mut reactor = self.take_reactor()?;
            let taken = self.poll_socket(&mut reactor, cx);
            self.reactor = Some(reactor);
            if taken.is_ready() {
                return taken;
            }
        }
        let watch = self.watched.source();
        watch.position.store(self.consumer.position(), Ordering::Relaxed);
        watch.messages.store(self.received_messages, Ordering::Relaxed);
        set.watch(&self.watched, cx.waker());
        Poll::Pending
    }
}
