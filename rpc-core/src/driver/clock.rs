//! The time, read as seldom as it matters.
//!
//! Reading a clock costs as much as a look at a quiet link where it is cheap, and a system call
//! where the processor's counter cannot be trusted, as in many virtual machines. Most passes need
//! no time: nothing is due as long as nobody looks, and who looks may do so a few passes later.

use std::time::Instant;

/// Quiet passes between two looks at the clock, and so at what is due: some 10 us.
const PASSES_PER_READING: u32 = 16;

/// What a connection's passes know of the time.
#[derive(Debug)]
pub(super) struct Clock {
    read_at: Instant,
    /// It was read for the present pass.
    is_fresh: bool,
    /// Passes before it is read again.
    passes_left: u32,
}

impl Clock {
    pub(super) fn new() -> Clock {
        Clock { read_at: now(), is_fresh: false, passes_left: 0 }
    }

    /// A pass begins. To be called before what it takes is waited for: what is read later is
    /// waited for by the peer. `stale`: the last pass may have been long ago.
    pub(super) fn tick(&mut self, stale: bool) {
        if stale || self.passes_left == 0 {
            self.read();
        } else {
            self.passes_left -= 1;
            self.is_fresh = false;
        }
    }

    /// A pass begins, and somebody else has read the clock a moment ago.
    pub(super) fn told(&mut self, at: Instant) {
        self.read_at = self.read_at.max(at);
        self.is_fresh = false;
    }

    fn read(&mut self) {
        self.read_at = now();
        self.is_fresh = true;
        self.passes_left = PASSES_PER_READING;
    }

    /// The time of this pass, for what has to know it.
    pub(super) fn now(&mut self) -> Instant {
        if !self.is_fresh {
            self.read();
        }
        self.read_at
    }

    /// The same, if it has been read.
    pub(super) fn fresh(&self) -> Option<Instant> {
        self.is_fresh.then_some(self.read_at)
    }

    /// The last reading: some passes old at most, where passes follow upon each other.
    pub(super) fn last(&self) -> Instant {
        self.read_at
    }
}

/// The time, as tokio tells it: tests can hold it still.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_read_now_and_then_and_whenever_it_is_asked_for() {
        let mut clock = Clock::new();
        let begin = now();
        clock.tick(false);
        assert_eq!(clock.fresh(), Some(begin), "the first pass reads it");
        tokio::time::advance(Duration::from_secs(1)).await;
        for _ in 0..PASSES_PER_READING {
            clock.tick(false);
            assert_eq!((clock.fresh(), clock.last()), (None, begin));
        }
        clock.tick(false);
        assert_eq!(clock.fresh(), Some(begin + Duration::from_secs(1)));

        tokio::time::advance(Duration::from_secs(1)).await;
        clock.tick(false);
        assert_eq!(clock.fresh(), None);
        assert_eq!(clock.now(), begin + Duration::from_secs(2));
        assert_eq!(clock.fresh(), Some(begin + Duration::from_secs(2)));

        tokio::time::advance(Duration::from_secs(1)).await;
        clock.tick(true);
        assert_eq!(clock.fresh(), Some(begin + Duration::from_secs(3)));
    }
}
