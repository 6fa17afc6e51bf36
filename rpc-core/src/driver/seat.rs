//! Where a driver sits: two may move it along, its own task and the poll set that found news for it.
//!
//! A poll set that wakes a task sends each call through the runtime's queue, and through whatever
//! futures the task has around the driver. On a runtime of one thread nothing is gained by that:
//! the set runs the driver where it is ([`Resume`]). The task stays: timers, sockets and the end
//! of the connection wake it.
//!
//! # Why nothing is missed
//!
//! The driver lies behind a lock that is only tried. The task, when it finds it taken, comes back at
//! once. The set, and a task that ends, leave a mark and try once more; whoever let it go takes the
//! marks and does what they ask for. Both swap the same word, so one of the two sees the other.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use spin::mutex::{SpinMutex, SpinMutexGuard};

use super::task::Ended;
use crate::poll_set::{PollSet, Resume};

/// The set had news while the driver was taken.
const MISSED: u8 = 1;
/// Its task is gone.
const GONE: u8 = 2;

/// What two may move along.
pub(crate) trait Sitter: Send + 'static {
    /// As of a future, by its task.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended>;

    /// The same by the poll set, which has found news and looked at the clock a moment ago.
    fn resume(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<Ended>;

    /// Whether it wants another turn of the set, once those have run whom it has woken. Asked once
    /// after each.
    fn wants_turn(&mut self) -> bool;

    /// The set that may do so, if it waits in one.
    fn set(&mut self) -> Option<&mut PollSet>;
}

struct Seat<D> {
    place: SpinMutex<Place<D>>,
    marks: AtomicU8,
}

struct Place<D> {
    /// `None` once it has ended, or its task is gone.
    sitter: Option<D>,
    /// How it ended, a panic included, where its task does not know yet.
    ended: Option<std::thread::Result<Ended>>,
    /// The task's, since it was polled first.
    task: Option<Waker>,
}

impl<D> Place<D> {
    fn act(&mut self, act: impl FnOnce(&mut D) -> Poll<Ended>) -> Poll<Ended> {
        let Some(sitter) = &mut self.sitter else { return Poll::Pending };
        let polled = act(sitter);
        if polled.is_ready() {
            self.sitter = None;
        }
        polled
    }
}

/// A driver as its task has it. Dropped, it takes the driver with it.
pub(crate) struct Seated<D: Sitter> {
    seat: Arc<Seat<D>>,
}

impl<D: Sitter> Seated<D> {
    pub(super) fn new(mut sitter: D) -> Seated<D> {
        let seat = Arc::new_cyclic(|seat: &Weak<Seat<D>>| {
            if let Some(set) = sitter.set() {
                set.resumes(Weak::clone(seat) as Weak<dyn Resume>);
            }
            let place = Place { sitter: Some(sitter), ended: None, task: None };
            Seat { place: SpinMutex::new(place), marks: AtomicU8::new(0) }
        });
        Seated { seat }
    }
}

impl<D> Seat<D> {
    /// The place, unless somebody is at it, who then knows that `mark` was left.
    fn lock_or_mark(&self, mark: u8) -> Option<SpinMutexGuard<'_, Place<D>>> {
        self.place.try_lock().or_else(|| {
            self.marks.fetch_or(mark, Ordering::AcqRel);
            self.place.try_lock()
        })
    }

    /// Lets the place go, and does what others have asked for meanwhile.
    fn let_go(&self, place: SpinMutexGuard<'_, Place<D>>) {
        drop(place);
        let marks = self.marks.swap(0, Ordering::AcqRel);
        if marks != 0 {
            self.make_good(marks);
        }
    }

    /// Wakes the task, and drops what it has left behind if it is gone.
    #[cold]
    fn make_good(&self, marks: u8) {
        let Some(mut place) = self.lock_or_mark(marks) else { return };
        let gone = if marks & GONE != 0 { place.sitter.take() } else { None };
        let task = place.task.clone();
        self.let_go(place);
        drop(gone);
        if let Some(task) = task {
            task.wake();
        }
    }
}

impl<D: Sitter> Resume for Seat<D> {
    fn resume(&self, at: Instant) -> bool {
        let Some(mut guard) = self.lock_or_mark(MISSED) else { return false };
        let place = &mut *guard;
        let Some(task) = place.task.take() else {
            // Until its task polls it for the first time it waits for nothing.
            self.let_go(guard);
            return false;
        };
        // What panics in a task ends that task, and must not end the set's.
        let polled = catch_unwind(AssertUnwindSafe(|| {
            place.act(|sitter| sitter.resume(at, &mut Context::from_waker(&task)))
        }));
        let ended = match polled {
            Ok(Poll::Pending) => {
                place.task = Some(task);
                let again = place.sitter.as_mut().is_some_and(Sitter::wants_turn);
                self.let_go(guard);
                return again;
            }
            Ok(Poll::Ready(ended)) => Ok(ended),
            Err(panic) => Err(panic),
        };
        let sitter = place.sitter.take();
        place.ended = Some(ended);
        self.let_go(guard);
        drop(sitter);
        task.wake();
        false
    }

    fn wake(&self) {
        self.make_good(MISSED);
    }
}

impl<D: Sitter> Future for Seated<D> {
    type Output = Ended;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let seat = &self.seat;
        let Some(mut place) = seat.place.try_lock() else {
            // The set is at it on another thread. The waker it knows may not be this one: again.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        };
        match &place.task {
            Some(task) if task.will_wake(cx.waker()) => {}
            _ => place.task = Some(cx.waker().clone()),
        }
        let polled = match place.ended.take() {
            None => place.act(|sitter| sitter.poll(cx)),
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

impl<D: Sitter> Drop for Seated<D> {
    fn drop(&mut self) {
        if let Some(mut place) = self.seat.lock_or_mark(GONE) {
            let sitter = place.sitter.take();
            self.seat.let_go(place);
            drop(sitter);
        }
    }
}

#[cfg(test)]
mod tests;
