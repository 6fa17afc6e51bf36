//! The server's side: from a socket to a served connection.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;

use rdma_rpc_core::link::Link;
use rdma_rpc_core::server::{ConnectionConfig, Router, ServerConnection, serve_connection};
use rdma_rpc_transport_rdma::ibv::Ibv;
use rdma_rpc_transport_rdma::shm;
use rdma_rpc_transport_tcp::bootstrap::RejectCode;
use rdma_rpc_transport_tcp::{BootstrapOptions, Outcome, ServerBootstrap, Socket, TransportKind};
use tokio::time::timeout_at;

use super::choice::{Choice, Taken, choose};
use super::ring::{Ring, Speaks, build};
use super::settings::Settings;
use crate::config::{ServerConfig, Transport};

/// Drives a served connection to its end.
type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a client is told for whom only TCP is left.
const TCP_NOT_ALLOWED: &str = "the server does not allow tcp (transports)";

/// Shakes hands with clients.
#[derive(Debug)]
pub(crate) struct Acceptor {
    settings: Settings,
    ibv: Ibv,
    router: Arc<Router>,
}

impl Acceptor {
    pub(crate) fn new(config: &ServerConfig, router: Arc<Router>) -> Acceptor {
        let settings = Settings::of_server(config);
        let ibv = Ibv::new(settings.ibv());
        Acceptor { settings, ibv, router }
    }

    pub(crate) fn options(&self) -> &BootstrapOptions {
        &self.settings.bootstrap
    }

    /// Tells a client that there is no place for it.
    pub(crate) async fn turn_away(&self, socket: Socket) {
        if let Ok(bootstrap) = ServerBootstrap::accept(socket, self.options()).await {
            let text = "the server has as many connections as it allows (limits.max_connections)";
            bootstrap.reject(RejectCode::TooManyConnections, text).await;
        }
    }

    /// Shakes hands on a socket. What fails is logged, and leaves nothing behind.
    pub(crate) async fn accept(&self, socket: Socket) -> Option<(ServerConnection, Serving)> {
        let peer = socket.peer_text();
        match self.shake_hands(socket).await {
            Ok(served) => Some(served),
            Err(error) => {
                tracing::warn!(%peer, %error, "handshake failed");
                None
            }
        }
    }

    async fn shake_hands(
        &self,
        socket: Socket,
    ) -> Result<(ServerConnection, Serving), Box<dyn Error + Send + Sync>> {
        let mut bootstrap = ServerBootstrap::accept(socket, self.options()).await?;
        let local = bootstrap.local_ip();
        let Choice { taken, declined, because } =
            choose(bootstrap.offers(), &self.settings, &self.ibv, local).await;
        let allows_tcp = self.settings.allows(Transport::Tcp);
        if matches!(taken, Taken::Tcp) && !allows_tcp {
            let text = format!("{TCP_NOT_ALLOWED}; {because}");
            bootstrap.reject(RejectCode::Refused, &text).await;
            return Err(text.into());
        }
        let body = match &taken {
            Taken::Rdma(choice) => choice.body(),
            Taken::Shm | Taken::Tcp => Vec::new(),
        };
        bootstrap.answer(taken.kind(), &body, declined).await?;
        let deadline = bootstrap.upgrade_deadline();
        let upgraded = timeout_at(deadline, self.upgrade(&mut bootstrap, &taken))
            .await
            .unwrap_or_else(|_| Err("the upgrade took too long".into()));
        let verdict = upgraded.as_ref().map(drop).map_err(Clone::clone);
        let confirmed = bootstrap.confirm(verdict).await?;
        Ok(match (upgraded, &confirmed.outcome) {
            (Ok(mut ring), Outcome::Upgraded(_)) => {
                ring.set_liveness(confirmed.into_liveness());
                match ring {
                    Ring::Shm(link) => self.serve(link, self.settings.on_shm(), &because),
                    Ring::Rdma(link) => self.serve(link, self.settings.on_rdma(), &because),
                }
            }
            (_, Outcome::Upgraded(kind)) => {
                // `confirm` says so only if this side said so too.
                unreachable!("upgraded to {kind} without a link")
            }
            (_, Outcome::Tcp { reason }) => {
                let because = match taken.kind() {
                    TransportKind::Tcp => because,
                    kind => format!("{kind} was chosen but failed: {reason}"),
                };
                let link = confirmed.into_link(&self.settings.tcp);
                let served = self.serve(link, self.settings.on_socket(), &because);
                if !allows_tcp {
                    // Too late to reject: the calls are, and their callers learn why.
                    served.0.shut_down(&format!("{TCP_NOT_ALLOWED}; {because}"));
                }
                served
            }
        })
    }

    async fn upgrade(
        &self,
        bootstrap: &mut ServerBootstrap,
        taken: &Taken,
    ) -> Result<Ring, String> {
        match taken {
            Taken::Tcp => Err("tcp was chosen".into()),
            Taken::Shm => {
                let queue_pair = shm::upgrade_server(bootstrap, &self.settings.shm_device())
                    .await
                    .map_err(|error| error.to_string())?;
                let config = self.settings.shm_ring(bootstrap.peer());
                Ok(Ring::Shm(build(bootstrap, queue_pair, config, Speaks::Second).await?))
            }
            Taken::Rdma(choice) => {
                let upgraded = self.ibv.upgrade_server(bootstrap, choice).await;
                let queue_pair = upgraded.map_err(|error| error.to_string())?;
                let config = self.settings.rdma_ring(bootstrap.peer());
                Ok(Ring::Rdma(build(bootstrap, queue_pair, config, Speaks::Second).await?))
            }
        }
    }

    fn serve<L: Link>(
        &self,
        link: L,
        config: ConnectionConfig,
        because: &str,
    ) -> (ServerConnection, Serving) {
        let info = link.info();
        tracing::info!(
            peer = %info.peer, transport = info.transport, device = %info.device, because,
            "client connected"
        );
        let (connection, serving) = serve_connection(link, Arc::clone(&self.router), config);
        let serving = Box::pin(async move {
            // Why it ended was logged where it was noticed.
            let _: Option<rdma_rpc_core::Status> = serving.await;
        });
        (connection, serving)
    }
}
