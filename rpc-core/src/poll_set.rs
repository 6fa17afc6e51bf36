//! One place that polls for many connections: the poll set of a runtime.
//!
//! A connection that polls by itself costs its runtime a pass for nothing at every turn; a
//! thousand of them leave no time for work. So a connection with nothing to do joins the set of
//! its runtime (of its worker, where a server has workers): it leaves something to look at, a
//! word or two, and a waker. One task looks at all of them, round after round, without a system
//! call, and wakes those that have news.
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

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crossbeam_queue::SegQueue;
use tokio::runtime::{Handle, Id};

use crate::brief::Brief;
use crate::driver::now;
use crate::patience::Patience;

/// Looks between two turns of whatever else runs on the thread.
const LOOKS_PER_TURN: usize = 256;
/// Looks in a round, unless some that are looked at together have news.
const LOOKS_PER_ROUND: usize = 256;
/// Looks whose memory is waited for together: as many as a word has bits. Those of them that have
/// news run before others are looked at, while what the looks have fetched is in the caches: some
/// 7 KiB each.
const LOOKS_AT_ONCE: usize = 32;
/// Rounds without news before whatever else runs on the thread gets a turn.
const ROUNDS_PER_TURN: usize = 16;
/// How long an entry without news stays in the set of a runtime that has news of others, unless
/// it is to stay for ever.
const LINGER: Duration = Duration::from_millis(20);
/// How often the set looks for entries that have lingered.
const LINGER_CHECK_NS: u64 = 1_000_000;

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

/// How busy a runtime is, as far as its polling connections and their callers go.
#[derive(Debug)]
pub(crate) struct Crowd {
    /// The runtime's.
    pub(crate) threads: usize,
    /// Connections that poll, by themselves or in the set; not those asleep in the kernel.
    pub(crate) awake: AtomicUsize,
    /// Calls that wait for their answer.
    pub(crate) waiting_calls: AtomicUsize,
    /// Whether callers had better not poll.
    pub(crate) patience: Patience,
}

impl Crowd {
    pub(crate) fn new(threads: usize) -> Arc<Crowd> {
        Arc::new(Crowd {
            threads,
            awake: AtomicUsize::new(0),
            waiting_calls: AtomicUsize::new(0),
            patience: Patience::default(),
        })
    }
}

/// One connection, as the set's task has it.
struct Entry {
    watched: Arc<Watched<dyn Look>>,
    /// Its owner, where the set runs it.
    owner: Option<Arc<dyn Resume>>,
}

impl Entry {
    /// Wakes the owner, or runs it, if it waits; whether it did. Who wants another turn goes `again`.
    #[inline]
    fn rouse(&self, at: Instant, again: &mut Vec<Arc<dyn Resume>>) -> bool {
        let Some(waker) = self.watched.rouse(RESTING) else { return false };
        match (&self.owner, waker) {
            (Some(owner), _) => {
                if owner.resume(at) {
                    again.push(Arc::clone(owner));
                }
            }
            (None, Some(waker)) => waker.wake(),
            (None, None) => {}
        }
        true
    }

    /// The set forgets it; the owner, if it waits, goes on by itself.
    fn let_go(&self) {
        match self.watched.rouse(OUT) {
            Some(waker) => match (&self.owner, waker) {
                (Some(owner), _) => owner.wake(),
                (None, Some(waker)) => waker.wake(),
                (None, None) => {}
            },
            None => {
                let _waker = self.watched.waker.lock();
                self.watched.state.store(OUT, Ordering::Relaxed);
            }
        }
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
                crowd: Crowd::new(runtime.metrics().num_workers()),
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
        let quiet_ns = self
            .shared
            .since_begin_ns(now)
            .saturating_sub(self.shared.last_news_ns.load(Ordering::Relaxed));
        quiet_ns >= self.patience_ns || now.duration_since(last_news) >= LINGER
    }
}

/// The task that looks.
struct Scanner {
    shared: Arc<Shared>,
    entries: Vec<Entry>,
    /// Who wants another turn.
    again: Vec<Arc<dyn Resume>>,
    next: usize,
    scan: u64,
    /// The least patience of any entry that came.
    least_patience_ns: u64,
    next_linger_check_ns: u64,
}

impl Scanner {
    fn new(shared: Arc<Shared>) -> Scanner {
        Scanner {
            shared,
            entries: Vec::new(),
            again: Vec::new(),
            next: 0,
            scan: 0,
            least_patience_ns: u64::MAX,
            next_linger_check_ns: 0,
        }
    }

    fn take_newcomers(&mut self) {
        while let Some(entry) = self.shared.newcomers.pop() {
            let patience_ns = entry.watched.patience_ns.load(Ordering::Relaxed);
            self.least_patience_ns = self.least_patience_ns.min(patience_ns);
            self.entries.push(entry);
        }
    }

    /// Gives another turn to those who want one; how many they were.
    fn turn_again(&mut self) -> usize {
        let count = self.again.len();
        if count > 0 {
            let at = now();
            let more = self.again.drain(..).filter(|owner| owner.resume(at)).collect();
            self.again = more;
        }
        count
    }

    /// Looks at entries until some have news, and wakes those; how many they were.
    fn round(&mut self) -> usize {
        let mut woken = 0;
        let mut left = self.entries.len().min(LOOKS_PER_ROUND);
        while left > 0 && woken == 0 && !self.entries.is_empty() {
            if self.next >= self.entries.len() {
                self.next = 0;
                self.scan += 1;
            }
            let end = self.entries.len().min(self.next + left.min(LOOKS_AT_ONCE));
            left -= end - self.next;
            woken += self.look_at(self.next..end);
            self.next = end;
        }
        woken
    }

    /// Looks at entries first and does what follows from it then: a look may wait for memory, and
    /// so they wait together. At most [`LOOKS_AT_ONCE`] entries.
    fn look_at(&mut self, range: Range<usize>) -> usize {
        for entry in self.entries[range.end..].iter().take(LOOKS_AT_ONCE) {
            entry.watched.source.prefetch();
        }
        let looks = self.entries[range.clone()].iter().enumerate();
        let mut found = looks.fold(0_u32, |found, (index, entry)| {
            // Acquire: pairs with the Release of `watch`.
            let something = match entry.watched.state.load(Ordering::Acquire) {
                WAITING => entry.watched.source.has_news(self.scan),
                state => state == LEAVING,
            };
            found | u32::from(something) << index
        });
        if found == 0 {
            return 0;
        }
        let (mut woken, mut leaving, at) = (0, 0_u32, now());
        while found != 0 {
            let index = found.trailing_zeros();
            found &= found - 1;
            if self.entries[range.start + index as usize].rouse(at, &mut self.again) {
                woken += 1;
            } else {
                leaving |= 1 << index;
            }
        }
        // From the last to the first, because the last of all takes the place of who is forgotten.
        while leaving != 0 {
            let index = leaving.ilog2();
            leaving &= !(1 << index);
            self.forget(range.start + index as usize);
        }
        woken
    }

    /// Forgets an entry that wants to leave, unless its owner has come back.
    fn forget(&mut self, index: usize) {
        let entry = &self.entries[index].watched;
        let waker = entry.waker.lock();
        if entry.state.load(Ordering::Relaxed) == LEAVING {
            entry.state.store(OUT, Ordering::Relaxed);
            drop(waker);
            self.entries.swap_remove(index);
        }
    }

    /// Sends those to sleep who have waited long enough.
    fn end_patience(&mut self) {
        if self.least_patience_ns == u64::MAX {
            return;
        }
        let at = now();
        let now_ns = self.shared.since_begin_ns(at);
        let quiet_ns = now_ns.saturating_sub(self.shared.last_news_ns.load(Ordering::Relaxed));
        let check_linger = now_ns >= self.next_linger_check_ns;
        if quiet_ns < self.least_patience_ns && !check_linger {
            return;
        }
        self.next_linger_check_ns = now_ns + LINGER_CHECK_NS;
        let linger_ns = LINGER.as_nanos() as u64;
        for entry in &self.entries {
            let watched = &entry.watched;
            let patience_ns = watched.patience_ns.load(Ordering::Relaxed);
            let waited_ns = now_ns.saturating_sub(watched.since_ns.load(Ordering::Relaxed));
            if patience_ns != u64::MAX && (quiet_ns >= patience_ns || waited_ns >= linger_ns) {
                entry.rouse(at, &mut self.again);
            }
        }
    }

    /// Nothing is left to look at; whether that is still so.
    fn may_end(&self) -> bool {
        self.shared.scanning.store(false, Ordering::Release);
        fence(Ordering::SeqCst);
        self.shared.newcomers.is_empty() || self.shared.scanning.swap(true, Ordering::AcqRel)
    }
}

impl Future for Scanner {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.take_newcomers();
        let (mut looks, mut woken) = (0, this.turn_again());
        for _ in 0..ROUNDS_PER_TURN {
            looks += this.entries.len().min(LOOKS_PER_ROUND);
            woken += this.round();
            if woken > 0 || looks >= LOOKS_PER_TURN {
                break;
            }
        }
        if this.entries.is_empty() && this.again.is_empty() && this.may_end() {
            return Poll::Ready(());
        }
        if woken > 0 {
            let at_ns = this.shared.since_begin_ns(now());
            this.shared.last_news_ns.store(at_ns, Ordering::Relaxed);
            // A set that never rests has idle entries too.
            this.end_patience();
            // Behind those that were woken, and before the runtime looks at its sockets.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        this.end_patience();
        // Lets the runtime look at its sockets and timers, and run whatever waits.
        if std::pin::pin!(tokio::task::yield_now()).poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Drop for Scanner {
    /// With entries left, the runtime is shutting down: their owners must not wait for a task
    /// that is gone.
    fn drop(&mut self) {
        self.again.drain(..).for_each(|owner| owner.wake());
        if self.entries.is_empty() {
            return;
        }
        self.take_newcomers();
        self.entries.drain(..).for_each(|entry| entry.let_go());
        self.shared.scanning.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
