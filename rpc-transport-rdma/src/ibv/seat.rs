//! A connection's place at a shared completion queue, and who looks at it.

use std::sync::Arc;

use rdma_rpc_core::poll_set::Look;

use super::events::Listener;
use super::shared_cq::{Inbox, SharedCq};

/// A connection's place at a shared completion queue.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) shared: Arc<SharedCq>,
    pub(super) inbox: Arc<Inbox>,
}

impl Listener for Seat {
    fn failed(&self, why: &str) {
        let key = self.inbox.key();
        self.shared.fail(|other| other == key, why);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shared.leave(&self.inbox);
    }
}

/// A seat as a poll set looks at it: the queue once a scan for all, then the inbox.
#[derive(Debug)]
pub(super) struct SeatLook(pub(super) Arc<Seat>);

impl Look for SeatLook {
    fn has_news(&self, scan: u64) -> bool {
        self.0.shared.look(scan);
        !self.0.inbox.is_idle()
    }
}
