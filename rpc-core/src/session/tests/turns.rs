//! In which order streams have their turns when several wait for room.

use super::*;
use crate::wire::Header;

/// The frames that wait at the client's link, by stream, in order; equal neighbours once.
fn order(pair: &mut Pair) -> Vec<u32> {
    let mut order: Vec<u32> = pair
        .client
        .sink
        .out
        .iter()
        .filter_map(|frame| Header::parse(frame).ok())
        .filter(|(header, _)| header.kind == Kind::Message as u8)
        .map(|(header, _)| header.stream)
        .collect();
    order.dedup();
    order
}

/// Streams with a message of `len` bytes each of which the first piece has gone, and is credited.
fn amid_messages(pair: &mut Pair, lens: &[usize]) -> Vec<StreamId> {
    let ids: Vec<_> = lens.iter().map(|_| pair.open(&streaming())).collect();
    pair.run();
    pair.server.session.set_method_limit(0, 64 << 20);
    for (id, len) in ids.iter().zip(lens) {
        assert_eq!(pair.client_sends(*id, *len, true), Sending::Queued);
    }
    while pair.step_server() {}
    pair.server.transmit();
    pair.client.sink.room_bytes = 0;
    while pair.step_client() {}
    for (id, len) in ids.iter().zip(lens) {
        let stream = &pair.client.session.streams[id.slot()];
        assert!(stream.is_amid_message());
        assert!(stream.send_limit > *len as u64, "it is credited");
    }
    ids
}

fn pair() -> Pair {
    let config = SessionConfig {
        max_message_bytes: 64 << 20,
        max_buffered_bytes: 1 << 30,
        ..SessionConfig::default()
    };
    let mut pair = Pair::with(ROOMY, config, config);
    pair.run();
    pair
}

#[test]
fn one_message_that_has_begun_goes_to_its_end_before_the_next_goes_on() {
    let mut pair = pair();
    let ids = amid_messages(&mut pair, &[1_000_000, 900_000, 800_000]);
    pair.client.sink.room_bytes = usize::MAX;
    pair.client.transmit();
    let wire: Vec<u32> = ids.iter().map(|id| id.slot() as u32 + 1).collect();
    assert_eq!(order(&mut pair), wire);
    pair.run();
    let seen = pair.server.take();
    let whole = seen.iter().filter(|seen| matches!(seen, Seen::Message { message: Some(_), .. }));
    assert_eq!(whole.count(), 3);
}

#[test]
fn a_very_long_message_gives_way_to_others_that_have_begun() {
    let mut pair = pair();
    let ids = amid_messages(&mut pair, &[20_000_000, 1_000_000, 20_000_000]);
    pair.client.sink.room_bytes = usize::MAX;
    pair.client.transmit();
    let [first, short, last] = [0, 1, 2].map(|at: usize| ids[at].slot() as u32 + 1);
    let order = order(&mut pair);
    assert_eq!(order[..4], [first, short, last, first], "{order:?}");
    let turns = order.iter().filter(|stream| **stream == first).count();
    assert!((4..=6).contains(&turns), "20 MB by turns of 4 MiB: {order:?}");
    let mut since = 0;
    let mut longest = 0;
    let mut before = 0;
    for frame in &pair.client.sink.out {
        let (header, body) = Header::parse(frame).unwrap();
        since = if header.stream == before { since + body.len() } else { body.len() };
        (before, longest) = (header.stream, longest.max(since));
    }
    // The last one is alone at the end.
    assert!((4 << 20..8 << 20).contains(&longest), "{longest}");
}

#[test]
fn all_short_ones_have_their_turn_between_two_pieces_of_a_long_one() {
    let mut pair = pair();
    let [long, other] = amid_messages(&mut pair, &[1_000_000, 1_000_000])[..] else { panic!() };
    let shorts: Vec<_> = (0..20).map(|_| pair.open(&unary(100))).collect();
    assert_eq!(pair.client.sink.out.len(), 0, "there is no room");
    // For a piece of the long one, and a little.
    pair.client.sink.room_bytes = 64 * 1024 + 20 * 200;
    pair.client.transmit();
    let kinds = pair.client.kinds();
    let requests = kinds.iter().filter(|kind| **kind == Kind::Request).count();
    assert_eq!(requests, shorts.len(), "{kinds:?}");
    assert_eq!(order(&mut pair), [long.slot() as u32 + 1]);
    pair.client.sink.room_bytes = usize::MAX;
    pair.run();
    assert!(!pair.client.session.streams[other.slot()].has_queue());
}

#[test]
fn the_next_has_a_whole_turn_after_one_that_was_cancelled_in_its_own() {
    let mut pair = pair();
    let ids = amid_messages(&mut pair, &[20_000_000, 20_000_000, 20_000_000]);
    pair.client.sink.room_bytes = 3 << 20;
    pair.client.transmit();
    let [first, second, third] = [0, 1, 2].map(|at: usize| ids[at].slot() as u32 + 1);
    assert_eq!(order(&mut pair), [first], "amid its turn");
    pair.client.sink.out.clear();
    pair.client.session.cancel(ids[0], CANCELLED);
    pair.client.sink.room_bytes = usize::MAX;
    pair.client.transmit();
    assert_eq!(order(&mut pair)[..2], [second, third]);
    let frames = pair.client.sink.out.iter().map(|frame| Header::parse(frame).unwrap());
    let turn: usize = frames
        .filter(|(header, _)| header.kind == Kind::Message as u8)
        .take_while(|(header, _)| header.stream == second)
        .map(|(_, body)| body.len())
        .sum();
    assert!(turn >= 4 << 20, "{turn}");
}

/// What the list of turns still names may belong to another call by then.
#[test]
fn a_cancelled_message_leaves_its_turn_to_the_next() {
    let mut pair = pair();
    let [first, second] = amid_messages(&mut pair, &[1_000_000, 1_000_000])[..] else { panic!() };
    pair.client.session.cancel(first, CANCELLED);
    pair.client.sink.room_bytes = usize::MAX;
    pair.run();
    let whole = pair.server.take().into_iter().filter(
        |seen| matches!(seen, Seen::Message { message: Some(message), .. } if message.len() == 1_000_000),
    );
    assert_eq!(whole.count(), 1);
    assert!(!pair.client.session.streams[second.slot()].has_queue());
    // The slot's next tenant.
    let again = pair.open(&unary(500_000));
    pair.run();
    let requests = pair.server.take();
    assert!(!requests.is_empty());
    assert!(!pair.client.session.streams[again.slot()].has_queue());
}
