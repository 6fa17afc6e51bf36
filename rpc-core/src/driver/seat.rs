//! Where a driver sits: two may move it along, its own task and the poll set that found news for it.
//!
//! A poll set that wakes a task sends each call through the runtime's queue, and through whatever
//! futures the task has around the driver. On a runtime of one thread nothing is gained by that:
//! the set runs the driver where it is ([`Resume`]). The task stays: timers, sockets and the end
//! of the connection wake it.
//!
//! # Why nothing is missed
//!
//! The driver lies behind a lock that is only tried. Whoever finds it taken leaves a mark and tries
//! once more; whoever let it go takes the marks and does what they ask for. Both swap the same word,
//! so one of the two sees the other.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use spin::mutex::{SpinMutex, SpinMutexGuard};

use super::owner::Arrivals;
use super::task::{Driver, Ended};
use crate::link::Link;
use crate::poll_set::Resume;

/// Somebody wanted to move the driver along while it was taken.
const MISSED: u8 = 1;
/// Its task is gone.
const GONE: u8 = 2;

/// What two may move along.
struct Seat<L: Link, A: Arrivals> {
    place: SpinMutex<Place<L, A>>,
    marks: AtomicU8,
}

struct Place<L: Link, A: Arrivals> {
    /// `None` once it has ended, or its task is gone.
    driver: Option<Driver<L, A>>,
    /// How it ended, a panic included, where its task does not know yet.
    ended: Option<std::thread::Result<Ended>>,
    /// The task's, since it was polled first.
    task: Option<Waker>,
}

impl<L: Link, A: Arrivals> Place<L, A> {
    /// Moves the driver along; at its end it is dropped.
    fn poll(&mut self, act: impl FnOnce(&mut Driver<L, A>) -> Poll<Ended>) -> Poll<Ended> {
        let Some(driver) = &mut self.driver else { return Poll::Pending };
        let polled = act(driver);
        if polled.is_ready() {
            self.driver = None;
        }
        polled
    }
}

/// A driver as its task has it. Dropped, it takes the driver with it.
pub(crate) struct Seated<L: Link, A: Arrivals> {
    seat: Arc<Seat<L, A>>,
}

impl<L: Link, A: Arrivals> Driver<L, A> {
    /// To be polled by a task.
    pub(crate) fn seated(mut self) -> Seated<L, A> {
        let seat = Arc::new_cyclic(|seat: &Weak<Seat<L, A>>| {
            if let Some(set) = &mut self.set {
                set.resumes(Weak::clone(seat) as Weak<dyn Resume>);
            }
            let place = Place { driver: Some(self), ended: None, task: None };
            Seat { place: SpinMutex::new(place), marks: AtomicU8::new(0) }
        });
        Seated { seat }
    }
}

impl<L: Link, A: Arrivals> Seat<L, A> {
    /// The driver's place, unless somebody is at it, who then knows that `mark` was left.
    fn lock_or_mark(&self, mark: u8) -> Option<SpinMutexGuard<'_, Place<L, A>>> {
        self.place.try_lock().or_else(|| {
            self.marks.fetch_or(mark, Ordering::AcqRel);
            self.place.try_lock()
        })
    }

    /// Lets the place go, and does what others have asked for meanwhile.
    fn let_go(&self, place: SpinMutexGuard<'_, Place<L, A>>) {
        drop(place);
        let marks = self.marks.swap(0, Ordering::AcqRel);
        if marks != 0 {
            self.make_good(marks);
        }
    }

    #[cold]
    fn make_good(&self, marks: u8) {
        let Some(mut place) = self.lock_or_mark(marks) else { return };
        let gone = if marks & GONE != 0 { place.driver.take() } else { None };
        let task = place.task.clone();
        self.let_go(place);
        drop(gone);
        if let Some(task) = task {
            task.wake();
        }
    }
}

impl<L: Link, A: Arrivals> Resume for Seat<L, A> {
    fn resume(&self, at: Instant) {
        let Some(mut guard) = self.lock_or_mark(MISSED) else { return };
        let place = &mut *guard;
        // Until its task polls it for the first time it waits for nothing.
        let Some(task) = place.task.take() else { return self.let_go(guard) };
        // What panics in a task ends that task, and must not end the set's.
        let polled = catch_unwind(AssertUnwindSafe(|| {
            place.poll(|driver| driver.resume(at, &mut Context::from_waker(&task)))
        }));
        let ended = match polled {
            Ok(Poll::Pending) => {
                place.task = Some(task);
                return self.let_go(guard);
            }
            Ok(Poll::Ready(ended)) => Ok(ended),
            Err(panic) => Err(panic),
        };
        let driver = place.driver.take();
        place.ended = Some(ended);
        self.let_go(guard);
        drop(driver);
        task.wake();
    }

    fn wake(&self) {
        let Some(place) = self.lock_or_mark(MISSED) else { return };
        let task = place.task.clone();
        self.let_go(place);
        if let Some(task) = task {
            task.wake();
        }
    }
}

impl<L: Link, A: Arrivals> Future for Seated<L, A> {
    type Output = Ended;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let seat = &self.seat;
        // The other one wakes the task when it is done.
        let Some(mut place) = seat.lock_or_mark(MISSED) else { return Poll::Pending };
        match &place.task {
            Some(task) if task.will_wake(cx.waker()) => {}
            _ => place.task = Some(cx.waker().clone()),
        }
        let polled = match place.ended.take() {
            None => place.poll(|driver| Pin::new(driver).poll(cx)),
            Some(Ok(ended)) => Poll::Ready(ended),
            Some(Err(panic)) => {
                drop(place);
                resume_unwind(panic)
            }
        };
        seat.let_go(place);
        polled
    }
}

impl<L: Link, A: Arrivals> Drop for Seated<L, A> {
    fn drop(&mut self) {
        if let Some(mut place) = self.seat.lock_or_mark(GONE) {
            let driver = place.driver.take();
            self.seat.let_go(place);
            drop(driver);
        }
    }
}
