//! A caller that polls for all the calls of other threads than the driver's.
//!
//! A driver that polls has its callers at hand where they are tasks of its runtime. A caller on another
//! thread (a program's `main` in the future given to `block_on`, a thread of its own) it has to wake in
//! the kernel, for every answer or two. One that is alone polls for itself (`help.rs`); of several,
//! one is the *scout*: it polls for all of them, while the driver naps, and comes back by its own waker as
//! soon as those have run who got something. Once the scout has its answer, the call that was opened last
//! goes on: as answers mostly come in the order of their calls, that is seldom.
//!
//! A scout that is not polled any more is given up when the driver looks next, a nap or two later.

use std::thread::{self, ThreadId};

use super::cell::Cell;
use super::conn::Helped;
use super::connection::Connection;
use super::help::{HELP_PASSES, MOST_REFUSALS};
use super::job::Job;
use super::owner::Owner;
use crate::link::Link;
use crate::patience::{Patience, pause};
use crate::session::StreamId;

/// A caller on another thread than the driver's; the thread, where just one shall poll: to look at a
/// socket is a system call, and if several threads take turns, each wakes the next. Then a driver that
/// wakes them all is better (twice as many calls, with 8 open on each of 4 threads); on a ring half as good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outsider(Option<ThreadId>);

/// Who looks for the answers of the calls of other threads.
#[derive(Debug, Default)]
pub(super) struct Scouting {
    scout: Option<StreamId>,
    /// Which call was opened last.
    newest: Option<StreamId>,
    /// Whose calls may be polled for.
    outsider: Option<Outsider>,
    /// Calls of others may be open too, whom the driver serves best.
    others: bool,
}

impl Scouting {
    /// A call has been opened as one of `open`. `outsider`: what its caller is, who may become the scout.
    pub(super) fn opened(&mut self, id: StreamId, outsider: Option<Outsider>, open: usize) {
        if open <= 1 {
            *self = Scouting { outsider, ..Scouting::default() };
        }
        self.newest = Some(id);
        self.others |= outsider.is_none() || outsider != self.outsider;
    }

    /// Whether the call that has just been opened becomes the scout.
    pub(super) fn appoints(&mut self, may: impl FnOnce() -> bool) -> bool {
        self.newest.is_some_and(|id| self.is_scout(id, may))
    }

    /// Whether a call is the scout, or becomes it now.
    fn is_scout(&mut self, id: StreamId, may: impl FnOnce() -> bool) -> bool {
        if self.scout.is_none() && !self.others && may() {
            self.scout = Some(id);
        }
        !self.others && self.scout == Some(id)
    }

    /// Whether all that are open may be polled for.
    pub(super) fn is_possible(&self) -> bool {
        !self.others
    }

    /// Whether they all are of other threads than the runtime's.
    pub(super) fn is_outside(&self) -> bool {
        self.outsider.is_some() && !self.others
    }

    /// Whether a caller polls for all that are open.
    pub(super) fn is_on(&self) -> bool {
        self.scout.is_some() && !self.others
    }

    pub(super) fn forget(&mut self) {
        self.scout = None;
    }
}

/// What a pass of a would-be scout has come to.
enum Scouted {
    /// Another polls, or the driver has to.
    NotAllowed,
    Nothing,
    /// Nothing, and what comes only the runtime brings.
    InVain,
    News,
}

impl<L: Link> Connection<L> {
    /// Where this is none of the threads of the runtime that drives the connection, and no task, which
    /// may run on one of them: a task of another runtime is taken for one, and a local task.
    pub(super) fn outsider(&self) -> Option<Outsider> {
        let apart =
            self.progress().polls() && self.crowd().is_some_and(|crowd| crowd.threads_apart);
        if !apart || tokio::task::try_id().is_some() {
            return None;
        }
        Some(Outsider((!self.is_looked_at_in_place()).then(|| thread::current().id())))
    }

    /// Whether polling is likely to bring something soon, and keeps nobody else waiting.
    pub(super) fn scouting_may_pay(&self) -> bool {
        !self.is_crowded() && self.patience().is_none_or(Patience::may_try)
    }

    /// [`Conn::scout`](super::Conn::scout).
    pub(super) fn scout_in_place(&self, cell: &Cell) -> Helped {
        if !self.may_scout() {
            return Helped::No;
        }
        let is_scout = |owner: &mut Owner<L>| {
            cell.id().is_some_and(|id| owner.scouting.is_scout(id, || self.scouting_may_pay()))
        };
        if self.in_rounds() {
            return self.help_in_round(cell, is_scout);
        }
        let patience = self.patience();
        let (mut passes, mut refusals) = (0, 0);
        while passes < HELP_PASSES && refusals < MOST_REFUSALS {
            let begins = passes == 0;
            let scouted = self.with_owner(|owner| match is_scout(owner) {
                true => owner.scout_once(begins, || self.has_jobs()),
                false => Scouted::NotAllowed,
            });
            match scouted {
                Some(Scouted::NotAllowed) => return Helped::No,
                Some(Scouted::InVain) => return Helped::Looked,
                Some(Scouted::News) => {
                    patience.inspect(|patience| patience.paid());
                    return Helped::Scouted;
                }
                Some(Scouted::Nothing) => passes += 1,
                None => {
                    if refusals == 0 {
                        self.leave(Job::Help);
                    }
                    refusals += 1;
                }
            }
            pause(passes + refusals);
        }
        if let (Some(patience), HELP_PASSES) = (patience, passes) {
            patience.was_vain();
        }
        Helped::Looked
    }
}

impl<L: Link> Owner<L> {
    /// One pass for all. `others`: somebody else wants the connection.
    fn scout_once(&mut self, begins: bool, others: impl Fn() -> bool) -> Scouted {
        self.clock.tick(begins);
        self.send_held();
        let goes_on = self.look_in_place(others);
        if self.received > 0 || self.dead.is_some() {
            Scouted::News
        } else if goes_on {
            Scouted::Nothing
        } else {
            Scouted::InVain
        }
    }

    /// Calls have waited for more to leave with, and no more comes.
    pub(super) fn send_held(&mut self) {
        if self.unflushed > 0 {
            self.settle_or_fail();
        }
    }

    /// If the scout has its answer, or its caller wants none, another goes on.
    #[inline]
    pub(super) fn see_to_scout(&mut self) {
        if let Some(scout) = self.scouting.scout
            && self.calls.cell(scout).is_none()
        {
            self.relieve_scout();
        }
    }

    fn relieve_scout(&mut self) {
        self.scouting.forget();
        if self.session.open_streams() == 0 {
            return;
        }
        let newest = self.scouting.newest.filter(|_| !self.scouting.others);
        match newest.and_then(|id| self.calls.cell(id)) {
            Some(next) => {
                self.scouting.scout = newest;
                next.rouse_reader();
            }
            None => self.end_help(),
        }
    }
}
