//! Memory that a peer has READ rests for a while after it has said that it is done: it stays registered.
//!
//! A device that has waited long for an answer asks again. The network may bring the second question behind
//! what the peer says once the first has been answered, because packets of a queue pair overtake each
//! other where several processors or paths carry them. The key of a READ that is repeated is looked at
//! again (Linux, `rxe_recheck_mr` in `rxe_resp.c`), and one that is gone fails the queue pair: nobody is
//! told why. (iWARP goes over TCP, which repeats nothing.)

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Context;
use std::time::{Duration, Instant};

use tokio::time::{Sleep, sleep_until};

use super::pd::ProtectionDomain;

/// How long: far longer than a packet is under way that arrives at all.
const REST: Duration = Duration::from_secs(1);

/// How much may rest of all connections of a device, but for what was the last of each: as much as a fast
/// card moves in milliseconds, in which a packet is not late.
const MOST_BYTES: usize = 64 << 20;

#[derive(Debug)]
struct Resting<T> {
    until: Instant,
    bytes: usize,
    memory: T,
}

/// What rests of one connection, oldest first. What comes out is to be dropped by whoever took it out.
#[derive(Debug)]
pub(super) struct Rests<T> {
    /// `None`: the queue pair is gone, and nobody can READ anything any more.
    all: Mutex<Option<VecDeque<Resting<T>>>>,
    /// Whether there may be any; a hint that costs no lock.
    any: AtomicBool,
}

impl<T> Rests<T> {
    pub(super) fn new() -> Rests<T> {
        Rests { all: Mutex::new(Some(VecDeque::new())), any: AtomicBool::new(false) }
    }

    fn lock(&self) -> MutexGuard<'_, Option<VecDeque<Resting<T>>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It rests from now on. `in_all`: the bytes that rest of all connections. What need not rest any longer.
    pub(super) fn add(
        &self,
        memory: T,
        bytes: usize,
        now: Instant,
        in_all: &AtomicUsize,
    ) -> Vec<T> {
        let mut all = self.lock();
        let Some(resting) = &mut *all else { return vec![memory] };
        resting.push_back(Resting { until: now + REST, bytes, memory });
        in_all.fetch_add(bytes, Ordering::Relaxed);
        self.any.store(true, Ordering::Relaxed);
        let mut over = Vec::new();
        while resting.len() > 1
            && let Some(oldest) = resting.front()
            && (oldest.until <= now || in_all.load(Ordering::Relaxed) > MOST_BYTES)
        {
            over.extend(take_oldest(resting, in_all));
        }
        over
    }

    /// When the next one has rested for long enough.
    pub(super) fn next_end(&self) -> Option<Instant> {
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        let all = self.lock();
        let next = all.as_ref().and_then(VecDeque::front).map(|oldest| oldest.until);
        self.any.store(next.is_some(), Ordering::Relaxed);
        next
    }

    /// Those that have.
    pub(super) fn take_over(&self, now: Instant, in_all: &AtomicUsize) -> Vec<T> {
        let mut all = self.lock();
        let Some(resting) = &mut *all else { return Vec::new() };
        let over = resting.iter().take_while(|one| one.until <= now).count();
        (0..over).filter_map(|_| take_oldest(resting, in_all)).collect()
    }

    /// All of them: the memory is wanted.
    pub(super) fn take_all(&self, in_all: &AtomicUsize) -> Vec<T> {
        let mut all = self.lock();
        all.as_mut().map_or_else(Vec::new, |resting| take(resting, in_all))
    }

    /// The same, and none rests from now on.
    pub(super) fn end(&self, in_all: &AtomicUsize) -> Vec<T> {
        let mut all = self.lock();
        all.take().map_or_else(Vec::new, |mut resting| take(&mut resting, in_all))
    }
}

fn take<T>(resting: &mut VecDeque<Resting<T>>, in_all: &AtomicUsize) -> Vec<T> {
    std::iter::from_fn(|| take_oldest(resting, in_all)).collect()
}

fn take_oldest<T>(resting: &mut VecDeque<Resting<T>>, in_all: &AtomicUsize) -> Option<T> {
    let oldest = resting.pop_front()?;
    in_all.fetch_sub(oldest.bytes, Ordering::Relaxed);
    Some(oldest.memory)
}

/// Ends rests in time while nothing else happens.
#[derive(Debug, Default)]
pub(super) struct RestAlarm(Option<Pin<Box<Sleep>>>);

impl RestAlarm {
    /// Lets go what has rested for long enough; whoever waits is woken when something else has.
    pub(super) fn see_to(&mut self, pd: &ProtectionDomain, cx: &mut Context<'_>) {
        while let Some(end) = pd.next_rest_end() {
            let end = end.into();
            let alarm = self.0.get_or_insert_with(|| Box::pin(sleep_until(end)));
            if alarm.deadline() != end {
                alarm.as_mut().reset(end);
            }
            if alarm.as_mut().poll(cx).is_pending() {
                return;
            }
            pd.end_rests();
        }
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MIB: usize = 1 << 20;

    #[test]
    fn it_rests_for_its_time() {
        let (rests, in_all, now) = (Rests::new(), AtomicUsize::new(0), Instant::now());
        assert_eq!(rests.next_end(), None);
        for (name, late) in [("a", 0), ("b", 1), ("c", 3)] {
            let over = rests.add(name, MIB, now + SECOND * late / 4, &in_all);
            assert_eq!(over, [""; 0]);
        }
        assert_eq!((rests.next_end(), in_all.load(Ordering::Relaxed)), (Some(now + REST), 3 * MIB));
        assert_eq!(rests.take_over(now + REST - SECOND / 100, &in_all), [""; 0]);
        assert_eq!(rests.take_over(now + REST + SECOND / 2, &in_all), ["a", "b"]);
        assert_eq!(rests.next_end(), Some(now + REST + SECOND * 3 / 4));
        assert_eq!(rests.add("d", MIB, now + 2 * SECOND, &in_all), ["c"]);
        assert_eq!(rests.take_over(now + 4 * SECOND, &in_all), ["d"]);
        assert_eq!((rests.next_end(), in_all.load(Ordering::Relaxed)), (None, 0));
    }

    #[test]
    fn of_much_the_oldest_goes_early_but_the_last() {
        let (mine, other, in_all) = (Rests::new(), Rests::new(), AtomicUsize::new(0));
        let now = Instant::now();
        assert_eq!(mine.add(1, 40 * MIB, now, &in_all), []);
        assert_eq!(mine.add(2, 20 * MIB, now, &in_all), []);
        assert_eq!(mine.add(3, 20 * MIB, now, &in_all), [1]);
        assert_eq!(other.add(4, 100 * MIB, now, &in_all), [], "what was the last of a connection");
        assert_eq!(mine.add(5, MIB, now, &in_all), [2, 3]);
        assert_eq!(other.add(6, MIB, now, &in_all), [4]);
        assert_eq!(in_all.load(Ordering::Relaxed), 2 * MIB);
    }

    #[test]
    fn where_memory_is_short_or_the_queue_pair_is_gone_nothing_rests() {
        let (rests, in_all, now) = (Rests::new(), AtomicUsize::new(0), Instant::now());
        rests.add(1, MIB, now, &in_all);
        rests.add(2, MIB, now, &in_all);
        assert_eq!(rests.take_all(&in_all), [1, 2]);
        rests.add(3, MIB, now, &in_all);
        assert_eq!(rests.end(&in_all), [3]);
        assert_eq!(rests.add(4, MIB, now, &in_all), [4]);
        assert_eq!((rests.next_end(), in_all.load(Ordering::Relaxed)), (None, 0));
    }
}
