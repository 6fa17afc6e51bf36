//! The short way of small calls. Every frame a session test delivers is taken both ways, and both
//! must lead to the same session; here is which frames take it.

use super::*;

/// What the short way makes of a frame, if it takes it.
#[derive(Debug, PartialEq)]
pub(super) enum Bare<'a> {
    Request(BareRequest<'a>),
    Response(StreamId, &'a [u8]),
}

pub(super) fn take<'a>(session: &mut Session, now: Instant, frame: &'a [u8]) -> Option<Bare<'a>> {
    let request = session.bare_request(|| now, frame).map(Bare::Request);
    request
        .or_else(|| session.bare_response(frame).map(|(id, message)| Bare::Response(id, message)))
}

/// The event of a frame that the short way took.
pub(super) fn of<'a>(event: &'a Event<'_>) -> Bare<'a> {
    match event {
        Event::Request {
            stream,
            method,
            deadline,
            metadata: [],
            message: Some(message),
            end: true,
        } => {
            let message = message.payload.as_slice();
            Bare::Request(BareRequest {
                stream: *stream,
                method: *method,
                deadline: *deadline,
                message,
            })
        }
        Event::Response { stream, metadata: [], trailers: [], message } => {
            Bare::Response(*stream, message.as_slice())
        }
        other => panic!("not for the short way: {other:?}"),
    }
}

/// Frames that took the short way: at the server, at the client.
fn bare_frames(pair: &Pair) -> (u32, u32) {
    (pair.server.bare_frames, pair.client.bare_frames)
}

#[test]
fn the_usual_call_takes_it_with_and_without_a_deadline() {
    let mut pair = Pair::settled(ROOMY);
    for call in 0..4 {
        let timeout = (call % 2 == 0).then(|| Duration::from_secs(1));
        pair.open(&Ask { timeout, ..unary(100) });
        pair.run();
        let stream = pair.requests().pop().unwrap();
        pair.respond(stream, 50);
        pair.run();
        // A server that sees a slot for the first time makes room for it first.
        assert_eq!(bare_frames(&pair), (call, call + 1));
    }
    pair.assert_idle();
}

#[test]
fn what_needs_a_decision_does_not() {
    let server = SessionConfig { max_message_bytes: 1000, ..SessionConfig::default() };
    let mut pair = Pair::with(SMALL_FRAMES, SessionConfig::default(), server);
    pair.run();
    // The slot is known from now on.
    pair.open(&unary(1));
    pair.run();
    let stream = pair.requests().pop().unwrap();
    pair.finish(stream, 0);
    pair.run();
    // Too long a message, a stream, a call in pieces, one that is refused.
    for ask in [unary(2000), streaming(), unary(10_000)] {
        let id = pair.open(&ask);
        pair.run();
        pair.client.session.cancel(id, 1);
        pair.run();
    }
    pair.server.session.go_away(0, "the server goes");
    pair.open(&unary(1));
    pair.run();
    assert_eq!(bare_frames(&pair), (0, 0));
    // A late answer, to a call that was given up.
    let mut pair = Pair::settled(ROOMY);
    let id = pair.open(&unary(1));
    pair.run();
    let stream = pair.requests().pop().unwrap();
    pair.client.session.cancel(id, 1);
    pair.respond(stream, 5);
    pair.run();
    assert_eq!(bare_frames(&pair), (0, 0));
    pair.assert_idle();
}
