//! A raw connection to a server, and what a server is like that is under attack.
//!
//! Raw sockets speak here, whatever the place's transport is: every transport begins on a socket.

use std::time::{Duration, Instant};

use rdma_rpc_core::wire::{Header, Kind};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::support::{exchange, within};
use crate::harness::{Place, Tuning, World, allowed, allowed_ms};
use crate::proto::Observation;
use crate::proto::test_service_client::TestServiceClient;

pub(super) const MAGIC: [u8; 8] = [0xF2, b'R', b'R', b'P', b'C', 0x0D, 0x0A, 0x1A];
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// A server under attack keeps what it held before, this much more at most.
pub(super) const RESIDENT_SLACK_BYTES: u64 = 24 << 20;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A raw connection to the server.
pub(super) struct Stranger {
    stream: Box<dyn Stream>,
}

impl Stranger {
    pub(super) async fn arrive(world: &World) -> Stranger {
        let stream: Box<dyn Stream> = match world.address().strip_prefix("unix:") {
            Some(path) => Box::new(UnixStream::connect(path).await.expect("the server listens")),
            None => {
                Box::new(TcpStream::connect(world.address()).await.expect("the server listens"))
            }
        };
        Stranger { stream }
    }

    /// Sends as much as the server takes.
    pub(super) async fn say(&mut self, bytes: &[u8]) {
        // The server may have hung up in the middle: that is its right.
        self.is_heard_saying(bytes).await;
    }

    /// The same; whether the server has not hung up.
    pub(super) async fn is_heard_saying(&mut self, bytes: &[u8]) -> bool {
        let writing = self.stream.write_all(bytes);
        within(PATIENCE, "the server reads or hangs up", writing).await.is_ok()
    }

    /// Everything the server says until it hangs up.
    pub(super) async fn hear_out(&mut self) -> Vec<u8> {
        self.hear_out_after("what was said").await
    }

    pub(super) async fn hear_out_after(&mut self, what: &str) -> Vec<u8> {
        let mut heard = Vec::new();
        let reading = self.stream.read_to_end(&mut heard);
        // A reset is an end as well.
        let _ = within(PATIENCE, &format!("after {what}, the server hangs up"), reading).await;
        heard
    }

    /// Shakes hands without offers, and hears the reply out: the longest link frame the server says
    /// it takes.
    pub(super) async fn introduce(&mut self) -> u32 {
        self.say(&hello(1, 1)).await;
        let mut head = [0; 16];
        within(PATIENCE, "a reply", self.stream.read_exact(&mut head)).await.expect("a reply");
        assert_eq!((&head[..8], head[8]), (&MAGIC[..], 2), "not a HELLO-REPLY");
        let length = u32::from_le_bytes([head[12], head[13], head[14], head[15]]);
        let mut reply = vec![0; length as usize];
        self.stream.read_exact(&mut reply).await.expect("the rest of the reply");
        assert_eq!(reply[16], 1, "the socket's own transport is chosen");
        u32::from_le_bytes([reply[12], reply[13], reply[14], reply[15]])
    }

    /// Shakes hands, and then begins as a good client does: [`prelude`].
    pub(super) async fn begin_well(world: &World, path: &str) -> Stranger {
        let mut stranger = Stranger::arrive(world).await;
        stranger.introduce().await;
        stranger.say(&prelude(path)).await;
        stranger
    }

    /// The next session frame.
    pub(super) async fn next_frame(&mut self) -> (Header, Vec<u8>) {
        let reading = async {
            let length = self.stream.read_u32_le().await?;
            let mut frame = vec![0; length as usize];
            self.stream.read_exact(&mut frame).await?;
            std::io::Result::Ok(frame)
        };
        let frame = within(PATIENCE, "a frame", reading).await.expect("the server goes on");
        let (header, body) = Header::parse(&frame).expect("servers send frames");
        (header, body.to_vec())
    }

    /// The next RESPONSE, TRAILERS or RESET of a stream.
    pub(super) async fn final_frame_of(&mut self, stream: u32) -> Header {
        let last = [Kind::Response as u8, Kind::Trailers as u8, Kind::Reset as u8];
        loop {
            let (header, _) = self.next_frame().await;
            if header.stream == stream && last.contains(&header.kind) {
                return header;
            }
        }
    }

    /// The frames the server says until it hangs up, which it does with a GOAWAY: its code and
    /// reason.
    pub(super) async fn farewell(&mut self, what: &str) -> (u16, String) {
        let heard = self.hear_out_after(what).await;
        let mut rest = &heard[..];
        let mut last = None;
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let length = u32::from_le_bytes(*length) as usize;
            // The last frame may be cut where the connection was reset.
            let Some((frame, after)) = after.split_at_checked(length) else { break };
            let (header, body) = Header::parse(frame).expect("servers send frames");
            last = Some((header.kind, header.code, text(body)));
            rest = after;
        }
        match last {
            Some((kind, code, reason)) if kind == Kind::GoAway as u8 => (code, reason),
            last => panic!("after {what}, the server hung up after {last:?}, not after GOAWAY"),
        }
    }
}

/// What a good client begins with: SETTINGS, METHOD number 0, and a REQUEST on stream 1 that messages
/// are to follow.
pub(super) fn prelude(path: &str) -> Vec<u8> {
    [settings(), bind(path), open(1)].concat()
}

/// SETTINGS that say nothing.
pub(super) fn settings() -> Vec<u8> {
    session_frame(Header::new(Kind::Settings, 0), &[])
}

/// Binds a path to method number 0.
pub(super) fn bind(path: &str) -> Vec<u8> {
    session_frame(Header::new(Kind::Method, 0), path.as_bytes())
}

/// A REQUEST of method number 0 that messages are to follow.
pub(super) fn open(stream: u32) -> Vec<u8> {
    session_frame(Header::new(Kind::Request, stream), &[])
}

/// Magic and a HELLO without offers.
pub(super) fn hello(min_version: u16, max_version: u16) -> Vec<u8> {
    let mut payload = Vec::new();
    payload.extend(min_version.to_le_bytes());
    payload.extend(max_version.to_le_bytes());
    payload.extend(0u64.to_le_bytes());
    payload.extend(5000u32.to_le_bytes());
    payload.extend((80u32 << 10).to_le_bytes());
    payload.extend([0, 0, 0]);
    framed(1, payload.len() as u32, &payload)
}

pub(super) fn framed(kind: u8, length: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend([kind, 0, 0, 0]);
    bytes.extend(length.to_le_bytes());
    bytes.extend(payload);
    bytes
}

/// A served world, and what the server held when it was at rest.
pub(super) struct Siege {
    pub(super) world: World,
    client: TestServiceClient,
    before: Observation,
}

impl Siege {
    pub(super) async fn begin(place: Place) -> Siege {
        Siege::begin_tuned(place, |_| {}).await
    }

    pub(super) async fn begin_tuned(place: Place, tune: impl FnOnce(&mut Tuning)) -> Siege {
        let tune = |tuning: &mut Tuning| {
            tuning.server.handshake_timeout_ms = allowed_ms(1500);
            tune(tuning);
        };
        let world = place.tuned(tune).await;
        let client = world.client();
        for _ in 0..20 {
            exchange(&client, 200_000, 200_000).await.unwrap();
        }
        let before = world.observe().await;
        Siege { world, client, before }
    }

    /// In the middle of the attack: the server holds little more than before.
    pub(super) async fn holds_little(&self, what: &str) {
        let now = self.world.observe().await;
        let grown = now.resident_bytes.saturating_sub(self.before.resident_bytes);
        assert!(grown < RESIDENT_SLACK_BYTES, "{what}: {grown} bytes more than before");
    }

    /// Others are served, in good time.
    pub(super) async fn others_are_served(&self) {
        let begin = Instant::now();
        exchange(&self.client, 10_000, 10_000).await.unwrap();
        let newcomer = TestServiceClient::new(self.world.new_channel());
        exchange(&newcomer, 10_000, 10_000).await.unwrap();
        assert!(begin.elapsed() < allowed(PATIENCE / 2), "after {:?}", begin.elapsed());
    }

    /// The server holds what it held.
    pub(super) async fn end(self) {
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

pub(super) fn text(heard: &[u8]) -> String {
    String::from_utf8_lossy(heard).into_owned()
}

pub(super) fn link_frame(frame: &[u8]) -> Vec<u8> {
    let mut bytes = (frame.len() as u32).to_le_bytes().to_vec();
    bytes.extend(frame);
    bytes
}

pub(super) fn session_frame(header: Header, body: &[u8]) -> Vec<u8> {
    let mut frame = header.to_bytes().to_vec();
    frame.extend(body);
    link_frame(&frame)
}
