//! A server, a channel to it, and what a case does to them.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rdma_rpc::config::{ClientConfig, KeepaliveConfig, LimitsConfig, ListenAddress, ServerConfig};
use rdma_rpc::memory::MemoryConfig;
use rdma_rpc::{Channel, ServeError, Server, Status};
use rdma_rpc_core::Progress;
use rdma_rpc_core::client::{self, ReconnectPolicy};
use rdma_rpc_core::server::{ConnectionConfig, Router};
use rdma_rpc_core::service::MessageLimits;
use rdma_rpc_core::session::SessionConfig;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::child::Child;
use super::memory::Hub;
use super::pace::allowed_exponent;
use super::place::local_address;
use super::{Place, Processes, Transport, allowed, allowed_ms};
use crate::proto::test_service_client::TestServiceClient;
use crate::proto::test_service_server::TestServiceServer;
use crate::proto::{Empty, Observation};
use crate::service::Conformance;

/// How long a server that is gone may keep its address.
const RELEASE: Duration = Duration::from_secs(1);

/// What a case changes of the configurations.
#[derive(Debug, Clone)]
pub struct Tuning {
    /// The server's.
    pub server: ServerConfig,
    /// The client's.
    pub client: ClientConfig,
    /// Of the memory link.
    pub memory: MemoryConfig,
}

impl Default for Tuning {
    /// The default configurations, with the time that connecting takes here.
    fn default() -> Tuning {
        let mut server = ServerConfig::default();
        server.handshake_timeout_ms = allowed_ms(server.handshake_timeout_ms);
        server.rdma.ack_timeout = allowed_exponent(server.rdma.ack_timeout);
        Tuning { server, client: client_config(), memory: MemoryConfig::default() }
    }
}

impl Tuning {
    /// Accepts messages of up to this many bytes on both sides.
    pub fn max_message_bytes(&mut self, bytes: usize) {
        self.server.limits.max_message_bytes = bytes;
        self.client.limits.max_message_bytes = bytes;
    }
}

/// A server, and a channel to it.
#[derive(Debug)]
pub struct World {
    place: Place,
    tuning: Tuning,
    server: Running,
    channel: client::Channel,
    folder: tempfile::TempDir,
}

enum Running {
    Memory(Hub),
    Here { address: String, stop: oneshot::Sender<()>, task: JoinHandle<()> },
    Child { address: String, child: Child },
    Stopped { address: String },
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Running::Memory(_) => "Memory",
            Running::Here { .. } => "Here",
            Running::Child { .. } => "Child",
            Running::Stopped { .. } => "Stopped",
        })
    }
}

impl Place {
    /// A server and a channel with the default configuration.
    pub async fn world(self) -> World {
        self.tuned(|_| {}).await
    }

    /// A server and a channel with a configuration of the case's own.
    pub async fn tuned(self, tune: impl FnOnce(&mut Tuning)) -> World {
        let mut tuning = Tuning::default();
        tuning.server.workers = self.workers;
        tune(&mut tuning);
        World::start(self, tuning).await
    }
}

impl Place {
    /// A channel to a server that this crate did not start.
    pub fn channel_to(self, address: &str, tuning: &Tuning) -> client::Channel {
        open_channel(self, tuning, &Running::Stopped { address: address.to_owned() })
    }
}

fn connection_config(limits: &LimitsConfig, keepalive: &KeepaliveConfig) -> ConnectionConfig {
    ConnectionConfig {
        session: SessionConfig {
            max_streams: limits.max_concurrent_streams,
            window_bytes: limits.stream_window_bytes as u64,
            max_message_bytes: limits.max_message_bytes,
            max_buffered_bytes: limits.max_buffered_bytes as u64,
            keepalive_interval: Duration::from_millis(keepalive.interval_ms),
            keepalive_timeout: Duration::from_millis(keepalive.timeout_ms),
        },
        progress: Progress::EVENT,
    }
}

fn router(tuning: &Tuning) -> Router {
    Router::new()
        .add_service(service())
        .max_encoding_message_size(tuning.server.limits.max_send_message_bytes)
}

fn service() -> TestServiceServer<Conformance> {
    TestServiceServer::new(Conformance::default())
}

impl World {
    async fn start(place: Place, tuning: Tuning) -> World {
        let folder = tempfile::tempdir().expect("a scratch folder can be made");
        let server = if place.transport == Transport::Memory {
            assert_eq!(place.processes, Processes::One, "memory is one process");
            let hub = Hub::new(
                tuning.memory,
                connection_config(&tuning.server.limits, &tuning.server.keepalive),
                connection_config(&tuning.client.limits, &tuning.client.keepalive),
            );
            hub.start(router(&tuning));
            Running::Memory(hub)
        } else {
            let address = match place.transport {
                Transport::Unix => format!("unix:{}", folder.path().join("s").display()),
                Transport::Environment => format!("{}:0", place.host()),
                _ => format!("{}:{}", place.host(), free_port()),
            };
            start_server(place, &tuning, address).await
        };
        let channel = open_channel(place, &tuning, &server);
        World { place, tuning, server, channel, folder }
    }

    /// Where this world is.
    pub fn place(&self) -> Place {
        self.place
    }

    /// A scratch folder.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// The channel every client of [`World::client`] shares.
    pub fn channel(&self) -> &client::Channel {
        &self.channel
    }

    /// A client on the shared channel.
    pub fn client(&self) -> TestServiceClient {
        TestServiceClient::new(self.channel.clone())
    }

    /// A channel with a connection of its own.
    pub fn new_channel(&self) -> client::Channel {
        open_channel(self.place, &self.tuning, &self.server)
    }

    /// A channel with a connection and a configuration of its own.
    pub fn new_channel_tuned(&self, tune: impl FnOnce(&mut Tuning)) -> client::Channel {
        let mut tuning = self.tuning.clone();
        tune(&mut tuning);
        open_channel(self.place, &tuning, &self.server)
    }

    /// The server's address, as it printed it.
    pub fn address(&self) -> &str {
        match &self.server {
            Running::Memory(_) => "memory",
            Running::Here { address, .. }
            | Running::Child { address, .. }
            | Running::Stopped { address } => address,
        }
    }

    /// The server's process, if it has one of its own.
    pub fn server_process(&self) -> Option<u32> {
        match &self.server {
            Running::Child { child, .. } => Some(child.id()),
            _ => None,
        }
    }

    /// What a client outside this process connects to.
    pub fn target(&self) -> String {
        target(self.place, self.address())
    }

    /// What the server counts.
    pub async fn observe(&self) -> Observation {
        observe(&self.client()).await.expect("the server can be observed")
    }

    /// Observes until `good` holds, or fails with what was seen last.
    pub async fn observe_until(&self, what: &str, good: impl Fn(&Observation) -> bool) {
        let begin = Instant::now();
        loop {
            let seen = self.observe().await;
            if good(&seen) {
                return;
            }
            let limit = allowed(Duration::from_secs(5));
            assert!(begin.elapsed() < limit, "not {what} after {limit:?}: {seen:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Tells the server to shut down in order. The future is ready when it has.
    pub fn shut_down(&mut self) -> impl Future<Output = ()> + Send + 'static {
        let address = self.address().to_owned();
        let server = std::mem::replace(&mut self.server, Running::Stopped { address });
        let mut stopping: Vec<futures_util::future::BoxFuture<'static, ()>> = Vec::new();
        match server {
            Running::Memory(hub) => {
                stopping.push(Box::pin(hub.stop()));
                self.server = Running::Memory(hub);
            }
            Running::Here { stop, task, .. } => {
                stop.send(()).expect("the server runs");
                stopping.push(Box::pin(async { task.await.expect("a server does not panic") }));
            }
            Running::Child { mut child, .. } => {
                child.close_stdin();
                stopping.push(Box::pin(async {
                    let ended = tokio::task::spawn_blocking(|| child.wait());
                    assert!(ended.await.expect("a child can be awaited"), "the server failed");
                }));
            }
            Running::Stopped { .. } => panic!("the server was stopped before"),
        }
        async move {
            for stopping in stopping {
                stopping.await;
            }
        }
    }

    /// Ends the server without any order: `kill -9` where it is a process, and its tasks
    /// otherwise.
    pub async fn kill_server(&mut self) {
        let address = self.address().to_owned();
        match std::mem::replace(&mut self.server, Running::Stopped { address }) {
            Running::Memory(hub) => {
                hub.kill();
                self.server = Running::Memory(hub);
            }
            Running::Here { task, .. } => {
                task.abort();
                let _ = task.await;
            }
            Running::Child { child, .. } => child.kill(),
            Running::Stopped { .. } => panic!("the server was stopped before"),
        }
    }

    /// Starts the server again, at the same address.
    pub async fn start_again(&mut self) {
        if let Running::Memory(hub) = &self.server {
            return hub.start(router(&self.tuning));
        }
        let address = self.address().to_owned();
        self.server = start_server(self.place, &self.tuning, address).await;
    }
}

/// What the server counts, over this client.
async fn observe(client: &TestServiceClient) -> Result<Observation, Status> {
    client.observe(Empty {}).await.map(rdma_rpc::Response::into_inner)
}

/// A port that no outgoing connection takes while a server is down: they come from 32768 on.
fn free_port() -> u16 {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = TRIED.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + (std::process::id() * 331 + number * 7) % 22_000;
        if std::net::TcpListener::bind(("127.0.0.1", port as u16)).is_ok() {
            return port as u16;
        }
    }
}

async fn start_server(place: Place, tuning: &Tuning, address: String) -> Running {
    let listen: ListenAddress = address.parse().expect("the harness knows addresses");
    let config = tuning.server.clone().listen(vec![listen]);
    if place.processes == Processes::Two {
        let (child, address) = Child::server(&config);
        return Running::Child { address, child };
    }
    let begin = Instant::now();
    // A server that was killed in this process lets its address go once its tasks are gone.
    let server = loop {
        match Server::builder().config(config.clone()).add_service(service()).bind().await {
            Err(ServeError::Listen(_, error))
                if error.kind() == ErrorKind::AddrInUse && begin.elapsed() < allowed(RELEASE) =>
            {
                tokio::task::yield_now().await;
            }
            bound => break bound.expect("a server can listen"),
        }
    };
    let address = server.local_addresses().remove(0);
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(server.serve_with_shutdown(async {
        if stopped.await.is_err() {
            std::future::pending().await
        }
    }));
    Running::Here { address, stop, task }
}

fn target(place: Place, address: &str) -> String {
    match place.transport {
        Transport::Unix => address.to_owned(),
        _ => format!("{}://{address}", place.scheme()),
    }
}

/// A client's default configuration, with the address it connects from and the time it takes.
pub(crate) fn client_config() -> ClientConfig {
    let mut config = ClientConfig::default();
    config.handshake_timeout_ms = allowed_ms(config.handshake_timeout_ms);
    config.rdma.ack_timeout = allowed_exponent(config.rdma.ack_timeout);
    config.connect_timeout_ms = allowed_ms(config.connect_timeout_ms);
    config.tcp.local_address = local_address();
    config
}

fn open_channel(place: Place, tuning: &Tuning, server: &Running) -> client::Channel {
    let address = match server {
        Running::Memory(hub) => {
            let hub = Hub::clone(hub)
                .with_client(connection_config(&tuning.client.limits, &tuning.client.keepalive));
            let limits = MessageLimits::default()
                .max_encoding_message_size(tuning.client.limits.max_send_message_bytes);
            return client::Channel::lazy_with_limits(hub, ReconnectPolicy::default(), limits);
        }
        Running::Here { address, .. }
        | Running::Child { address, .. }
        | Running::Stopped { address } => address,
    };
    let target = target(place, address).parse().expect("the harness knows targets");
    let config = tuning.client.clone().target(target);
    Channel::lazy(config).expect("the configuration is good").into()
}
