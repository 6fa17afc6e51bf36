//! A waker that stays where it was left, so that it need not be left again at every wait.
//!
//! Asking a reactor whether a socket is ready costs several locked instructions and cache lines. A
//! connection that waits many times a second for news from somewhere else, and once in its life
//! for its socket, asks once: as long as the waker it left has not been woken, the answer is no.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// Something to be woken by, of which is known whether it has been.
struct Left {
    woken: AtomicBool,
    task: Waker,
}

impl Wake for Left {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Release: whoever sees it sees what the waking was about.
        self.woken.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

/// Stands between a task and one thing it polls, and polls it only if the waker that was left with
/// it has been woken or is another task's.
#[derive(Default)]
pub struct StandingWaker {
    left: Option<Arc<Left>>,
}

impl StandingWaker {
    /// Polls, unless the last answer still holds. `poll` must keep the waker it is given when it is
    /// not ready, wake it when it could be, and be polled through this alone.
    #[inline]
    pub fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        if self.holds(cx.waker()) { Poll::Pending } else { self.poll_anew(cx, poll) }
    }

    /// Whether the last answer, not ready, still holds for the task of `waker`.
    #[inline]
    pub fn holds(&self, waker: &Waker) -> bool {
        self.left
            .as_ref()
            .is_some_and(|left| !left.woken.load(Ordering::Acquire) && left.task.will_wake(waker))
    }

    #[cold]
    fn poll_anew<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let left = Arc::new(Left { woken: AtomicBool::new(false), task: cx.waker().clone() });
        let waker = Waker::from(Arc::clone(&left));
        let poll = poll(&mut Context::from_waker(&waker));
        self.left = poll.is_pending().then_some(left);
        poll
    }
}

impl fmt::Debug for StandingWaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StandingWaker").field("left", &self.left.is_some()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Task;

    impl Wake for Task {
        fn wake(self: Arc<Self>) {}
    }

    #[test]
    fn it_is_polled_again_once_it_was_woken_or_for_another_task() {
        let mut standing = StandingWaker::default();
        let (one, other) = (Waker::from(Arc::new(Task)), Waker::from(Arc::new(Task)));
        let (mut kept, mut polls) = (None::<Waker>, 0);
        let mut poll = |waker: &Waker, ready: bool, wake: bool| {
            if wake && let Some(kept) = &kept {
                kept.wake_by_ref();
            }
            let result = standing.poll(&mut Context::from_waker(waker), |cx| {
                polls += 1;
                kept = Some(cx.waker().clone());
                if ready { Poll::Ready(()) } else { Poll::Pending }
            });
            (result.is_ready(), polls)
        };
        assert_eq!(poll(&one, false, false), (false, 1));
        assert_eq!(poll(&one, true, false), (false, 1), "nobody has woken it");
        assert_eq!(poll(&other, false, false), (false, 2), "another task must be woken now");
        assert_eq!(poll(&other, false, true), (false, 3), "woken for nothing");
        assert_eq!(poll(&other, true, false), (false, 3));
        assert_eq!(poll(&other, true, true), (true, 4));
        assert_eq!(poll(&other, false, false), (false, 5), "what was ready is polled again");
    }
}
