//! When callers should rather not poll in place: where answers take longer than a caller polls, as
//! with slow handlers, and where others want the thread (`others.rs`).

use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Context;
use std::time::Instant;

use crate::others::Others;

/// The calls after a first vain wait that are not waited for in place, and the most there can be.
const FIRST_SKIPS: u32 = 4;
const MOST_SKIPS: u32 = 64;

/// Of so many looks of a caller that find nothing, one ends with letting the system run others on its CPU:
/// they may be whom it waits for. A client's main function that polled where the server waited to run polled
/// in vain, was left to the driver for some calls, which polled on the other CPU, and woke up beside the
/// server again: a call took 54 us or 1, by chance. It costs a sixth of a microsecond if there are no others. Each
/// time may take a time slice of milliseconds, for which the other tasks of the caller's runtime wait too: so it
/// must not be often, and drivers, who poll for longer, do not do it.
const LOOKS_PER_YIELD: usize = 32;

/// The first of these is after so many looks: most answers have come by then, and a peer that had to be woken
/// has often been put on the CPU of whoever woke it.
const FIRST_YIELD: usize = 8;

/// Whether polling in place pays for the callers of a runtime. After each vain attempt twice as many
/// calls as before do not try. Only a hint: calls on other threads may overwrite each other's.
#[derive(Debug)]
pub(crate) struct Patience {
    /// Calls that do not try.
    skips: AtomicU32,
    /// How many there were after the last vain attempt.
    penalty: AtomicU32,
    others: Others,
}

impl Patience {
    /// Of the callers of a runtime with so many threads.
    pub(crate) fn new(threads: usize) -> Patience {
        let [skips, penalty] = [0, 0].map(AtomicU32::new);
        Patience { skips, penalty, others: Others::new(threads) }
    }

    pub(crate) fn may_try(&self) -> bool {
        match self.skips.load(Ordering::Relaxed) {
            0 => true,
            skips => {
                self.skips.store(skips - 1, Ordering::Relaxed);
                false
            }
        }
    }

    /// A caller that seems to be alone begins to wait; whether it may do so in place. If not, it lets others
    /// run and asks again when it is back.
    pub(crate) fn begin_lone_wait(&self, now: Instant) -> bool {
        !self.others.are_due(now)
    }

    /// A call was made while another waits.
    pub(crate) fn saw_two(&self) {
        self.others.make_due();
    }

    pub(crate) fn paid(&self) {
        if self.penalty.load(Ordering::Relaxed) > 0 {
            self.penalty.store(0, Ordering::Relaxed);
        }
    }

    pub(crate) fn was_vain(&self) {
        let penalty = (self.penalty.load(Ordering::Relaxed) * 2).clamp(FIRST_SKIPS, MOST_SKIPS);
        self.penalty.store(penalty, Ordering::Relaxed);
        self.skips.store(penalty, Ordering::Relaxed);
    }
}

/// Between two looks of a caller, after so many that found nothing.
pub(crate) fn pause(looks: usize) {
    if looks % LOOKS_PER_YIELD == FIRST_YIELD {
        std::thread::yield_now();
    } else {
        std::hint::spin_loop();
    }
}

/// Returns to the runtime, which wakes `cx` again as soon as it has run whatever else is ready and looked
/// at its sockets.
pub(crate) fn let_others_run(cx: &mut Context<'_>) {
    if std::pin::pin!(tokio::task::yield_now()).poll(cx).is_ready() {
        cx.waker().wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_polls_in_vain_tries_more_and_more_seldom_until_it_pays() {
        let patience = Patience::new(1);
        for skips in [4, 8, 16] {
            assert!(patience.may_try());
            patience.was_vain();
            assert!((0..skips).all(|_| !patience.may_try()), "{skips}");
        }
        assert!(patience.may_try());
        patience.paid();
        assert!(patience.may_try());
        for _ in 0..20 {
            patience.was_vain();
        }
        assert_eq!((0..).position(|_| patience.may_try()), Some(MOST_SKIPS as usize));
    }
}
