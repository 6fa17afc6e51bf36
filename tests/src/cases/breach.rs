//! Clients that shake hands well and then break the rules: the server says which rule in its GOAWAY
//! and hangs up, or ends the one stream, and holds no more for them than the limits allow.

use std::time::Duration;

use prost::Message;
use rdma_rpc::Code;
use rdma_rpc_core::wire::{Header, INITIAL_MAX_STREAMS, Kind, flag};

use super::stranger::{
    RESIDENT_SLACK_BYTES, Siege, Stranger, bind, link_frame, open, prelude, session_frame, settings,
};
use super::support::{MIB, output};
use crate::harness::Place;
use crate::pattern::payload;

/// Its handler reads until the end.
const READS: &str = "/conformance.v1.TestService/StreamingInputCall";
/// Its handler waits as long as the first message says before it reads the next.
const WAITS: &str = "/conformance.v1.TestService/FullDuplexCall";
/// Its handler sends what the request asks for.
const SENDS: &str = "/conformance.v1.TestService/StreamingOutputCall";

/// What floods send in all: much more than a server may hold for it.
const FLOOD_BYTES: u64 = 4 * RESIDENT_SLACK_BYTES;
/// Of the messages and pieces that floods are made of.
const PIECE_BYTES: usize = 60_000;
/// After so many of them the server's memory is looked at.
const LOOK_EVERY: u64 = 70;

const INTERNAL: u16 = Code::Internal as u16;
const EXHAUSTED: u16 = Code::ResourceExhausted as u16;

const SHORT: &str = "less than a header";
const UNKNOWN: &str = "an unknown kind";
const SETTINGS_AGAIN: &str = "SETTINGS again";

/// Frames a client must not send after [`prelude`], what is wrong with each, and what the server
/// says to it.
fn bad_frames() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let header = |kind, stream| Header::new(kind, stream);
    let frame = |header: Header, body: &[u8]| session_frame(header, body);
    let mut unknown = header(Kind::Ping, 0);
    unknown.kind = 0x6f;
    let piece = header(Kind::Message, 1).flags(flag::MESSAGE | flag::MORE);
    vec![
        (SHORT, link_frame(&[3]), "the frame ends inside its header"),
        (UNKNOWN, frame(unknown, &[]), "unknown kind of frame"),
        (SETTINGS_AGAIN, settings(), "SETTINGS came twice"),
        (
            "a request of a method nobody bound",
            frame(header(Kind::Request, 2).code(77), &[]),
            "the method is not bound",
        ),
        (
            "a method's number that leaves a gap",
            frame(header(Kind::Method, 0).code(5), b"/a/b"),
            "methods are not bound in order, or too many",
        ),
        (
            "a path that is not UTF-8",
            frame(header(Kind::Method, 0).code(1), &[0xff, 0xfe]),
            "the path is not UTF-8",
        ),
        (
            "a path of 513 bytes",
            frame(header(Kind::Method, 0).code(1), &[b'/'; 513]),
            "the path is too long",
        ),
        ("a request on stream 0", open(0), "no such stream"),
        ("a stream opened twice", open(1), "the stream is open already"),
        ("a stream far beyond the limit", open(u32::MAX), "no such stream"),
        (
            "a request with metadata longer than the frame",
            frame(header(Kind::Request, 2).numbers(1000, 0), &[0; 4]),
            "metadata",
        ),
        (
            "a message longer than it says",
            frame(header(Kind::Message, 1).flags(flag::MESSAGE).numbers(0, 10), &[7; 20]),
            "the message's length is not the frame's",
        ),
        (
            "pieces of different messages",
            [frame(piece.numbers(0, 5000), &[7; 4080]), frame(piece.numbers(0, 6000), &[7; 100])]
                .concat(),
            "the message's length has changed between its pieces",
        ),
        (
            "bulk done of nothing",
            frame(header(Kind::BulkDone, 0), &[0xff; 8]),
            "BULK_DONE without a BULK",
        ),
        (
            "a response",
            frame(header(Kind::Response, 1), &[]),
            "a client sent a frame only servers send",
        ),
        (
            "trailers",
            frame(header(Kind::Trailers, 1), &[]),
            "a client sent a frame only servers send",
        ),
    ]
}

/// Each bad frame costs its connection, and the server says why: after good frames by the rule that
/// was broken, and before them because SETTINGS come first.
pub async fn bad_frames_are_named(place: Place) {
    let siege = Siege::begin(place).await;
    for (what, bytes, want) in bad_frames() {
        let mut stranger = Stranger::begin_well(&siege.world, READS).await;
        stranger.say(&bytes).await;
        let (code, reason) = stranger.farewell(what).await;
        assert_eq!(code, INTERNAL, "{what}: {reason}");
        assert!(reason.contains(want), "{what}: {reason:?} instead of {want:?}");
        if [SETTINGS_AGAIN, SHORT, UNKNOWN].contains(&what) {
            continue;
        }
        let mut stranger = Stranger::arrive(&siege.world).await;
        stranger.introduce().await;
        stranger.say(&bytes).await;
        let (code, reason) = stranger.farewell(what).await;
        assert_eq!(code, INTERNAL, "{what} first: {reason}");
        assert!(reason.contains("the first frame is not SETTINGS"), "{what} first: {reason}");
    }
    siege.end().await;
}

/// Noise before SETTINGS, after them, and where a good client has opened a stream: of any length, and
/// in frames of a right one.
pub async fn noise(place: Place) {
    let siege = Siege::begin(place).await;
    for seed in 0..20 {
        for good in [vec![], settings(), prelude(READS)] {
            // Its first four bytes are a length that is not allowed, or of a frame that never ends.
            let mut stranger = Stranger::arrive(&siege.world).await;
            stranger.introduce().await;
            stranger.say(&[&good[..], &payload(100 << (seed % 10), seed)].concat()).await;
            drop(stranger);
            let mut noise = payload(2000, seed + 100).to_vec();
            // Kinds with the highest bit may be skipped; of the others there are fifteen.
            noise[0] = 0x10 | noise[0] & 0x7f;
            let mut stranger = Stranger::arrive(&siege.world).await;
            stranger.introduce().await;
            stranger.say(&[good, link_frame(&noise)].concat()).await;
            let (code, reason) = stranger.farewell("noise").await;
            assert_eq!(code, INTERNAL, "{reason}");
            assert!(reason.contains("unknown kind of frame"), "{reason}");
        }
    }
    siege.end().await;
}

/// What the link refuses: lengths the server said it does not take, by the length alone, and a
/// message to be pulled, on a socket. The server hangs up at once.
pub async fn frames_no_link_takes(place: Place) {
    let siege = Siege::begin(place).await;
    let mut longest_frame = Stranger::arrive(&siege.world).await;
    let longest = longest_frame.introduce().await;
    assert!(longest >= 4096, "the server takes {longest} bytes");
    let pulled = Header::new(Kind::Bulk, 1).flags(flag::MESSAGE).code(32).numbers(0, 1000);
    for bytes in [
        u32::MAX.to_le_bytes().to_vec(),
        (longest + 1).to_le_bytes().to_vec(),
        0u32.to_le_bytes().to_vec(),
        session_frame(pulled, &[0xff; 32]),
    ] {
        let mut stranger = Stranger::begin_well(&siege.world, READS).await;
        stranger.say(&bytes).await;
        stranger.hear_out_after(&format!("{:?}", &bytes[..4])).await;
    }
    // The longest is read to its end, and then judged by what it holds.
    let mut frame = vec![0; longest as usize];
    frame[0] = 0x6f;
    longest_frame.say(&[settings(), link_frame(&frame)].concat()).await;
    let (code, reason) = longest_frame.farewell("the longest frame").await;
    assert!(code == INTERNAL && reason.contains("unknown kind of frame"), "{code}: {reason}");
    drop(longest_frame);
    siege.end().await;
}

/// A message, or a piece of one, in a stream.
fn message(stream: u32, flags: u8, whole_bytes: u32, body: &[u8]) -> Vec<u8> {
    let header = Header::new(Kind::Message, stream).flags(flag::MESSAGE | flags);
    session_frame(header.numbers(0, whole_bytes), body)
}

/// The first message of [`WAITS`]: its handler does not read the next for an hour.
fn wait_an_hour(stream: u32) -> Vec<u8> {
    let mut request = output(&[1], 1);
    request.response_parameters[0].interval_us = 3_600_000_000;
    let request = request.encode_to_vec();
    message(stream, 0, request.len() as u32, &request)
}

/// A message that never ends, to a handler that reads: the stream is over as soon as it says how long
/// it will be, and what comes after is dropped.
pub async fn endless_message(place: Place) {
    let siege = Siege::begin(place).await;
    let mut stranger = Stranger::begin_well(&siege.world, READS).await;
    let piece = message(1, flag::MORE, u32::MAX, &[7; PIECE_BYTES]);
    for number in 0..FLOOD_BYTES / PIECE_BYTES as u64 {
        stranger.say(&piece).await;
        if number % LOOK_EVERY == 0 {
            siege.holds_little("in the middle of an endless message").await;
        }
    }
    siege.holds_little("after an endless message").await;
    let trailers = stranger.final_frame_of(1).await;
    assert_eq!((trailers.kind, trailers.code), (Kind::Trailers as u8, EXHAUSTED));
    // Its connection goes on: the stream's number is free.
    stranger.say(&open(1)).await;
    stranger.say(&session_frame(Header::new(Kind::Message, 1).flags(flag::END), &[])).await;
    assert_eq!(stranger.final_frame_of(1).await.kind, Kind::Response as u8);
    siege.others_are_served().await;
    drop(stranger);
    siege.end().await;
}

/// Messages to a handler that reads nothing, beyond what the window allows: the first that begins
/// there ends the connection.
pub async fn beyond_the_window(place: Place) {
    let siege = Siege::begin(place).await;
    let mut stranger = Stranger::begin_well(&siege.world, WAITS).await;
    stranger.say(&wait_an_hour(1)).await;
    let next = message(1, 0, PIECE_BYTES as u32, &[7; PIECE_BYTES]);
    let mut said = 0;
    while stranger.is_heard_saying(&next).await {
        said += next.len() as u64;
        assert!(said < FLOOD_BYTES, "the server takes {said} bytes for a handler that reads none");
    }
    let (code, reason) = stranger.farewell("messages beyond the window").await;
    assert_eq!(code, INTERNAL, "{reason}");
    assert!(reason.contains("a message beyond the stream's window"), "{reason}");
    drop(stranger);
    siege.end().await;
}

/// As many streams as a client may open, each with a window full of messages that no handler reads:
/// the server holds `limits.max_buffered_bytes` and ends the streams that bring more.
pub async fn full_windows_of_many_streams(place: Place) {
    let window_bytes = MIB;
    let siege = Siege::begin_tuned(place, |tuning| {
        tuning.server.limits.stream_window_bytes = window_bytes;
        tuning.server.limits.max_buffered_bytes = 4 * MIB;
    })
    .await;
    let mut stranger = Stranger::begin_well(&siege.world, WAITS).await;
    for stream in 1..=INITIAL_MAX_STREAMS {
        if stream > 1 {
            stranger.say(&open(stream)).await;
        }
        stranger.say(&wait_an_hour(stream)).await;
        let next = message(stream, 0, PIECE_BYTES as u32, &[7; PIECE_BYTES]);
        for _ in 0..window_bytes / next.len() - 1 {
            stranger.say(&next).await;
        }
        if stream % 4 == 0 {
            siege.holds_little("while windows fill").await;
        }
    }
    siege.holds_little("with full windows").await;
    let mut ended = 0;
    stranger.say(&session_frame(Header::new(Kind::Ping, 0).wide(7), &[])).await;
    loop {
        let (header, _) = stranger.next_frame().await;
        if header.kind == Kind::Trailers as u8 {
            assert_eq!(header.code, EXHAUSTED);
            ended += 1;
        } else if header.kind == Kind::Pong as u8 {
            break;
        }
    }
    // Four of them fit.
    assert!((100..INITIAL_MAX_STREAMS).contains(&ended), "{ended} of the streams were ended");
    siege.others_are_served().await;
    drop(stranger);
    siege.end().await;
}

/// A client that asks for everything, allows everything, and reads nothing: what handlers send waits
/// in them.
pub async fn asks_and_never_reads(place: Place) {
    let siege = Siege::begin(place).await;
    let mut stranger = Stranger::arrive(&siege.world).await;
    stranger.introduce().await;
    stranger.say(&[settings(), bind(SENDS)].concat()).await;
    let request = output(&[10_000], u32::MAX / 2).encode_to_vec();
    for stream in 1..=INITIAL_MAX_STREAMS {
        let header = Header::new(Kind::Request, stream).flags(flag::MESSAGE | flag::END);
        stranger.say(&session_frame(header.numbers(0, request.len() as u32), &request)).await;
        stranger.say(&session_frame(Header::new(Kind::Window, stream).wide(1 << 60), &[])).await;
    }
    let all = i64::from(INITIAL_MAX_STREAMS);
    siege.world.observe_until("busy", |seen| seen.running == all).await;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        siege.holds_little("while a client reads nothing").await;
    }
    siege.others_are_served().await;
    drop(stranger);
    siege.end().await;
}
