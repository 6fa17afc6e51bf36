//! The task that moves one connection along, and when it looks again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::clock::now;
use super::connection::Connection;
use super::job::Job;
use super::owner::{ArrivalBatch, Arrivals, Failure};
use super::progress::ProgressMode;
use super::seat::{Seated, Sitter};
use super::sleep::Alarm;
use crate::link::Link;
use crate::patience::let_others_run;
use crate::poll_set::PollSet;
use crate::session::Role;
use crate::status::Status;

/// Passes without news before the task lets others run, in the modes that poll.
const PASSES_PER_TURN: usize = 32;

/// How often in a row the connection may be found taken before the task sleeps instead.
const MAX_REFUSALS: u32 = 64;

/// The most passes without news, among other connections that poll, before the task joins the
/// poll set. Fewer where the last ones brought nothing.
const MAX_EAGER_PASSES: u32 = 64;

/// The most connections that poll by themselves: one for each thread of the runtime, but not more.
const MOST_BY_THEMSELVES: usize = 15;

/// After so many answers at once the driver lets everything run that is ready, and not only those it
/// has woken: the calls they make next leave together, and more has come by then.
const MANY_ANSWERS: usize = 6;

/// How long an idle connection sleeps at most before it looks at its timers. Any value works; it
/// only saves re-arming a timer for the first call after a pause.
pub(super) const IDLE_ALARM: Duration = Duration::from_secs(10);

/// Adaptive: so many times as long as else a connection polls while long messages wait to be pulled:
/// with the usual spin, for as long as five megabytes take the peer. To sleep meanwhile made a call of 1 MiB twice
/// as long, for no less CPU time.
const PULL_PATIENCE: u32 = 8;

/// A server that slept for so many times its spin before it was woken, and so the last times, does not poll once
/// it has answered: to poll brought nothing then, and a client on its CPU would wait for the end of it. Less
/// could be the time that waking both ends takes, between which calls follow each other closely.
const SPARSE_SPINS: u32 = 4;
const SPARSE_WAKES: u32 = 3;

/// After so many times that whoever woke a server was on its CPU, and had to wait for it until the server slept again,
/// it sleeps as soon as it has answered. Now and then it tries again whether they have a CPU each by now.
const WAKES_HERE: u32 = 2;
const MOST_WAKES_HERE: u32 = 64;

/// A server that was woken sooner than this after it fell asleep counts as woken from its own CPU where the link
/// cannot tell: a client who has waited for the CPU sends at once when it has it.
const HARDLY_SLEPT: Duration = Duration::from_micros(30);

/// A connection's open calls count as waiting for this long after the last of them was opened, or
/// after the last news.
const LIVELY: Duration = Duration::from_millis(1);

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
    pub(super) connection: Arc<Connection<L>>,
    arrivals: A,
    batch: ArrivalBatch,
    pub(super) alarm: Alarm,
    /// What the last turn knew of the time.
    pub(super) now: Instant,
    /// Whether much time may have gone by since.
    now_is_stale: bool,
    /// What whoever runs this said of the time; for the first turn.
    told: Option<Instant>,
    /// The set runs this, and not its task.
    resumed: bool,
    /// It wants another turn of the set.
    wants_turn: bool,
    last_news: Instant,
    /// There was news after that; the next turn that reads the clock takes it for when.
    undated_news: bool,
    /// When there was news last, or a call.
    last_call: Instant,
    pub(super) last_look: Instant,
    /// How the connection ended; its link is being closed.
    pub(super) closing: Option<Ended>,
    client: bool,
    /// When its last nap ends.
    pub(super) nap_end: Instant,
    /// A nap has moved the alarm.
    pub(super) alarm_moved: bool,
    /// How often in a row the connection was found taken.
    refused: u32,
    /// Where the runtime polls for all its connections; `None` in the mode that sleeps at once.
    pub(super) set: Option<PollSet>,
    /// Counted among the set's connections that poll.
    awake: bool,
    /// Long messages wait to be pulled, by either side.
    pulls_wait: bool,
    /// When it fell asleep in the kernel, if it has had no news since.
    slept_at: Option<Instant>,
    /// How often in a row it has slept for long and was woken by news.
    sparse_wakes: u32,
    /// How often in a row its peer was on the same CPU when it woke this, and sent no more while this polled.
    wakes_here: u32,
    /// Tasks of this runtime, with which calls go on, are not done: handlers, and on a client those that make
    /// the messages of its calls.
    has_tasks: bool,
    /// Passes without news since the last news.
    quiet_passes: u32,
    /// How many of them to make before joining the set.
    eager_passes: u32,
}

impl<L: Link, A> std::fmt::Debug for Driver<L, A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").finish_non_exhaustive()
    }
}

impl<L: Link, A> Driver<L, A> {
    /// Counts the connection among those of its runtime that poll, or no longer.
    fn count_awake(&mut self, awake: bool) {
        if let Some(set) = &self.set
            && self.awake != awake
        {
            self.awake = awake;
            if !awake {
                self.connection.counts.count_calls(0);
            }
            if awake {
                set.crowd().awake.fetch_add(1, Ordering::Relaxed);
            } else {
                set.crowd().awake.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

impl<L: Link, A: Arrivals> Driver<L, A> {
    /// Must be made and polled inside a tokio runtime.
    pub(crate) fn new(connection: Arc<Connection<L>>, arrivals: A) -> Driver<L, A> {
        let now = now();
        let progress = connection.progress();
        let set = match progress.mode {
            ProgressMode::Busy => Some(PollSet::current(None)),
            ProgressMode::Adaptive => Some(PollSet::current(Some(progress.spin))),
            ProgressMode::Event => None,
        };
        if let Some(set) = &set {
            connection.joins(set.crowd());
        }
        Driver {
            client: connection.role() == Role::Client,
            connection,
            arrivals,
            batch: ArrivalBatch::default(),
            alarm: Alarm::new(IDLE_ALARM),
            now,
            now_is_stale: true,
            told: None,
            resumed: false,
            wants_turn: false,
            last_news: now,
            undated_news: false,
            last_call: now,
            last_look: now,
            closing: None,
            nap_end: now,
            alarm_moved: false,
            refused: 0,
            set,
            awake: false,
            pulls_wait: false,
            slept_at: None,
            sparse_wakes: 0,
            wakes_here: 0,
            has_tasks: false,
            quiet_passes: 0,
            eager_passes: MAX_EAGER_PASSES,
        }
    }

    /// One pass and the handlers of what it brought. `None`: someone else owns the connection.
    fn turn(&mut self, driver: &Waker) -> Option<Turn> {
        let (stale, told) = (self.now_is_stale, self.told.take());
        let was_asleep = !self.client && self.slept_at.is_some() && !self.undated_news;
        let alone = self.set.is_some() && !self.is_one_of_many();
        let nap_end = self.nap_end;
        let Driver { client, connection, arrivals, batch, set, quiet_passes, pulls_wait, .. } =
            self;
        let waits = *quiet_passes > 0 && set.as_ref().is_some_and(PollSet::is_alone);
        let (mut open_calls, mut asked, mut sending) = (0, false, false);
        let (mut fresh, mut woken_here) = (None, None);
        let mut turn = connection.with_owner(|owner| {
            owner.asleep = false;
            owner.napper = None;
            owner.streamed = false;
            match told {
                Some(at) => owner.clock.told(at),
                None => owner.clock.tick(stale),
            }
            if waits {
                owner.wait_for_news(|| connection.has_jobs());
            }
            let busy = owner.pass(&mut |method, path| arrivals.bind(method, path));
            if busy && was_asleep && set.is_some() {
                woken_here = owner.link.as_mut().map(Link::was_woken_here);
            }
            let delivered = std::mem::take(&mut owner.delivered) || *client;
            if !owner.calls.batch.arrivals.is_empty() {
                std::mem::swap(batch, &mut owner.calls.batch);
            }
            open_calls = owner.session.open_streams();
            asked = std::mem::take(&mut owner.asked);
            sending = owner.session.is_sending();
            *pulls_wait = owner.session.has_bulks();
            fresh = owner.clock.fresh();
            let early = owner.clock.last() < nap_end;
            if let Some(status) = &owner.dead {
                return Turn::Over(Ended::Failed(status.clone()));
            }
            match (owner.is_drained(), busy) {
                (true, _) => Turn::Drained,
                // On a client, news is for somebody. On a server it mostly is for handlers that
                // run right here; but who waits for a long message is a task.
                (_, true) if delivered => {
                    // A connection alone that polls does better with halves (`Connection::may_wait`).
                    if !(alone && owner.flushes_early) {
                        owner.followers = followers(owner.received);
                    }
                    Turn::Delivered(owner.received)
                }
                (_, true) => Turn::News,
                (_, false) if owner.nap(driver, connection.is_crowded(), early) => Turn::Nap,
                (_, false) => Turn::Quiet,
            }
        })?;
        self.now_is_stale = false;
        let arrived = batch.arrivals.len();
        self.has_tasks = if *client { sending } else { open_calls > arrived };
        if arrived > 0 {
            self.has_tasks |= match arrived {
                // It is sent at once if it is alone, and by the next turn if not.
                1 => arrivals.run(batch),
                _ => connection.corked(|| arrivals.run(batch)),
            };
            batch.clear();
            self.now_is_stale = true;
            if !matches!(turn, Turn::Over(_) | Turn::Delivered(_)) {
                turn = Turn::News;
            }
        }
        if matches!(turn, Turn::News | Turn::Delivered(_)) {
            self.undated_news = true;
            if was_asleep || self.wakes_here > 0 {
                let soon = || self.is_soon_after_sleep(fresh);
                self.note_wake(woken_here.map(|here| here.unwrap_or_else(soon)));
            }
            if (1..=self.eager_passes).contains(&self.quiet_passes) {
                self.eager_passes = (self.eager_passes * 2).min(MAX_EAGER_PASSES);
            }
            self.quiet_passes = 0;
        }
        if self.client && asked && self.set.as_ref().is_some_and(PollSet::is_alone) {
            // What it asked for may be here soon.
            self.undated_news = true;
        }
        if let Some(now) = fresh.or(told) {
            self.now = self.now.max(now);
            self.date_news();
        }
        if self.client {
            self.count_calls(open_calls, asked);
        }
        Some(turn)
    }

    /// How many calls wait for what may come soon; `asked`: some were made just now.
    #[inline]
    fn count_calls(&mut self, open_calls: usize, asked: bool) {
        if asked || self.last_call < self.last_news {
            self.last_call = self.now;
        }
        // Streams that only listen for what seldom comes do not count.
        let lively = self.now.duration_since(self.last_call) < LIVELY;
        self.connection.counts.count_calls(if lively { open_calls } else { 0 });
    }

    /// Whether the driver polled in vain and then slept hardly at all: as if the news had waited for that.
    fn is_soon_after_sleep(&self, now: Option<Instant>) -> bool {
        let slept = now.zip(self.slept_at).map(|(now, at)| now.saturating_duration_since(at));
        slept.is_some_and(|slept| slept < HARDLY_SLEPT)
    }

    /// There is news. `here`: whether the peer was on this CPU, if it woke this.
    fn note_wake(&mut self, here: Option<bool>) {
        self.wakes_here = match here {
            Some(true) => self.wakes_here % MOST_WAKES_HERE + 1,
            None if self.quiet_passes == 0 => self.wakes_here,
            // It is on another; or it sent while this polled, and so is by now.
            Some(false) | None => 0,
        };
    }

    /// There was news at a time that nobody has looked at yet.
    pub(super) fn date_news_now(&mut self) {
        if self.undated_news {
            self.now = now();
            self.date_news();
        }
    }

    /// Notes when there was news.
    fn date_news(&mut self) {
        if std::mem::take(&mut self.undated_news) {
            self.last_news = self.now;
            if let Some(slept_at) = self.slept_at.take() {
                let long = self.connection.progress().spin * SPARSE_SPINS;
                let sparse = self.now.duration_since(slept_at) > long;
                self.sparse_wakes = if sparse { self.sparse_wakes.saturating_add(1) } else { 0 };
            }
            if let Some(set) = &self.set {
                set.note_news(self.now);
            }
        }
    }

    /// Whether more connections poll than can do so by themselves: to look again at this one would
    /// keep the others waiting.
    fn is_one_of_many(&self) -> bool {
        self.set
            .as_ref()
            .is_some_and(|set| set.awake() > set.crowd().threads.min(MOST_BY_THEMSELVES))
    }

    /// Whether to poll on is likely to be in vain: what will come comes much later, or not before its sender has
    /// the CPU, and none of the calls that have come is still open.
    fn polls_in_vain(&self) -> bool {
        let in_vain = self.sparse_wakes >= SPARSE_WAKES || self.wakes_here >= WAKES_HERE;
        !self.client && in_vain && !self.has_tasks && !self.pulls_wait
    }

    /// What to do after a pass without news.
    fn after_quiet(&mut self) -> Quiet {
        let progress = self.connection.progress();
        let Some(set) = &self.set else { return Quiet::Sleep };
        self.quiet_passes = self.quiet_passes.saturating_add(1);
        if set.is_alone() {
            // The shortest way, and nobody else's time.
            let patience = progress.spin * if self.pulls_wait { PULL_PATIENCE } else { 1 };
            let looks = match progress.mode {
                ProgressMode::Busy => true,
                _ if self.polls_in_vain() => false,
                _ => self.undated_news || self.now.duration_since(self.last_news) < patience,
            };
            return if looks { Quiet::LookAgain } else { Quiet::Sleep };
        }
        if self.quiet_passes <= self.eager_passes && !self.is_one_of_many() {
            return Quiet::LookAgain;
        }
        self.date_news_now();
        if self.quiet_passes == self.eager_passes + 1 {
            self.eager_passes = (self.eager_passes / 2).max(1);
        }
        let is_over = self.set.as_ref().is_some_and(|set| set.is_over(self.last_news));
        if is_over { Quiet::Sleep } else { Quiet::JoinSet }
    }
}

/// What to do after a pass without news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quiet {
    LookAgain,
    /// Let the runtime's poll set look.
    JoinSet,
    /// Sleep in the kernel.
    Sleep,
}

/// What one turn found.
enum Turn {
    News,
    /// News that tasks of this runtime wait for: so many of them, about.
    Delivered(usize),
    Quiet,
    /// Nothing, and a caller polls the link.
    Nap,
    /// No new calls come, and none is left.
    Drained,
    Over(Ended),
}

/// How many calls are to leave together that follow so many answers: after a few all that are made
/// before the driver's next turn, and after many, when that is later, as many as there were answers. 0: each
/// leaves as it would otherwise.
fn followers(answers: usize) -> u32 {
    match answers {
        0 | 1 => 0,
        few if few < MANY_ANSWERS => u32::MAX,
        many => many as u32,
    }
}

impl<L: Link, A: Arrivals> Sitter for Driver<L, A> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        self.now_is_stale = true;
        (self.resumed, self.wants_turn) = (false, false);
        self.run(cx)
    }

    fn resume(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<Ended> {
        self.told = Some(at);
        self.resumed = true;
        self.run(cx)
    }

    fn wants_turn(&mut self) -> bool {
        std::mem::take(&mut self.wants_turn)
    }

    fn set(&mut self) -> Option<&mut PollSet> {
        self.set.as_mut()
    }
}

impl<L: Link, A: Arrivals> Driver<L, A> {
    /// To be polled by a task.
    pub(crate) fn seated(self) -> Seated<Driver<L, A>> {
        Seated::new(self)
    }

    fn run(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        if self.closing.is_some() {
            return self.poll_closing(cx);
        }
        self.count_awake(true);
        let mut lets_all_run = false;
        for _ in 0..PASSES_PER_TURN {
            let turn = self.turn(cx.waker());
            if turn.is_some() {
                self.refused = 0;
            }
            match turn {
                // Whoever owns it moves it along; look again soon. But an owner that keeps it for
                // long has lost its CPU, perhaps to us: sleep until it lets go.
                None if self.refused < MAX_REFUSALS => {
                    self.refused += 1;
                    std::hint::spin_loop();
                    continue;
                }
                None => {
                    self.refused = 0;
                    self.nap(cx);
                    self.connection.leave(Job::Wake(cx.waker().clone()));
                    return Poll::Pending;
                }
                Some(Turn::Over(ended)) => return self.close(ended, cx),
                Some(Turn::Drained) => return self.close(Ended::Drained, cx),
                // Let them have it. What they send then may leave together.
                Some(Turn::Delivered(count)) if count > 1 => {
                    lets_all_run = count >= MANY_ANSWERS;
                    break;
                }
                Some(turn @ (Turn::Delivered(_) | Turn::News)) => {
                    if self.is_one_of_many() && self.poll_sleep(cx, true).is_pending() {
                        return Poll::Pending;
                    }
                    if matches!(turn, Turn::Delivered(_)) || self.has_tasks {
                        break;
                    }
                }
                Some(Turn::Nap) => {
                    self.nap(cx);
                    return Poll::Pending;
                }
                Some(Turn::Quiet) => match self.after_quiet() {
                    // What they wait for only others may bring.
                    Quiet::LookAgain if self.has_tasks => break,
                    Quiet::LookAgain if !self.connection.is_looked_at_in_place() => break,
                    Quiet::LookAgain => std::hint::spin_loop(),
                    Quiet::JoinSet => {
                        if self.poll_sleep(cx, true).is_pending() {
                            return Poll::Pending;
                        }
                    }
                    Quiet::Sleep => {
                        if self.poll_sleep(cx, false).is_pending() {
                            self.slept_at.get_or_insert(self.now);
                            self.count_awake(false);
                            return Poll::Pending;
                        }
                    }
                },
            }
        }
        self.look_at_life(cx);
        if self.resumed && !lets_all_run && self.is_one_of_many() {
            self.wants_turn = true;
            return Poll::Pending;
        }
        // Unlike waking ourselves, this lets the runtime look at its sockets and run whatever
        // waits, the future given to `block_on` included, before we go on.
        let_others_run(cx);
        Poll::Pending
    }
}

impl<L: Link, A> Drop for Driver<L, A> {
    /// The runtime is shutting down, or the task was aborted: nobody will move the connection
    /// along any more, so every call on it must learn that.
    fn drop(&mut self) {
        self.count_awake(false);
        loop {
            let link = self.connection.with_owner(|owner| {
                owner.fail(Failure::Abandoned);
                (owner.sleeps_in, owner.sleeper, owner.asleep) = (None, None, false);
                owner.link.take()
            });
            match link {
                Some(link) => return drop(link),
                None => std::thread::yield_now(),
            }
        }
    }
}

#[cfg(test)]
mod tests;
