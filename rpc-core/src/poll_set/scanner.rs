//! The task of a poll set: it looks, and runs or wakes those that have news.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::task::{Context, Poll};
use std::time::Instant;

use super::{LEAVING, LINGER, Look, OUT, RESTING, Resume, Shared, WAITING, Watched};
use crate::driver::now;
use crate::patience::let_others_run;

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
/// How often the set looks for entries that have lingered.
const LINGER_CHECK_NS: u64 = 1_000_000;

/// One connection, as the set's task has it.
pub(super) struct Entry {
    pub(super) watched: Arc<Watched<dyn Look>>,
    /// Its owner, where the set runs it.
    pub(super) owner: Option<Arc<dyn Resume>>,
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

/// The task that looks.
pub(super) struct Scanner {
    shared: Arc<Shared>,
    entries: Vec<Entry>,
    /// Who wants another turn.
    again: Vec<Arc<dyn Resume>>,
    next: usize,
    scan: u64,
    /// How many of them waited in this scan so far, and in the last.
    waiting: usize,
    waited: usize,
    /// The least patience of any entry that came.
    least_patience_ns: u64,
    next_linger_check_ns: u64,
}

impl Scanner {
    pub(super) fn new(shared: Arc<Shared>) -> Scanner {
        Scanner {
            shared,
            entries: Vec::new(),
            again: Vec::new(),
            next: 0,
            scan: 0,
            waiting: 0,
            waited: 0,
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

    /// Looks at entries until enough have news, and wakes those; how many were to be looked at, and how many
    /// had news. Not until some have any: drivers that their tasks run have a turn whenever this has, and of a
    /// hundred connections with sixteen calls each some waited for four turns of the others. Where those are
    /// many, as many of the set have one: of a thousand some waited for seven.
    fn round(&mut self) -> (usize, usize) {
        let mut woken = 0;
        let elsewhere = self.shared.crowd.awake.load(Ordering::Relaxed).saturating_sub(self.waited);
        let most_woken = LOOKS_AT_ONCE.max(elsewhere);
        let looks = self.entries.len().min(LOOKS_PER_ROUND.max(elsewhere));
        let mut left = looks;
        while left > 0 && woken < most_woken && !self.entries.is_empty() {
            if self.next >= self.entries.len() {
                self.next = 0;
                self.scan += 1;
                self.waited = std::mem::take(&mut self.waiting);
            }
            let end = self.entries.len().min(self.next + left.min(LOOKS_AT_ONCE));
            left -= end - self.next;
            woken += self.look_at(self.next..end);
            self.next = end;
        }
        (looks, woken)
    }

    /// Looks at entries first and does what follows from it then: a look may wait for memory, and
    /// so they wait together. At most [`LOOKS_AT_ONCE`] entries.
    fn look_at(&mut self, range: Range<usize>) -> usize {
        for entry in self.entries[range.end..].iter().take(LOOKS_AT_ONCE) {
            entry.watched.source.prefetch();
        }
        let mut waiting = 0;
        let looks = self.entries[range.clone()].iter().enumerate();
        let mut found = looks.fold(0_u32, |found, (index, entry)| {
            // Acquire: pairs with the Release of `watch`.
            let something = match entry.watched.state.load(Ordering::Acquire) {
                WAITING => {
                    waiting += 1;
                    entry.watched.source.has_news(self.scan)
                }
                state => state == LEAVING,
            };
            found | u32::from(something) << index
        });
        self.waiting += waiting;
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
        let check_linger = now_ns >= self.next_linger_check_ns;
        if !check_linger && !self.shared.is_quiet_for(self.least_patience_ns, now_ns) {
            return;
        }
        self.next_linger_check_ns = now_ns + LINGER_CHECK_NS;
        let linger_ns = LINGER.as_nanos() as u64;
        for entry in &self.entries {
            let watched = &entry.watched;
            let patience_ns = watched.patience_ns.load(Ordering::Relaxed);
            let waited_ns = now_ns.saturating_sub(watched.since_ns.load(Ordering::Relaxed));
            let is_over = self.shared.is_quiet_for(patience_ns, now_ns);
            if patience_ns != u64::MAX && (is_over || waited_ns >= linger_ns) {
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
            let (looked, found) = this.round();
            looks += looked;
            woken += found;
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
        let_others_run(cx);
        Poll::Pending
    }
}

impl Drop for Scanner {
    /// With entries left, the runtime is shutting down: their owners must not wait for a task
    /// that is gone.
    fn drop(&mut self) {
        if self.entries.is_empty() && self.again.is_empty() {
            return;
        }
        self.again.drain(..).for_each(|owner| owner.wake());
        self.take_newcomers();
        self.entries.drain(..).for_each(|entry| entry.let_go());
        self.shared.scanning.store(false, Ordering::Release);
    }
}
