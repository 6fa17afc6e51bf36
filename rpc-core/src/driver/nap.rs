//! The driver's nap: while a caller polls the link, the driver leaves it alone.

use std::task::Waker;

use super::owner::Owner;
use crate::link::Link;

impl<L: Link> Owner<L> {
    /// Whether there is something that only the driver does: a caller that polls serves itself.
    pub(super) fn needs_driver(&self) -> bool {
        self.dead.is_some()
            || self.pull_due
            || self.session.is_going_away()
            || self.session.open_streams() > 1
            || !self.calls.batch.arrivals.is_empty()
    }

    /// Whether the driver may leave the link to a caller that polls it; then it is woken when
    /// the caller stops, or when there is something for the driver.
    pub(super) fn nap(&mut self, driver: &Waker, crowded: bool) -> bool {
        let may = std::mem::take(&mut self.help_passes) > 0 && !crowded && !self.needs_driver();
        self.napper = may.then(|| driver.clone());
        may
    }

    /// A caller stops to poll, without an answer: whoever naps meanwhile takes over.
    pub(super) fn end_help(&mut self) {
        self.help_passes = 0;
        self.wake_napper();
    }

    pub(super) fn wake_napper(&mut self) {
        if let Some(napper) = self.napper.take() {
            napper.wake();
        }
    }
}
