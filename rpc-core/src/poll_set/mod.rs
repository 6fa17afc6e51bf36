//! One place that polls for many connections: the poll set of a runtime.
//!
//! A connection that polls by itself costs its runtime a pass for nothing at every turn; a
//! thousand of them leave no time for work. So a connection with nothing to do joins the set of
//! its runtime (of its worker, where a server has workers): it leaves something to look at, a
//! word or two, and a waker. One task looks at all of them, round after round, without a system
//! call, and wakes those that have news (`scanner.rs`). Where the runtime has one thread it runs them
//! instead, where they are (`Resume`).
//!
//! # Why no wake-up is lost
//!
//! ```text
//!   owner (PollSet::watch)                   the set's task
//!   store what "news" is compared with       for each entry that is WAITING:
//!   lock: keep the waker, state = WAITING        has_news()?  no: next entry
//!   unlock                                       lock: still WAITING? state = RESTING, take waker
//!   sleep                                        unlock, wake
//! ```
//!
//! `has_news` is a level, not an edge: it stays true until the owner has taken what came. News
//! from before the entry was WAITING is therefore found by the first look after, and there is a
//! look after, because a set with entries keeps looking. What the owner compares with is seen by
//! that look because it was stored before the state (Release, read with Acquire). A waker that
//! was taken has been woken, and whoever is woken looks for itself and watches again.
//!
//! The task ends when the set is empty. Whoever adds an entry first queues it and then looks
//! whether the task runs; the task first says that it ends and then looks at the queue, with a
//! fence on both sides, so one of the two sees the other.

mod scanner;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering, fence};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::task::Waker;
use std::time::{Duration, Instant};

use crossbeam_queue::SegQueue;
use tokio::runtime::{Handle, Id, RuntimeFlavor};

use self::scanner::{Entry, Scanner};
use crate::brief::Brief;
use crate::crowd::Crowd;
use crate::driver::now;

/// How long an entry without news stays in the set of a runtime that has news of others, unless
/// it is to stay for ever.
const LINGER: Duration = Duration::from_millis(20);
/// The set's patience grows by this for each connection that polls: a peer that has a call to answer on each of
/// hundreds takes longer than `spin_us` until the first of the next come. Without this both ends slept meanwhile, and
/// woke each other for every call.
const TURN_NS: u64 = 8000;
/// Who is to be run when there is news, where it is, instead of being woken.
pub(crate) trait Resume: Send + Sync {
    /// Moves it along. It has polled before, and watches again before this ends unless it has
    /// another reason to be woken, or wants another turn: `true`, once those have run whom it has
    /// woken. `at`: the time, a moment ago. Must not panic.
    fn resume(&self, at: Instant) -> bool;

    /// Has it moved along by its task: the set is going away.
    fn wake(&self);
}

/// The entry is in no set.
const OUT: u8 = 0;
/// It is in a set, and nobody waits for it.
const RESTING: u8 = 1;
/// It is in a set, and its owner waits for news.
const WAITING: u8 = 2;
/// It is in a set that shall forget it.
const LEAVING: u8 = 3;

/// Something that can be looked at often: a word or two, without a system call or a lock.
pub trait Look: Send + Sync + 'static {
    /// Whether the owner has something to take. It stays so until the owner took it. `scan` is
    /// the same for all looks of one scan of the set, so that entries which share something (a
    /// completion queue) can see to it once. Must not panic.
    fn has_news(&self, scan: u64) -> bool;

    /// [`Look::has_news`] will be asked soon: what it looks at may be fetched. Must not panic.
    fn prefetch(&self) {}
}

/// What a connection leaves in a poll set: something to look at, and whom to wake.
pub struct Watched<S: ?Sized> {
    /// Changed only under the waker's lock.
    state: AtomicU8,
    /// When the owner began to wait, by the set's clock.
    since_ns: AtomicU64,
    /// How long the whole set may be without news before the owner wants to sleep.
    patience_ns: AtomicU64,
    waker: Brief<Option<Waker>>,
    source: S,
}

impl<S: Look> Watched<S> {
    /// An entry that is in no set yet. A connection makes one and keeps it.
    pub fn new(source: S) -> Arc<Watched<S>> {
        Arc::new(Watched {
            state: AtomicU8::new(OUT),
            since_ns: AtomicU64::new(0),
            patience_ns: AtomicU64::new(0),
            waker: Brief::new(None),
            source,
        })
    }

    /// What is looked at.
    pub fn source(&self) -> &S {
        &self.source
    }
}

impl<S: ?Sized> Watched<S> {
    /// Nobody waits any more, and the set shall forget the entry: the connection sleeps in the
    /// kernel, or is gone.
    pub fn leave(&self) {
        if self.state.load(Ordering::Relaxed) == OUT {
            return;
        }
        let mut kept = self.waker.lock();
        let waker = kept.take();
        if self.state.load(Ordering::Relaxed) != OUT {
            self.state.store(LEAVING, Ordering::Relaxed);
        }
        // Whatever a waker does when it is dropped, it does outside of the lock.
        drop(kept);
        drop(waker);
    }

    /// The owner waits no longer; the waker it has left, if it has, is to be woken. `None`: it did
    /// not wait.
    fn rouse(&self, next: u8) -> Option<Option<Waker>> {
        let mut kept = self.waker.lock();
        if self.state.load(Ordering::Relaxed) != WAITING {
            return None;
        }
        self.state.store(next, Ordering::Relaxed);
        Some(kept.take())
    }
}

impl<S: ?Sized> fmt::Debug for Watched<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("state", &self.state).finish_non_exhaustive()
    }
}

struct Shared {
    runtime: Handle,
    newcomers: SegQueue<Entry>,
    scanning: AtomicBool,
    crowd: Arc<Crowd>,
    begin: Instant,
    last_news_ns: AtomicU64,
}

impl Shared {
    /// How long a peer may take that has a turn to do for each of the connections that poll here.
    fn turns_ns(&self) -> u64 {
        self.crowd.awake.load(Ordering::Relaxed) as u64 * TURN_NS
    }

    /// Whether nothing has come for so long, and for as long as the peers' turns may take beside that.
    fn is_quiet_for(&self, patience_ns: u64, now_ns: u64) -> bool {
        let quiet_ns = now_ns.saturating_sub(self.last_news_ns.load(Ordering::Relaxed));
        quiet_ns >= patience_ns.saturating_add(self.turns_ns())
    }

    fn since_begin_ns(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.begin).as_nanos() as u64
    }
}

/// The sets of all runtimes that have one.
static SETS: LazyLock<Mutex<HashMap<Id, Weak<Shared>>>> = LazyLock::new(Mutex::default);

/// The poll set of a tokio runtime, as one of its connections sees it.
#[derive(Clone)]
pub struct PollSet {
    shared: Arc<Shared>,
    patience_ns: u64,
    owner: Option<Weak<dyn Resume>>,
}

impl fmt::Debug for PollSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PollSet").field("crowd", &self.shared.crowd).finish_non_exhaustive()
    }
}

impl PollSet {
    /// The set of the runtime this is called in. Its entries are woken for nothing, to sleep in
    /// the kernel instead, once the whole set has been without news for `patience`, or they
    /// themselves for much longer. `None`: they stay.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn current(patience: Option<Duration>) -> PollSet {
        let runtime = Handle::current();
        let mut sets = SETS.lock().unwrap_or_else(PoisonError::into_inner);
        let id = runtime.id();
        let shared = sets.get(&id).and_then(Weak::upgrade).unwrap_or_else(|| {
            let shared = Arc::new(Shared {
                crowd: Crowd::new(
                    runtime.metrics().num_workers(),
                    runtime.runtime_flavor() != RuntimeFlavor::CurrentThread,
                ),
                runtime,
                newcomers: SegQueue::new(),
                scanning: AtomicBool::new(false),
                begin: now(),
                last_news_ns: AtomicU64::new(0),
            });
            sets.retain(|_, set| set.strong_count() > 0);
            sets.insert(id, Arc::downgrade(&shared));
            shared
        });
        let patience_ns = patience.map_or(u64::MAX, |patience| patience.as_nanos() as u64);
        PollSet { shared, patience_ns, owner: None }
    }

    /// Whoever watches by this handle from now on is `owner`, to be run by the set where it is. Not
    /// where the runtime has several threads: what one of them ran, another could not.
    pub(crate) fn resumes(&mut self, owner: Weak<dyn Resume>) {
        self.owner = (self.shared.crowd.threads == 1).then_some(owner);
    }

    /// Wakes `waker` once the entry has news, or has to sleep in the kernel. Store what the look
    /// compares with before. An entry belongs to one set for life.
    pub fn watch<S: Look>(&self, entry: &Arc<Watched<S>>, waker: &Waker) {
        let shared = &self.shared;
        entry.patience_ns.store(self.patience_ns, Ordering::Relaxed);
        if self.patience_ns != u64::MAX {
            entry.since_ns.store(shared.since_begin_ns(now()), Ordering::Relaxed);
        }
        let before = {
            let mut kept = entry.waker.lock();
            match &*kept {
                _ if self.owner.is_some() => {}
                Some(kept) if kept.will_wake(waker) => {}
                _ => *kept = Some(waker.clone()),
            }
            let before = entry.state.load(Ordering::Relaxed);
            // Release: the set's task sees what its look compares with.
            entry.state.store(WAITING, Ordering::Release);
            before
        };
        if before == OUT {
            let owner = self.owner.as_ref().and_then(Weak::upgrade);
            shared.newcomers.push(Entry { watched: Arc::clone(entry) as _, owner });
            fence(Ordering::SeqCst);
            if !shared.scanning.swap(true, Ordering::AcqRel) {
                shared.runtime.spawn(Scanner::new(Arc::clone(shared)));
            }
        }
    }

    pub(crate) fn crowd(&self) -> &Arc<Crowd> {
        &self.shared.crowd
    }

    /// Whether at most one connection of this runtime polls.
    pub(crate) fn is_alone(&self) -> bool {
        self.shared.crowd.awake.load(Ordering::Relaxed) <= 1
    }

    /// Connections of this runtime that poll.
    pub(crate) fn awake(&self) -> usize {
        self.shared.crowd.awake.load(Ordering::Relaxed)
    }

    /// A connection of this runtime had news.
    pub(crate) fn note_news(&self, at: Instant) {
        let at_ns = self.shared.since_begin_ns(at);
        // A line that all threads of the runtime read is written only where it matters.
        if at_ns > self.shared.last_news_ns.load(Ordering::Relaxed) + 1000 {
            self.shared.last_news_ns.store(at_ns, Ordering::Relaxed);
        }
    }

    /// Whether a connection whose last news came at `last_news` should sleep in the kernel.
    pub(crate) fn is_over(&self, last_news: Instant) -> bool {
        if self.patience_ns == u64::MAX {
            return false;
        }
        let now = now();
        let now_ns = self.shared.since_begin_ns(now);
        self.shared.is_quiet_for(self.patience_ns, now_ns)
            || now.duration_since(last_news) >= LINGER
    }
}
