//! How many connections a process sets up over RDMA at once.
//!
//! To set a queue pair up takes a millisecond of CPU and more, and at the same time each end counts
//! the time the other one takes. A process that begins with two hundred connections would have each
//! of them last as long as all, and give up those that were merely not done yet. So they take
//! turns, and a connection's time begins with its turn.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Enough for the waits of one to be another's work.
const AT_ONCE: usize = 16;
/// Who is not done by then waits for a peer rather than for this process: it goes on, but holds no
/// others up.
const LONGEST_TURN: Duration = Duration::from_secs(1);
/// A turn does not end while nobody polls on whoever has it. That must not hold others up for ever:
/// they go on without one.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

static TURNS: Semaphore = Semaphore::const_new(AT_ONCE);

/// Sets a connection up when it is its turn. Until then `setting_up` is not polled.
///
/// # Cancel safety
/// Dropping the future gives the turn, or the place among those who wait for one, to the next.
pub(super) async fn in_turn<T>(setting_up: impl Future<Output = T>) -> T {
    of(&TURNS, setting_up).await
}

async fn of<T>(turns: &Semaphore, setting_up: impl Future<Output = T>) -> T {
    let turn = timeout(LONGEST_WAIT, turns.acquire()).await;
    let mut setting_up = pin!(setting_up);
    match timeout(LONGEST_TURN, &mut setting_up).await {
        Ok(made) => made,
        Err(_) => {
            drop(turn);
            setting_up.await
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::future::join_all;
    use tokio::time::{Instant, sleep};

    use super::*;

    /// How long `count` connections take that need `each`, and how many were set up at once.
    async fn all(count: usize, each: Duration) -> (Duration, usize) {
        let turns = Semaphore::new(AT_ONCE);
        let (now, most) = (Cell::new(0), Cell::new(0));
        let begin = Instant::now();
        join_all((0..count).map(|_| {
            of(&turns, async {
                now.set(now.get() + 1);
                most.set(most.get().max(now.get()));
                sleep(each).await;
                now.set(now.get() - 1);
            })
        }))
        .await;
        assert_eq!(turns.available_permits(), AT_ONCE);
        (begin.elapsed(), most.get())
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_at_once_and_the_others_after_them() {
        let (took, most) = all(5 * AT_ONCE, Duration::from_millis(100)).await;
        assert_eq!(most, AT_ONCE);
        assert!((500..510).contains(&took.as_millis()), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_dead_peer_holds_no_others_up_for_long() {
        let (took, most) = all(3 * AT_ONCE, Duration::from_secs(10)).await;
        assert_eq!(most, 3 * AT_ONCE);
        assert!((12_000..12_010).contains(&took.as_millis()), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn turns_that_nobody_polls_on_do_not_hold_others_up_for_ever() {
        let turns = Semaphore::new(1);
        let mut left = pin!(of(&turns, std::future::pending::<()>()));
        tokio::select! {
            biased;
            () = &mut left => unreachable!("it is never done"),
            () = async {} => {}
        }
        let begin = Instant::now();
        of(&turns, async {}).await;
        let waited = begin.elapsed();
        assert!((30_000..30_010).contains(&waited.as_millis()), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_gives_its_turn_back() {
        let turns = Semaphore::new(1);
        let waits = of(&turns, std::future::pending::<()>());
        assert!(timeout(LONGEST_TURN / 2, waits).await.is_err());
        assert_eq!(timeout(LONGEST_TURN, of(&turns, async { 7 })).await, Ok(7));
    }
}
