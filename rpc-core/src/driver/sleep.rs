//! How the driver's task sleeps, naps, and closes its link.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use super::clock::now;
use super::owner::{Arrivals, Failure};
use super::progress::ProgressMode;
use super::task::{Driver, Ended, IDLE_ALARM};
use crate::link::{Link, LinkError};
use crate::standing::StandingWaker;

/// How long the task leaves the link to callers who poll it before it looks again.
const NAP: Duration = Duration::from_millis(1);

/// How often a connection that never sleeps looks whether its peer is alive.
const LIFE_LOOK: Duration = Duration::from_millis(10);

/// How long an orderly close may take before the link is dropped as it is.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the crowd goes on counting the calls of a connection that nothing happens on. Longer than
/// `LIVELY`, because the connection has to be woken for it.
const COUNT_AGAIN: Duration = Duration::from_millis(100);

/// Wakes the task at a time. What it said last holds until it rings, so most waits do not touch the
/// timer.
#[derive(Debug)]
pub(super) struct Alarm {
    sleep: Pin<Box<Sleep>>,
    left: StandingWaker,
}

impl Alarm {
    pub(super) fn new(after: Duration) -> Alarm {
        Alarm { sleep: Box::pin(tokio::time::sleep(after)), left: StandingWaker::default() }
    }

    /// A waker that was left stays.
    fn reset(&mut self, at: Instant) {
        self.sleep.as_mut().reset(at.into());
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.left.poll(cx, |cx| self.sleep.as_mut().poll(cx))
    }
}

impl<L: Link, A: Arrivals> Driver<L, A> {
    /// A caller polls the link, and wakes us when it stops; lest it forgets, so does the alarm.
    pub(super) fn nap(&mut self, cx: &mut Context<'_>) {
        let now = now();
        if self.nap_end <= now {
            self.nap_end = now + NAP * self.connection.naps_together();
        }
        self.alarm.reset(self.nap_end);
        self.alarm_moved = true;
        if self.alarm.poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }

    /// Waits in the kernel, or in the poll set, and for the alarm. `Ready`: there is news after
    /// all.
    pub(super) fn poll_sleep(&mut self, cx: &mut Context<'_>, in_set: bool) -> Poll<()> {
        self.date_news_now();
        let Driver { alarm, set, .. } = self;
        let set = set.as_ref().filter(|_| in_set);
        let alarm_moved = std::mem::take(&mut self.alarm_moved);
        let (counted, last_turn) = (self.connection.counts.is_counted(), self.now);
        let armed = self.connection.with_owner(|owner| {
            // Calls rely on us to flush what they committed while we were awake.
            owner.settle_or_fail();
            if owner.must_not_sleep() {
                return Poll::Ready(());
            }
            let Some(link) = &mut owner.link else { return Poll::Ready(()) };
            let polled = match set {
                Some(set) => link.poll_ready_in(cx, set),
                None => link.poll_ready(cx),
            };
            match polled {
                Poll::Ready(Ok(())) => return Poll::Ready(()),
                Poll::Ready(Err(error)) => {
                    owner.fail(Failure::Link(error));
                    return Poll::Ready(());
                }
                Poll::Pending => {}
            }
            let mut due = owner.next_due().unwrap_or(last_turn + IDLE_ALARM);
            if set.is_some() && counted {
                due = due.min(last_turn + COUNT_AGAIN);
            }
            // An alarm that rings early does no harm: it is set anew then.
            if alarm_moved || owner.alarm.is_none_or(|at| due < at) {
                alarm.reset(due);
                owner.alarm = Some(due);
            }
            if alarm.poll(cx).is_ready() {
                owner.alarm = None;
                alarm.reset(now() + IDLE_ALARM);
                return Poll::Ready(());
            }
            match &owner.sleeper {
                Some(waker) if waker.will_wake(cx.waker()) => {}
                _ => owner.sleeper = Some(cx.waker().clone()),
            }
            if owner.sleeps_in.is_some() != set.is_some() {
                owner.sleeps_in = set.cloned();
            }
            (owner.asleep, owner.armed) = (true, true);
            owner.acts_in_sleep = 0;
            Poll::Pending
        });
        match armed {
            Some(poll) => poll,
            None => Poll::Ready(()),
        }
    }

    /// A connection that is polled without end still has to learn that the peer's process is
    /// gone: arming looks at the signs of life, now and then.
    pub(super) fn look_at_life(&mut self, cx: &mut Context<'_>) {
        if self.connection.progress().mode != ProgressMode::Busy {
            return;
        }
        if self.now.duration_since(self.last_look) < LIFE_LOOK {
            return;
        }
        self.last_look = self.now;
        self.connection.with_owner(|owner| {
            if owner.dead.is_none()
                && let Some(link) = &mut owner.link
                && let Poll::Ready(Err(error)) = link.poll_ready(cx)
            {
                owner.fail(Failure::Link(error));
            }
        });
    }

    /// Closes the link in order, within a bounded time, and gives it back: the connection lives on
    /// as long as anybody remembers a call on it, and the peer must not wait for that.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let late = self.alarm.poll(cx).is_ready();
        let closed = self.connection.with_owner(|owner| {
            let result = match &mut owner.link {
                Some(link) if !late && !owner.link_failed => link.poll_close(cx),
                _ => Poll::Ready(Ok(())),
            };
            result.map(|result| {
                // Nobody is waiting for anything on it; this only marks it as over.
                let error = result
                    .err()
                    .unwrap_or_else(|| LinkError::closed("this side closed after its last call"));
                owner.fail(Failure::Link(error));
                owner.link.take()
            })
        });
        match closed {
            // The link is dropped here, outside the lock.
            Some(poll) => poll.map(drop),
            None => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    pub(super) fn close(&mut self, ended: Ended, cx: &mut Context<'_>) -> Poll<Ended> {
        self.closing = Some(ended);
        self.alarm.reset(now() + CLOSE_TIMEOUT);
        self.poll_closing(cx)
    }

    pub(super) fn poll_closing(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        self.poll_close(cx).map(|()| self.closing.clone().unwrap_or(Ended::Drained))
    }
}
