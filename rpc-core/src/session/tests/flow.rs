//! Windows, positions, long messages, fairness, bulk and limits.

use super::*;
use crate::wire::{INITIAL_WINDOW_BYTES, MESSAGE_OVERHEAD_BYTES};

fn opened(pair: &mut Pair) -> (StreamId, StreamId) {
    let id = pair.open(&streaming());
    pair.run();
    let at_server = pair.requests().pop().unwrap();
    (id, at_server)
}

#[test]
fn a_reader_that_does_not_read_stops_its_sender_after_one_window() {
    for limits in [SMALL_FRAMES, BULK, ROOMY, LENDING] {
        let mut pair = Pair::settled(limits);
        pair.server.reads = false;
        let (id, at_server) = opened(&mut pair);
        let window = pair.server.session.window_bytes();
        let mut sent = 0;
        while pair.client_sends(id, 3000, false) == Sending::Sent {
            sent += 1;
            pair.run();
        }
        let cost = 3000 + MESSAGE_OVERHEAD_BYTES;
        assert_eq!(sent, window.div_ceil(cost), "one frame more than fits, no two");
        assert_eq!(pair.server.session.buffered_bytes(), sent * cost);
        assert_eq!(pair.client_sends(id, 1, false), Sending::Busy);
        assert_eq!(pair.client.session.pop_writable(), None);
        assert!(!pair.client.session.wants_room(), "it waits for window, not for room");
        // Others go on.
        let other = pair.open(&unary(3000));
        pair.run();
        assert!(pair.client.session.was_sent(other));
        // The reader takes half: one WINDOW, and the sender goes on.
        let half = (sent / 2 + 1) * cost;
        assert!(pair.server.session.consumed(at_server, half));
        assert_eq!(pair.server.session.buffered_bytes(), sent * cost - half + cost);
        pair.run();
        assert_eq!(pair.client.session.pop_writable(), Some(id));
        assert_eq!(pair.client_sends(id, 1, false), Sending::Sent);
    }
}

#[test]
fn windows_are_told_as_positions_and_seldom() {
    let mut pair = Pair::settled(ROOMY);
    let (id, at_server) = opened(&mut pair);
    pair.server.reads = false;
    let window = pair.server.session.window_bytes();
    let mut windows = Vec::new();
    let mut position = 0;
    for _ in 0..1000 {
        assert_eq!(pair.client_sends(id, 1000, false), Sending::Sent);
        while pair.step_server() {}
        position += 1000 + MESSAGE_OVERHEAD_BYTES;
        pair.server.session.consumed(at_server, position);
        // Told twice, or about an earlier place: no harm.
        pair.server.session.consumed(at_server, position - 500);
        pair.server.transmit();
        for frame in &pair.server.sink.out {
            let (header, _) = crate::wire::Header::parse(frame).unwrap();
            assert_eq!(header.kind, Kind::Window as u8);
            windows.push(header.wide_number());
        }
        while pair.step_client() {}
    }
    assert!(windows.len() as u64 <= 1_032_000 / (window / 2) + 1, "{}", windows.len());
    assert!(windows.is_sorted() && *windows.last().unwrap() > 1_000_000);
    assert_eq!(pair.server.session.buffered_bytes(), 0);
}

#[test]
fn a_window_update_that_has_no_room_tells_the_latest_position() {
    let mut pair = Pair::settled(ROOMY);
    let (id, at_server) = opened(&mut pair);
    pair.server.reads = false;
    pair.server.sink.room_bytes = 0;
    let mut position = 0;
    while pair.client_sends(id, 10_000, false) == Sending::Sent {
        pair.run();
        position += 10_000 + MESSAGE_OVERHEAD_BYTES;
        pair.server.session.consumed(at_server, position);
        pair.server.transmit();
        assert!(pair.server.session.control.len() <= 1);
    }
    pair.server.sink.room_bytes = 16;
    pair.run();
    assert_eq!(pair.client.session.pop_writable(), Some(id));
    let limit = pair.client.session.streams[id.slot()].send_limit;
    assert_eq!(limit, position + pair.server.session.window_bytes());
}

#[test]
fn before_settings_a_stream_has_the_initial_window() {
    let mut pair = Pair::new(ROOMY);
    pair.server.reads = false;
    let id = pair.open(&streaming());
    let mut sent = 0;
    while pair.client_sends(id, 5000, false) == Sending::Sent {
        sent += 5000 + MESSAGE_OVERHEAD_BYTES;
    }
    assert!((INITIAL_WINDOW_BYTES..INITIAL_WINDOW_BYTES + 5032).contains(&sent));
    pair.run();
    assert_eq!(pair.client.session.pop_writable(), Some(id), "SETTINGS widen the window");
}

#[test]
fn a_message_longer_than_the_window_arrives_for_a_reader_that_keeps_up() {
    let mut pair = Pair::settled(SMALL_FRAMES);
    pair.server.reads = false;
    let (id, at_server) = opened(&mut pair);
    // Read but not reported: readers report only now and then.
    pair.client_sends(id, 100, false);
    pair.run();
    assert_eq!(pair.client_sends(id, 2_000_000, false), Sending::Queued);
    pair.run();
    let seen = pair.server.take();
    assert!(
        matches!(&seen[1], Seen::Message { message: Some(message), .. } if message[..] == body(2_000_000))
    );
    // Now it holds far more than a window: the next long message must wait for the reader.
    assert_eq!(pair.client.session.pop_writable(), Some(id));
    let held = pair.server.session.buffered_bytes();
    pair.client_sends(id, 1_000_000, true);
    pair.run();
    assert_eq!(pair.server.take(), []);
    let more = pair.server.session.buffered_bytes() - held;
    assert!(more <= pair.server.session.window_bytes() + 4096, "{more}");
    let Some(&Seen::Message { position, .. }) = seen.last() else { panic!() };
    pair.server.session.consumed(at_server, position);
    pair.run();
    assert!(matches!(&pair.server.take()[..], [Seen::Message { end: true, .. }]));
}

#[test]
fn a_long_message_is_credited_whole_when_its_first_piece_is_there() {
    for (window_bytes, max_buffered_bytes) in
        [(INITIAL_WINDOW_BYTES, 1 << 30), (256 << 10, 1 << 30), (256 << 10, 1_000_000)]
    {
        let server = SessionConfig {
            window_bytes,
            max_buffered_bytes,
            max_message_bytes: 4 << 20,
            ..SessionConfig::default()
        };
        let limits = LinkLimits { max_frame_bytes: 1 << 20, ..ROOMY };
        let mut pair = Pair::with(limits, SessionConfig::default(), server);
        pair.run();
        let (id, _) = opened(&mut pair);
        pair.server.session.set_method_limit(0, 4 << 20);
        assert_eq!(pair.client_sends(id, 3_000_000, true), Sending::Queued);
        pair.client.transmit();
        assert_eq!(pair.client.kinds(), [Kind::Message; 2], "the second is on its way meanwhile");
        assert!(pair.step_server());
        pair.server.transmit();
        assert_eq!(pair.server.kinds(), [Kind::Window]);
        assert!(pair.step_client());
        let stream = &pair.client.session.streams[id.slot()];
        assert_eq!(stream.send_limit, 3_000_000 + MESSAGE_OVERHEAD_BYTES, "and no more than that");
        pair.client.transmit();
        assert!(!pair.client.session.streams[id.slot()].has_queue(), "it has stopped once more");
        while pair.step_server() {
            assert!(pair.server.session.buffered_bytes() <= max_buffered_bytes);
        }
        let seen = pair.server.take();
        if max_buffered_bytes > 3_000_000 {
            let [Seen::Message { message: Some(message), .. }] = &seen[..] else { panic!() };
            assert_eq!(message[..], body(3_000_000));
        } else {
            assert!(matches!(seen[..], [Seen::Refused(_, Refusal::TooMuchBuffered { .. })]));
        }
    }
}

#[test]
fn a_long_message_shares_the_link_with_short_ones() {
    let mut pair = Pair::settled(SMALL_FRAMES);
    let (long, _) = opened(&mut pair);
    pair.client.sink.room_bytes = 0;
    pair.client_sends(long, 200_000, true);
    let short: Vec<_> = (0..10).map(|_| pair.open(&unary(100))).collect();
    // Short frames do not take the room the long one waits for, and come in its turns.
    for _ in 0..11 {
        pair.client.sink.room_bytes += 4096;
        pair.client.transmit();
    }
    pair.client.sink.room_bytes = usize::MAX;
    while pair.step_server() {}
    let heard = pair.server.take();
    let answered = heard.iter().filter(|seen| matches!(seen, Seen::Request { .. })).count();
    assert_eq!(answered, short.len());
    let pieces = pair.server.session.buffered_bytes();
    assert!(pieces > 8 * 4000, "the long message has moved too: {pieces}");
}

#[test]
fn a_steady_trickle_of_short_messages_does_not_starve_a_long_frame() {
    let mut pair = Pair::settled(SMALL_FRAMES);
    let (long, _) = opened(&mut pair);
    let mut frames = 0;
    pair.client.sink.room_bytes = 3000;
    pair.client_sends(long, 20_000, true);
    for _ in 0..40 {
        // Room comes back in pieces no long frame fits in, and a short call follows each.
        pair.client.sink.room_bytes += 1000;
        let id = pair.open(&unary(900));
        pair.client.transmit();
        frames += pair.client.sink.out.drain(..).filter(|frame| frame.len() == 4096).count();
        pair.client.session.cancel(id, CANCELLED);
    }
    assert!(frames >= 4, "{frames} long frames in 40,000 bytes of room");
}

#[test]
fn bulk_is_answered_once_on_every_path() {
    // Normal, both ways.
    let mut pair = Pair::settled(BULK);
    let (id, at_server) = opened(&mut pair);
    assert_eq!(pair.client_sends(id, 5000, false), Sending::Sent);
    assert_eq!(pair.client.kinds(), [Kind::Bulk]);
    assert_eq!(pair.server_sends(at_server, 5000), Sending::Sent);
    pair.run();
    assert!(
        matches!(&pair.server.take()[..], [Seen::Message { message: Some(message), .. }] if message[..] == body(5000))
    );

    // The client gives up with one in flight and one described.
    pair.client_sends(id, 5000, false);
    pair.client_sends(id, 6000, true);
    pair.step_server();
    pair.client.session.cancel(id, CANCELLED);
    pair.run();
    pair.assert_idle();

    // Draining: the server's bulk arrives after the client gave up.
    let (id, at_server) = opened(&mut pair);
    pair.server_sends(at_server, 5000);
    pair.client.session.cancel(id, CANCELLED);
    pair.run();
    pair.assert_idle();

    // Too long for the reader: refused on either side.
    let small = Ask { max_message_bytes: 4000, ..streaming() };
    let id = pair.open(&small);
    pair.run();
    let at_server = pair.requests().pop().unwrap();
    pair.client.take();
    pair.server_sends(at_server, 5000);
    pair.run();
    assert!(
        matches!(pair.client.take()[..], [Seen::Refused(stream, Refusal::MessageTooLong { bytes: 5000, limit_bytes: 4000 })] if stream == id)
    );
    pair.assert_idle();
    pair.server.session.set_method_limit(0, 4000);
    let _ = pair.open(&unary(5000));
    pair.run();
    assert!(matches!(pair.client.take()[..], [Seen::Finished { code: RESOURCE_EXHAUSTED, .. }]));
    pair.assert_idle();
}

#[test]
fn a_message_that_waits_for_a_bulk_buffer_stops_nobody_else() {
    let mut pair = Pair::settled(BULK);
    let (first, _) = opened(&mut pair);
    let (second, _) = opened(&mut pair);
    pair.client.sink.max_bulks = 1;
    assert_eq!(pair.client_sends(first, 5000, true), Sending::Sent);
    assert_eq!(pair.client_sends(second, 5000, true), Sending::Queued);
    let third = pair.open(&unary(6000));
    let small = pair.open(&unary(100));
    assert!(pair.client.session.was_sent(small) && pair.client.session.was_sent(third));
    assert!(pair.client.session.wants_room());
    pair.run();
    let seen = pair.server.take();
    let whole = |seen: &&Seen| matches!(seen, Seen::Message { message: Some(_), .. });
    assert_eq!(seen.iter().filter(whole).count(), 3);
    for id in [first, second, third, small] {
        pair.client.session.cancel(id, CANCELLED);
    }
    pair.run();
    pair.assert_idle();
}

#[test]
fn a_bulk_frame_that_finds_no_room_is_not_lost() {
    let mut pair = Pair::settled(BULK);
    let (id, _) = opened(&mut pair);
    // No room for BULK, but for the end behind it, which must not overtake.
    pair.client.sink.room_bytes = 20;
    pair.client_sends(id, 5000, false);
    let (session, sink) = (&mut pair.client.session, &mut pair.client.sink);
    session.end_messages(sink, id).unwrap();
    assert_eq!(pair.client.session.control.len(), 1);
    pair.client.sink.room_bytes = usize::MAX;
    pair.run();
    let seen = pair.server.take();
    assert!(
        matches!(&seen[0], Seen::Message { message: Some(message), end: false, .. } if message.len() == 5000)
    );
    assert!(matches!(&seen[1], Seen::Message { message: None, end: true, .. }));
}

#[test]
fn trailers_do_not_overtake_a_bulk_frame_that_finds_no_room() {
    let mut pair = Pair::settled(BULK);
    let (_, at_server) = opened(&mut pair);
    pair.server.sink.max_bulks = 0;
    assert_eq!(pair.server_sends(at_server, 5000), Sending::Queued);
    pair.finish(at_server, 0);
    (pair.server.sink.max_bulks, pair.server.sink.room_bytes) = (1, 20);
    pair.server.transmit();
    assert_eq!(pair.server.kinds(), []);
    pair.server.sink.room_bytes = usize::MAX;
    pair.run();
    let seen = pair.client.take();
    assert!(matches!(seen[0], Seen::Message { message: Some(_), .. }), "{}", seen.len());
    assert!(matches!(seen[1], Seen::Finished { code: 0, .. }));
    pair.assert_idle();
}

#[test]
fn metadata_counts_as_held_until_its_stream_is_over() {
    let server = SessionConfig { max_buffered_bytes: 20_000, ..SessionConfig::default() };
    let mut pair = Pair::with(ROOMY, SessionConfig::default(), server);
    pair.run();
    let mut metadata = MetadataMap::new();
    metadata.insert("x-a", "v".repeat(3000).parse().unwrap());
    pair.empty = metadata;
    let ids: Vec<_> = (0..10).map(|_| pair.open(&streaming())).collect();
    pair.run();
    assert!((18_000..20_000).contains(&pair.server.session.buffered_bytes()));
    let refused = pair.client.take();
    assert_eq!(refused.len(), 4);
    for seen in refused {
        assert!(matches!(seen, Seen::Finished { code: RESOURCE_EXHAUSTED, .. }));
    }
    for id in ids {
        pair.client.session.cancel(id, CANCELLED);
    }
    pair.run();
    pair.assert_idle();
}

#[test]
fn no_more_bulks_than_may_be_unanswered() {
    let mut pair = Pair::settled(BULK);
    let limit = crate::wire::MAX_UNANSWERED_BULKS;
    for number in 0..limit + 100 {
        let id = pair.open(&unary(2001));
        pair.client.transmit();
        while pair.step_server() {}
        assert!(pair.client.session.was_sent(id), "{number}");
    }
    assert_eq!(pair.client.sink.bulks.len(), limit as usize);
    assert_eq!(pair.server.waiting.len(), limit as usize);
    pair.run();
    assert_eq!(pair.client.session.bulks_out, 0);
    let whole = |seen: &&Seen| matches!(seen, Seen::Message { message: Some(_), .. });
    assert_eq!(pair.server.take().iter().filter(whole).count(), limit as usize + 100);
}

#[test]
fn a_long_message_of_a_unary_call_goes_as_a_frame_where_the_link_prefers_that() {
    let mut pair = Pair::settled(BULK);
    pair.client.sink.few_calls = 1;
    pair.server.sink.few_calls = 2;
    pair.open(&unary(3000));
    assert_eq!(pair.client.kinds(), [Kind::Method, Kind::Request]);
    pair.run();
    // Of two calls each message is pulled, and so is one that no frame takes.
    pair.open(&unary(3000));
    assert_eq!(pair.client.kinds(), [Kind::Request, Kind::Bulk]);
    pair.run();
    let ids = pair.requests();
    pair.respond(ids[0], 3000);
    assert_eq!(pair.server.kinds(), [Kind::Response]);
    pair.run();
    pair.respond(ids[1], 5000);
    assert_eq!(pair.server.kinds(), [Kind::Bulk, Kind::Trailers]);
    pair.run();
    pair.client.take();
    // A stream's messages are pulled while the next are made, however few calls there are.
    let (id, at_server) = opened(&mut pair);
    pair.client_sends(id, 3000, false);
    pair.server_sends(at_server, 3000);
    assert_eq!((pair.client.kinds(), pair.server.kinds()), (vec![Kind::Bulk], vec![Kind::Bulk]));
    pair.client.session.cancel(id, CANCELLED);
    pair.run();
    pair.assert_idle();
}

#[test]
fn a_message_beyond_its_limit_is_refused_however_it_comes() {
    for (limits, owned) in [(ROOMY, false), (SMALL_FRAMES, true), (BULK, false), (LENDING, false)] {
        let mut pair = Pair::settled(limits);
        pair.server.owned = owned;
        pair.open(&unary(5001));
        pair.client.transmit();
        pair.step_server();
        pair.server.session.set_method_limit(0, 5000);
        pair.run();
        let seen = pair.server.take();
        let refused = seen.iter().any(|seen| {
            matches!(
                seen,
                Seen::Refused(_, Refusal::MessageTooLong { bytes: 5001, limit_bytes: 5000 })
            )
        });
        assert!(refused, "{seen:?}");
        assert!(
            matches!(&pair.client.take()[..], [Seen::Finished { code: RESOURCE_EXHAUSTED, text, .. }] if text.contains("5001"))
        );
        // Answers beyond the caller's limit, in one frame or in several.
        let id = pair.open(&Ask { max_message_bytes: 6000, ..unary(10) });
        pair.run();
        let at_server = pair.requests().pop().unwrap();
        pair.respond(at_server, 6001);
        pair.run();
        assert!(matches!(pair.client.take()[..], [Seen::Refused(stream, _)] if stream == id));
        pair.assert_idle();
    }
}

#[test]
fn all_streams_together_hold_no_more_than_the_limit() {
    for limits in [SMALL_FRAMES, BULK, ROOMY, LENDING] {
        let server = SessionConfig { max_buffered_bytes: 100_000, ..SessionConfig::default() };
        let mut pair = Pair::with(limits, SessionConfig::default(), server);
        pair.run();
        pair.server.reads = false;
        let ids: Vec<_> = (0..30).map(|_| pair.open(&unary(9000))).collect();
        pair.run();
        assert!(pair.server.session.buffered_bytes() <= 100_000);
        let refused = |seen: &&Seen| {
            matches!(seen, Seen::Refused(_, Refusal::TooMuchBuffered { limit_bytes: 100_000 }))
        };
        assert_eq!(pair.server.take().iter().filter(refused).count(), 30 - 100_000 / 9032);
        for id in ids {
            pair.client.session.cancel(id, CANCELLED);
        }
        pair.run();
        pair.assert_idle();
    }
}

#[test]
fn every_step_of_a_call_survives_having_no_room() {
    for limits in [SMALL_FRAMES, BULK, ROOMY, LENDING] {
        // The frame with this number finds no room at first; so does each after it.
        for step_bytes in [16, 100, 1000, 4096] {
            let mut pair = Pair::new(limits);
            pair.client.sink.room_bytes = 0;
            pair.server.sink.room_bytes = 0;
            let id = pair.open(&streaming());
            assert_eq!(pair.client_sends(id, 20_000, false), Sending::Queued);
            let mut answered = false;
            for _ in 0..4000 {
                for end in [&mut pair.client, &mut pair.server] {
                    if end.sink.room_bytes < 32 * 1024 {
                        end.sink.room_bytes += step_bytes;
                    }
                }
                pair.run();
                if pair.client.session.pop_writable() == Some(id) {
                    let (session, sink) = (&mut pair.client.session, &mut pair.client.sink);
                    session.end_messages(sink, id).unwrap();
                }
                let ended = pair.server.seen.iter().find_map(|seen| match seen {
                    Seen::Message { stream, end: true, .. } => Some(*stream),
                    _ => None,
                });
                if let Some(stream) = ended.filter(|_| !answered) {
                    answered = true;
                    pair.respond(stream, 9000);
                }
            }
            match &pair.client.take()[..] {
                [Seen::Response { message, .. }] => assert_eq!(message[..], body(9000)),
                [Seen::Message { message: Some(message), .. }, Seen::Finished { code: 0, .. }] => {
                    assert_eq!(message[..], body(9000))
                }
                other => panic!("{} events", other.len()),
            }
            pair.assert_idle();
        }
    }
}
