//! SETTINGS, deadlines, keepalive and GOAWAY.

use super::*;
use crate::wire::INITIAL_WINDOW_BYTES;

#[test]
fn settings_are_the_first_frame_and_tell_the_limits() {
    let server =
        SessionConfig { max_streams: 7, window_bytes: 1 << 20, ..SessionConfig::default() };
    let mut pair = Pair::with(ROOMY, SessionConfig::default(), server);
    pair.client.transmit();
    pair.server.transmit();
    assert_eq!(pair.client.kinds(), [Kind::Settings]);
    assert_eq!(pair.server.kinds(), [Kind::Settings]);
    pair.run();
    assert_eq!(pair.client.session.peer_max_streams, 7);
    assert_eq!(pair.client.session.peer_window_bytes, 1 << 20);
}

#[test]
fn limits_no_protocol_can_work_with_are_raised_or_lowered() {
    let odd = SessionConfig {
        max_streams: 0,
        window_bytes: 1,
        keepalive_interval: Duration::MAX,
        keepalive_timeout: Duration::MAX,
        ..SessionConfig::default()
    };
    let huge = SessionConfig { max_streams: u32::MAX, window_bytes: u64::MAX, ..odd };
    for config in [odd, huge] {
        let mut pair = Pair::with(ROOMY, config, config);
        pair.run();
        assert!(pair.client.session.window_bytes() >= INITIAL_WINDOW_BYTES);
        pair.open(&unary(100_000 % 60_000));
        pair.run();
        let at_server = pair.requests().pop().unwrap();
        pair.respond(at_server, 10);
        pair.run();
        let _ = pair.client.session.poll_timeout();
        pair.assert_idle();
    }
}

#[test]
fn a_deadline_travels_as_the_time_that_remains_and_ends_both_sides() {
    let mut pair = Pair::settled(ROOMY);
    let id = pair.open(&Ask { timeout: Some(Duration::from_millis(1500)), ..unary(10) });
    let later = pair.now + Duration::from_millis(100);
    pair.now = later;
    pair.run();
    let seen = pair.server.take();
    let Seen::Request { stream, deadline, .. } = &seen[1] else { panic!("{seen:?}") };
    assert_eq!(*deadline, Some(later + Duration::from_millis(1500)));
    let due = later + Duration::from_millis(1400);
    assert_eq!(pair.client.session.poll_timeout(), Some(due));
    assert_eq!(pair.client.session.handle_timeout(due - Duration::from_micros(1)), Ok(None));
    assert_eq!(pair.client.session.handle_timeout(due), Ok(Some((id, true))));
    assert_eq!(pair.client.session.handle_timeout(due), Ok(None));
    assert!(!pair.client.session.is_open(id));
    let due = later + Duration::from_millis(1500);
    assert_eq!(pair.server.session.handle_timeout(due), Ok(Some((*stream, true))));
    // RESET and TRAILERS cross.
    pair.run();
    assert_eq!((pair.client.take(), pair.server.take()), (vec![], vec![]));
    pair.assert_idle();
}

#[test]
fn a_deadline_that_passes_before_the_request_left_says_so() {
    let mut pair = Pair::settled(ROOMY);
    pair.client.sink.room_bytes = 0;
    let id = pair.open(&Ask { timeout: Some(Duration::from_secs(1)), ..unary(10) });
    pair.now += Duration::from_secs(1);
    assert_eq!(pair.client.session.handle_timeout(pair.now), Ok(Some((id, false))));
    pair.client.sink.room_bytes = usize::MAX;
    pair.run();
    assert!(pair.requests().is_empty());
    pair.assert_idle();
}

#[test]
fn a_call_that_ends_takes_its_deadline_along() {
    let mut pair = Pair::settled(ROOMY);
    for how in 0..3 {
        let id = pair.open(&Ask { timeout: Some(Duration::from_secs(1)), ..unary(10) });
        pair.run();
        let at_server = pair.requests().pop().unwrap();
        match how {
            0 => pair.respond(at_server, 10),
            1 => pair.finish(at_server, 3),
            _ => pair.client.session.cancel(id, CANCELLED),
        }
        pair.run();
        pair.assert_idle();
        assert_eq!(pair.client.session.poll_timeout(), None);
        assert_eq!(pair.server.session.poll_timeout(), None);
    }
}

#[test]
fn a_deadline_too_far_away_is_none() {
    let mut pair = Pair::settled(ROOMY);
    let year = Duration::from_secs(366 * 24 * 3600);
    pair.open(&Ask { timeout: Some(year), ..unary(1) });
    pair.run();
    let seen = pair.server.take();
    assert!(matches!(seen[1], Seen::Request { deadline: None, .. }));
    // The longest a u64 of microseconds can say does not overflow anything either.
    let mut frame = pair.client.sink.out.pop_front();
    assert_eq!(frame.take(), None);
}

#[test]
fn a_silent_peer_is_pinged_and_then_given_up() {
    let mut pair = Pair::settled(ROOMY);
    let config = SessionConfig::default();
    assert_eq!(pair.client.session.poll_timeout(), None, "idle connections have no keepalive");
    // A pause without calls is no silence.
    pair.now += Duration::from_secs(1000);
    pair.open(&streaming());
    pair.client.transmit();
    assert_eq!(pair.client.session.handle_timeout(pair.now), Ok(None));
    pair.client.transmit();
    assert!(!pair.client.kinds().contains(&Kind::Ping), "no ping at the first call");
    pair.run();
    let heard = pair.now;
    pair.client.session.note_heard(heard);
    let due = heard + config.keepalive_interval;
    assert_eq!(pair.client.session.poll_timeout(), Some(due));
    assert_eq!(pair.client.session.handle_timeout(due), Ok(None));
    pair.client.transmit();
    assert_eq!(pair.client.kinds(), [Kind::Ping]);
    // Answered: all is well.
    pair.run();
    pair.client.session.note_heard(due);
    let due = due + config.keepalive_interval;
    assert_eq!(pair.client.session.handle_timeout(due), Ok(None));
    let end = due + config.keepalive_timeout;
    assert_eq!(pair.client.session.poll_timeout(), Some(end));
    assert_eq!(pair.client.session.handle_timeout(end - Duration::from_millis(1)), Ok(None));
    assert_eq!(
        pair.client.session.handle_timeout(end),
        Err(SessionError::KeepaliveTimeout { waited_ms: 10_000 })
    );
}

#[test]
fn pings_that_find_no_room_do_not_pile_up() {
    let mut pair = Pair::settled(ROOMY);
    pair.open(&streaming());
    pair.run();
    pair.client.sink.room_bytes = 0;
    for _ in 0..100 {
        pair.now += Duration::from_secs(10);
        pair.client.session.handle_timeout(pair.now).unwrap();
        pair.client.session.note_heard(pair.now);
    }
    assert_eq!(pair.client.session.control.len(), 1);
}

#[test]
fn keepalive_can_be_switched_off() {
    let off = SessionConfig { keepalive_interval: Duration::ZERO, ..SessionConfig::default() };
    let mut pair = Pair::with(ROOMY, off, off);
    pair.run();
    pair.open(&streaming());
    pair.run();
    assert_eq!(pair.client.session.poll_timeout(), None);
    let never = pair.now + Duration::from_secs(1_000_000);
    assert_eq!(pair.server.session.handle_timeout(never), Ok(None));
}

#[test]
fn go_away_tells_which_streams_were_seen() {
    let mut pair = Pair::settled(ROOMY);
    let seen_by_server = pair.open(&streaming());
    pair.run();
    let at_server = pair.requests().pop().unwrap();
    let cancelled = pair.open(&streaming());
    pair.client.session.cancel(cancelled, CANCELLED);
    let in_flight = pair.open(&unary(10));
    pair.server.session.go_away(0, "maintenance");
    assert!(pair.server.session.is_going_away());
    // Not even handed to the link.
    pair.client.sink.room_bytes = 0;
    let queued = pair.open(&unary(10));
    pair.server.transmit();
    while pair.to_server() {}
    assert!(pair.requests().is_empty(), "no stream is accepted after GOAWAY");
    while pair.to_client() {}
    let seen = pair.client.take();
    let Seen::GoAway { unseen, code: 0, reason } = &seen[0] else { panic!("{seen:?}") };
    assert_eq!((&unseen[..], &reason[..]), (&[in_flight, queued][..], "maintenance"));
    assert_eq!(pair.try_open(&unary(1)), Opened::GoingAway);
    // What was seen goes on to its end.
    pair.client.sink.room_bytes = usize::MAX;
    pair.client_sends(seen_by_server, 100, true);
    pair.run();
    pair.respond(at_server, 100);
    pair.run();
    assert!(
        matches!(pair.client.take()[..], [Seen::Response { stream, .. }] if stream == seen_by_server)
    );
    pair.assert_idle();
}

#[test]
fn a_refused_stream_counts_as_seen() {
    let mut pair = Pair::settled(ROOMY);
    let first = pair.open(&unary(10));
    pair.run();
    pair.server.session.set_method_limit(0, 5);
    let second = pair.open(&unary(10));
    let third = pair.open(&unary(3));
    pair.run();
    pair.server.session.go_away(0, "");
    pair.run();
    let seen = pair.client.take();
    assert!(
        matches!(&seen[..], [
        Seen::Finished { stream, code: RESOURCE_EXHAUSTED, .. },
        Seen::GoAway { unseen, .. },
    ] if *stream == second && unseen.is_empty()),
        "{seen:?}"
    );
    assert!(pair.client.session.is_open(first) && pair.client.session.is_open(third));
}

#[test]
fn a_failure_is_told_even_after_an_orderly_go_away() {
    let mut pair = Pair::settled(ROOMY);
    for (code, reason) in [(0, "later"), (0, "again"), (13, "broken"), (13, "again")] {
        pair.server.session.go_away(code, reason);
    }
    pair.run();
    let seen = pair.client.take();
    let told: Vec<_> = seen
        .iter()
        .map(|seen| match seen {
            Seen::GoAway { code, reason, .. } => (*code, &**reason),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, [(0, "later"), (13, "broken")]);
}

#[test]
fn a_client_says_go_away_too() {
    let mut pair = Pair::settled(ROOMY);
    let id = pair.open(&streaming());
    pair.run();
    pair.client.session.go_away(0, "done");
    assert_eq!(pair.try_open(&unary(1)), Opened::GoingAway);
    pair.run();
    assert!(
        pair.server
            .seen
            .iter()
            .any(|seen| matches!(seen, Seen::GoAway { unseen, .. } if unseen.is_empty()))
    );
    assert!(pair.client.session.is_open(id), "open calls go on");
}
