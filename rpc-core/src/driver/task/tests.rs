//! What a turn of the driver's task comes to.

use std::sync::atomic::AtomicUsize;

use bytes::Bytes;

use super::*;
use crate::client::Nothing;
use crate::driver::Progress;
use crate::driver::owner::Owner;
use crate::driver::tests::{Rigged, unary};
use crate::link::FrameSink;
use crate::memory::{MemoryConfig, pair};
use crate::metadata::MetadataMap;
use crate::session::{Session, SessionConfig};

#[tokio::test]
async fn an_adaptive_connection_polls_longer_while_long_messages_wait_to_be_pulled() {
    let (link, _far) = pair(MemoryConfig::default());
    let progress = Progress::default();
    let (role, config) = (Role::Client, SessionConfig::default());
    let connection = Arc::new(Connection::new(role, config, progress, link, now()));
    let mut driver = Driver::new(connection, Nothing);
    driver.count_awake(true);
    let long = progress.spin * PULL_PATIENCE;
    let cases = [
        (progress.spin / 2, false, Quiet::LookAgain),
        (progress.spin * 2, false, Quiet::Sleep),
        (progress.spin * 2, true, Quiet::LookAgain),
        (long / 2, true, Quiet::LookAgain),
        (long * 2, true, Quiet::Sleep),
    ];
    for (quiet, pulls_wait, then) in cases {
        (driver.now, driver.pulls_wait) = (driver.last_news + quiet, pulls_wait);
        assert_eq!(driver.after_quiet(), then, "{quiet:?} after the last news, {pulls_wait}");
    }
    driver.undated_news = true;
    assert_eq!(driver.after_quiet(), Quiet::LookAgain, "news that nobody has dated is new");
}

/// Gives nothing an answer; whether the handlers of what arrives go on.
struct Handlers(bool);

impl Arrivals for Handlers {
    fn bind(&mut self, _: u16, _: &str) -> Option<usize> {
        None
    }

    fn run(&mut self, batch: &mut ArrivalBatch) -> bool {
        batch.clear();
        self.0
    }
}

/// A handler that waits for something is a task of this runtime, and so may be what it waits for.
#[tokio::test]
async fn a_driver_that_polls_lets_handlers_run_after_each_pass() {
    let looks = [true, false].map(|go_on| {
        let (near, far) = pair(MemoryConfig::default());
        let (config, limits) = (SessionConfig::default(), near.limits());
        let mut client = Owner::new(Session::new(Role::Client, config, limits, now()), near, true);
        let mut link = Rigged::new(far);
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        link.at_receive = Box::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let busy = Progress { mode: ProgressMode::Busy, ..Progress::default() };
        let connection = Arc::new(Connection::new(Role::Server, config, busy, link, now()));
        let mut driver = Driver::new(connection, Handlers(go_on));
        let mut run = || {
            let before = count.load(Ordering::Relaxed);
            assert!(driver.run(&mut Context::from_waker(Waker::noop())).is_pending());
            count.load(Ordering::Relaxed) - before
        };
        assert_eq!(run(), PASSES_PER_TURN, "nothing has arrived");
        let (metadata, message) = (MetadataMap::new(), Bytes::from_static(b"abc"));
        client.open(&unary(&metadata, &message), None, None);
        client.settle_or_fail();
        let looks = run();
        assert_eq!(run(), 1, "the call is still open");
        looks
    });
    assert_eq!(looks[1], looks[0] + 1, "only a handler that goes on is let run at once");
}

/// Only the runtime brings news of a socket: it must have its turn after each look.
#[tokio::test]
async fn whoever_polls_a_socket_lets_the_runtime_look_in_between() {
    for (in_place, looks) in [(true, PASSES_PER_TURN), (false, 1)] {
        let (link, _far) = pair(MemoryConfig::default());
        let mut link = Rigged::new(link);
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        link.in_place = in_place;
        link.at_receive = Box::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let busy = Progress { mode: ProgressMode::Busy, ..Progress::default() };
        let (role, config) = (Role::Client, SessionConfig::default());
        let connection = Arc::new(Connection::new(role, config, busy, link, now()));
        let mut driver = Driver::new(connection, Nothing);
        assert!(driver.run(&mut Context::from_waker(Waker::noop())).is_pending());
        assert_eq!(count.load(Ordering::Relaxed), looks, "in place: {in_place}");
    }
}
