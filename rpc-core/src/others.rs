//! When a caller that polls in place and is alone lets others run on its thread.
//!
//! Who never lets others run is always alone: when the answers of many have come, the first of them to call
//! again has its next answer before they get to run, and it would go on so. But mostly there are none, and
//! then it costs a call to ask the runtime. So others have their turn seldom as long as none of them
//! uses it, and soon again when one did; what says so is how long the caller was away, beside the shortest
//! times of late. Who waits for a socket has its turn after a few times that while at most.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::driver::now;

/// After so long at most others have a turn. One that nobody uses costs about a microsecond.
pub(crate) const OTHERS_TURN: Duration = Duration::from_micros(200);

/// And after so long if the last was used, then after twice as long each time.
const SOONEST_TURN: Duration = Duration::from_micros(8);

/// The shortest turns are looked for among so many, and as many before.
const WINDOW_TURNS: u32 = 32;

/// If all of these were longer, all of them were used.
const LONGEST_EMPTY_TURN: Duration = Duration::from_micros(4);

/// When others have their turn. Only hints: callers on several threads may overwrite each other's.
#[derive(Debug)]
pub(crate) struct Others {
    /// Whether they depend on it: on a runtime of several threads others of these run them, and a task that goes
    /// back to the queue may be taken by one of them, which takes long.
    depend: bool,
    begin: Instant,
    /// When they have their next turn, in nanoseconds since then.
    due_ns: AtomicU64,
    /// How long after the last that is.
    wait_ns: AtomicU64,
    /// When a caller let them run that has not been back, since `begin`; 0: none.
    away_since_ns: AtomicU64,
    /// The shortest turn of this window and of the one before, and the turns of this one.
    shortest_ns: AtomicU64,
    shortest_before_ns: AtomicU64,
    turns: AtomicU32,
}

impl Others {
    /// Of a runtime with so many threads.
    pub(crate) fn new(threads: usize) -> Others {
        let longest_ns = LONGEST_EMPTY_TURN.as_nanos() as u64;
        Others {
            depend: threads == 1,
            begin: now(),
            due_ns: AtomicU64::new(0),
            wait_ns: AtomicU64::new(OTHERS_TURN.as_nanos() as u64),
            away_since_ns: AtomicU64::new(0),
            shortest_ns: AtomicU64::new(longest_ns),
            shortest_before_ns: AtomicU64::new(longest_ns),
            turns: AtomicU32::new(0),
        }
    }

    /// Whether it is their turn. If it is, whoever asks lets them run, and asks again when it is back.
    pub(crate) fn are_due(&self, now: Instant) -> bool {
        let at_ns = now.saturating_duration_since(self.begin).as_nanos() as u64;
        match self.away_since_ns.load(Ordering::Relaxed) {
            0 if at_ns < self.due_ns.load(Ordering::Relaxed) => false,
            0 => {
                self.away_since_ns.store(at_ns.max(1), Ordering::Relaxed);
                true
            }
            since_ns => {
                self.had_turn(at_ns, at_ns.saturating_sub(since_ns));
                false
            }
        }
    }

    /// It is their turn now, whatever was known.
    pub(crate) fn make_due(&self) {
        for mark in [&self.due_ns, &self.away_since_ns] {
            if mark.load(Ordering::Relaxed) > 0 {
                mark.store(0, Ordering::Relaxed);
            }
        }
    }

    #[cold]
    fn had_turn(&self, at_ns: u64, away_ns: u64) {
        let wait_ns = match self.depend && self.note_turn(away_ns) {
            true => SOONEST_TURN.as_nanos() as u64,
            false => self.wait_ns.load(Ordering::Relaxed) * 2,
        };
        let wait_ns = wait_ns.min(OTHERS_TURN.as_nanos() as u64);
        self.wait_ns.store(wait_ns, Ordering::Relaxed);
        self.due_ns.store(at_ns + wait_ns, Ordering::Relaxed);
        self.away_since_ns.store(0, Ordering::Relaxed);
    }

    /// Whether anybody used a turn that took so long.
    fn note_turn(&self, away_ns: u64) -> bool {
        let shortest_ns = self.shortest_ns.load(Ordering::Relaxed).min(away_ns);
        let empty_ns = shortest_ns.min(self.shortest_before_ns.load(Ordering::Relaxed));
        let turns = self.turns.load(Ordering::Relaxed) + 1;
        if turns < WINDOW_TURNS {
            self.turns.store(turns, Ordering::Relaxed);
            self.shortest_ns.store(shortest_ns, Ordering::Relaxed);
        } else {
            self.turns.store(0, Ordering::Relaxed);
            self.shortest_before_ns.store(shortest_ns, Ordering::Relaxed);
            self.shortest_ns.store(LONGEST_EMPTY_TURN.as_nanos() as u64, Ordering::Relaxed);
        }
        // Even a short task takes some tenths of a microsecond, and turns that nobody uses differ by less.
        away_ns > empty_ns + empty_ns / 2 + 500
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: Duration = Duration::from_nanos(900);

    /// Whether others had a turn, which took so long.
    fn turn(others: &Others, now: &mut Instant, away: Duration) -> bool {
        let due = others.are_due(*now);
        if due {
            *now += away;
            assert!(!others.are_due(*now), "it is back");
        }
        due
    }

    #[test]
    fn they_have_a_turn_first_and_then_now_and_then() {
        let others = Others::new(1);
        let mut now = others.begin;
        for _ in 0..100 {
            assert!(turn(&others, &mut now, EMPTY));
            now += OTHERS_TURN - Duration::from_nanos(1);
            assert!(!others.are_due(now));
            now += Duration::from_nanos(1);
        }
        assert!(turn(&others, &mut now, EMPTY));
        others.make_due();
        assert!(others.are_due(now));
        others.make_due();
        assert!(others.are_due(now), "nobody was back");
    }

    #[test]
    fn a_turn_that_was_used_is_followed_by_another_soon_and_then_later_and_later() {
        let others = Others::new(1);
        let mut now = others.begin;
        assert!(turn(&others, &mut now, EMPTY));
        now += OTHERS_TURN;
        for _ in 0..3 {
            assert!(turn(&others, &mut now, EMPTY * 3));
            let mut wait = SOONEST_TURN;
            for _ in 0..8 {
                now += wait - Duration::from_nanos(1);
                assert!(!others.are_due(now), "{wait:?}");
                now += Duration::from_nanos(1);
                assert!(turn(&others, &mut now, EMPTY), "{wait:?}");
                wait = (wait * 2).min(OTHERS_TURN);
            }
            assert_eq!(wait, OTHERS_TURN);
            now += wait;
        }
    }

    #[test]
    fn on_several_threads_they_have_turns_now_and_then_only() {
        let others = Others::new(2);
        let mut now = others.begin;
        for _ in 0..10 {
            assert!(turn(&others, &mut now, LONGEST_EMPTY_TURN * 10));
            now += OTHERS_TURN - Duration::from_nanos(1);
            assert!(!others.are_due(now));
            now += Duration::from_nanos(1);
        }
    }

    /// As when the system moves a thread to another CPU.
    #[test]
    fn turns_that_all_take_longer_than_before_are_not_taken_for_used_for_long() {
        let others = Others::new(1);
        let mut now = others.begin;
        let mut turns_in = |others: &Others, away| {
            let end = now + Duration::from_millis(20);
            let mut turns = 0;
            while now < end {
                turns += u32::from(turn(others, &mut now, away));
                now += Duration::from_micros(1);
            }
            turns
        };
        let seldom = turns_in(&others, EMPTY);
        assert!((90..=100).contains(&seldom), "{seldom}");
        let more = turns_in(&others, LONGEST_EMPTY_TURN);
        assert!(more < seldom + 2 * WINDOW_TURNS, "{more}");
        let used = turns_in(&others, LONGEST_EMPTY_TURN * 2);
        assert!(used > 10 * seldom, "what takes so long is used, always: {used}");
    }
}
