//! Strangers and liars on the port of a serving server: they are turned away in words where they
//! can understand them, the server keeps serving others, and it holds nothing for them.
//!
//! Raw sockets speak here, whatever the place's transport is: every transport begins on a socket.

use std::time::{Duration, Instant};

use rdma_rpc_core::wire::{Header, Kind, flag};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::support::{exchange, within};
use crate::harness::{Place, World, allowed, allowed_ms};
use crate::pattern::payload;
use crate::proto::Observation;
use crate::proto::test_service_client::TestServiceClient;

const MAGIC: [u8; 8] = [0xF2, b'R', b'R', b'P', b'C', 0x0D, 0x0A, 0x1A];
const PATIENCE: Duration = Duration::from_secs(10);

/// A server under attack keeps what it held before, this much more at most.
const RESIDENT_SLACK_BYTES: u64 = 24 << 20;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A raw connection to the server.
struct Stranger {
    stream: Box<dyn Stream>,
}

impl Stranger {
    async fn arrive(world: &World) -> Stranger {
        let stream: Box<dyn Stream> = match world.address().strip_prefix("unix:") {
            Some(path) => Box::new(UnixStream::connect(path).await.expect("the server listens")),
            None => {
                Box::new(TcpStream::connect(world.address()).await.expect("the server listens"))
            }
        };
        Stranger { stream }
    }

    /// Sends as much as the server takes.
    async fn say(&mut self, bytes: &[u8]) {
        // The server may have hung up in the middle: that is its right.
        let _ =
            within(PATIENCE, "the server reads or hangs up", self.stream.write_all(bytes)).await;
    }

    /// Everything the server says until it hangs up.
    async fn hear_out(&mut self) -> Vec<u8> {
        self.hear_out_after("what was said").await
    }

    async fn hear_out_after(&mut self, what: &str) -> Vec<u8> {
        let mut heard = Vec::new();
        let reading = self.stream.read_to_end(&mut heard);
        // A reset is an end as well.
        let _ = within(PATIENCE, &format!("after {what}, the server hangs up"), reading).await;
        heard
    }

    /// Shakes hands without offers, and hears the reply out.
    async fn introduce(&mut self) {
        self.say(&hello(1, 1)).await;
        let mut head = [0; 16];
        within(PATIENCE, "a reply", self.stream.read_exact(&mut head)).await.expect("a reply");
        assert_eq!((&head[..8], head[8]), (&MAGIC[..], 2), "not a HELLO-REPLY");
        let length = u32::from_le_bytes([head[12], head[13], head[14], head[15]]);
        let mut reply = vec![0; length as usize];
        self.stream.read_exact(&mut reply).await.expect("the rest of the reply");
        assert_eq!(reply[16], 1, "the socket's own transport is chosen");
    }
}

/// Magic and a HELLO without offers.
fn hello(min_version: u16, max_version: u16) -> Vec<u8> {
    let mut payload = Vec::new();
    payload.extend(min_version.to_le_bytes());
    payload.extend(max_version.to_le_bytes());
    payload.extend(0u64.to_le_bytes());
    payload.extend(5000u32.to_le_bytes());
    payload.extend((80u32 << 10).to_le_bytes());
    payload.extend([0, 0, 0]);
    framed(1, payload.len() as u32, &payload)
}

fn framed(kind: u8, length: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend([kind, 0, 0, 0]);
    bytes.extend(length.to_le_bytes());
    bytes.extend(payload);
    bytes
}

/// A served world, and what the server held when it was at rest.
struct Siege {
    world: World,
    client: TestServiceClient,
    before: Observation,
}

impl Siege {
    async fn begin(place: Place) -> Siege {
        let world =
            place.tuned(|tuning| tuning.server.handshake_timeout_ms = allowed_ms(1500)).await;
        let client = world.client();
        for _ in 0..20 {
            exchange(&client, 200_000, 200_000).await.unwrap();
        }
        let before = world.observe().await;
        Siege { world, client, before }
    }

    /// Others are served, in good time.
    async fn others_are_served(&self) {
        let begin = Instant::now();
        exchange(&self.client, 10_000, 10_000).await.unwrap();
        let newcomer = TestServiceClient::new(self.world.new_channel());
        exchange(&newcomer, 10_000, 10_000).await.unwrap();
        assert!(begin.elapsed() < allowed(PATIENCE / 2), "after {:?}", begin.elapsed());
    }

    /// The server holds what it held.
    async fn end(self) {
        self.others_are_served().await;
        let begin = Instant::now();
        loop {
            let now = self.world.observe().await;
            let same = (now.open_files, now.memory_maps, now.running)
                == (self.before.open_files, self.before.memory_maps, 0);
            let grown = now.resident_bytes.saturating_sub(self.before.resident_bytes);
            if same && grown < RESIDENT_SLACK_BYTES {
                return;
            }
            assert!(begin.elapsed() < allowed(PATIENCE), "{:?} became {now:?}", self.before);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn text(heard: &[u8]) -> String {
    String::from_utf8_lossy(heard).into_owned()
}

/// Bytes that are nothing: the server hangs up without a word.
pub async fn garbage(place: Place) {
    let siege = Siege::begin(place).await;
    for (bytes, seed) in [(1, 1), (7, 2), (8, 3), (16, 4), (1000, 5), (1 << 20, 6), (4 << 20, 7)] {
        let mut stranger = Stranger::arrive(&siege.world).await;
        stranger.say(&payload(bytes, seed)).await;
        let heard = stranger.hear_out().await;
        assert!(heard.is_empty(), "to a stranger: {:?}", text(&heard));
        siege.others_are_served().await;
    }
    // Right beginnings, wrong ends.
    for cut in 1..MAGIC.len() {
        let mut stranger = Stranger::arrive(&siege.world).await;
        let mut bytes = MAGIC[..cut].to_vec();
        bytes.extend([0; 64]);
        stranger.say(&bytes).await;
        assert!(stranger.hear_out().await.is_empty());
    }
    siege.end().await;
}

/// Clients of other protocols.
pub async fn http_preface(place: Place) {
    let siege = Siege::begin(place).await;
    for preface in [
        &b"GET / HTTP/1.1\r\nHost: kv\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"SSH-2.0-OpenSSH_9.6\r\n",
    ] {
        let mut stranger = Stranger::arrive(&siege.world).await;
        stranger.say(preface).await;
        let heard = stranger.hear_out().await;
        assert!(heard.is_empty(), "to a stranger: {:?}", text(&heard));
    }
    siege.end().await;
}

/// A handshake that ends at any byte, by the client's hanging up or by its falling silent.
pub async fn truncated_hello(place: Place) {
    let siege = Siege::begin(place).await;
    let whole = hello(1, 1);
    let mut silent = Vec::new();
    for cut in 0..whole.len() {
        let mut stranger = Stranger::arrive(&siege.world).await;
        stranger.say(&whole[..cut]).await;
        drop(stranger);
        let mut stranger = Stranger::arrive(&siege.world).await;
        stranger.say(&whole[..cut]).await;
        silent.push(stranger);
    }
    siege.others_are_served().await;
    for mut stranger in silent {
        stranger.hear_out().await;
    }
    siege.end().await;
}

/// Lengths beyond what there is or may be: refused by the byte where they stand, nothing is
/// allocated for them.
pub async fn oversized_lengths(place: Place) {
    let siege = Siege::begin(place).await;
    for length in [u32::MAX, 1 << 31, 65_529, 1 << 24] {
        let mut stranger = Stranger::arrive(&siege.world).await;
        stranger.say(&framed(1, length, &[])).await;
        let heard = text(&stranger.hear_out().await);
        assert!(heard.contains("payload length") && heard.contains("byte 12"), "{heard:?}");
        assert!(heard.contains(&length.to_string()), "{heard:?}");
    }
    // Inside the HELLO: authority, number of offers, an offer's body.
    let mut inside = hello(1, 1);
    let authority = 16 + 20;
    inside[authority..authority + 2].copy_from_slice(&u16::MAX.to_le_bytes());
    let mut many = hello(1, 1);
    *many.last_mut().expect("not empty") = 255;
    for bytes in [inside, many] {
        let mut stranger = Stranger::arrive(&siege.world).await;
        stranger.say(&bytes).await;
        let heard = text(&stranger.hear_out().await);
        assert!(heard.contains("at most"), "{heard:?}");
    }
    // After the handshake: a frame longer than the server said it takes.
    for length in [u32::MAX, (80 << 10) + 1, 0] {
        let mut stranger = Stranger::arrive(&siege.world).await;
        stranger.introduce().await;
        stranger.say(&length.to_le_bytes()).await;
        stranger.say(&payload(100_000, 1)).await;
        stranger.hear_out().await;
    }
    siege.end().await;
}

/// Versions this server does not speak: the refusal names both ends' versions.
pub async fn wrong_version(place: Place) {
    let siege = Siege::begin(place).await;
    for (min, max) in [(2, 2), (7, 900), (0, 0)] {
        let mut stranger = Stranger::arrive(&siege.world).await;
        stranger.say(&hello(min, max)).await;
        let heard = text(&stranger.hear_out().await);
        assert!(heard.contains("no protocol version in common"), "{heard:?}");
        assert!(heard.contains(&format!("the client {min} to {max}")), "{heard:?}");
    }
    let mut stranger = Stranger::arrive(&siege.world).await;
    stranger.say(&hello(3, 1)).await;
    assert!(text(&stranger.hear_out().await).contains("a highest version of at least 3"));
    drop(stranger);
    siege.end().await;
}

/// Hundreds of connections that never say anything, or never enough.
pub async fn half_open_by_the_hundred(place: Place) {
    let siege = Siege::begin(place).await;
    let mut strangers = Vec::new();
    for number in 0..300 {
        let mut stranger = Stranger::arrive(&siege.world).await;
        stranger.say(&hello(1, 1)[..number % 30]).await;
        strangers.push(stranger);
    }
    let held = siege.world.observe().await;
    let grown = held.resident_bytes.saturating_sub(siege.before.resident_bytes);
    assert!(grown < RESIDENT_SLACK_BYTES, "{grown} bytes for 300 half-open connections");
    siege.others_are_served().await;
    for mut stranger in strangers {
        stranger.hear_out().await;
    }
    siege.end().await;
}

fn link_frame(frame: &[u8]) -> Vec<u8> {
    let mut bytes = (frame.len() as u32).to_le_bytes().to_vec();
    bytes.extend(frame);
    bytes
}

fn session_frame(header: Header, body: &[u8]) -> Vec<u8> {
    let mut frame = header.to_bytes().to_vec();
    frame.extend(body);
    link_frame(&frame)
}

/// Frames a client must not send, each with what is wrong with it.
fn bad_frames() -> Vec<(&'static str, Vec<u8>)> {
    let header = |kind, stream| Header::new(kind, stream);
    let mut unknown = header(Kind::Ping, 0);
    unknown.kind = 0x6f;
    let method = session_frame(header(Kind::Method, 0), b"/conformance.v1.TestService/EmptyCall");
    let after_method = |frame: Vec<u8>| [method.clone(), frame].concat();
    vec![
        ("shorter than a header", link_frame(&[3])),
        ("unknown kind", session_frame(unknown, &[])),
        (
            "a request of a method nobody bound",
            session_frame(header(Kind::Request, 1).code(77), &[]),
        ),
        ("a request on stream 0", after_method(session_frame(header(Kind::Request, 0), &[]))),
        (
            "a request with metadata longer than the frame",
            after_method(session_frame(header(Kind::Request, 1).numbers(1000, 0), &[0; 4])),
        ),
        (
            "a stream opened twice",
            after_method(
                [0; 2].map(|_: u8| session_frame(header(Kind::Request, 1).flags(0), &[])).concat(),
            ),
        ),
        (
            "a stream far beyond the limit",
            after_method(session_frame(header(Kind::Request, u32::MAX), &[])),
        ),
        (
            "a bulk descriptor on a socket",
            after_method(
                [
                    session_frame(header(Kind::Request, 1), &[]),
                    session_frame(header(Kind::Bulk, 1).numbers(0, 1000), &[0xff; 32]),
                ]
                .concat(),
            ),
        ),
        ("bulk done of nothing", session_frame(header(Kind::BulkDone, 0), &[0xff; 8])),
        ("a response from a client", session_frame(header(Kind::Response, 1), &[])),
        ("trailers from a client", session_frame(header(Kind::Trailers, 1), &[])),
        ("a path that is not UTF-8", session_frame(header(Kind::Method, 0), &[0xff, 0xfe])),
    ]
}

/// After a good handshake: noise, and well-formed frames that make no sense. The connection ends;
/// no other does.
pub async fn garbage_after_handshake(place: Place) {
    let siege = Siege::begin(place).await;
    for seed in 0..20 {
        let mut stranger = Stranger::arrive(&siege.world).await;
        stranger.introduce().await;
        stranger.say(&payload(100 << (seed % 10), seed)).await;
        drop(stranger);
        // Noise in frames of a right length.
        let mut stranger = Stranger::arrive(&siege.world).await;
        stranger.introduce().await;
        let mut noise = payload(2000, seed + 100).to_vec();
        // Kinds with the highest bit may be skipped; of the others there are fifteen.
        noise[0] = 0x10 | noise[0] & 0x7f;
        stranger.say(&link_frame(&noise)).await;
        stranger.hear_out().await;
    }
    siege.others_are_served().await;
    let settings = session_frame(Header::new(Kind::Settings, 0), &[]);
    for with_settings in [false, true] {
        for (what, frame) in bad_frames() {
            let mut stranger = Stranger::arrive(&siege.world).await;
            stranger.introduce().await;
            if with_settings {
                stranger.say(&settings).await;
            }
            stranger.say(&frame).await;
            stranger.hear_out_after(what).await;
        }
    }
    // A message that never ends, on a stream that is open: the window bounds it.
    let mut stranger = Stranger::arrive(&siege.world).await;
    stranger.introduce().await;
    let piece = Header::new(Kind::Message, 1).flags(flag::MESSAGE | flag::MORE);
    for _ in 0..200 {
        stranger.say(&session_frame(piece.numbers(0, u32::MAX), &[7; 60_000])).await;
    }
    stranger.hear_out().await;
    drop(stranger);
    siege.end().await;
}

/// Clients that shake hands and then say nothing are served when they speak, and cost little.
pub async fn silence_after_handshake(place: Place) {
    let siege = Siege::begin(place).await;
    let mut strangers = Vec::new();
    for _ in 0..200 {
        let mut stranger = Stranger::arrive(&siege.world).await;
        stranger.introduce().await;
        strangers.push(stranger);
    }
    let held = siege.world.observe().await;
    let grown = held.resident_bytes.saturating_sub(siege.before.resident_bytes);
    assert!(grown < RESIDENT_SLACK_BYTES, "{grown} bytes for 200 idle connections");
    siege.others_are_served().await;
    drop(strangers);
    siege.end().await;
}

/// Connections in the middle of their handshake do not hold a shutdown.
pub async fn shutdown_among_strangers(place: Place) {
    let mut world = place.world().await;
    exchange(&world.client(), 1000, 1000).await.unwrap();
    let mut strangers = Vec::new();
    for number in 0..20 {
        let mut stranger = Stranger::arrive(&world).await;
        stranger.say(&hello(1, 1)[..number]).await;
        strangers.push(stranger);
    }
    let mut idle = Stranger::arrive(&world).await;
    idle.introduce().await;
    let begin = Instant::now();
    within(PATIENCE, "the shutdown", world.shut_down()).await;
    assert!(begin.elapsed() < allowed(PATIENCE / 5), "the shutdown took {:?}", begin.elapsed());
}
