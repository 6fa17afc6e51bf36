//! A worker: the completion queues of the connections that live in one runtime.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::device::Device;
use super::seat::Seat;
use super::shared_cq::SharedCq;
use crate::verbs::VerbError;

/// Entries of the first completion queue of a device; each further one has twice as many.
const FIRST_ENTRIES: u32 = 2048;
/// Entries of the longest.
const MOST_ENTRIES: u32 = 64 * 1024;

/// Where connections of one channel, or of one worker thread of a server, have their completion
/// queues: one for all on a device, and another when that one's entries are all promised. A queue
/// goes with its last connection, so an idle server holds no device.
#[derive(Debug, Default)]
pub(super) struct Worker {
    queues: Mutex<Vec<Weak<SharedCq>>>,
}

impl Worker {
    /// A seat for a queue pair with so many requests and receives.
    pub(super) fn seat(&self, device: &Arc<Device>, entries: u32) -> Result<Arc<Seat>, VerbError> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.retain(|queue| queue.strong_count() > 0);
        let mut of_device = 0;
        for shared in queues.iter().filter_map(Weak::upgrade) {
            if !Arc::ptr_eq(shared.device(), device) || shared.is_broken() {
                continue;
            }
            of_device += 1;
            if let Some(inbox) = shared.join(entries) {
                return Ok(Arc::new(Seat { shared, inbox }));
            }
        }
        let most = MOST_ENTRIES.min(device.facts().limits.max_cqe);
        let wanted = FIRST_ENTRIES.saturating_mul(1 << of_device.min(16)).min(most);
        let shared = SharedCq::new(device, wanted.max(entries))?;
        queues.push(Arc::downgrade(&shared));
        let inbox = shared.join(entries).ok_or_else(|| VerbError {
            verb: "ibv_create_cq",
            errno: rustix::io::Errno::NOMEM.raw_os_error(),
            context: format!("a queue of {entries} entries has no room for as many"),
        })?;
        Ok(Arc::new(Seat { shared, inbox }))
    }
}
