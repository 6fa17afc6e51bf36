//! Task and set move the same thing along, and neither misses what the other leaves.

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::Notify;

use super::*;
use crate::driver::now;
use crate::poll_set::{Look, Watched};

/// News while the count is ahead of what was taken.
#[derive(Default)]
struct Count {
    come: AtomicU64,
    taken: AtomicU64,
}

impl Look for Count {
    fn has_news(&self, _: u64) -> bool {
        self.come.load(Ordering::Acquire) > self.taken.load(Ordering::Acquire)
    }
}

/// What happened to a sitter.
#[derive(Default)]
struct Log {
    polled: AtomicU64,
    resumed: AtomicU64,
    dropped: AtomicU64,
}

/// Takes what came, and then does as it was told.
struct Rig {
    set: PollSet,
    entry: Arc<Watched<Count>>,
    log: Arc<Log>,
    then: fn(u64) -> Poll<Ended>,
}

impl Rig {
    fn new(then: fn(u64) -> Poll<Ended>) -> Rig {
        let entry = Watched::new(Count::default());
        Rig { set: PollSet::current(None), entry, log: Arc::default(), then }
    }

    fn run(&self, cx: &mut Context<'_>) -> Poll<Ended> {
        let count = self.entry.source();
        let come = count.come.load(Ordering::Acquire);
        count.taken.store(come, Ordering::Release);
        let then = (self.then)(come);
        self.set.watch(&self.entry, cx.waker());
        then
    }
}

impl Sitter for Rig {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        self.log.polled.fetch_add(1, Ordering::Relaxed);
        self.run(cx)
    }

    fn resume(&mut self, _: Instant, cx: &mut Context<'_>) -> Poll<Ended> {
        self.log.resumed.fetch_add(1, Ordering::Relaxed);
        self.run(cx)
    }

    fn wants_turn(&mut self) -> bool {
        false
    }

    fn set(&mut self) -> Option<&mut PollSet> {
        Some(&mut self.set)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.entry.leave();
        self.log.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

/// One more piece of news for `entry`, and waits until it has been taken.
async fn ring(entry: &Watched<Count>) {
    let count = entry.source();
    let come = count.come.fetch_add(1, Ordering::AcqRel) + 1;
    let taken = async {
        while count.taken.load(Ordering::Acquire) < come {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), taken).await.expect("the news is taken");
}

fn counts(log: &Log) -> [u64; 3] {
    [&log.polled, &log.resumed, &log.dropped].map(|count| count.load(Ordering::Relaxed))
}

async fn ring_three_times() -> [u64; 3] {
    let rig = Rig::new(|_| Poll::Pending);
    let (entry, log) = (Arc::clone(&rig.entry), Arc::clone(&rig.log));
    let task = tokio::spawn(Seated::new(rig));
    for _ in 0..3 {
        ring(&entry).await;
    }
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    counts(&log)
}

#[tokio::test]
async fn on_one_thread_the_set_runs_it_where_it_is() {
    // The first news is there before it waits.
    assert_eq!(ring_three_times().await, [1, 2, 1], "polled, resumed, dropped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_several_threads_its_task_is_woken() {
    let [polled, resumed, dropped] = ring_three_times().await;
    assert!(polled >= 3 && resumed == 0, "{polled} by the task, {resumed} by the set");
    assert_eq!(dropped, 1);
}

#[tokio::test]
async fn what_ends_in_the_set_ends_its_task() {
    let rig = Rig::new(|come| if come < 2 { Poll::Pending } else { Poll::Ready(Ended::Drained) });
    let (entry, log) = (Arc::clone(&rig.entry), Arc::clone(&rig.log));
    let task = tokio::spawn(Seated::new(rig));
    ring(&entry).await;
    ring(&entry).await;
    assert!(matches!(task.await, Ok(Ended::Drained)));
    let [_, resumed, dropped] = counts(&log);
    assert!(resumed >= 1);
    assert_eq!(dropped, 1);
}

#[tokio::test]
async fn what_panics_in_the_set_ends_its_own_task_only() {
    let bad = Rig::new(|come| if come < 2 { Poll::Pending } else { panic!("a rigged panic") });
    let good = Rig::new(|_| Poll::Pending);
    let (bad_entry, good_entry) = (Arc::clone(&bad.entry), Arc::clone(&good.entry));
    let (bad_log, good_log) = (Arc::clone(&bad.log), Arc::clone(&good.log));
    let bad = tokio::spawn(Seated::new(bad));
    let good = tokio::spawn(Seated::new(good));
    for _ in 0..2 {
        ring(&bad_entry).await;
        ring(&good_entry).await;
    }
    let panic = bad.await.unwrap_err().into_panic();
    assert_eq!(panic.downcast_ref(), Some(&"a rigged panic"));
    assert_eq!(counts(&bad_log)[2], 1);
    let before = counts(&good_log)[1];
    ring(&good_entry).await;
    assert_eq!(counts(&good_log)[1], before + 1, "the set runs the other one on");
    assert!(!good.is_finished());
}

/// A sitter that notes the news it has seen, and takes its time over it.
struct Slow {
    come: Arc<AtomicU64>,
    seen: Arc<AtomicU64>,
    gone: Arc<AtomicU64>,
}

impl Slow {
    fn run(&self) -> Poll<Ended> {
        let come = self.come.load(Ordering::Acquire);
        (0..come % 64).for_each(|_| std::hint::spin_loop());
        self.seen.fetch_max(come, Ordering::AcqRel);
        Poll::Pending
    }
}

impl Sitter for Slow {
    fn poll(&mut self, _: &mut Context<'_>) -> Poll<Ended> {
        self.run()
    }

    fn resume(&mut self, _: Instant, _: &mut Context<'_>) -> Poll<Ended> {
        self.run()
    }

    fn wants_turn(&mut self) -> bool {
        false
    }

    fn set(&mut self) -> Option<&mut PollSet> {
        None
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.gone.fetch_add(1, Ordering::AcqRel);
    }
}

/// The task runs in one thread, the set's part is played by another: news that finds the driver
/// taken is seen afterwards, without anybody else waking the task.
#[test]
fn news_for_a_driver_that_is_taken_is_not_lost() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let [come, seen, gone] = [(); 3].map(|()| Arc::new(AtomicU64::new(0)));
    let slow = Slow { come: Arc::clone(&come), seen: Arc::clone(&seen), gone: Arc::clone(&gone) };
    let seated = Seated::new(slow);
    let seat = Arc::clone(&seated.seat);
    let task = runtime.spawn(seated);
    for round in 1..=20_000 {
        // The task is at it, more often than not, when the news comes.
        seat.wake();
        come.store(round, Ordering::Release);
        seat.resume(now());
        let begin = Instant::now();
        while seen.load(Ordering::Acquire) < round {
            assert!(begin.elapsed() < Duration::from_secs(30), "news {round} is lost");
            std::hint::spin_loop();
        }
    }
    task.abort();
    // Whether the set is at it or not at that moment.
    while gone.load(Ordering::Acquire) == 0 {
        seat.resume(now());
    }
    let ended = runtime.block_on(task);
    assert!(ended.is_err());
}

/// Wakes a caller when the set runs it first, and wants another turn.
struct Twice {
    set: PollSet,
    entry: Arc<Watched<Count>>,
    log: Arc<Mutex<Vec<&'static str>>>,
    caller: Arc<Notify>,
    wants_turn: bool,
}

impl Sitter for Twice {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        self.log.lock().unwrap().push("polled");
        self.set.watch(&self.entry, cx.waker());
        Poll::Pending
    }

    fn resume(&mut self, _: Instant, _: &mut Context<'_>) -> Poll<Ended> {
        let count = self.entry.source();
        let come = count.come.load(Ordering::Acquire);
        self.wants_turn = count.taken.swap(come, Ordering::AcqRel) < come;
        self.log.lock().unwrap().push(if self.wants_turn { "resumed" } else { "resumed again" });
        self.caller.notify_one();
        if self.wants_turn { Poll::Pending } else { Poll::Ready(Ended::Drained) }
    }

    fn wants_turn(&mut self) -> bool {
        std::mem::take(&mut self.wants_turn)
    }

    fn set(&mut self) -> Option<&mut PollSet> {
        Some(&mut self.set)
    }
}

impl Drop for Twice {
    fn drop(&mut self) {
        self.entry.leave();
    }
}

#[tokio::test]
async fn another_turn_comes_after_those_that_were_woken() {
    let (log, caller) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Notify::new()));
    let entry = Watched::new(Count::default());
    let task = tokio::spawn(Seated::new(Twice {
        set: PollSet::current(None),
        entry: Arc::clone(&entry),
        log: Arc::clone(&log),
        caller: Arc::clone(&caller),
        wants_turn: false,
    }));
    let waiting = tokio::spawn({
        let log = Arc::clone(&log);
        async move {
            caller.notified().await;
            log.lock().unwrap().push("caller");
        }
    });
    tokio::task::yield_now().await;
    entry.source().come.fetch_add(1, Ordering::AcqRel);
    assert!(matches!(task.await, Ok(Ended::Drained)));
    waiting.await.unwrap();
    assert_eq!(*log.lock().unwrap(), ["polled", "resumed", "caller", "resumed again"]);
}
