//! The task that moves one connection along, and how hard it tries.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::job::Job;
use super::owner::{Arrival, Arrivals, Failure};
use crate::link::{Link, LinkError};
use crate::session::Role;
use crate::status::Status;

/// Passes without news before the task lets others run, in the modes that poll.
const PASSES_PER_TURN: usize = 32;

/// How often in a row the connection may be found taken before the task sleeps instead.
const MAX_REFUSALS: u32 = 200;

/// How long an idle connection sleeps at most before it looks at its timers. Any value works; it
/// only saves re-arming a timer for the first call after a pause.
const IDLE_ALARM: Duration = Duration::from_secs(10);

/// How often a connection that never sleeps looks whether its peer is alive.
const LIFE_LOOK: Duration = Duration::from_millis(10);

/// How long an orderly close may take before the link is dropped as it is.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How a connection waits for news.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ProgressMode {
    /// Polls without end: the shortest latency, and a core for it.
    Busy,
    /// Polls for a while after the last news, then sleeps until woken.
    #[default]
    Adaptive,
    /// Sleeps until woken: the least CPU.
    Event,
}

/// How a connection waits for news, with its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The mode.
    pub mode: ProgressMode,
    /// Adaptive: how long to poll after the last news.
    pub spin: Duration,
}

impl Default for Progress {
    fn default() -> Progress {
        Progress { mode: ProgressMode::Adaptive, spin: Duration::from_micros(50) }
    }
}

impl Progress {
    /// Sleeps until woken.
    pub const EVENT: Progress = Progress { mode: ProgressMode::Event, spin: Duration::ZERO };

    /// Whether a caller that waits should look at the link itself before it sleeps.
    pub(crate) fn polls(&self) -> bool {
        self.mode != ProgressMode::Event
    }
}

/// Why a connection's task ended.
#[derive(Debug, Clone)]
pub(crate) enum Ended {
    /// Every call was done, and the link was closed in order.
    Drained,
    /// The connection failed.
    Failed(Status),
}

/// Drives one connection to its end.
pub(crate) struct Driver<L: Link, A> {
    connection: Arc<Connection<L>>,
    arrivals: A,
    batch: Vec<Arrival>,
    alarm: Pin<Box<tokio::time::Sleep>>,
    last_news: Instant,
    last_look: Instant,
    /// How the connection ended; its link is being closed.
    closing: Option<Ended>,
    client: bool,
    /// How often in a row the connection was found taken.
    refused: u32,
}

impl<L: Link, A> std::fmt::Debug for Driver<L, A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").finish_non_exhaustive()
    }
}

impl<L: Link, A> Unpin for Driver<L, A> {}

impl<L: Link, A: Arrivals> Driver<L, A> {
    /// Must be made and polled inside a tokio runtime.
    pub(crate) fn new(connection: Arc<Connection<L>>, arrivals: A) -> Driver<L, A> {
        let now = now();
        Driver {
            client: connection.role() == Role::Client,
            connection,
            arrivals,
            batch: Vec::new(),
            alarm: Box::pin(tokio::time::sleep(IDLE_ALARM)),
            last_news: now,
            last_look: now,
            closing: None,
            refused: 0,
        }
    }

    /// One pass and the handlers of what it brought. `None`: someone else owns the connection.
    fn turn(&mut self) -> Option<Turn> {
        let now = now();
        let Driver { connection, arrivals, batch, .. } = self;
        let mut turn = connection.with_owner(|owner| {
            owner.sleeper = None;
            let busy = owner.pass(now, &mut |method, path| arrivals.bind(method, path));
            std::mem::swap(batch, &mut owner.calls.arrivals);
            if let Some(status) = &owner.dead {
                return Turn::Over(Ended::Failed(status.clone()));
            }
            match (owner.is_drained(), busy) {
                (true, _) => Turn::Drained,
                (_, true) => Turn::News,
                (_, false) => Turn::Quiet,
            }
        })?;
        if !batch.is_empty() {
            connection.corked(|| arrivals.run(batch));
            batch.clear();
            if !matches!(turn, Turn::Over(_)) {
                turn = Turn::News;
            }
        }
        if matches!(turn, Turn::News) {
            self.last_news = now;
        }
        Some(turn)
    }

    /// Whether to look again rather than sleep.
    fn keep_polling(&self) -> bool {
        let progress = self.connection.progress();
        match progress.mode {
            ProgressMode::Busy => true,
            ProgressMode::Event => false,
            ProgressMode::Adaptive => now().duration_since(self.last_news) < progress.spin,
        }
    }

    /// Arms the link and the alarm. `Ready`: there is news after all.
    fn poll_sleep(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let alarm = &mut self.alarm;
        let armed = self.connection.with_owner(|owner| {
            // Calls rely on us to flush what they committed while we were awake.
            owner.settle_or_fail();
            if owner.dead.is_some() {
                return Poll::Ready(());
            }
            let Some(link) = &mut owner.link else { return Poll::Ready(()) };
            match link.poll_ready(cx) {
                Poll::Ready(Ok(())) => return Poll::Ready(()),
                Poll::Ready(Err(error)) => {
                    owner.fail(Failure::Link(error));
                    return Poll::Ready(());
                }
                Poll::Pending => {}
            }
            let due = owner.session.poll_timeout().unwrap_or_else(|| now() + IDLE_ALARM);
            if owner.alarm != Some(due) {
                alarm.as_mut().reset(due.into());
                owner.alarm = Some(due);
            }
            if alarm.as_mut().poll(cx).is_ready() {
                owner.alarm = None;
                alarm.as_mut().reset((now() + IDLE_ALARM).into());
                return Poll::Ready(());
            }
            match &owner.sleeper {
                Some(waker) if waker.will_wake(cx.waker()) => {}
                _ => owner.sleeper = Some(cx.waker().clone()),
            }
            owner.armed = true;
            Poll::Pending
        });
        match armed {
            Some(poll) => poll,
            None => Poll::Ready(()),
        }
    }

    /// A connection that is polled without end still has to learn that the peer's process is
    /// gone: arming looks at the signs of life, now and then.
    fn look_at_life(&mut self, cx: &mut Context<'_>) {
        if self.connection.progress().mode != ProgressMode::Busy {
            return;
        }
        let now = now();
        if now.duration_since(self.last_look) < LIFE_LOOK {
            return;
        }
        self.last_look = now;
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
        let late = self.alarm.as_mut().poll(cx).is_ready();
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

    fn close(&mut self, ended: Ended, cx: &mut Context<'_>) -> Poll<Ended> {
        self.closing = Some(ended);
        self.alarm.as_mut().reset((now() + CLOSE_TIMEOUT).into());
        self.poll_closing(cx)
    }

    fn poll_closing(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        self.poll_close(cx).map(|()| self.closing.clone().unwrap_or(Ended::Drained))
    }
}

/// What one turn found.
enum Turn {
    News,
    Quiet,
    /// No new calls come, and none is left.
    Drained,
    Over(Ended),
}

impl<L: Link, A: Arrivals> Future for Driver<L, A> {
    type Output = Ended;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let this = self.get_mut();
        if this.closing.is_some() {
            return this.poll_closing(cx);
        }
        for _ in 0..PASSES_PER_TURN {
            let turn = this.turn();
            if turn.is_some() {
                this.refused = 0;
            }
            match turn {
                // Whoever owns it moves it along; look again soon. But an owner that keeps it for
                // long has lost its CPU, perhaps to us: sleep until it lets go.
                None if this.refused < MAX_REFUSALS => {
                    this.refused += 1;
                    std::hint::spin_loop();
                    continue;
                }
                None => {
                    this.refused = 0;
                    this.connection.leave(Job::Wake(cx.waker().clone()));
                    return Poll::Pending;
                }
                Some(Turn::Over(ended)) => return this.close(ended, cx),
                Some(Turn::Drained) => return this.close(Ended::Drained, cx),
                // On a client, news is for somebody: let them have it.
                Some(Turn::News) if this.client => break,
                Some(Turn::News) => {}
                Some(Turn::Quiet) => {
                    if this.keep_polling() {
                        std::hint::spin_loop();
                    } else if this.poll_sleep(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
        this.look_at_life(cx);
        // Unlike waking ourselves, this lets the runtime look at its sockets and run whatever
        // waits, the future given to `block_on` included, before we go on.
        if std::pin::pin!(tokio::task::yield_now()).poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl<L: Link, A> Drop for Driver<L, A> {
    /// The runtime is shutting down, or the task was aborted: nobody will move the connection
    /// along any more, so every call on it must learn that.
    fn drop(&mut self) {
        loop {
            let link = self.connection.with_owner(|owner| {
                owner.fail(Failure::Abandoned);
                owner.link.take()
            });
            match link {
                Some(link) => return drop(link),
                None => std::thread::yield_now(),
            }
        }
    }
}

/// The time, as tokio tells it: tests can hold it still.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
