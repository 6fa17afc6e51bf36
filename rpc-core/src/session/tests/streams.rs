//! Slots, final frames, cancellations and the races between them.

use super::*;

#[test]
fn a_unary_call_is_one_frame_each_way_and_its_slot_is_used_again() {
    let mut pair = Pair::settled(ROOMY);
    for round in 0..5 {
        let id = pair.open(&unary(100));
        assert_eq!(id.wire(), 1, "round {round}");
        let expected: &[Kind] =
            if round == 0 { &[Kind::Method, Kind::Request] } else { &[Kind::Request] };
        assert_eq!(pair.client.kinds(), expected);
        pair.run();
        let at_server = pair.requests();
        pair.respond(at_server[0], 5000);
        assert_eq!(pair.server.kinds(), [Kind::Response]);
        pair.run();
        let seen = pair.client.take();
        assert_eq!(
            seen,
            [Seen::Response {
                stream: id,
                metadata: vec![],
                trailers: vec![],
                message: body(5000).to_vec()
            }]
        );
        assert!(!pair.client.session.is_open(id) && !pair.client.session.was_sent(id));
        pair.assert_idle();
    }
}

/// The driver asks: those who make the messages have to run.
#[test]
fn a_client_knows_whether_more_is_to_be_sent_on_any_of_its_streams() {
    let mut pair = Pair::settled(ROOMY);
    pair.open(&unary(10));
    assert!(!pair.client.session.is_sending());
    let ids: Vec<_> = (0..4).map(|_| pair.open(&streaming())).collect();
    pair.run();
    let at_server = pair.requests();
    assert!(!pair.server.session.is_sending());
    assert_eq!(pair.client_sends(ids[0], 10, false), Sending::Sent);
    assert_eq!(pair.client_sends(ids[0], 10, true), Sending::Sent);
    let (session, sink) = (&mut pair.client.session, &mut pair.client.sink);
    session.end_messages(sink, ids[1]).unwrap();
    session.end_messages(sink, ids[1]).unwrap();
    session.cancel(ids[2], CANCELLED);
    assert!(pair.client.session.is_sending(), "on the last");
    pair.finish(at_server[4], 0);
    pair.run();
    assert!(!pair.client.session.is_sending());
    let again = pair.open(&streaming());
    assert!(pair.client.session.is_sending());
    pair.client.session.cancel(again, CANCELLED);
    assert!(!pair.client.session.is_sending());
}

#[test]
fn a_name_outlives_its_stream_and_then_names_nothing() {
    let mut pair = Pair::settled(ROOMY);
    let old = pair.open(&streaming());
    pair.run();
    let old_server = pair.requests()[0];
    pair.finish(old_server, 0);
    pair.run();
    let new = pair.open(&streaming());
    assert_eq!((old.slot(), old != new), (new.slot(), true));
    pair.run();
    pair.client.session.cancel(old, CANCELLED);
    assert_eq!(pair.client_sends(old, 1, false), Sending::Closed);
    assert!(!pair.client.session.consumed(old, 1000));
    pair.finish(old_server, 2);
    pair.respond(old_server, 1);
    assert_eq!(pair.server_sends(old_server, 1), Sending::Closed);
    pair.run();
    assert!(pair.client.session.is_open(new));
    let at_server = pair.requests();
    pair.finish(at_server[0], 0);
    pair.run();
    pair.assert_idle();
}

#[test]
fn a_client_gives_up_while_the_final_frame_is_in_flight() {
    for end in [true, false] {
        let mut pair = Pair::settled(ROOMY);
        pair.open(&unary(10));
        pair.run();
        let at_server = pair.requests()[0];
        if end {
            pair.respond(at_server, 10);
        } else {
            pair.finish(at_server, 13);
        }
        let id = pair.client.session.id(0);
        pair.client.session.cancel(id, CANCELLED);
        // The RESET waits; the final frame arrives and frees the slot; the slot is used again.
        assert!(pair.step_client());
        assert_eq!(pair.client.take(), []);
        let next = pair.open(&unary(20));
        assert_eq!(next.slot(), id.slot());
        pair.client.transmit();
        assert_eq!(pair.client.kinds(), [Kind::Reset, Kind::Request]);
        pair.run();
        let seen = pair.server.take();
        assert!(matches!(seen[..], [Seen::Request { .. }]), "{seen:?}");
        let Seen::Request { stream, .. } = seen[0] else { unreachable!() };
        pair.respond(stream, 1);
        pair.run();
        assert!(
            matches!(pair.client.take()[..], [Seen::Response { stream, .. }] if stream == next)
        );
        pair.assert_idle();
    }
}

#[test]
fn a_cancelled_stream_keeps_its_slot_until_the_servers_last_word() {
    let mut pair = Pair::settled(ROOMY);
    let id = pair.open(&streaming());
    pair.run();
    let at_server = pair.requests()[0];
    pair.client.session.cancel(id, CANCELLED);
    let other = pair.open(&unary(1));
    assert_ne!(other.slot(), id.slot());
    pair.client.transmit();
    while pair.step_server() {}
    let seen = pair.server.take();
    assert!(matches!(seen[0], Seen::Cancelled(stream, CANCELLED) if stream == at_server));
    assert!(!pair.server.session.is_open(at_server));
    // The handler's own answers reach nobody: there is one final frame.
    pair.finish(at_server, 0);
    pair.respond(at_server, 10);
    pair.server.transmit();
    assert_eq!(pair.server.kinds(), [Kind::Trailers]);
    pair.run();
    assert_eq!(pair.client.take(), []);
    let again = pair.open(&unary(1));
    assert_eq!(again.slot(), id.slot());
    for stream in [other, again] {
        pair.client.session.cancel(stream, CANCELLED);
    }
    pair.run();
    pair.assert_idle();
}

#[test]
fn a_stream_that_never_left_is_free_at_once_and_leaves_nothing_behind() {
    let mut pair = Pair::settled(ROOMY);
    pair.client.sink.room_bytes = 0;
    for _ in 0..1000 {
        let id = pair.open(&Ask { timeout: Some(Duration::from_secs(1)), ..unary(10_000) });
        assert_eq!(id.slot(), 0);
        assert!(!pair.client.session.was_sent(id));
        pair.client.session.cancel(id, CANCELLED);
    }
    let in_line = pair.client.session.line.as_ref().map_or(0, |line| line.len());
    assert!(in_line <= 1, "{in_line}");
    assert_eq!(pair.client.session.control.len(), 1, "METHOD and nothing else");
    pair.client.sink.room_bytes = usize::MAX;
    pair.run();
    assert!(pair.requests().is_empty());
    pair.assert_idle();
}

#[test]
fn a_server_ends_a_stream_in_the_middle_of_its_own_message() {
    let mut pair = Pair::settled(SMALL_FRAMES);
    let long = Ask { timeout: Some(Duration::from_secs(1)), ..streaming() };
    let id = pair.open(&long);
    pair.run();
    let at_server = pair.requests()[0];
    pair.server.sink.room_bytes = 5000;
    assert_eq!(pair.server_sends(at_server, 50_000), Sending::Queued);
    assert_eq!(pair.server.kinds(), [Kind::Message]);
    // The server's clock is ahead: its deadline passes first.
    let late = pair.now + Duration::from_secs(2);
    assert_eq!(pair.server.session.handle_timeout(late), Ok(Some((at_server, true))));
    pair.server.sink.room_bytes = usize::MAX;
    pair.run();
    let seen = pair.client.take();
    assert!(
        matches!(&seen[..], [Seen::Finished { stream, code: DEADLINE_EXCEEDED, refused: false, .. }] if *stream == id),
        "{seen:?}"
    );
    pair.assert_idle();
}

#[test]
fn a_client_gives_up_in_the_middle_of_its_own_message() {
    let mut pair = Pair::settled(SMALL_FRAMES);
    let id = pair.open(&streaming());
    pair.run();
    let at_server = pair.requests()[0];
    pair.client.sink.room_bytes = 5000;
    assert_eq!(pair.client_sends(id, 50_000, true), Sending::Queued);
    pair.step_server();
    assert!(pair.server.session.buffered_bytes() > 4000);
    pair.client.session.cancel(id, CANCELLED);
    pair.client.sink.room_bytes = usize::MAX;
    pair.run();
    assert_eq!(pair.server.take(), [Seen::Cancelled(at_server, CANCELLED)]);
    pair.assert_idle();
}

#[test]
fn what_a_client_still_sends_after_the_end_is_ignored() {
    for limits in [SMALL_FRAMES, BULK, LENDING] {
        let mut pair = Pair::settled(limits);
        let id = pair.open(&streaming());
        pair.run();
        let at_server = pair.requests()[0];
        // In flight before the client can know.
        assert_eq!(pair.client_sends(id, 3000, false), Sending::Sent);
        assert_eq!(pair.client_sends(id, 9000, false), Sending::Sent);
        let (session, sink) = (&mut pair.client.session, &mut pair.client.sink);
        session.end_messages(sink, id).unwrap();
        pair.finish(at_server, 5);
        pair.run();
        assert_eq!(pair.server.take(), []);
        assert!(matches!(pair.client.take()[..], [Seen::Finished { code: 5, .. }]));
        pair.assert_idle();
    }
}

#[test]
fn queued_answers_go_before_the_trailers_and_a_cancel_cuts_them_short() {
    for cancel in [false, true] {
        let mut pair = Pair::settled(SMALL_FRAMES);
        let id = pair.open(&unary(10));
        pair.run();
        let at_server = pair.requests()[0];
        pair.server.sink.room_bytes = 0;
        pair.respond(at_server, 10_000);
        // Over for the handler, not for the slot.
        assert_eq!(pair.server_sends(at_server, 1), Sending::Closed);
        if cancel {
            pair.client.session.cancel(id, CANCELLED);
            pair.run();
        }
        pair.server.sink.room_bytes = usize::MAX;
        pair.run();
        let seen = pair.client.take();
        if cancel {
            assert_eq!(seen, []);
        } else {
            assert!(
                matches!(&seen[0], Seen::Message { message: Some(message), .. } if message[..] == body(10_000))
            );
            assert!(matches!(seen[1], Seen::Finished { code: 0, .. }) && seen.len() == 2);
        }
        pair.assert_idle();
    }
}

#[test]
fn an_answer_in_every_shape() {
    let mut metadata = MetadataMap::new();
    metadata.insert("x-a", "text".parse().unwrap());
    for (limits, len) in [(ROOMY, 100), (SMALL_FRAMES, 5000), (BULK, 3000), (LENDING, 9000)] {
        for room_bytes in [0, usize::MAX] {
            let mut pair = Pair::settled(limits);
            let id = pair.open(&unary(1));
            pair.run();
            let at_server = pair.requests()[0];
            pair.server.sink.room_bytes = room_bytes;
            let (session, sink) = (&mut pair.server.session, &mut pair.server.sink);
            session.respond(sink, at_server, &metadata, &metadata, &body(len)).unwrap();
            pair.server.sink.room_bytes = usize::MAX;
            pair.run();
            let mut block = vec![0; metadata.encoded_len()];
            metadata.encode(&mut block);
            let seen = pair.client.take();
            if let [Seen::Response { stream, metadata, trailers, message }] = &seen[..] {
                assert_eq!((*stream, metadata, trailers), (id, &block, &block));
                assert_eq!(message[..], body(len));
            } else {
                assert_eq!(seen[0], Seen::Headers(id, block));
                assert!(
                    matches!(&seen[1], Seen::Message { message: Some(message), .. } if message[..] == body(len))
                );
                assert!(matches!(seen[2], Seen::Finished { code: 0, .. }));
            }
            pair.assert_idle();
        }
    }
}

#[test]
fn metadata_that_does_not_fit_is_an_error_of_its_call_only() {
    let mut metadata = MetadataMap::new();
    metadata.insert("x-a", "v".repeat(5000).parse().unwrap());
    let mut pair = Pair::settled(SMALL_FRAMES);
    let request = NewStream {
        path: "/a.B/C",
        metadata: &metadata,
        timeout: None,
        message: None,
        end: true,
        max_message_bytes: 100,
    };
    let opened = pair.client.session.open(&mut pair.client.sink, &request).unwrap();
    assert!(matches!(opened, Opened::MetadataTooLong(len, 4072) if len > 5000), "{opened:?}");
    pair.assert_idle();

    let none = MetadataMap::new();
    for headers in [true, false] {
        pair.open(&unary(1));
        pair.run();
        let at_server = pair.requests()[0];
        let (first, last) = if headers { (&metadata, &none) } else { (&none, &metadata) };
        let (session, sink) = (&mut pair.server.session, &mut pair.server.sink);
        session.respond(sink, at_server, first, last, &body(1)).unwrap();
        pair.run();
        let seen = pair.client.take();
        let Some(Seen::Finished { code, text, .. }) = seen.last() else { panic!("{seen:?}") };
        assert_eq!(*code, RESOURCE_EXHAUSTED, "lost trailers must not look like success");
        assert!(text.contains("did not fit") || text.contains("does not fit"), "{text}");
        pair.assert_idle();
    }
}

#[test]
fn long_texts_are_cut_at_a_character_and_details_that_fit_arrive() {
    let mut pair = Pair::settled(SMALL_FRAMES);
    for (text, details) in [("é".repeat(4000), vec![]), (String::new(), vec![7; 9000])] {
        pair.open(&unary(1));
        pair.run();
        let at_server = pair.requests()[0];
        let (session, sink) = (&mut pair.server.session, &mut pair.server.sink);
        session.finish(sink, at_server, 3, &text, &MetadataMap::new(), &details).unwrap();
        pair.run();
        let seen = pair.client.take();
        let Some(Seen::Finished { code: 3, text, .. }) = seen.last() else { panic!("{seen:?}") };
        assert!(text.len() <= 1024 && (details.is_empty() || text.contains("9000")), "{text}");
    }
    pair.assert_idle();
}

#[test]
fn no_more_streams_than_the_server_allows() {
    let server = SessionConfig { max_streams: 3, ..SessionConfig::default() };
    let mut pair = Pair::with(ROOMY, SessionConfig::default(), server);
    pair.run();
    let ids: Vec<_> = (0..3).map(|_| pair.open(&streaming())).collect();
    assert_eq!(pair.try_open(&streaming()), Opened::NoSlot);
    pair.client.session.cancel(ids[1], CANCELLED);
    assert_eq!(pair.try_open(&streaming()), Opened::NoSlot, "the server may still hold it");
    pair.run();
    let again = pair.open(&streaming());
    assert_eq!(again.slot(), ids[1].slot());
}

#[test]
fn streams_beyond_a_limit_the_client_had_not_heard_of_are_refused() {
    let server = SessionConfig { max_streams: 2, ..SessionConfig::default() };
    let mut pair = Pair::with(ROOMY, SessionConfig::default(), server);
    let ids: Vec<_> = (0..128).map(|_| pair.open(&unary(10))).collect();
    assert_eq!(pair.try_open(&unary(10)), Opened::NoSlot);
    pair.run();
    assert_eq!(pair.requests().len(), 2);
    let refused: Vec<_> = pair.client.take();
    assert_eq!(refused.len(), 126);
    for (seen, id) in refused.iter().zip(&ids[2..]) {
        assert!(
            matches!(seen, Seen::Finished { stream, code: UNAVAILABLE, refused: true, .. } if stream == id)
        );
    }
    assert_eq!(pair.try_open(&unary(10)), Opened::NoSlot, "the limit is known now");
    pair.client.session.cancel(ids[0], CANCELLED);
    pair.run();
    assert_eq!(pair.open(&unary(10)).slot(), 0);
    assert_eq!(pair.try_open(&unary(10)), Opened::NoSlot);
}

#[test]
fn slots_that_were_free_before_a_lower_limit_was_heard_are_not_used() {
    let server = SessionConfig { max_streams: 2, ..SessionConfig::default() };
    let mut pair = Pair::with(ROOMY, SessionConfig::default(), server);
    pair.client.sink.room_bytes = 0;
    let ids: Vec<_> = (0..10).map(|_| pair.open(&unary(10))).collect();
    for id in ids {
        pair.client.session.cancel(id, CANCELLED);
    }
    pair.client.sink.room_bytes = usize::MAX;
    pair.run();
    for _ in 0..2 {
        assert!(pair.open(&unary(10)).slot() < 2);
    }
    assert_eq!(pair.try_open(&unary(10)), Opened::NoSlot);
}

/// A message whose own code panics.
struct Panics;

impl Encode for Panics {
    fn encoded_len(&self) -> usize {
        10
    }

    fn encode(&self, _: &mut [u8]) {
        panic!("as the test asked");
    }
}

#[test]
fn a_message_that_panics_while_it_is_encoded_leaves_nothing_behind() {
    let mut pair = Pair::settled(ROOMY);
    for room_bytes in [usize::MAX, 0] {
        pair.client.sink.room_bytes = room_bytes;
        let request = NewStream {
            path: "/a.B/C",
            metadata: &pair.empty,
            timeout: Some((Duration::from_secs(1), pair.now)),
            message: Some(&Panics),
            end: true,
            max_message_bytes: 100,
        };
        let client = &mut pair.client;
        let open = || client.session.open(&mut client.sink, &request);
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(open)).unwrap_err();
    }
    pair.client.sink.room_bytes = usize::MAX;
    pair.run();
    pair.assert_idle();
}

#[test]
fn methods_are_bound_once_and_in_order_up_to_the_limit() {
    let mut pair = Pair::settled(ROOMY);
    let paths: Vec<&'static str> =
        (0..2048).map(|number| &*Box::leak(format!("/s/{number}").into_boxed_str())).collect();
    for path in paths.iter().chain(&paths[..10]) {
        let id = pair.open(&Ask { path, ..unary(0) });
        pair.client.session.cancel(id, CANCELLED);
        pair.run();
    }
    let seen = pair.server.take();
    let bound: Vec<_> = seen
        .iter()
        .filter_map(|seen| match seen {
            Seen::Bound(method, path) => Some((usize::from(*method), &**path)),
            _ => None,
        })
        .collect();
    assert_eq!(bound, paths.iter().copied().enumerate().collect::<Vec<_>>());
    assert_eq!(pair.try_open(&Ask { path: "/one/more", ..unary(0) }), Opened::BadPath);
    let long: &'static str = Box::leak("x".repeat(513).into_boxed_str());
    let mut fresh = Pair::settled(ROOMY);
    assert_eq!(fresh.try_open(&Ask { path: long, ..unary(0) }), Opened::BadPath);
    let id = fresh.open(&Ask { path: &long[..512], ..unary(0) });
    fresh.run();
    assert!(fresh.client.session.is_open(id));
    pair.assert_idle();
}

#[test]
fn a_method_is_bound_before_its_request_when_room_is_short() {
    let mut pair = Pair::settled(ROOMY);
    // Room for METHOD, none for REQUEST.
    pair.client.sink.room_bytes = 25;
    pair.open(&unary(100));
    assert_eq!(pair.client.kinds(), [Kind::Method]);
    pair.client.sink.room_bytes = usize::MAX;
    pair.run();
    let seen = pair.server.take();
    assert!(matches!(seen[0], Seen::Bound(0, _)));
    assert!(matches!(&seen[1], Seen::Request { message: None, end: false, .. }));
    assert!(
        matches!(&seen[2], Seen::Message { message: Some(message), end: true, .. } if message[..] == body(100))
    );
}
