//! The handshake on its way to RDMA, broken at every byte, refused by either end, and betrayed by
//! a network that carries TCP but not RDMA. Ignored unless asked for, with these variables:
//!
//! ```text
//! CONFORMANCE_LISTEN           the server's address, on an RDMA device
//! CONFORMANCE_SERVER_PREFIX    starts the server elsewhere (siw: "ip netns exec b"); left out: here
//! RDMA_RPC_TEST_LOCAL          the client's address, on another device
//! ```

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rdma_rpc::config::{ClientConfig, Transport as Kind};
use rdma_rpc::{Channel, Status};
use rdma_rpc_tests::harness::{Place, Transport, Tuning, World};
use rdma_rpc_tests::observe::open_files;
use rdma_rpc_tests::proto::Empty;
use rdma_rpc_tests::proto::test_service_client::TestServiceClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

const HANDSHAKE_MS: u64 = 3000;
/// Connecting, shaking hands, and an emulated processor.
const BOUND: Duration = Duration::from_millis(2 * HANDSHAKE_MS + 4000);
/// Handshakes at a time.
const AT_ONCE: usize = 12;

fn local() -> std::net::IpAddr {
    let text = std::env::var("RDMA_RPC_TEST_LOCAL").expect("set RDMA_RPC_TEST_LOCAL");
    text.parse().expect("RDMA_RPC_TEST_LOCAL is an address")
}

fn place() -> Place {
    match std::env::var("CONFORMANCE_SERVER_PREFIX") {
        Ok(prefix) if !prefix.is_empty() => Place::two(Transport::Environment),
        _ => Place::one(Transport::Environment),
    }
}

/// Panics of any thread since the first call.
fn panics() -> usize {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    static HOOKED: AtomicBool = AtomicBool::new(false);
    if !HOOKED.swap(true, Ordering::Relaxed) {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            COUNT.fetch_add(1, Ordering::Relaxed);
            before(info);
        }));
    }
    COUNT.load(Ordering::Relaxed)
}

/// Reliable queue pairs on this host, if the tool that counts them is there.
fn queue_pairs() -> Option<usize> {
    let output = Command::new("rdma").args(["resource", "show", "qp"]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then(|| text.lines().filter(|line| line.contains("type RC")).count())
}

async fn server(tune: impl FnOnce(&mut Tuning)) -> World {
    place()
        .tuned(|tuning| {
            tuning.server.transports = vec![Kind::Rdma, Kind::Tcp];
            tuning.server.handshake_timeout_ms = HANDSHAKE_MS;
            tuning.client = client_config();
            tune(tuning);
        })
        .await
}

fn client_config() -> ClientConfig {
    let mut config = ClientConfig::default();
    config.transports = vec![Kind::Rdma, Kind::Tcp];
    config.handshake_timeout_ms = HANDSHAKE_MS;
    config.connect_timeout_ms = 2000;
    config.tcp.local_address = Some(local());
    config
}

fn channel(address: &str, config: ClientConfig) -> Channel {
    let target = format!("auto://{address}").parse().expect("an address");
    Channel::lazy(config.target(target)).expect("a good configuration")
}

fn transport(channel: &Channel) -> &'static str {
    channel.info().expect("it is connected").transport
}

async fn call(channel: &Channel) -> Result<(), Status> {
    let client = TestServiceClient::new(channel.clone());
    client.empty_call(Empty {}).await.map(drop)
}

/// What happens to a handshake at one byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Nothing.
    Clean,
    /// The connection is closed, both ways.
    Close,
    /// This direction ends, the other goes on.
    Truncate,
    /// The byte's bits are flipped.
    Corrupt,
    /// Nothing more gets through this way.
    Stall,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    ToServer,
    ToClient,
}

/// Passes bytes on, with a fault at one of them; how many there were.
async fn relay(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    fault: Fault,
    at: usize,
    passed: Arc<AtomicUsize>,
) -> Fault {
    let mut buffer = [0; 4096];
    let mut seen = 0;
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return Fault::Clean };
        let mut some = count;
        let hit = fault != Fault::Clean && (seen..seen + count).contains(&at);
        if hit {
            match fault {
                Fault::Corrupt => buffer[at - seen] ^= 0xFF,
                _ => some = at - seen,
            }
        }
        // The reader may be gone: then the other direction ends this one.
        let _ = to.write_all(&buffer[..some]).await;
        seen += count;
        passed.fetch_add(count, Ordering::Relaxed);
        match fault {
            Fault::Close if hit => return Fault::Close,
            Fault::Truncate if hit => {
                let _ = to.shutdown().await;
                std::future::pending::<()>().await;
            }
            Fault::Stall if hit => std::future::pending::<()>().await,
            _ => {}
        }
    }
}

/// Between a client and a server: the first connection meets the fault, later ones pass.
struct Proxy {
    address: SocketAddr,
    passed: [Arc<AtomicUsize>; 2],
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    async fn start(server: SocketAddr, way: Way, fault: Fault, at: usize) -> Proxy {
        let listener = TcpListener::bind((local(), 0)).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let passed = [Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0))];
        let counts = passed.clone();
        let task = tokio::spawn(async move {
            let mut both = tokio::task::JoinSet::new();
            let mut first = true;
            while let Ok((client, _)) = listener.accept().await {
                let fault = if std::mem::take(&mut first) { fault } else { Fault::Clean };
                let counts = counts.clone();
                both.spawn(pass(client, server, way, fault, at, counts));
            }
        });
        Proxy { address, passed, task }
    }

    fn passed(&self) -> [usize; 2] {
        [0, 1].map(|way| self.passed[way].load(Ordering::Relaxed))
    }
}

async fn pass(
    client: TcpStream,
    server: SocketAddr,
    way: Way,
    fault: Fault,
    at: usize,
    counts: [Arc<AtomicUsize>; 2],
) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((local(), 0).into()).expect("a local address");
    let Ok(server) = socket.connect(server).await else { return };
    for stream in [&client, &server] {
        stream.set_nodelay(true).expect("a socket");
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let [one, two] = counts;
    let of = |which: Way| if which == way { fault } else { Fault::Clean };
    let up = relay(from_client, to_server, of(Way::ToServer), at, one);
    let down = relay(from_server, to_client, of(Way::ToClient), at, two);
    tokio::pin!(up, down);
    // A direction that ends in order leaves the other open; a fault that closes ends both.
    tokio::select! {
        end = &mut up => if end == Fault::Clean { down.await; },
        end = &mut down => if end == Fault::Clean { up.await; },
    }
}

/// One handshake with a fault: it ends in time, in words or with a connection; and the channel
/// works in the end, because the next handshake is clean.
async fn handshake(server: SocketAddr, way: Way, fault: Fault, at: usize) -> &'static str {
    let what = format!("{fault:?} at byte {at} {way:?}");
    let proxy = Proxy::start(server, way, fault, at).await;
    let channel = channel(&proxy.address.to_string(), client_config());
    let begin = Instant::now();
    let connected = tokio::time::timeout(BOUND, channel.ready()).await;
    let connected = connected.unwrap_or_else(|_| panic!("{what}: no end after {BOUND:?}"));
    let outcome = match &connected {
        Ok(()) => channel.info().map_or("lost", |info| info.transport),
        Err(status) => {
            assert!(status.message().len() > 10, "{what}: {status}");
            "error"
        }
    };
    loop {
        let called = tokio::time::timeout(2 * BOUND, call(&channel)).await;
        match called.unwrap_or_else(|_| panic!("{what}: a call hangs")) {
            Ok(()) => break,
            Err(status) => {
                assert!(begin.elapsed() < 3 * BOUND, "{what}: {status}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    outcome
}

/// How long a clean handshake is, each way.
async fn lengths(server: SocketAddr) -> [usize; 2] {
    let proxy = Proxy::start(server, Way::ToServer, Fault::Clean, 0).await;
    let channel = channel(&proxy.address.to_string(), client_config());
    channel.ready().await.expect("a clean handshake");
    assert_eq!(transport(&channel), "rdma", "{:?}", channel.chosen_because());
    call(&channel).await.expect("a call");
    let passed = proxy.passed();
    assert!(passed[0] > 100 && passed[1] > 100, "{passed:?}");
    passed
}

async fn every_byte(fault: Fault) {
    let before_panics = panics();
    let mut world = server(|_| {}).await;
    let address: SocketAddr = world.address().parse().expect("an address");
    let lengths = lengths(address).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    // The connection that observes is counted each time.
    let server_files = world.observe().await.open_files;
    let (files, pairs) = (open_files(), queue_pairs());
    let mut cases: Vec<(Way, usize)> = Vec::new();
    cases.extend((0..lengths[0]).map(|at| (Way::ToServer, at)));
    cases.extend((0..lengths[1]).map(|at| (Way::ToClient, at)));
    let count = cases.len();
    let begin = Instant::now();
    let mut outcomes = std::collections::BTreeMap::new();
    let mut running = tokio::task::JoinSet::new();
    let mut cases = cases.into_iter();
    loop {
        while running.len() < AT_ONCE
            && let Some((way, at)) = cases.next()
        {
            running.spawn(handshake(address, way, fault, at));
        }
        let Some(outcome) = running.join_next().await else { break };
        *outcomes.entry(outcome.expect("the case holds")).or_insert(0usize) += 1;
    }
    println!("{fault:?}: {count} handshakes in {:?}: {outcomes:?}", begin.elapsed());
    // The server serves, and nothing is left of it all.
    call(&channel(world.address(), client_config())).await.expect("the server serves on");
    let begin = Instant::now();
    loop {
        let now = (open_files(), queue_pairs(), world.observe().await.open_files);
        // Two more: what a directory listing has open while it counts.
        if now.0 <= files + 2 && now.1 <= pairs && now.2 <= server_files + 2 {
            break;
        }
        assert!(
            begin.elapsed() < 2 * BOUND,
            "left behind: {now:?}, not {:?}",
            (files, pairs, server_files)
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(panics(), before_panics, "something panicked");
    world.shut_down().await;
}

/// A test of this file: in a runtime of its own, one at a time.
fn run<F: Future>(test: F) {
    static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().expect("a runtime").block_on(test);
}

#[test]
#[ignore = "needs RDMA devices: scripts/rdma-vm test"]
fn closed_at_every_byte() {
    run(every_byte(Fault::Close));
}

#[test]
#[ignore = "needs RDMA devices: scripts/rdma-vm test"]
fn truncated_at_every_byte() {
    run(every_byte(Fault::Truncate));
}

#[test]
#[ignore = "needs RDMA devices: scripts/rdma-vm test"]
fn corrupted_at_every_byte() {
    run(every_byte(Fault::Corrupt));
}

#[test]
#[ignore = "needs RDMA devices: scripts/rdma-vm test"]
fn stalled_at_every_byte() {
    run(every_byte(Fault::Stall));
}

/// Either end without RDMA: TCP, and both ends' reasons where the client can read them.
#[test]
#[ignore = "needs RDMA devices: scripts/rdma-vm test"]
fn one_end_without_rdma_stays_on_tcp() {
    run(async {
        let mut world = server(|tuning| tuning.server.transports = vec![Kind::Tcp]).await;
        let channel = channel(world.address(), client_config());
        call(&channel).await.expect("a call");
        let why = channel.chosen_because().expect("a reason");
        assert_eq!(transport(&channel), "tcp", "{why}");
        assert!(why.contains("rdma: the server does not allow it"), "{why}");
        let target = format!("rdma://{}", world.address()).parse().expect("an address");
        let demanding = Channel::connect_with(client_config().target(target)).await;
        let error = demanding.expect_err("only TCP works");
        assert!(error.message().contains("the server does not allow it"), "{error}");
        world.shut_down().await;

        let mut world = server(|_| {}).await;
        let mut config = client_config();
        config.transports = vec![Kind::Tcp];
        let without = self::channel(world.address(), config);
        call(&without).await.expect("a call");
        let why = without.chosen_because().expect("a reason");
        assert_eq!(transport(&without), "tcp", "{why}");
        assert!(why.contains("not among the allowed transports"), "{why}");
        // And the same server serves others by RDMA.
        let with = self::channel(world.address(), client_config());
        call(&with).await.expect("a call");
        assert_eq!(transport(&with), "rdma", "{:?}", with.chosen_because());
        // A device that is not there.
        let mut config = client_config();
        config.rdma.device = "nosuch0".into();
        let elsewhere = self::channel(world.address(), config);
        call(&elsewhere).await.expect("a call");
        let why = elsewhere.chosen_because().expect("a reason");
        assert_eq!(transport(&elsewhere), "tcp", "{why}");
        assert!(why.contains("nosuch0"), "{why}");
        world.shut_down().await;
    });
}

/// The client first, then the server: the first call waits or fails clearly, and RDMA is used as
/// soon as there is somebody to use it with. And again after the server was killed.
#[test]
#[ignore = "needs RDMA devices: scripts/rdma-vm test"]
fn both_start_orders_end_on_rdma() {
    run(async {
        let mut world = server(|_| {}).await;
        let channel = channel(world.address(), client_config());
        for round in 0..3 {
            world.kill_server().await;
            // Nobody listens.
            let begin = Instant::now();
            let error = loop {
                match tokio::time::timeout(BOUND, call(&channel)).await.expect("in time") {
                    Err(error) => break error,
                    Ok(()) => assert!(begin.elapsed() < BOUND, "round {round}: still served"),
                }
            };
            assert!(error.message().len() > 10, "{error}");
            world.start_again().await;
            let begin = Instant::now();
            while let Err(error) = call(&channel).await {
                assert!(begin.elapsed() < 2 * BOUND, "round {round}: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            assert_eq!(transport(&channel), "rdma", "{:?}", channel.chosen_because());
        }
        world.shut_down().await;
    });
}

/// The network interfaces of all RoCE devices.
fn interfaces() -> Vec<String> {
    let mut found = std::collections::BTreeSet::new();
    for device in std::fs::read_dir("/sys/class/infiniband").expect("RDMA devices").flatten() {
        let names = device.path().join("ports/1/gid_attrs/ndevs");
        for entry in std::fs::read_dir(names).into_iter().flatten().flatten() {
            if let Ok(name) = std::fs::read_to_string(entry.path()) {
                found.insert(name.trim().to_owned());
            }
        }
    }
    found.into_iter().filter(|name| !name.is_empty()).collect()
}

fn tc(arguments: &str) {
    let status = Command::new("tc").args(arguments.split_whitespace()).status();
    assert!(status.expect("tc is there").success(), "tc {arguments}");
}

/// UDP port 4791 is closed while TCP passes, as many a firewall has it. Packets are dropped where they
/// arrive: where they leave, Soft-RoCE is told, and tries again at once and without end.
struct NoRoce(Vec<String>);

impl NoRoce {
    fn begin() -> NoRoce {
        let interfaces = interfaces();
        for name in &interfaces {
            tc(&format!("qdisc add dev {name} clsact"));
            tc(&format!(
                "filter add dev {name} ingress protocol ip u32 match ip protocol 17 0xff match ip \
                 dport 4791 0xffff action drop"
            ));
        }
        NoRoce(interfaces)
    }
}

impl Drop for NoRoce {
    fn drop(&mut self) {
        for name in &self.0 {
            // A test that has failed shall say so, not this.
            let _ = Command::new("tc").args(["qdisc", "del", "dev", name, "clsact"]).status();
        }
    }
}

#[test]
#[ignore = "needs RDMA devices: scripts/rdma-vm test"]
fn a_network_that_drops_roce_is_found_out() {
    if interfaces().is_empty() {
        println!("skipped: iWARP goes over TCP like the handshake");
        return;
    }
    run(async {
        // Half of it is the upgrade's, and must be enough for the devices' retries.
        let timeout_ms = 8000;
        let mut world = server(|tuning| tuning.server.handshake_timeout_ms = timeout_ms).await;
        let mut config = client_config();
        config.handshake_timeout_ms = timeout_ms;
        let dropped = NoRoce::begin();
        let begin = Instant::now();
        let channel = channel(world.address(), config);
        call(&channel).await.expect("a call, over TCP");
        let (took, why) = (begin.elapsed(), channel.chosen_because().expect("a reason"));
        assert_eq!(transport(&channel), "tcp", "{why}");
        assert!(took < Duration::from_millis(timeout_ms), "{took:?}");
        println!("after {took:?}: {why}");
        assert!(why.contains("rdma: ") && why.contains("4791"), "{why}");
        drop(dropped);
        let again = self::channel(world.address(), client_config());
        call(&again).await.expect("a call");
        assert_eq!(transport(&again), "rdma", "{:?}", again.chosen_because());
        world.shut_down().await;
    });
}
