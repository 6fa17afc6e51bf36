//! When callers should rather not poll in place: where answers take longer than a caller polls, as
//! with slow handlers, or where many connections share the threads.

use std::sync::atomic::{AtomicU32, Ordering};

/// The calls after a first vain wait that are not waited for in place, and the most there can be.
const FIRST_SKIPS: u32 = 4;
const MOST_SKIPS: u32 = 1024;

/// Whether polling in place pays for the callers of a runtime. After each vain attempt twice as many
/// calls as before do not try. Only a hint: calls on other threads may overwrite each other's.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    /// Calls that do not try.
    skips: AtomicU32,
    /// How many there were after the last vain attempt.
    penalty: AtomicU32,
}

impl Patience {
    pub(crate) fn may_try(&self) -> bool {
        match self.skips.load(Ordering::Relaxed) {
            0 => true,
            skips => {
                self.skips.store(skips - 1, Ordering::Relaxed);
                false
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_polls_in_vain_tries_more_and_more_seldom_until_it_pays() {
        let patience = Patience::default();
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
