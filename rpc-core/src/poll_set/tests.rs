//! No wake-up is lost, idle sets end, and patience is kept.

use std::future::{Future, poll_fn};
use std::sync::atomic::AtomicU64;
use std::task::Poll;
use std::thread;

use super::*;
use crate::driver::tests::Woken;

/// News while the count is ahead of what was taken.
#[derive(Default)]
struct Count {
    come: AtomicU64,
    taken: AtomicU64,
    looks: AtomicU64,
}

impl Look for Count {
    fn has_news(&self, _: u64) -> bool {
        self.looks.fetch_add(1, Ordering::Relaxed);
        self.come.load(Ordering::Acquire) > self.taken.load(Ordering::Relaxed)
    }
}

fn count() -> Arc<Watched<Count>> {
    Watched::new(Count::default())
}

/// Takes what came, waiting in the set; what it took.
async fn take(set: &PollSet, entry: &Arc<Watched<Count>>) -> u64 {
    let mut known = entry.source().taken.load(Ordering::Relaxed);
    poll_fn(|cx| {
        let come = entry.source().come.load(Ordering::Acquire);
        if come > known {
            let new = come - known;
            known = come;
            entry.source().taken.store(come, Ordering::Relaxed);
            return Poll::Ready(new);
        }
        set.watch(entry, cx.waker());
        Poll::Pending
    })
    .await
}

fn runtime(threads: usize) -> tokio::runtime::Runtime {
    let mut builder = match threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    builder.worker_threads(threads.max(1)).enable_all().build().unwrap()
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(30);
    tokio::time::timeout(limit, future).await.unwrap_or_else(|_| panic!("{what}: a lost wake-up"))
}

fn is_scanning(set: &PollSet) -> bool {
    set.shared.scanning.load(Ordering::Relaxed)
}

/// Each of several entries is rung by a thread of its own, which waits for the answer to each
/// ring before the next: a single lost wake-up stops it.
fn ping(threads: usize, entries: usize, rounds: u64, leave_every: u64) {
    let runtime = runtime(threads);
    runtime.block_on(async {
        let set = PollSet::current(None);
        let mut tasks = Vec::new();
        for number in 0..entries {
            let entry = count();
            let ringer = thread::spawn({
                let entry = Arc::clone(&entry);
                move || {
                    for round in 0..rounds {
                        let mut spins = 0_u32;
                        while entry.source().taken.load(Ordering::Acquire) < round {
                            spins += 1;
                            if spins.is_multiple_of(64) {
                                thread::yield_now();
                            }
                            assert!(spins < 1 << 30, "entry {number}: no answer to {round}");
                        }
                        entry.source().come.fetch_add(1, Ordering::Release);
                    }
                }
            });
            let set = set.clone();
            tasks.push(tokio::spawn(async move {
                let mut taken = 0;
                while taken < rounds {
                    taken += within("ping", take(&set, &entry)).await;
                    if leave_every != 0 && taken.is_multiple_of(leave_every) {
                        entry.leave();
                    }
                }
                entry.leave();
                ringer
            }));
        }
        for task in tasks {
            task.await.unwrap().join().unwrap();
        }
        within("the set ends", async {
            while is_scanning(&set) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    });
}

#[test]
fn no_wake_up_is_lost_on_one_thread() {
    ping(1, 3, 3000, 0);
}

#[test]
fn no_wake_up_is_lost_on_two_threads() {
    ping(2, 3, 3000, 0);
}

#[test]
fn no_wake_up_is_lost_while_entries_leave_and_come_back() {
    ping(1, 2, 3000, 1);
    ping(2, 3, 3000, 3);
}

#[test]
fn news_from_before_is_found() {
    runtime(1).block_on(async {
        let set = PollSet::current(None);
        let entry = count();
        entry.source().come.store(1, Ordering::Release);
        let mut first = true;
        // Watches without looking first: the set has to find it.
        within(
            "news from before",
            poll_fn(|cx| {
                if std::mem::take(&mut first) {
                    set.watch(&entry, cx.waker());
                    return Poll::Pending;
                }
                Poll::Ready(())
            }),
        )
        .await;
    });
}

#[test]
fn those_that_sleep_or_are_gone_are_not_looked_at() {
    runtime(1).block_on(async {
        let set = PollSet::current(None);
        let (stays, leaves) = (count(), count());
        for entry in [&stays, &leaves] {
            set.watch(entry, Waker::noop());
        }
        while leaves.source().looks.load(Ordering::Relaxed) < 3 {
            tokio::task::yield_now().await;
        }
        leaves.leave();
        let looks = || stays.source().looks.load(Ordering::Relaxed);
        let some_scans = || async {
            let before = looks();
            while looks() < before + 100 {
                tokio::task::yield_now().await;
            }
        };
        some_scans().await;
        let before = leaves.source().looks.load(Ordering::Relaxed);
        some_scans().await;
        assert_eq!(leaves.source().looks.load(Ordering::Relaxed), before);
        assert_eq!(Arc::strong_count(&leaves), 1, "the set has forgotten it");
        stays.leave();
        while is_scanning(&set) {
            tokio::task::yield_now().await;
        }
        let before = looks();
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!(looks(), before, "an empty set costs nothing");
        // And begins anew.
        stays.source().come.fetch_add(1, Ordering::Release);
        within("a set that begins anew", take(&set, &stays)).await;
    });
}

/// Watches until woken, whatever for.
async fn woken(set: &PollSet, entry: &Arc<Watched<Count>>) {
    let mut watching = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut watching, true) {
            return Poll::Ready(());
        }
        set.watch(entry, cx.waker());
        Poll::Pending
    })
    .await;
}

#[test]
fn a_quiet_set_sends_the_patient_to_sleep_and_a_busy_one_those_that_linger() {
    runtime(1).block_on(async {
        let begin = now();
        let patient = PollSet::current(Some(Duration::from_millis(2)));
        let entry = count();
        within("patience", woken(&patient, &entry)).await;
        assert!(patient.is_over(begin), "it was woken to sleep");
        assert!(now() - begin >= Duration::from_millis(2));

        // Another entry has news all the time, so that the set as a whole is never quiet.
        let patient = PollSet::current(Some(Duration::from_secs(60)));
        let forever = PollSet::current(None);
        assert!(Arc::ptr_eq(&forever.shared, &patient.shared), "one set a runtime");
        let noisy = count();
        noisy.source().come.store(u64::MAX, Ordering::Relaxed);
        let noise = tokio::spawn({
            let forever = forever.clone();
            async move {
                loop {
                    woken(&forever, &noisy).await;
                }
            }
        });
        woken(&patient, &entry).await;
        let begin = now();
        within("lingering", async {
            while !patient.is_over(begin) {
                woken(&patient, &entry).await;
            }
        })
        .await;
        assert!(now() - begin >= LINGER, "{:?}", now() - begin);
        assert!(!forever.is_over(begin), "without patience there is no end");
        noise.abort();
    });
}

/// A peer that has a call to answer on each of them takes that much longer.
#[test]
fn patience_grows_with_the_connections_that_poll() {
    runtime(1).block_on(async {
        let begin = now();
        let patient = PollSet::current(Some(Duration::from_micros(1)));
        patient.crowd().awake.store(500, Ordering::Relaxed);
        let entry = count();
        within("patience", woken(&patient, &entry)).await;
        assert!(patient.is_over(begin), "it was woken to sleep");
        assert!(now() - begin >= Duration::from_nanos(500 * TURN_NS));
    });
}

#[test]
fn runtimes_have_sets_of_their_own_and_a_dead_one_wakes_its_waiters() {
    let one = runtime(1);
    let set = one.block_on(async { PollSet::current(None) });
    let other = runtime(1).block_on(async { PollSet::current(None) });
    assert!(!Arc::ptr_eq(&set.shared, &other.shared));

    struct Flag(AtomicBool);
    impl std::task::Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let flag = Arc::new(Flag(AtomicBool::new(false)));
    let entry = count();
    one.block_on(async {
        set.watch(&entry, &Waker::from(Arc::clone(&flag)));
        while entry.source().looks.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
    });
    drop(one);
    assert!(flag.0.load(Ordering::Relaxed));
    assert_eq!(Arc::strong_count(&entry), 1);
}

/// A set's task, and 200 entries that wait in it.
struct Waiters {
    scanner: Scanner,
    entries: Vec<Arc<Watched<Count>>>,
    woken: Vec<Arc<Woken>>,
}

impl Waiters {
    fn new(set: &PollSet) -> Waiters {
        let entries: Vec<_> = (0..200).map(|_| count()).collect();
        let woken: Vec<_> = entries.iter().map(|_| Arc::new(Woken::default())).collect();
        for (entry, woken) in entries.iter().zip(&woken) {
            set.watch(entry, &Waker::from(Arc::clone(woken)));
        }
        Waiters { scanner: Scanner::new(Arc::clone(&set.shared)), entries, woken }
    }

    /// Lets the set have a turn; who has been woken by now.
    fn turn(&mut self) -> Vec<usize> {
        let mut cx = std::task::Context::from_waker(Waker::noop());
        assert!(std::pin::pin!(&mut self.scanner).poll(&mut cx).is_pending());
        (0..200).filter(|number| self.woken[*number].0.load(Ordering::Relaxed) > 0).collect()
    }
}

/// Those that their own tasks move along have a turn whenever the set has one.
#[tokio::test]
async fn one_turn_of_the_set_wakes_all_that_have_news() {
    let mut waiters = Waiters::new(&PollSet::current(None));
    for number in [0, 3, 40, 199] {
        waiters.entries[number].source().come.store(1, Ordering::Release);
    }
    assert_eq!(waiters.turn(), [0, 3, 40, 199]);
}

/// And where those are many, as many of the set have one too.
#[tokio::test]
async fn the_set_keeps_pace_with_those_that_their_tasks_move_along() {
    let set = PollSet::current(None);
    let mut waiters = Waiters::new(&set);
    set.crowd().awake.store(200, Ordering::Relaxed);
    assert_eq!(waiters.turn().len(), 0);
    waiters.entries.iter().for_each(|entry| entry.source().come.store(1, Ordering::Release));
    let few = waiters.turn().len();
    assert!((1..100).contains(&few), "{few} of those that all wait in the set");
    set.crowd().awake.store(400, Ordering::Relaxed);
    assert_eq!(waiters.turn().len(), 200);
}
