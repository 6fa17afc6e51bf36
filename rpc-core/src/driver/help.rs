//! A caller that is alone on its connection polls the link itself, and the driver naps meanwhile.

use std::task::Waker;
use std::time::Instant;

use super::cell::Cell;
use super::clock::now;
use super::conn::{Conn, Helped};
use super::connection::Connection;
use super::job::Job;
use super::owner::Owner;
use crate::link::Link;
use crate::patience::{Patience, pause};

/// How often a waiting caller looks at the link before it sleeps.
pub(super) const HELP_PASSES: usize = 256;

/// How often in a row it may find the connection taken. Its driver, on another thread, gives way as soon
/// as it hears of the caller, unless the system has taken its CPU.
pub(super) const MOST_REFUSALS: usize = 1024;

/// What a pass of a caller who is alone has come to.
enum Look {
    Nothing,
    /// Something, perhaps for the caller.
    News,
    /// Nobody waits any more: it was the caller's answer.
    Answered,
    /// If it brought nothing for the caller, that does not look again for now.
    Last(Helped),
}

impl<L: Link> Connection<L> {
    /// [`Conn::help`].
    pub(super) fn help_in_place(&self, cell: &Cell) -> Helped {
        if !self.may_help() {
            return Helped::No;
        }
        let patience = self.patience();
        if !patience.is_none_or(Patience::may_try) {
            // The driver may nap because the last caller polled.
            self.end_help();
            return Helped::No;
        }
        if self.in_rounds() {
            return self.help_in_round(cell, |_| true);
        }
        let (mut passes, mut refusals) = (0, 0);
        while passes < HELP_PASSES && refusals < MOST_REFUSALS {
            let looked =
                self.with_owner(|owner| owner.help_once(passes == 0, patience, || self.has_jobs()));
            let news = match looked {
                Some(Look::Answered) => true,
                Some(Look::Nothing) => false,
                // Or somebody else has brought it.
                Some(Look::News | Look::Last(_)) | None => cell.has_news(),
            };
            if news {
                patience.inspect(|patience| patience.paid());
                return Helped::Looked;
            }
            match looked {
                Some(Look::Last(end)) => return end,
                Some(_) => passes += 1,
                None if refusals > 0 => refusals += 1,
                None => {
                    if !may_wait_alone(patience, now()) {
                        return Helped::OthersTurn;
                    }
                    self.leave(Job::Help);
                    refusals = 1;
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

fn may_wait_alone(patience: Option<&Patience>, now: Instant) -> bool {
    patience.is_none_or(|patience| patience.begin_lone_wait(now))
}

impl<L: Link> Owner<L> {
    /// One pass of a caller, who begins to wait with it or not. `others`: somebody else wants the connection.
    fn help_once(
        &mut self,
        begins: bool,
        patience: Option<&Patience>,
        others: impl Fn() -> bool,
    ) -> Look {
        self.clock.tick(begins);
        if !self.has_one_caller() {
            return Look::Last(Helped::Looked);
        }
        if begins && !may_wait_alone(patience, self.clock.last()) {
            return Look::Last(Helped::OthersTurn);
        }
        let goes_on = self.look_in_place(others);
        if self.has_no_caller() {
            Look::Answered
        } else if !goes_on || !self.has_one_caller() {
            Look::Last(Helped::Looked)
        } else if self.received > 0 || self.dead.is_some() {
            Look::News
        } else {
            Look::Nothing
        }
    }

    /// A look and a pass of a caller. `false`: what comes only the runtime brings, and that is the driver's
    /// to wait for.
    pub(super) fn look_in_place(&mut self, others: impl Fn() -> bool) -> bool {
        self.wait_for_news(others);
        self.look_once()
    }

    /// The same without waiting for anything.
    pub(super) fn look_once(&mut self) -> bool {
        self.help_passes = self.help_passes.saturating_add(1);
        let goes_on = self.link.as_mut().is_none_or(|link| link.fetch());
        self.pass(&mut |_, _| None);
        goes_on
    }

    /// Whether there is something that only the driver does: a caller that polls serves itself.
    pub(super) fn needs_driver(&self) -> bool {
        self.dead.is_some()
            || self.pull_due
            || self.session.is_going_away()
            || self.session.open_streams() > 1 && !self.scouting.is_on()
            || !self.calls.batch.arrivals.is_empty()
    }

    /// Whether the driver may leave the link to a caller that polls it; then it is woken when
    /// the caller stops, or when there is something for the driver. `early`: its last nap is not over, and what has
    /// come, which wakes it too, the caller looks for.
    pub(super) fn nap(&mut self, driver: &Waker, crowded: bool, early: bool) -> bool {
        let helped = early && self.naps || std::mem::take(&mut self.help_passes) > 0;
        if !helped {
            self.scouting.forget();
        }
        let may = helped && !crowded && !self.needs_driver();
        if may && let Some(link) = &mut self.link {
            link.leave_set();
        }
        self.napper = may.then(|| driver.clone());
        self.naps = may;
        may
    }

    /// A caller stops to poll, without an answer: whoever naps meanwhile takes over.
    pub(super) fn end_help(&mut self) {
        self.help_passes = 0;
        self.scouting.forget();
        self.wake_napper();
    }

    pub(super) fn wake_napper(&mut self) {
        self.naps = false;
        if let Some(napper) = self.napper.take() {
            napper.wake();
        }
    }
}
