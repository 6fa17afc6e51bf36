//! What a connection tells the crowd of its runtime of its calls, and what callers may conclude from that.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::owner::Owner;
use crate::crowd::Crowd;
use crate::link::Link;

/// Who may poll the link in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Poller {
    /// No caller.
    Nobody,
    OnlyCaller,
    /// One of those on other threads.
    Scout,
}

/// The open calls of a client's connection, as far as was known when its lock was last let go.
///
/// In this order in memory: what each call touches lies together.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Counts {
    /// A [`Poller`].
    poller: AtomicU8,
    /// All of them are of other threads than the runtime's; the crowd counts such connections.
    outside: AtomicBool,
    /// What the crowd's count has of them: those that wait for what is likely to come soon.
    calls: AtomicUsize,
    /// The runtime's, once the driver runs there and where it polls.
    crowd: OnceLock<Arc<Crowd>>,
}

impl Counts {
    pub(super) fn crowd(&self) -> Option<&Crowd> {
        self.crowd.get().map(|crowd| &**crowd)
    }

    /// The driver runs among these.
    pub(super) fn joins(&self, crowd: &Arc<Crowd>) {
        // A connection has one driver.
        if self.crowd.set(Arc::clone(crowd)).is_ok() {
            crowd.members.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[inline]
    pub(super) fn is_for(&self, whom: Poller) -> bool {
        self.poller.load(Ordering::Relaxed) == whom as u8
    }

    /// Whether calls of other connections wait for their answers on the driver's threads, one for each
    /// thread at least: then a caller that polls in place keeps somebody waiting.
    pub(super) fn is_crowded(&self) -> bool {
        self.crowd().is_some_and(|crowd| {
            let all = crowd.waiting_calls.load(Ordering::Relaxed);
            all.saturating_sub(self.calls.load(Ordering::Relaxed)) >= crowd.threads
        })
    }

    /// Whether the crowd counts calls of this connection.
    pub(super) fn is_counted(&self) -> bool {
        self.calls.load(Ordering::Relaxed) > 0
    }

    /// Whether all open calls are of other threads than the runtime's.
    pub(super) fn is_outside(&self) -> bool {
        self.outside.load(Ordering::Relaxed)
    }

    /// The driver's word on how many calls wait for answers that are likely to come soon.
    pub(super) fn count_calls(&self, calls: usize) {
        // Those of other threads keep nobody waiting whom a caller's polling could.
        let calls = if self.is_outside() { 0 } else { calls };
        let counted = self.calls.load(Ordering::Relaxed);
        if counted == calls {
            return;
        }
        let Some(crowd) = self.crowd() else { return };
        if counted == 0 && crowd.members.load(Ordering::Relaxed) < 2 {
            // Its own calls are no crowd to a connection, and nobody else asks.
            return;
        }
        self.calls.store(calls, Ordering::Relaxed);
        // Wraps if there are fewer than before, as it is meant to.
        crowd.waiting_calls.fetch_add(calls.wrapping_sub(counted), Ordering::Relaxed);
    }

    #[inline]
    fn count_outside(&self, outside: bool) {
        if self.is_outside() != outside
            && let Some(crowd) = self.crowd()
        {
            self.outside.store(outside, Ordering::Relaxed);
            crowd.count_outside(outside);
        }
    }

    /// Before the lock is let go.
    #[inline]
    pub(super) fn note<L: Link>(&self, owner: &Owner<L>) {
        // Of what is over nobody waits for anything.
        let open = if owner.dead.is_none() { owner.session.open_streams() } else { 0 };
        self.count_outside(open > 0 && owner.scouting.is_outside());
        if self.is_counted() != (open > 0 && !self.is_outside()) {
            self.count_calls(open);
        }
        let poller = match open {
            1 => Poller::OnlyCaller,
            2.. if owner.scouting.is_possible() => Poller::Scout,
            _ => Poller::Nobody,
        };
        if !self.is_for(poller) {
            self.poller.store(poller as u8, Ordering::Relaxed);
        }
    }
}

impl Drop for Counts {
    fn drop(&mut self) {
        if let Some(crowd) = self.crowd() {
            crowd.members.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
