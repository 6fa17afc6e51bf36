//! How much one pass takes from the link before handlers run and answers leave.
//!
//! If a pass took all there is, the end that has just woken would answer nothing before its peer has
//! sent everything and fallen asleep, and the peer would then do the same: ends that both have work
//! would do it in turns, with a wake between. If it always took little, every portion would pay for
//! a pass and a flush, and the faster end would sleep and be woken for each. So what has come is
//! taken in growing portions: the first is small, so that the peer has something to do early, and
//! they grow while there is no end of it. How much there will be, nobody knows before.
//!
//! Where a thread moves several connections along, their peers have something to do anyway, and a
//! pass takes what there is.

use std::cell::Cell;

/// The first portion of an end that sleeps.
const FIRST_FRAMES: usize = 4;
/// The same of an end that polls. It has nobody to wake, and finds its peer's bursts whole: half of
/// 64 calls lie in one.
const FIRST_FRAMES_POLLED: usize = 32;
/// Keeps a pass short.
const MOST_FRAMES: usize = 128;
/// What ends a portion of long frames.
const FIRST_BYTES: usize = 8 * 1024;
/// Portions double with every second that was full, this often.
const DOUBLINGS: u32 = 9;

thread_local! {
    /// The connection that this thread moved along last, by an address in it.
    static LAST: Cell<usize> = const { Cell::new(0) };
}

/// The size of the next portion.
#[derive(Debug)]
pub(super) struct Portion {
    first_frames: usize,
    /// Full ones in a row.
    full: u32,
}

impl Portion {
    pub(super) fn new(polls: bool) -> Portion {
        let first_frames = if polls { FIRST_FRAMES_POLLED } else { FIRST_FRAMES };
        Portion { first_frames, full: 0 }
    }

    /// Frames and bytes after which a pass takes no more. The frame that reaches the bytes is the last
    /// one, however long it is.
    #[inline]
    pub(super) fn begin(&mut self) -> (usize, usize) {
        let here = std::ptr::from_ref(self).addr();
        if LAST.replace(here) != here {
            self.full = 2 * DOUBLINGS;
        }
        let doublings = self.full / 2;
        ((self.first_frames << doublings).min(MOST_FRAMES), FIRST_BYTES << doublings)
    }

    /// A pass has taken a portion; `full`: it reached a limit.
    #[inline]
    pub(super) fn taken(&mut self, full: bool) {
        self.full = if full { (self.full + 1).min(2 * DOUBLINGS) } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::driver::now;
    use crate::driver::owner::Owner;
    use crate::driver::tests::unary;
    use crate::link::FrameSink;
    use crate::memory::{MemoryConfig, pair};
    use crate::metadata::MetadataMap;
    use crate::session::{Role, Session, SessionConfig};

    /// The portions of so many full passes in a row.
    fn sizes(portion: &mut Portion, passes: usize) -> Vec<(usize, usize)> {
        let mut sizes = Vec::new();
        for _ in 0..passes {
            sizes.push(portion.begin());
            portion.taken(true);
        }
        sizes
    }

    #[test]
    fn portions_grow_while_there_is_more_and_begin_again_small() {
        let mut portion = Portion::new(false);
        portion.begin();
        portion.taken(false);
        let first = (FIRST_FRAMES, FIRST_BYTES);
        let sizes = sizes(&mut portion, 20);
        assert_eq!((sizes[0], sizes[1]), (first, first));
        assert_eq!(sizes[19], (MOST_FRAMES, FIRST_BYTES << DOUBLINGS));
        for two in sizes.windows(2) {
            assert!(two[0].0 <= two[1].0 && two[1].0 <= two[0].0 * 2, "{sizes:?}");
            assert!(two[0].1 <= two[1].1 && two[1].1 <= two[0].1 * 2, "{sizes:?}");
        }
        portion.taken(false);
        assert_eq!(portion.begin(), first);
    }

    #[test]
    fn among_others_a_pass_takes_what_there_is() {
        let (mut one, mut other) = (Portion::new(false), Portion::new(false));
        for _ in 0..3 {
            for portion in [&mut one, &mut other] {
                assert_eq!(portion.begin(), (MOST_FRAMES, FIRST_BYTES << DOUBLINGS));
                portion.taken(false);
            }
        }
        assert_eq!(other.begin(), (FIRST_FRAMES, FIRST_BYTES), "the other one has gone quiet");
    }

    #[test]
    fn handlers_run_and_answers_leave_before_all_has_been_taken() {
        let (near, far) = pair(MemoryConfig::default());
        let session = |role| Session::new(role, SessionConfig::default(), near.limits(), now());
        let (client, server) = (session(Role::Client), session(Role::Server));
        let mut client = Owner::new(client, near, false);
        let mut server = Owner::new(server, far, false);
        assert!(!server.pass(&mut |_, _| None), "nothing has come, and it is nobody else's turn");
        let (metadata, message) = (MetadataMap::new(), Bytes::from_static(b"short"));
        let calls = 3 * FIRST_FRAMES;
        for _ in 0..calls {
            client.open(&unary(&metadata, &message), None, None);
        }
        client.settle_or_fail();
        let mut arrived = Vec::new();
        while server.pass(&mut |_, _| None) {
            arrived.push(server.calls.batch.arrivals.len());
            server.calls.batch.clear();
        }
        assert_eq!(arrived.iter().sum::<usize>(), calls, "{arrived:?}");
        assert!(arrived.len() >= 3 && arrived[0] <= FIRST_FRAMES, "{arrived:?}");
    }
}
