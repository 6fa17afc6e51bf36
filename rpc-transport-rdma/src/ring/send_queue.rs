//! Slots of the send queue: who may take one, and which requests are signalled.
//!
//! Slots are counted here; the device is never asked. A request holds its slot until a signalled
//! request at or after it has completed, so an unsignalled tail must never fill what data may
//! use, nor hold more than an eighth of the staging ring: with nothing in flight there is always
//! room for the longest burst and for control.

use std::collections::VecDeque;

use rdma_rpc_core::link::LinkError;

use super::config::CONTROL_REQUESTS;
use super::staging::CALM_BYTES;
use crate::fifo;

/// A request whose completion will be seen.
#[derive(Debug, Clone, Copy)]
struct Signaled {
    id: u64,
    /// Staging memory before this position is free once it completed.
    staging_end: u64,
    what: Kind,
}

/// What a signalled request was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A burst or credit.
    Plain,
    /// A READ for the pull in this slot.
    Read {
        /// Index of the pull.
        pull: usize,
    },
    /// The close.
    Close,
}

/// The send queue as the ring counts it.
#[derive(Debug)]
pub(super) struct SendQueue {
    depth: u64,
    /// At least every so many requests one is signalled.
    signal_every: u64,
    /// So many unsignalled bytes of staging at most.
    signal_bytes: u64,
    /// Requests posted since the start; a request's id is its number.
    posted: u64,
    /// Requests known to be done.
    completed: u64,
    /// The last signalled request.
    last_signaled: u64,
    /// Staging position up to which requests were posted.
    staging_posted: u64,
    /// Up to which they were signalled.
    staging_signaled: u64,
    /// Up to which they are done.
    staging_done: u64,
    log: VecDeque<Signaled>,
}

impl SendQueue {
    pub(super) fn new(depth: u32, ring_bytes: u64) -> SendQueue {
        let depth = u64::from(depth);
        SendQueue {
            depth,
            // A quarter of the queue; with less than 8 slots every request.
            signal_every: if depth < 8 { 1 } else { (depth / 4).min(64) },
            // Less than what a ring has in any case before it begins again.
            signal_bytes: (ring_bytes / 8).min(CALM_BYTES / 2),
            posted: 0,
            completed: 0,
            last_signaled: 0,
            staging_posted: 0,
            staging_signaled: 0,
            staging_done: 0,
            log: VecDeque::with_capacity(depth.min(1024) as usize),
        }
    }

    fn free(&self) -> u64 {
        self.depth - (self.posted - self.completed)
    }

    /// Whether data may take so many slots: it leaves what control needs.
    pub(super) fn has_data_room(&self, requests: u64) -> bool {
        self.free() >= requests + CONTROL_REQUESTS
    }

    /// Whether control may take so many slots.
    pub(super) fn has_control_room(&self, requests: u64) -> bool {
        self.free() >= requests
    }

    /// The id of the request posted `ahead` places after the next.
    pub(super) fn next_id(&self, ahead: u64) -> u64 {
        self.posted + ahead + 1
    }

    /// Whether the last of a list of `requests` must be signalled; the list uses staging memory
    /// up to `staging_end`.
    pub(super) fn must_signal(&self, requests: u64, staging_end: u64) -> bool {
        self.posted + requests - self.last_signaled >= self.signal_every
            || staging_end.saturating_sub(self.staging_signaled) >= self.signal_bytes
    }

    /// Staging memory up to which everything was posted, for requests that use none.
    pub(super) fn staging_posted(&self) -> u64 {
        self.staging_posted
    }

    /// Staging memory before this position is free.
    pub(super) fn staging_done(&self) -> u64 {
        self.staging_done
    }

    /// A list was posted; its last request was `signaled`.
    pub(super) fn posted(&mut self, requests: u64, staging_end: u64, signaled: bool, what: Kind) {
        self.posted += requests;
        debug_assert!(self.posted - self.completed <= self.depth);
        self.staging_posted = staging_end;
        if signaled {
            self.last_signaled = self.posted;
            self.staging_signaled = staging_end;
            self.log.push_back(Signaled { id: self.posted, staging_end, what });
        }
    }

    /// What a request was, as far as it was signalled.
    pub(super) fn kind(&self, id: u64) -> Kind {
        self.log.iter().find(|entry| entry.id == id).map_or(Kind::Plain, |entry| entry.what)
    }

    /// A request succeeded.
    #[inline]
    pub(super) fn completed(&mut self, id: u64) -> Result<Kind, LinkError> {
        match self.log.front() {
            Some(first) if first.id == id => {
                let what = first.what;
                self.completed = id;
                self.staging_done = first.staging_end;
                fifo::pop_front(&mut self.log);
                Ok(what)
            }
            first => Err(LinkError::io(format!(
                "completion of request {id} came where request {:?} was expected: a stale \
                 completion, or one out of order",
                first.map(|f| f.id)
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_stale_completion_is_named() {
        let mut queue = SendQueue::new(8, 16 * 1024);
        queue.posted(1, 64, true, Kind::Plain);
        let message = queue.completed(7).unwrap_err().to_string();
        assert!(message.contains("request 7") && message.contains("Some(1)"), "{message}");
    }

    #[test]
    fn data_leaves_three_slots_for_control() {
        let mut queue = SendQueue::new(8, 16 * 1024);
        for _ in 0..5 {
            assert!(queue.has_data_room(1));
            queue.posted(1, 0, false, Kind::Plain);
        }
        assert!(!queue.has_data_room(1));
        assert!(queue.has_control_room(3) && !queue.has_control_room(4));
    }

    proptest! {
        /// In any history: when everything signalled has completed, data and control find room
        /// and at least seven eighths of the staging ring are free.
        #[test]
        fn what_is_not_signalled_never_blocks(
            depth in 5u32..40,
            steps in proptest::collection::vec((0u8..4, 1u64..800), 1..300),
        ) {
            const RING: u64 = 16 * 1024;
            let mut queue = SendQueue::new(depth, RING);
            let mut head = 0;
            for (what, units) in steps {
                match what {
                    0 | 1 => {
                        let requests = u64::from(what) + 1;
                        let end = head + units * 8;
                        let room = queue.staging_done() + RING;
                        if queue.has_data_room(requests) && end <= room {
                            let signaled = queue.must_signal(requests, end);
                            queue.posted(requests, end, signaled, Kind::Plain);
                            head = end;
                        }
                    }
                    2 => if queue.has_control_room(3) {
                        let signaled = queue.must_signal(3, queue.staging_posted());
                        queue.posted(3, queue.staging_posted(), signaled, Kind::Plain);
                    },
                    _ => if let Some(first) = queue.log.front() {
                        let id = first.id;
                        queue.completed(id).unwrap();
                    },
                }
                if queue.log.is_empty() {
                    prop_assert!(queue.has_data_room(2));
                    prop_assert!(head - queue.staging_done() < RING / 8);
                }
            }
        }
    }
}
