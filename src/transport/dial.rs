//! The client's side: from a target to a connection.

use std::future::Future;
use std::pin::Pin;

use rdma_rpc_core::client::{ClientConnection, ConnectError, Connector, connect_link};
use rdma_rpc_core::link::Link;
use rdma_rpc_core::server::ConnectionConfig;
use rdma_rpc_transport_rdma::ring::RingLink;
use rdma_rpc_transport_rdma::shm::{self, ShmQueuePair};
use rdma_rpc_transport_tcp::{ClientBootstrap, Outcome, TransportKind};
use tokio::time::timeout_at;

use super::choice::{Offers, offers, sentences};
use super::ring::{LateLiveness, Speaks, build};
use super::settings::Settings;
use crate::config::{ClientConfig, Scheme, Target, Transport};

/// Connects to one target as its configuration says.
#[derive(Debug)]
pub(crate) struct Dialer {
    target: Target,
    settings: Settings,
}

impl Dialer {
    pub(crate) fn new(target: Target, config: ClientConfig) -> Dialer {
        let settings = Settings::of_client(&config);
        Dialer { target, settings }
    }

    async fn dial(&self) -> Result<ClientConnection, ConnectError> {
        let scheme = self.target.scheme;
        let Offers { offers, missing } = offers(scheme, &self.settings);
        let demanded = matches!(scheme, Scheme::Rdma | Scheme::Shm);
        if demanded && offers.is_empty() {
            let why = sentences(missing.iter().map(|(kind, why)| (*kind, why.as_str())));
            return Err(ConnectError::new(why));
        }
        let failed = |error: &dyn std::fmt::Display| ConnectError::new(error.to_string());
        let mut bootstrap =
            ClientBootstrap::connect(&self.target.address, &self.settings.bootstrap, offers)
                .await
                .map_err(|error| failed(&error))?;
        let chosen = bootstrap.answer().transport;
        let mut reasons = missing;
        let declined = bootstrap.answer().declined.iter();
        reasons.extend(declined.map(|declined| (declined.transport, declined.reason.clone())));

        let upgraded = match chosen {
            TransportKind::Shm => {
                let deadline = bootstrap.upgrade_deadline();
                timeout_at(deadline, self.upgrade_to_shm(&mut bootstrap))
                    .await
                    .unwrap_or_else(|_| Err("the upgrade took too long".into()))
            }
            TransportKind::Tcp => Err("tcp was chosen".into()),
            other => Err(format!("the server chose {other}, which was not offered")),
        };
        let verdict = upgraded.as_ref().map(drop).map_err(Clone::clone);
        let confirmed = bootstrap.confirm(verdict).await.map_err(|error| failed(&error))?;
        match (upgraded, &confirmed.outcome) {
            (Ok((link, liveness)), Outcome::Upgraded(_)) => {
                liveness.set(confirmed.into_liveness());
                let because = because("both ends are on one host", &reasons);
                Ok(self.start(link, self.settings.on_shm(), &because))
            }
            (_, Outcome::Upgraded(kind)) => {
                Err(ConnectError::new(format!("the server moved to {kind} without this side")))
            }
            (upgraded, Outcome::Tcp { reason }) => {
                if chosen != TransportKind::Tcp {
                    let why = upgraded.err().unwrap_or_else(|| reason.clone());
                    reasons.push((chosen, why));
                }
                if demanded || !self.settings.allows(Transport::Tcp) {
                    let why = sentences(reasons.iter().map(|(kind, why)| (*kind, why.as_str())));
                    return Err(ConnectError::new(format!(
                        "{}: the server is there, but only TCP works: {why}",
                        self.target
                    )));
                }
                let asked = match scheme {
                    Scheme::Tcp => "the target asks for it",
                    _ => "nothing faster works",
                };
                let because = because(asked, &reasons);
                let link = confirmed.into_link(&self.settings.tcp);
                Ok(self.start(link, self.settings.on_socket(), &because))
            }
        }
    }

    async fn upgrade_to_shm(
        &self,
        bootstrap: &mut ClientBootstrap,
    ) -> Result<(RingLink<ShmQueuePair>, LateLiveness), String> {
        let queue_pair = shm::upgrade_client(bootstrap, &shm::ShmConfig::default())
            .await
            .map_err(|error| error.to_string())?;
        let config = self.settings.shm_ring(&self.target.address.to_string());
        build(bootstrap, queue_pair, config, Speaks::First).await
    }

    fn start<L: Link>(&self, link: L, config: ConnectionConfig, because: &str) -> ClientConnection {
        let info = link.info();
        tracing::info!(
            target = %self.target, transport = info.transport, device = %info.device, because, "connected"
        );
        let (connection, driving) = connect_link(link, config, because);
        tokio::spawn(driving);
        connection
    }
}

fn because(first: &str, reasons: &[(TransportKind, String)]) -> String {
    if reasons.is_empty() {
        return first.to_owned();
    }
    let rest = sentences(reasons.iter().map(|(kind, why)| (*kind, why.as_str())));
    format!("{first}; {rest}")
}

impl Connector for Dialer {
    fn connect(
        &self,
    ) -> Pin<Box<dyn Future<Output = Result<ClientConnection, ConnectError>> + Send + '_>> {
        Box::pin(self.dial())
    }

    fn target(&self) -> String {
        self.target.to_string()
    }
}
