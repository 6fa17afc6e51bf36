//! A server on one host, a channel to it on the other, and what both hold.

use std::time::{Duration, Instant};

use rdma_rpc::config::{Progress, RdmaConfig, Transport as Allowed};
use rdma_rpc::{Channel, RequestSeen, Status};
use rdma_rpc_tests::cases::support::exchange;
use rdma_rpc_tests::harness::{Place, Signal, Transport, Tuning, World, send_signal};
use rdma_rpc_tests::observe;
use rdma_rpc_tests::proto::test_service_client::TestServiceClient;

use super::net::Net;

/// Milliseconds of quiet before a ping, and for its answer.
pub(crate) const KEEPALIVE_MS: (u64, u64) = (500, 1000);

/// Resident memory may grow so much: arenas and buffers that are kept for the next connection.
const GROWTH_BYTES: u64 = 48 << 20;

/// What a process holds when it is at rest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held {
    files: u64,
    threads: u64,
    queue_pairs: usize,
    resident_bytes: u64,
}

impl Held {
    /// Of any process on this machine.
    fn of(net: &Net, process: u32) -> Held {
        let count = |folder: &str| {
            let entries = std::fs::read_dir(format!("/proc/{process}/{folder}"));
            entries.map_or(0, |entries| entries.count() as u64)
        };
        let statm = std::fs::read_to_string(format!("/proc/{process}/statm")).unwrap_or_default();
        let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
        Held {
            files: count("fd"),
            threads: count("task"),
            queue_pairs: net.queue_pairs(process),
            resident_bytes: pages.unwrap_or(0) * 4096,
        }
    }

    /// Nothing that counts is more than before.
    fn is_within(&self, before: &Held) -> bool {
        self.files <= before.files
            && self.threads <= before.threads
            && self.queue_pairs <= before.queue_pairs
            && self.resident_bytes <= before.resident_bytes + GROWTH_BYTES
    }
}

/// A server and a channel.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) channel: Channel,
    pub(crate) client: TestServiceClient,
    pub(crate) net: Net,
    tuning: Tuning,
}

/// What a scene changes of the configuration.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) progress: Progress,
    pub(crate) keepalive_ms: (u64, u64),
    /// `rdma` or `auto`.
    pub(crate) scheme: &'static str,
    /// How long the devices try again, as the verbs count it: 4.096 us times two to the power of
    /// this, seven times.
    pub(crate) ack_timeout: u8,
}

impl Settings {
    pub(crate) fn new(scheme: &'static str) -> Settings {
        let ack_timeout = RdmaConfig::default().ack_timeout;
        Settings { progress: Progress::Adaptive, keepalive_ms: KEEPALIVE_MS, scheme, ack_timeout }
    }
}

impl Scene {
    pub(crate) async fn set(settings: Settings) -> Scene {
        let net = Net::from_environment();
        let mut tuning = Tuning::default();
        for keepalive in [&mut tuning.client.keepalive, &mut tuning.server.keepalive] {
            (keepalive.interval_ms, keepalive.timeout_ms) = settings.keepalive_ms;
        }
        // Both ends are on one machine, where auto would go on by shared memory.
        tuning.client.transports = vec![Allowed::Rdma, Allowed::Tcp];
        tuning.server.transports = vec![Allowed::Rdma, Allowed::Tcp];
        // On one machine each end would also find the other's device.
        tuning.client.rdma.device = net.client.device.clone();
        tuning.server.rdma.device = net.server.device.clone();
        tuning.client.rdma.progress = settings.progress;
        tuning.server.rdma.progress = settings.progress;
        tuning.client.rdma.ack_timeout = settings.ack_timeout;
        tuning.server.rdma.ack_timeout = settings.ack_timeout;
        tuning.client.handshake_timeout_ms = 4000;
        tuning.client.connect_timeout_ms = 4000;
        tuning.server.handshake_timeout_ms = 4000;
        tuning.client.tcp.local_address = Some(net.client.address.parse().expect("an address"));
        let wanted = tuning.clone();
        let world = Place::two(Transport::Environment).tuned(|tuning| *tuning = wanted).await;
        let channel = open(&world, settings.scheme, &tuning);
        let client = TestServiceClient::new(channel.clone());
        let scene = Scene { world, channel, client, net, tuning };
        // Warms up what is made once in a process.
        exchange(&scene.client, 100_000, 100_000).await.expect("the server is there");
        assert_eq!(scene.transport(), "rdma", "{:?}", scene.channel.chosen_because());
        scene
    }

    /// Another channel to the same server.
    pub(crate) fn other_channel(&self, scheme: &str) -> Channel {
        open(&self.world, scheme, &self.tuning)
    }

    /// What the channel's connection is made of; empty while there is none.
    pub(crate) fn transport(&self) -> &'static str {
        self.channel.info().map_or("", |info| info.transport)
    }

    /// The server's bootstrap port.
    pub(crate) fn port(&self) -> u16 {
        let port = self.world.address().rsplit(':').next().and_then(|port| port.parse().ok());
        port.expect("an address has a port")
    }

    fn server_process(&self) -> u32 {
        self.world.server_process().expect("the server is a process")
    }

    /// What this process holds now, with a connection that is at rest.
    pub(crate) fn client_holds(&self) -> Held {
        Held::of(&self.net, std::process::id())
    }

    /// What the server holds now.
    pub(crate) fn server_holds(&self) -> Held {
        Held::of(&self.net, self.server_process())
    }

    /// After a while this process holds no more than before.
    pub(crate) async fn client_holds_no_more_than(&self, before: &Held) {
        no_more(before, "client", || self.client_holds()).await;
    }

    /// After a while the server holds no more than before.
    pub(crate) async fn server_holds_no_more_than(&self, before: &Held) {
        no_more(before, "server", || self.server_holds()).await;
    }

    /// Sends a signal to the server.
    pub(crate) fn signal_server(&self, signal: Signal) {
        send_signal(self.server_process(), signal);
    }

    /// Calls until one works, within `bound`; every failure says that it was never sent, or at
    /// least whether. Gives the time it took.
    pub(crate) async fn works_again(&self, bound: Duration, what: &str) -> Duration {
        let begin = Instant::now();
        while let Err(status) = exchange(&self.client, 1000, 1000).await {
            check_says_enough(&status);
            assert!(begin.elapsed() < bound, "{what}: still after {:?}: {status}", begin.elapsed());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        eprintln!(
            "  {what}: works after {:?} on {}: {}",
            begin.elapsed(),
            self.transport(),
            self.channel.chosen_because().unwrap_or_default()
        );
        begin.elapsed()
    }

    /// The status names the peer, the transport and the device.
    pub(crate) fn check_names(&self, statuses: &[Status]) {
        for status in statuses.iter().filter(|s| s.request_seen() == RequestSeen::MayHaveRun) {
            let text = status.message();
            for word in ["rdma", self.world.address(), &self.net.client.device] {
                assert!(text.contains(word), "{word:?} is not in {text:?}");
            }
        }
    }
}

fn open(world: &World, scheme: &str, tuning: &Tuning) -> Channel {
    let target = format!("{scheme}://{}", world.address()).parse().expect("a good target");
    Channel::lazy(tuning.client.clone().target(target)).expect("a good configuration")
}

/// A failed call says whether it may have run.
pub(crate) fn check_says_enough(status: &Status) {
    assert_ne!(status.request_seen(), RequestSeen::Unknown, "{status}");
    assert!(status.message().len() > 20, "{status}");
}

async fn no_more(before: &Held, who: &str, now: impl Fn() -> Held) {
    let begin = Instant::now();
    loop {
        let now = now();
        if now.is_within(before) {
            return;
        }
        // Longer than tokio keeps idle threads for blocking work.
        assert!(begin.elapsed() < Duration::from_secs(15), "{who}: {before:?} became {now:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Files of this process that are RDMA devices.
pub(crate) fn open_devices() -> Vec<String> {
    let entries = std::fs::read_dir("/proc/self/fd").expect("a process sees its files");
    let links = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    let names = links.map(|link| link.to_string_lossy().into_owned());
    names.filter(|name| name.contains("uverbs")).collect()
}

/// Open files, to say in a failure.
pub(crate) fn open_files() -> u64 {
    observe::open_files()
}
