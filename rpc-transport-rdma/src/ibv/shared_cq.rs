//! One completion queue for all queue pairs of a worker.
//!
//! Whoever polls takes what there is for everybody, keeps its own and puts the rest into the
//! others' inboxes, waking those who sleep. So a worker polls one queue however many connections
//! it has, and a sleeping worker sleeps on one descriptor.
//!
//! # Sleeping
//!
//! A connection that sleeps leaves its waker in its inbox, makes sure that the queue is armed,
//! drains it, and looks into its inbox once more. From the moment the queue is armed every
//! completion that is not drained by somebody makes an event; the watcher, a task of the runtime
//! that made the queue, takes all events, drains, arms again if anyone still sleeps, and drains
//! again.
//!
//! # Who is whose
//!
//! A work request's number carries the inbox's key, which is not used again for a long
//! time, so a late completion of a queue pair that is gone finds nobody.

#![allow(unsafe_code)]

use std::collections::HashMap;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError, Weak};
use std::task::Waker;

use crossbeam_queue::ArrayQueue;
use tokio::io::unix::AsyncFd;
use tokio::task::AbortHandle;

use super::channel::CompletionChannel;
use super::cq::{BATCH, CompletionQueue};
use super::device::Device;
use super::error::not_watched;
use super::events;
use super::ffi;
use super::wr_id::WrId;
use crate::verbs::VerbError;

/// Completions of one connection that somebody else has taken from the queue.
pub(super) struct Inbox {
    key: u32,
    arrived: ArrayQueue<ffi::ibv_wc>,
    waker: Mutex<Option<Waker>>,
    /// Why the connection has failed, if the completion queue did not say so.
    failure: OnceLock<String>,
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("key", &self.key).finish_non_exhaustive()
    }
}

impl Inbox {
    pub(super) fn key(&self) -> u32 {
        self.key
    }

    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    fn waker(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, into: &mut [ffi::ibv_wc]) -> usize {
        let mut taken = 0;
        while taken < into.len()
            && let Some(completion) = self.arrived.pop()
        {
            into[taken] = completion;
            taken += 1;
        }
        taken
    }

    /// Whether there is nothing to take.
    pub(super) fn is_idle(&self) -> bool {
        self.arrived.is_empty() && self.failure.get().is_none()
    }
}

/// What is only touched by whoever polls.
struct Polling {
    /// The last completions taken, and how many of them still have to be given to whom they concern.
    batch: Box<[ffi::ibv_wc; BATCH]>,
    held: usize,
    armed: bool,
    inboxes: HashMap<u32, Arc<Inbox>>,
    last_key: u32,
}

impl Polling {
    /// Takes completions from the queue, if all that were taken before have been given away; how
    /// many there are.
    fn fill(&mut self, cq: &CompletionQueue) -> Result<usize, VerbError> {
        if self.held == 0 {
            self.held = cq.poll(&mut self.batch)?;
        }
        Ok(self.held)
    }

    /// One that has not been used for eight million connections, and is not in use.
    fn next_key(&mut self) -> u32 {
        loop {
            self.last_key = (self.last_key + 1) & WrId::KEY_MASK;
            if self.last_key != 0 && !self.inboxes.contains_key(&self.last_key) {
                return self.last_key;
            }
        }
    }
}

/// The queue.
pub(super) struct SharedCq {
    cq: Arc<CompletionQueue>,
    channel: Arc<CompletionChannel>,
    entries: u32,
    /// Entries promised to queue pairs.
    promised: AtomicU32,
    polling: Mutex<Polling>,
    /// Inboxes with a waker in them.
    sleepers: AtomicUsize,
    /// The last scan of a poll set that looked.
    last_look: AtomicU64,
    /// The tasks that wait for completions and for the device's events.
    watchers: OnceLock<[AbortHandle; 2]>,
    broken: AtomicBool,
}

impl fmt::Debug for SharedCq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedCq")
            .field("device", &self.device().facts().name)
            .field("entries", &self.entries)
            .finish_non_exhaustive()
    }
}

impl SharedCq {
    /// A queue of so many entries, watched by a task of the current runtime.
    pub(super) fn new(device: &Arc<Device>, entries: u32) -> Result<Arc<SharedCq>, VerbError> {
        let channel = CompletionChannel::new(device)?;
        let cq = Arc::new(CompletionQueue::new(&channel, entries)?);
        let polling = Polling {
            batch: Box::new([ffi::ibv_wc::default(); BATCH]),
            held: 0,
            armed: false,
            inboxes: HashMap::new(),
            last_key: 0,
        };
        let shared = Arc::new(SharedCq {
            cq,
            channel,
            entries,
            promised: AtomicU32::new(0),
            polling: Mutex::new(polling),
            sleepers: AtomicUsize::new(0),
            last_look: AtomicU64::new(u64::MAX),
            watchers: OnceLock::new(),
            broken: AtomicBool::new(false),
        });
        // SAFETY: the descriptor stays the same and open for as long as the value holds the
        // channel.
        let fd = unsafe { AsyncFd::register(Watched(shared.channel.clone())) };
        let fd = fd.map_err(|error| not_watched("a completion channel", error.into()))?;
        // The one that can fail first: a task that nobody aborts would keep the device open.
        let events = events::watch(device)?;
        let watching = Watching { shared: Arc::downgrade(&shared) };
        let task = tokio::spawn(watch(fd, watching));
        device.watch_removal();
        let _ = shared.watchers.set([task.abort_handle(), events]);
        Ok(shared)
    }

    pub(super) fn cq(&self) -> &Arc<CompletionQueue> {
        &self.cq
    }

    pub(super) fn device(&self) -> &Arc<Device> {
        self.channel.device()
    }

    /// A place for a queue pair with so many requests and receives, if the queue has room.
    pub(super) fn join(&self, entries: u32) -> Option<Arc<Inbox>> {
        let add = |promised: u32| {
            promised.checked_add(entries).filter(|promised| *promised <= self.entries)
        };
        self.promised.fetch_update(Ordering::AcqRel, Ordering::Acquire, add).ok()?;
        let mut polling = self.lock();
        let key = polling.next_key();
        let inbox = Arc::new(Inbox {
            key,
            arrived: ArrayQueue::new(entries as usize),
            waker: Mutex::new(None),
            failure: OnceLock::new(),
        });
        polling.inboxes.insert(key, inbox.clone());
        Some(inbox)
    }

    /// Gives a place back. The queue pair is destroyed: what is left of its completions is taken
    /// out of the queue now, because entries are promised only as long as somebody is there.
    pub(super) fn leave(&self, inbox: &Inbox) {
        let mut polling = self.lock();
        polling.inboxes.remove(&inbox.key);
        let _ = self.drain(&mut polling);
        self.promised.fetch_sub(inbox.arrived.capacity() as u32, Ordering::AcqRel);
        drop(polling);
        self.take_waker(inbox);
    }

    /// Takes completions of one inbox, oldest first. Never waits: if another one is polling, it
    /// is polling for us too.
    pub(super) fn poll(&self, inbox: &Inbox, into: &mut [ffi::ibv_wc]) -> Result<usize, VerbError> {
        let mut polling = match self.polling.try_lock() {
            Ok(polling) => polling,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(inbox.take(into)),
        };
        // Under the lock nobody adds to the inbox, so older completions come first.
        let mut taken = inbox.take(into);
        if taken == into.len() {
            return Ok(taken);
        }
        let count = polling.fill(&self.cq)?;
        let Polling { batch, held, inboxes, .. } = &mut *polling;
        *held = 0;
        for completion in &batch[..count] {
            let key = WrId::from_raw(ffi::wc_wr_id(completion)).key();
            if key == inbox.key && taken < into.len() {
                into[taken] = *completion;
                taken += 1;
            } else {
                self.deliver(inboxes, key, completion, inbox.key);
            }
        }
        Ok(taken)
    }

    /// Whether a poll may bring this inbox something. What has completed stays where it is until
    /// somebody polls.
    pub(super) fn may_have_completions(&self, inbox: &Inbox) -> bool {
        if !inbox.is_idle() {
            return true;
        }
        // Whoever holds the lock gives us what is ours. The next poll meets an error as well.
        self.polling
            .try_lock()
            .is_ok_and(|mut polling| polling.fill(&self.cq).map_or(true, |held| held > 0))
    }

    /// A poll set looks: takes what there is, once in each of the set's scans.
    pub(super) fn look(&self, scan: u64) {
        if self.last_look.swap(scan, Ordering::Relaxed) == scan {
            return;
        }
        // Whoever holds the lock takes what there is.
        if let Ok(mut polling) = self.polling.try_lock()
            && let Err(error) = self.drain(&mut polling)
        {
            drop(polling);
            self.break_down(&error.to_string());
        }
    }

    /// Prepares a connection's sleep. `false`: do not sleep, look again.
    pub(super) fn sleep(&self, inbox: &Inbox, waker: &Waker) -> Result<bool, VerbError> {
        {
            let mut kept = inbox.waker();
            match &mut *kept {
                Some(kept) => kept.clone_from(waker),
                None => {
                    *kept = Some(waker.clone());
                    self.sleepers.fetch_add(1, Ordering::AcqRel);
                }
            }
        }
        let mut polling = self.lock();
        if !polling.armed {
            self.cq.arm()?;
            polling.armed = true;
            self.drain(&mut polling)?;
        }
        drop(polling);
        if inbox.is_idle() {
            return Ok(true);
        }
        self.take_waker(inbox);
        Ok(false)
    }

    /// The connection is up and looking: it need not be woken.
    pub(super) fn awake(&self, inbox: &Inbox) {
        drop(self.take_waker(inbox));
    }

    /// Fails the connections that `which` picks.
    pub(super) fn fail(&self, which: impl Fn(u32) -> bool, why: &str) {
        let inboxes: Vec<Arc<Inbox>> =
            self.lock().inboxes.values().filter(|inbox| which(inbox.key)).cloned().collect();
        for inbox in inboxes {
            let _ = inbox.failure.set(why.to_owned());
            self.wake(&inbox);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Polling> {
        self.polling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves everything there is into the inboxes.
    fn drain(&self, polling: &mut Polling) -> Result<(), VerbError> {
        loop {
            let count = polling.fill(&self.cq)?;
            polling.held = 0;
            for completion in &polling.batch[..count] {
                let key = WrId::from_raw(ffi::wc_wr_id(completion)).key();
                self.deliver(&polling.inboxes, key, completion, 0);
            }
            if count < BATCH {
                return Ok(());
            }
        }
    }

    fn deliver(
        &self,
        inboxes: &HashMap<u32, Arc<Inbox>>,
        key: u32,
        completion: &ffi::ibv_wc,
        poller: u32,
    ) {
        // A queue pair that is gone: its completions concern nobody.
        let Some(inbox) = inboxes.get(&key) else { return };
        if inbox.arrived.push(*completion).is_err() {
            // More completions than requests and receives were posted.
            let _ = inbox.failure.set("the device completed more than was posted".to_owned());
        }
        if key != poller {
            self.wake(inbox);
        }
    }

    fn take_waker(&self, inbox: &Inbox) -> Option<Waker> {
        let waker = inbox.waker().take();
        if waker.is_some() {
            self.sleepers.fetch_sub(1, Ordering::AcqRel);
        }
        waker
    }

    fn wake(&self, inbox: &Inbox) {
        if let Some(waker) = self.take_waker(inbox) {
            waker.wake();
        }
    }

    /// What the watcher does when events have come.
    fn woken(&self) -> Result<(), VerbError> {
        self.channel.take_events()?;
        let mut polling = self.lock();
        polling.armed = false;
        self.drain(&mut polling)?;
        if self.sleepers.load(Ordering::Acquire) > 0 {
            self.cq.arm()?;
            polling.armed = true;
            self.drain(&mut polling)?;
        }
        Ok(())
    }

    fn break_down(&self, why: &str) {
        let device = &self.device().facts().name;
        tracing::warn!(device, why, "a completion queue has failed");
        self.give_up(why);
    }

    /// Nobody takes completions any more: whoever sleeps must not wait for one.
    fn give_up(&self, why: &str) {
        self.broken.store(true, Ordering::Release);
        self.fail(|_| true, why);
    }

    /// Whether no new connection should be put here.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire) || self.device().gone().is_some()
    }
}

impl Drop for SharedCq {
    fn drop(&mut self) {
        for watcher in self.watchers.get().into_iter().flatten() {
            watcher.abort();
        }
    }
}

/// The channel's descriptor, for the reactor.
struct Watched(Arc<CompletionChannel>);

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Held by the watcher. It is dropped before the queue only when the runtime has ended; then
/// nobody who sleeps would be woken any more.
struct Watching {
    shared: Weak<SharedCq>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade()
            && !shared.is_broken()
        {
            // A program that exits with connections open does so on purpose.
            let why = "the runtime that watched the completion queue has ended";
            tracing::debug!(device = shared.device().facts().name, why);
            shared.give_up(why);
        }
    }
}

async fn watch(fd: AsyncFd<Watched>, watching: Watching) {
    loop {
        let readable = fd.readable().await;
        let Some(shared) = watching.shared.upgrade() else { return };
        let handled = match readable {
            // Cleared first: an event that comes while these are taken makes it ready again.
            Ok(mut guard) => {
                guard.clear_ready();
                shared.woken().map_err(|error| error.to_string())
            }
            Err(error) => Err(format!("watching a completion channel: {error}")),
        };
        if let Err(why) = handled {
            return shared.break_down(&why);
        }
    }
}
