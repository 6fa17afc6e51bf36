//! Which transport a connection takes, and the sentences that say why: at the client, in what it
//! knows of its channel; at the server, in what handlers see and in the log.
//!
//! RDMA is left out of every list here: whether there is a device is this machine's business, and
//! "not among the allowed transports" is the same sentence everywhere.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rdma_rpc::config::{ClientConfig, ServerConfig, Transport};
use rdma_rpc::{Channel, Code, Server, Status};
use rdma_rpc_core::client::{
    self, ClientConnection, ConnectError, Connector, ReconnectPolicy, connect_link,
};
use rdma_rpc_core::server::ConnectionConfig;
use rdma_rpc_tests::proto::BehaveRequest;
use rdma_rpc_tests::proto::test_service_client::TestServiceClient;
use rdma_rpc_tests::proto::test_service_server::TestServiceServer;
use rdma_rpc_tests::service::Conformance;
use rdma_rpc_transport_rdma::shm::{HostId, host_id};
use rdma_rpc_transport_tcp::{
    BootstrapOptions, ClientBootstrap, Offer, Outcome, TcpLinkOptions, TransportKind,
};

const NO_RDMA: &str = "rdma: not among the allowed transports";
const SHM_TCP: [Transport; 2] = [Transport::Shm, Transport::Tcp];

/// What the library logged in one test, whose client and server share a thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("nobody panicked").clone()).expect("UTF-8")
    }

    /// The only line about `event`, which may come late: the server's tasks run when they run.
    async fn line(&self, event: &str) -> String {
        for _ in 0..2000 {
            let text = self.text();
            let mut lines = text.lines().filter(|line| line.contains(event));
            if let Some(line) = lines.next() {
                assert_eq!(lines.next(), None, "twice: {event}");
                return line.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{event:?} is not in the log:\n{}", self.text());
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("nobody panicked").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A server with the configuration of one test, and the log of both ends.
struct Scene {
    address: String,
    log: Log,
}

/// Runs a test on one thread, so that its log is its own.
fn scene<F: Future<Output = ()>>(config: ServerConfig, test: impl FnOnce(Scene) -> F) {
    let log = Log::default();
    let writer = log.clone();
    let lines = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::INFO)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(lines);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime starts").block_on(async {
        let server = Server::builder()
            .config(config)
            .listen("127.0.0.1:0")
            .add_service(TestServiceServer::new(Conformance::default()))
            .bind()
            .await
            .expect("a server can listen");
        let address = server.local_addresses().remove(0);
        let serving = tokio::spawn(server.serve());
        let test = tokio::time::timeout(Duration::from_secs(60), test(Scene { address, log }));
        test.await.expect("the test hangs");
        serving.abort();
    });
}

fn server(transports: &[Transport]) -> ServerConfig {
    ServerConfig::default().transports(transports.to_vec())
}

impl Scene {
    /// A channel to the server, and the transport its handlers see.
    async fn connect(
        &self,
        scheme: &str,
        config: ClientConfig,
    ) -> Result<(Channel, String), Status> {
        let target = format!("{scheme}://{}", self.address);
        let target = target.parse().expect("a target");
        let channel = Channel::connect_with(config.target(target)).await?;
        let client = TestServiceClient::new(channel.clone());
        let seen = client.behave(BehaveRequest::default()).await?.into_inner();
        Ok((channel, seen.transport))
    }

    /// A connection over `transport`, by what both ends know and by what both ends log.
    async fn takes(&self, scheme: &str, config: ClientConfig, transport: &str, why: [&str; 2]) {
        let (channel, seen) = self.connect(scheme, config).await.expect("it connects");
        assert_eq!(channel.info().expect("it is connected").transport, transport);
        assert_eq!(seen, transport);
        let [client, server] = why;
        assert_eq!(channel.chosen_because().as_deref(), Some(client));
        for (event, because) in [("connected target=", client), ("client connected ", server)] {
            let line = self.log.line(event).await;
            assert!(line.contains(&format!(" transport=\"{transport}\" ")), "{line}");
            assert!(line.contains(&format!(" because=\"{because}\"")), "{line}");
        }
    }

    /// A failure to connect, by its whole text.
    async fn fails(&self, scheme: &str, config: ClientConfig, why: &str) {
        let status = self.connect(scheme, config).await.expect_err("it must not connect");
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        let target = format!("{scheme}://{}", self.address);
        let want = format!("cannot connect to {target}: {}", why.replace("ADDRESS", &self.address));
        assert_eq!(status.message(), want);
    }
}

fn allowing(transports: &[Transport]) -> ClientConfig {
    ClientConfig::default().transports(transports.to_vec())
}

#[test]
fn auto_takes_shared_memory_on_one_host() {
    scene(server(&SHM_TCP), |scene| async move {
        let why = [&*format!("both ends are on one host; {NO_RDMA}"), "both ends are on one host"];
        scene.takes("auto", allowing(&SHM_TCP), "shm", why).await;
    });
}

#[test]
fn auto_of_a_client_that_allows_only_tcp_takes_tcp() {
    scene(ServerConfig::default(), |scene| async move {
        let client_why =
            format!("nothing faster works; {NO_RDMA}; shm: not among the allowed transports");
        let why = [&*client_why, "the client offers nothing faster"];
        scene.takes("auto", allowing(&[Transport::Tcp]), "tcp", why).await;
    });
}

#[test]
fn auto_to_a_server_that_allows_only_tcp_takes_tcp() {
    scene(server(&[Transport::Tcp]), |scene| async move {
        let client_why =
            format!("nothing faster works; {NO_RDMA}; shm: the server does not allow it");
        let why = [&*client_why, "shm: the server does not allow it"];
        scene.takes("auto", allowing(&SHM_TCP), "tcp", why).await;
    });
}

#[test]
fn a_target_of_tcp_takes_tcp_whatever_there_is() {
    scene(ServerConfig::default(), |scene| async move {
        let why = ["the target asks for it", "the client offers nothing faster"];
        scene.takes("tcp", ClientConfig::default(), "tcp", why).await;
    });
}

#[test]
fn demanded_shared_memory_fails_where_an_end_does_not_allow_it() {
    scene(server(&[Transport::Tcp]), |scene| async move {
        let only_tcp = "the server is there, but only TCP works: \
                        shm: the server does not allow it";
        scene.fails("shm", allowing(&SHM_TCP), only_tcp).await;
        let why = "shm: not among the allowed transports";
        scene.fails("shm", allowing(&[Transport::Tcp]), why).await;
    });
}

#[test]
fn a_client_that_does_not_allow_tcp_never_takes_it() {
    scene(server(&[Transport::Tcp]), |scene| async move {
        let why = format!(
            "the server is there, but only TCP works: {NO_RDMA}; \
             shm: the server does not allow it"
        );
        scene.fails("auto", allowing(&[Transport::Shm]), &why).await;
        let why = "tcp: not among the allowed transports";
        scene.fails("tcp", allowing(&[Transport::Shm]), why).await;
    });
}

#[test]
fn a_server_that_does_not_allow_tcp_turns_away_who_has_nothing_else() {
    scene(server(&[Transport::Shm]), |scene| async move {
        let refused = "the server turned the connection away (refused): \
                       the server does not allow tcp (transports); the client offers nothing faster, from ADDRESS";
        scene.fails("tcp", ClientConfig::default(), refused).await;
        let line = scene.log.line("handshake failed").await;
        assert!(line.contains("the server does not allow tcp (transports)"), "{line}");
        // What the client lacks is half of why.
        let why = format!("{refused}; {NO_RDMA}; shm: not among the allowed transports");
        scene.fails("auto", allowing(&[Transport::Tcp]), &why).await;
        // Others are served.
        let why = [&*format!("both ends are on one host; {NO_RDMA}"), "both ends are on one host"];
        scene.takes("auto", allowing(&SHM_TCP), "shm", why).await;
    });
}

#[test]
fn a_foreign_host_is_answered_with_tcp_and_told_so() {
    scene(server(&SHM_TCP), |scene| async move {
        let mut host = *host_id().expect("this host has an identity").as_bytes();
        host[HostId::BYTES / 2] ^= 1;
        let bootstrap = greet(&scene.address, host.to_vec()).await;
        assert_eq!(bootstrap.answer().transport, TransportKind::Tcp);
        let declined = bootstrap.answer().declined;
        let why = "client and server are on different hosts or in different network namespaces";
        assert_eq!((declined.len(), &*declined[0].reason), (1, why));
        let confirmed = bootstrap.confirm(Err("tcp was chosen".into())).await.expect("it goes on");
        assert!(matches!(confirmed.outcome, Outcome::Tcp { .. }), "{confirmed:?}");
        let line = scene.log.line("client connected ").await;
        assert!(line.contains(" transport=\"tcp\" "), "{line}");
        assert!(line.contains(&format!(" because=\"shm: {why}\"")), "{line}");
    });
}

/// A client by hand that offers shared memory.
async fn greet(address: &str, host: Vec<u8>) -> ClientBootstrap {
    let address = address.parse().expect("an address");
    let offer = Offer { transport: TransportKind::Shm, body: host };
    let options = BootstrapOptions::default();
    let bootstrap = ClientBootstrap::connect(&address, &options, vec![offer]).await;
    bootstrap.expect("the server answers")
}

/// A client that finds out late that it cannot: its end of the upgrade fails.
struct FallsBack(String);

impl Connector for FallsBack {
    fn connect(
        &self,
    ) -> Pin<Box<dyn Future<Output = Result<ClientConnection, ConnectError>> + Send + '_>> {
        Box::pin(async {
            let host = host_id().expect("this host has an identity").as_bytes().to_vec();
            let bootstrap = greet(&self.0, host).await;
            assert_eq!(bootstrap.answer().transport, TransportKind::Shm);
            let confirmed = bootstrap.confirm(Err("the client has no memory".into())).await;
            let link = confirmed.expect("both ends stay").into_link(&TcpLinkOptions::default());
            let (connection, driving) = connect_link(link, ConnectionConfig::default(), "by hand");
            tokio::spawn(driving);
            Ok(connection)
        })
    }

    fn target(&self) -> String {
        self.0.clone()
    }
}

async fn fall_back(scene: &Scene) -> Result<String, Status> {
    let falls_back = FallsBack(scene.address.clone());
    let channel = client::Channel::lazy(falls_back, ReconnectPolicy::default());
    let seen = TestServiceClient::new(channel).behave(BehaveRequest::default()).await;
    seen.map(|reply| reply.into_inner().transport)
}

#[test]
fn an_upgrade_that_fails_leaves_tcp_if_that_is_allowed() {
    scene(server(&SHM_TCP), |scene| async move {
        assert_eq!(fall_back(&scene).await.expect("it is served"), "tcp");
        let line = scene.log.line("client connected ").await;
        assert!(line.contains(" because=\"shm was chosen but failed: "), "{line}");
        assert!(line.ends_with("fell back to tcp: the client has no memory\""), "{line}");
    });
    scene(server(&[Transport::Shm]), |scene| async move {
        let status = fall_back(&scene).await.expect_err("TCP is not allowed");
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        let told = status.message();
        let why = "the server is going away: the server does not allow tcp (transports); shm was";
        assert!(told.starts_with(why) && told.ends_with("the client has no memory"), "{told}");
    });
}

#[test]
fn the_lists_may_come_from_files() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path
    };
    let only_tcp = file("server.toml", "transports = [\"tcp\"]\n");
    let no_rdma = file("client.toml", "transports = [\"shm\", \"tcp\"]\n");
    let server = ServerConfig::load(only_tcp).expect("a good file");
    scene(server, |scene| async move {
        let client_why =
            format!("nothing faster works; {NO_RDMA}; shm: the server does not allow it");
        let why = [&*client_why, "shm: the server does not allow it"];
        let client = ClientConfig::load(no_rdma).expect("a good file");
        scene.takes("auto", client, "tcp", why).await;
    });
}
