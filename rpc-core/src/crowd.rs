//! How busy a runtime is with connections that poll.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::patience::Patience;

/// How busy a runtime is, as far as its polling connections and their callers go.
#[derive(Debug)]
pub(crate) struct Crowd {
    /// The runtime's.
    pub(crate) threads: usize,
    /// They are its own: whoever calls `block_on` is on another.
    pub(crate) threads_apart: bool,
    /// Connections whose drivers run there.
    pub(crate) members: AtomicUsize,
    /// Connections that poll, by themselves or in the set; not those asleep in the kernel.
    pub(crate) awake: AtomicUsize,
    /// Calls that wait for their answer.
    pub(crate) waiting_calls: AtomicUsize,
    /// Connections all of whose open calls are of other threads than the runtime's.
    pub(crate) outside: AtomicUsize,
    /// Whether callers had better not poll.
    pub(crate) patience: Patience,
}

impl Crowd {
    pub(crate) fn new(threads: usize, threads_apart: bool) -> Arc<Crowd> {
        Arc::new(Crowd {
            threads,
            threads_apart,
            members: AtomicUsize::new(0),
            awake: AtomicUsize::new(0),
            waiting_calls: AtomicUsize::new(0),
            outside: AtomicUsize::new(0),
            patience: Patience::new(threads),
        })
    }

    /// All calls of a connection are of other threads, or no longer.
    pub(crate) fn count_outside(&self, outside: bool) {
        if !outside {
            self.outside.fetch_sub(1, Ordering::Relaxed);
        } else if self.outside.fetch_add(1, Ordering::Relaxed) > 0 {
            self.patience.saw_two();
        }
    }
}
