//! The server's side: from a socket to a served connection.

use std::pin::Pin;
use std::sync::Arc;

use rdma_rpc_core::link::Link;
use rdma_rpc_core::server::{ConnectionConfig, Router, ServerConnection, serve_connection};
use rdma_rpc_transport_rdma::ring::RingLink;
use rdma_rpc_transport_rdma::shm::{self, ShmQueuePair};
use rdma_rpc_transport_tcp::bootstrap::RejectCode;
use rdma_rpc_transport_tcp::{
    BootstrapError, BootstrapOptions, Outcome, ServerBootstrap, Socket, TransportKind,
};
use tokio::time::timeout_at;

use super::choice::choose;
use super::ring::{LateLiveness, Speaks, build};
use super::settings::Settings;
use crate::config::ServerConfig;

/// Drives a served connection to its end.
type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Shakes hands with clients.
#[derive(Debug)]
pub(crate) struct Acceptor {
    settings: Settings,
    router: Arc<Router>,
}

impl Acceptor {
    pub(crate) fn new(config: &ServerConfig, router: Arc<Router>) -> Acceptor {
        Acceptor { settings: Settings::of_server(config), router }
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
    ) -> Result<(ServerConnection, Serving), BootstrapError> {
        let mut bootstrap = ServerBootstrap::accept(socket, self.options()).await?;
        let choice = choose(bootstrap.offers(), &self.settings);
        bootstrap.answer(choice.transport, &[], choice.declined).await?;
        let upgraded = match choice.transport {
            TransportKind::Shm => {
                let deadline = bootstrap.upgrade_deadline();
                timeout_at(deadline, self.upgrade_to_shm(&mut bootstrap))
                    .await
                    .unwrap_or_else(|_| Err("the upgrade took too long".into()))
            }
            _ => Err("tcp was chosen".into()),
        };
        let verdict = upgraded.as_ref().map(drop).map_err(Clone::clone);
        let confirmed = bootstrap.confirm(verdict).await?;
        Ok(match (upgraded, &confirmed.outcome) {
            (Ok((link, liveness)), Outcome::Upgraded(_)) => {
                liveness.set(confirmed.into_liveness());
                self.serve(link, self.settings.on_shm(), &choice.because)
            }
            (_, Outcome::Upgraded(kind)) => {
                // `confirm` says so only if this side said so too.
                unreachable!("upgraded to {kind} without a link")
            }
            (_, Outcome::Tcp { reason }) => {
                let because = match choice.transport {
                    TransportKind::Tcp => choice.because,
                    kind => format!("{kind} was chosen but failed: {reason}"),
                };
                let link = confirmed.into_link(&self.settings.tcp);
                self.serve(link, self.settings.on_socket(), &because)
            }
        })
    }

    async fn upgrade_to_shm(
        &self,
        bootstrap: &mut ServerBootstrap,
    ) -> Result<(RingLink<ShmQueuePair>, LateLiveness), String> {
        let queue_pair = shm::upgrade_server(bootstrap, &shm::ShmConfig::default())
            .await
            .map_err(|error| error.to_string())?;
        let config = self.settings.shm_ring(bootstrap.peer());
        build(bootstrap, queue_pair, config, Speaks::Second).await
    }

    fn serve<L: Link>(
        &self,
        link: L,
        config: ConnectionConfig,
        because: &str,
    ) -> (ServerConnection, Serving) {
        let info = link.info();
        tracing::info!(peer = %info.peer, transport = info.transport, because, "client connected");
        let (connection, serving) = serve_connection(link, Arc::clone(&self.router), config);
        let serving = Box::pin(async move {
            // Why it ended was logged where it was noticed.
            let _: Option<rdma_rpc_core::Status> = serving.await;
        });
        (connection, serving)
    }
}
