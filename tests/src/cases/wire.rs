//! A wire that is cut, or falls silent, after any number of bytes: a proxy stands between client
//! and server. On rings the proxied socket carries the handshake and is then the sign of life.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rdma_rpc::{Code, Status};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::support::{at_once, exchange, within};
use crate::harness::{Place, Transport, Tuning, World, allowed, allowed_ms};
use crate::proto::Observation;
use crate::proto::test_service_client::TestServiceClient;

const PATIENCE: Duration = Duration::from_secs(10);
const HANDSHAKE_MS: u64 = 600;

/// What happens after so many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Cut,
    Silence,
}

/// How many bytes pass each way, and what happens then.
#[derive(Debug, Clone, Copy)]
struct Limits {
    up_bytes: u64,
    down_bytes: u64,
    end: End,
}

const ENDLESS: Limits = Limits { up_bytes: u64::MAX, down_bytes: u64::MAX, end: End::Cut };

/// Bytes that have passed.
#[derive(Debug, Default)]
struct Passed {
    up: AtomicU64,
    down: AtomicU64,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    limit: u64,
    end: End,
    passed: &AtomicU64,
) {
    let mut buffer = [0; 4096];
    let mut left = limit;
    while left > 0 {
        let most = left.min(buffer.len() as u64) as usize;
        let Ok(count @ 1..) = from.read(&mut buffer[..most]).await else { return };
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
        left -= count as u64;
        passed.fetch_add(count as u64, Ordering::SeqCst);
    }
    if end == End::Silence {
        // Reads on, as a network does that loses what comes after.
        while let Ok(1..) = from.read(&mut buffer).await {}
    }
}

/// Carries one client's bytes until either side ends or the limit is reached.
async fn carry_both(
    near: Box<dyn Stream>,
    far: Box<dyn Stream>,
    limits: Limits,
    passed: Arc<Passed>,
) {
    let (near_read, near_write) = split(near);
    let (far_read, far_write) = split(far);
    tokio::select! {
        () = carry(near_read, far_write, limits.up_bytes, limits.end, &passed.up) => {}
        () = carry(far_read, near_write, limits.down_bytes, limits.end, &passed.down) => {}
    }
}

async fn dial(address: &str) -> std::io::Result<Box<dyn Stream>> {
    Ok(match address.strip_prefix("unix:") {
        Some(path) => Box::new(UnixStream::connect(path).await?),
        None => Box::new(TcpStream::connect(address).await?),
    })
}

/// A proxy for one client; gives its address.
async fn proxy(world: &World, limits: Limits, name: &str) -> (String, Arc<Passed>) {
    let passed = Arc::<Passed>::default();
    let (server, counted) = (world.address().to_owned(), Arc::clone(&passed));
    let serve = async move |near: Box<dyn Stream>| {
        if let Ok(far) = dial(&server).await {
            carry_both(near, far, limits, counted).await;
        }
    };
    if world.place().transport == Transport::Unix {
        let path = world.folder().join(name);
        let listener = UnixListener::bind(&path).expect("the path is free");
        tokio::spawn(async move {
            if let Ok((near, _)) = listener.accept().await {
                serve(Box::new(near)).await;
            }
        });
        return (format!("unix:{}", path.display()), passed);
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("there are ports");
    let address = listener.local_addr().expect("it is bound").to_string();
    tokio::spawn(async move {
        if let Ok((near, _)) = listener.accept().await {
            serve(Box::new(near)).await;
        }
    });
    (address, passed)
}

fn tuning() -> Tuning {
    let mut tuning = Tuning::default();
    tuning.client.handshake_timeout_ms = allowed_ms(HANDSHAKE_MS);
    tuning
}

/// One call through a proxy.
async fn call_through(world: &World, limits: Limits, name: String) -> Result<(), Status> {
    let (address, _) = proxy(world, limits, &name).await;
    let client = TestServiceClient::new(world.place().channel_to(&address, &tuning()));
    within(PATIENCE, "a call", exchange(&client, 100, 100)).await
}

/// Bytes a handshake and one call take, up and down.
async fn whole(world: &World) -> (u64, u64) {
    let (address, passed) = proxy(world, ENDLESS, "whole").await;
    let client = TestServiceClient::new(world.place().channel_to(&address, &tuning()));
    exchange(&client, 100, 100).await.unwrap();
    (passed.up.load(Ordering::SeqCst), passed.down.load(Ordering::SeqCst))
}

/// Tries every `step`th limit in both directions; nothing may stay at the server.
async fn every_byte(place: Place, end: End, step: usize) {
    let world =
        place.tuned(|tuning| tuning.server.handshake_timeout_ms = allowed_ms(HANDSHAKE_MS)).await;
    exchange(&world.client(), 100_000, 100_000).await.unwrap();
    let (up, down) = whole(&world).await;
    let before = settled(&world).await;
    let mut limits = Vec::new();
    for up_bytes in (0..up).step_by(step) {
        limits.push(Limits { up_bytes, ..ENDLESS });
    }
    for down_bytes in (0..down).step_by(step) {
        limits.push(Limits { down_bytes, ..ENDLESS });
    }
    let world = Arc::new(world);
    for (round, chunk) in limits.chunks(64).enumerate() {
        let (chunk, world) = (chunk.to_vec(), Arc::clone(&world));
        let results = at_once(chunk.len(), move |number| {
            let (world, limits) = (Arc::clone(&world), Limits { end, ..chunk[number] });
            async move { (limits, call_through(&world, limits, format!("{round}-{number}")).await) }
        });
        for (limits, result) in results.await {
            let Err(status) = result else { continue };
            assert_eq!(status.code(), Code::Unavailable, "{limits:?}: {status}");
        }
    }
    let begin = Instant::now();
    loop {
        exchange(&world.client(), 1000, 1000).await.unwrap();
        let now = settled(&world).await;
        if held(&now) == held(&before) {
            return;
        }
        assert!(begin.elapsed() < allowed(PATIENCE), "{before:?} became {now:?}");
    }
}

fn held(seen: &Observation) -> (u64, u64, u64, i64) {
    (seen.open_files, seen.memory_maps, seen.alive_tasks, seen.running)
}

async fn settled(world: &World) -> Observation {
    tokio::time::sleep(Duration::from_millis(300)).await;
    world.observe().await
}

/// The connection is cut after any number of bytes of the handshake and the first call.
pub async fn cut_at_any_byte(place: Place) {
    every_byte(place, End::Cut, 3).await;
}

/// The connection falls silent after any number of bytes of the handshake: both ends give up in
/// their own time, and on rings those that were ready go on without the socket.
pub async fn silent_at_any_byte(place: Place) {
    // A call that was under way when the wire fell silent waits for its keepalive: the handshake
    // is what is tested here.
    let world = place.world().await;
    exchange(&world.client(), 100, 100).await.unwrap();
    let mut limits = Vec::new();
    for bytes in [0, 1, 8, 15, 16, 30, 38] {
        limits.push(Limits { up_bytes: bytes, ..ENDLESS });
        if bytes < 30 {
            limits.push(Limits { down_bytes: bytes, ..ENDLESS });
        }
    }
    let before = settled(&world).await;
    let world = Arc::new(world);
    let shared = Arc::clone(&world);
    let begin = Instant::now();
    let results = at_once(limits.len(), move |number| {
        let (world, limits) = (Arc::clone(&shared), Limits { end: End::Silence, ..limits[number] });
        async move { (limits, call_through(&world, limits, number.to_string()).await) }
    });
    for (limits, result) in results.await {
        let status = result.expect_err("the handshake cannot have ended");
        assert_eq!(status.code(), Code::Unavailable, "{limits:?}: {status}");
    }
    assert!(begin.elapsed() < allowed(PATIENCE / 2), "after {:?}", begin.elapsed());
    loop {
        let now = settled(&world).await;
        if held(&now) == held(&before) {
            return;
        }
        assert!(begin.elapsed() < allowed(PATIENCE), "{before:?} became {now:?}");
    }
}
