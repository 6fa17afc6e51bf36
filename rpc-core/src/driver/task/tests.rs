//! What a turn of the driver's task comes to.

use bytes::Bytes;

use super::*;
use crate::client::Nothing;
use crate::driver::owner::Owner;
use crate::driver::tests::{Rigged, Woken, unary};
use crate::driver::{Conn, OpenRequest, Progress};
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

/// To poll for what comes much later costs CPU time, and keeps a client that runs on the same CPU waiting.
#[tokio::test]
async fn a_server_that_is_called_seldom_sleeps_as_soon_as_it_has_answered() {
    let progress = Progress::default();
    let long = progress.spin * SPARSE_SPINS;
    for role in [Role::Server, Role::Client] {
        let (link, _far) = pair(MemoryConfig::default());
        let connection =
            Arc::new(Connection::new(role, SessionConfig::default(), progress, link, now()));
        let mut driver = Driver::new(connection, Nothing);
        driver.count_awake(true);
        let mut quiet_after_news = |slept: Duration, has_tasks| {
            (driver.slept_at, driver.now) = (Some(driver.now), driver.now + slept);
            (driver.undated_news, driver.has_tasks) = (true, has_tasks);
            driver.date_news();
            driver.after_quiet()
        };
        let seldom = if role == Role::Server { Quiet::Sleep } else { Quiet::LookAgain };
        for _ in 0..3 {
            for _ in 1..SPARSE_WAKES {
                assert_eq!(quiet_after_news(long * 2, false), Quiet::LookAgain);
            }
            for _ in 0..3 {
                assert_eq!(quiet_after_news(long * 2, false), seldom);
                assert_eq!(quiet_after_news(long * 2, true), Quiet::LookAgain, "a handler runs");
            }
            assert_eq!(quiet_after_news(long, false), Quiet::LookAgain, "soon enough");
        }
    }
}

/// A peer on the CPU that a server polls on has to wait until it sleeps.
#[tokio::test]
async fn a_server_that_is_woken_from_its_own_cpu_sleeps_as_soon_as_it_has_answered() {
    let (link, _far) = pair(MemoryConfig::default());
    let progress = Progress::default();
    let (role, config) = (Role::Server, SessionConfig::default());
    let connection = Arc::new(Connection::new(role, config, progress, link, now()));
    let mut driver = Driver::new(connection, Nothing);
    driver.count_awake(true);
    let mut quiet_after = |here, quiet_passes| {
        driver.quiet_passes = quiet_passes;
        driver.note_wake(here);
        driver.undated_news = true;
        driver.after_quiet()
    };
    for news_from_elsewhere in [Some(false), None] {
        for wakes in 1..=MOST_WAKES_HERE {
            let then = if wakes < WAKES_HERE { Quiet::LookAgain } else { Quiet::Sleep };
            assert_eq!(quiet_after(Some(true), 0), then, "wake {wakes}");
            assert_eq!(quiet_after(None, 0), then, "more of the same");
        }
        assert_eq!(quiet_after(Some(true), 0), Quiet::LookAgain, "it tries again");
        assert_eq!(quiet_after(Some(true), 0), Quiet::Sleep);
        assert_eq!(quiet_after(news_from_elsewhere, 3), Quiet::LookAgain);
    }
}

/// Some links cannot tell where their peer is. One that waited for this CPU sends as soon as it has it.
#[tokio::test]
async fn news_right_after_a_server_fell_asleep_has_waited_for_it() {
    let (link, _far) = pair(MemoryConfig::default());
    let (role, config) = (Role::Server, SessionConfig::default());
    let connection = Arc::new(Connection::new(role, config, Progress::default(), link, now()));
    let mut driver = Driver::new(connection, Nothing);
    let at = driver.now;
    assert!(!driver.is_soon_after_sleep(Some(at)), "it has not slept");
    driver.slept_at = Some(at);
    assert!(!driver.is_soon_after_sleep(None), "nobody knows the time");
    for (slept, soon) in [(0, true), (29, true), (31, false), (60, false)] {
        let now = at + Duration::from_micros(slept);
        assert_eq!(driver.is_soon_after_sleep(Some(now)), soon, "{slept} us");
    }
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
        let count = link.count_looks();
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

/// Whoever makes a call's messages is a task of this runtime, and who waits for the answers waits for it.
#[tokio::test]
async fn a_driver_that_polls_lets_those_run_who_make_a_call_s_messages() {
    let (link, _far) = pair(MemoryConfig::default());
    let mut link = Rigged::new(link);
    let count = link.count_looks();
    let busy = Progress { mode: ProgressMode::Busy, ..Progress::default() };
    let (role, config) = (Role::Client, SessionConfig::default());
    let connection = Arc::new(Connection::new(role, config, busy, link, now()));
    let mut driver = Driver::new(Arc::clone(&connection), Nothing);
    let mut run = || {
        let before = count.load(Ordering::Relaxed);
        assert!(driver.run(&mut Context::from_waker(Waker::noop())).is_pending());
        count.load(Ordering::Relaxed) - before
    };
    let (metadata, message) = (MetadataMap::new(), Bytes::from_static(b"abc"));
    let streaming = OpenRequest { message: None, end: false, ..unary(&metadata, &message) };
    let call = connection.open(&streaming, None).cell;
    assert_eq!((run(), run()), (1, 1), "more is to be sent");
    connection.end_messages(call.id().expect("it is open"));
    assert_eq!(run(), PASSES_PER_TURN);
}

/// An answer is likely to be a moment away, however long ago the last one came.
#[tokio::test(start_paused = true)]
async fn what_a_client_asks_for_is_waited_for_as_if_there_had_been_news() {
    let (link, _far) = pair(MemoryConfig::default());
    let (role, config, progress) = (Role::Client, SessionConfig::default(), Progress::default());
    let connection = Arc::new(Connection::new(role, config, progress, link, now()));
    let mut driver = Driver::new(Arc::clone(&connection), Nothing);
    let mut sleeps = || {
        driver.now_is_stale = true;
        assert!(driver.run(&mut Context::from_waker(Waker::noop())).is_pending());
        !driver.awake
    };
    let (metadata, message) = (MetadataMap::new(), Bytes::from_static(b"abc"));
    let streaming = OpenRequest { message: None, end: false, ..unary(&metadata, &message) };
    let call = connection.open(&streaming, None).cell;
    let id = call.id().expect("it is open");
    tokio::time::advance(progress.spin * 2).await;
    assert!(!sleeps(), "a call has been opened");
    tokio::time::advance(progress.spin * 2).await;
    assert!(sleeps());
    assert!(connection.send(id, &call, &message, false, false));
    assert!(!sleeps(), "a message has been sent");
    tokio::time::advance(progress.spin * 2).await;
    assert!(sleeps());
}

/// Only the runtime brings news of a socket: it must have its turn after each look.
#[tokio::test]
async fn whoever_polls_a_socket_lets_the_runtime_look_in_between() {
    for (in_place, looks) in [(true, PASSES_PER_TURN), (false, 1)] {
        let (link, _far) = pair(MemoryConfig::default());
        let mut link = Rigged::new(link);
        let count = link.count_looks();
        link.in_place = in_place;
        let busy = Progress { mode: ProgressMode::Busy, ..Progress::default() };
        let (role, config) = (Role::Client, SessionConfig::default());
        let connection = Arc::new(Connection::new(role, config, busy, link, now()));
        let mut driver = Driver::new(connection, Nothing);
        assert!(driver.run(&mut Context::from_waker(Waker::noop())).is_pending());
        assert_eq!(count.load(Ordering::Relaxed), looks, "in place: {in_place}");
    }
}

/// Callers that got their answers together call again one after the other: to send each call by itself costs as
/// much for each as for all of them.
#[tokio::test]
async fn calls_that_follow_answers_which_came_together_leave_together() {
    let busy = Progress { mode: ProgressMode::Busy, ..Progress::default() };
    // Alone on a runtime that polls, where calls leave in halves; and the same but for one thing.
    let kinds = [
        ("a ring alone", busy, true, 0, false),
        ("one ring of many", busy, true, 1, true),
        ("a socket alone", busy, false, 0, true),
        ("a ring by events", Progress::EVENT, true, 0, true),
    ];
    for (what, progress, flushes_early, others, gathers) in kinds {
        for answers in [1, 3, MANY_ANSWERS + 2] {
            let (near, far) = pair(MemoryConfig::default());
            let (config, limits) = (SessionConfig::default(), far.limits());
            let session = Session::new(Role::Server, config, limits, now());
            let mut server = Owner::new(session, far, true);
            let mut link = Rigged::new(near);
            link.flushes_early = flushes_early;
            let connection = Arc::new(Connection::new(Role::Client, config, progress, link, now()));
            let mut driver = Driver::new(Arc::clone(&connection), Nothing);
            let awake = driver.set.clone().map(|set| Arc::clone(set.crowd()));
            awake.iter().for_each(|crowd| _ = crowd.awake.fetch_add(others, Ordering::Relaxed));
            let mut run =
                || assert!(driver.run(&mut Context::from_waker(Waker::noop())).is_pending());
            let (metadata, message) = (MetadataMap::new(), Bytes::from_static(b"abc"));
            let call = || connection.open(&unary(&metadata, &message), Some(Waker::noop()));
            let mut arrived = || {
                server.pass(&mut |_, _| Some(1 << 20));
                let ids: Vec<_> =
                    server.calls.batch.arrivals.drain(..).map(|arrival| arrival.id).collect();
                ids.iter().for_each(|id| {
                    server.respond(*id, &metadata, &metadata, &message).unwrap();
                });
                server.settle_or_fail();
                ids.len()
            };
            // The first exchange carries more than calls and answers.
            for round in [1, answers] {
                let calls: Vec<_> = (0..round).map(|_| call()).collect();
                connection.flush();
                assert_eq!(arrived(), round);
                run();
                assert!(calls.iter().all(|begun| begun.cell.has_news()));
            }
            let sent: Vec<_> = (0..answers).map(|_| (call(), arrived()).1).collect();
            let case = format!("{what}, {answers} answers");
            if answers == 1 || !gathers {
                assert_eq!(sent[0], 1, "{case}");
            } else if answers < MANY_ANSWERS {
                assert_eq!(sent.iter().sum::<usize>(), 0, "{case}: more may follow");
            } else {
                let mut last = vec![0; answers];
                last[answers - 1] = answers;
                assert_eq!(sent, last, "{case}: that is all of them");
            }
            run();
            let sum = sent.iter().sum::<usize>() + arrived();
            assert_eq!(sum, answers, "{case}: the driver's next turn sends what waits");
            awake.iter().for_each(|crowd| _ = crowd.awake.fetch_sub(others, Ordering::Relaxed));
        }
    }
}

/// A stream whose messages come bit by bit: to send each bit by itself costs as much for each as for all of them.
#[tokio::test]
async fn what_a_stream_sends_before_the_driver_looks_again_leaves_then_but_for_the_first() {
    let busy = Progress { mode: ProgressMode::Busy, ..Progress::default() };
    for (what, progress, sleeps, naps, gathers) in [
        ("it polls", busy, false, false, true),
        ("it is woken by what is held", Progress::EVENT, false, false, true),
        ("the poll set looks in its place", busy, true, false, false),
        ("a caller looks in its place", busy, false, true, false),
    ] {
        let (near, mut far) = pair(MemoryConfig::default());
        let config = SessionConfig::default();
        let connection = Arc::new(Connection::new(Role::Client, config, progress, near, now()));
        let mut driver = Driver::new(Arc::clone(&connection), Nothing);
        let mut run = || assert!(driver.run(&mut Context::from_waker(Waker::noop())).is_pending());
        let (metadata, message) = (MetadataMap::new(), Bytes::from_static(b"abc"));
        let request = OpenRequest { end: false, ..unary(&metadata, &message) };
        let begun = connection.open(&request, None);
        let id = begun.cell.id().expect("nothing is in its way");
        let mut arrived = || {
            let mut frames = 0;
            while far.receive().unwrap().is_some() {
                frames += 1;
            }
            frames
        };
        run();
        arrived();
        let send = || {
            assert!(connection.send(id, &begun.cell, &message, false, true));
            connection.with_owner(|owner| {
                owner.asleep |= sleeps;
                owner.napper = naps.then(|| Waker::noop().clone());
            });
            connection.let_leave();
        };
        let sent = [(send(), arrived()).1, (send(), arrived()).1, (send(), arrived()).1];
        assert_eq!(sent, if gathers { [1, 0, 0] } else { [1, 1, 1] }, "{what}");
        run();
        assert_eq!(arrived(), if gathers { 2 } else { 0 }, "{what}: the driver has looked");
        if gathers {
            assert_eq!([(send(), arrived()).1, (send(), arrived()).1], [1, 0], "{what}: again");
        }
    }
}

/// A caller may stop without a word.
#[tokio::test(start_paused = true)]
async fn a_nap_ends_by_its_alarm_whatever_that_was_set_to_meanwhile() {
    let (link, _far) = pair(MemoryConfig::default());
    let (role, config) = (Role::Client, SessionConfig::default());
    let connection = Arc::new(Connection::new(role, config, Progress::default(), link, now()));
    let mut driver = Driver::new(connection, Nothing);
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut cx = Context::from_waker(&waker);
    driver.nap(&mut cx);
    let end = driver.nap_end;
    // The caller stops, the driver falls asleep, and there is another.
    assert!(driver.poll_sleep(&mut cx, false).is_pending());
    driver.nap(&mut cx);
    assert_eq!(driver.nap_end, end, "it is the same nap");
    tokio::time::sleep_until((end + Duration::from_millis(1)).into()).await;
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    driver.nap(&mut cx);
    assert!(driver.nap_end > end);
}
