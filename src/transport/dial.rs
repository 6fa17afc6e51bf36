//! The client's side: from a target to a connection.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use rdma_rpc_core::client::{ClientConnection, ConnectError, Connector, connect_link};
use rdma_rpc_core::link::Link;
use rdma_rpc_core::server::ConnectionConfig;
use rdma_rpc_transport_rdma::ibv::{self, Ibv};
use rdma_rpc_transport_rdma::{probe, shm};
use rdma_rpc_transport_tcp::bootstrap::RejectCode;
use rdma_rpc_transport_tcp::{ClientBootstrap, Confirmed, Outcome, TransportKind};
use tokio::time::{timeout, timeout_at};

use super::choice::{NOT_ALLOWED, Offers, offers, sentences};
use super::ring::{Ring, Speaks, build};
use super::settings::Settings;
use super::turn::in_turn;
use crate::config::{ClientConfig, Scheme, Target, Transport};

/// How often RDMA may be given up while it is set up before a connection does without.
const VAIN_ATTEMPTS: u32 = 1;

/// Connects to one target as its configuration says.
#[derive(Debug)]
pub(crate) struct Dialer {
    target: Target,
    settings: Settings,
    ibv: Ibv,
    /// For everything that connecting takes once it has begun. An upgrade that stalls falls back within
    /// the handshake's own time.
    limit: Duration,
}

impl Dialer {
    pub(crate) fn new(target: Target, config: ClientConfig) -> Dialer {
        let settings = Settings::of_client(&config);
        let ibv = Ibv::new(settings.ibv());
        let limit = Duration::from_millis(config.connect_timeout_ms + config.handshake_timeout_ms);
        Dialer { target, settings, ibv, limit }
    }

    /// Connects within the limit.
    async fn connect_in_time(&self) -> Result<ClientConnection, ConnectError> {
        let connecting = attempts(|may_end_in_vain| self.dial(may_end_in_vain));
        timeout(self.limit, connecting).await.unwrap_or_else(|_| {
            let limit_ms = self.limit.as_millis();
            Err(ConnectError::new(format!("no connection after {limit_ms} ms")))
        })
    }

    /// Whether the connection may come to be one over RDMA.
    fn may_use_rdma(&self) -> bool {
        matches!(self.target.scheme, Scheme::Auto | Scheme::Rdma)
            && self.settings.allows(Transport::Rdma)
            && probe::why_no_device().is_none()
    }

    /// Connects. `Ok(None)`, if it `may_end_in_vain`: RDMA was agreed on, set up and given up, which
    /// says nothing against another attempt, and what is connected to now would stay on TCP.
    async fn dial(&self, may_end_in_vain: bool) -> Result<Option<ClientConnection>, ConnectError> {
        let scheme = self.target.scheme;
        let demanded = matches!(scheme, Scheme::Rdma | Scheme::Shm);
        let failed = |error: &dyn std::fmt::Display| ConnectError::new(error.to_string());
        if scheme == Scheme::Tcp && !self.settings.allows(Transport::Tcp) {
            return Err(ConnectError::new(format!("tcp: {NOT_ALLOWED}")));
        }
        let (address, options) = (&self.target.address, &self.settings.bootstrap);
        let socket = ClientBootstrap::connect_socket(address, options)
            .await
            .map_err(|error| failed(&error))?;
        let local = socket.local_ip();
        let Offers { offers, missing, rdma } =
            offers(scheme, &self.settings, &self.ibv, local).await;
        if demanded && offers.is_empty() {
            return Err(ConnectError::new(sentences_of(&missing)));
        }
        let mut bootstrap = ClientBootstrap::greet_at(socket, address, options, offers)
            .await
            .map_err(|error| match error.reject_code() {
                // A server that does not allow TCP: what this side lacks is half of why.
                Some(RejectCode::Refused) => failed(&with_reasons(&error.to_string(), &missing)),
                _ => failed(&error),
            })?;
        let chosen = bootstrap.answer().transport;
        let mut reasons = missing;
        let declined = bootstrap.answer().declined.iter();
        reasons.extend(declined.map(|declined| (declined.transport, declined.reason.clone())));

        let deadline = bootstrap.upgrade_deadline();
        let upgraded = timeout_at(deadline, self.upgrade(&mut bootstrap, rdma.as_ref()))
            .await
            .unwrap_or_else(|_| Err("the upgrade took too long".into()));
        let verdict = upgraded.as_ref().map(drop).map_err(ToString::to_string);
        let confirmed = bootstrap.confirm(verdict).await.map_err(|error| failed(&error))?;
        match (upgraded, &confirmed.outcome) {
            (Ok((mut ring, because)), Outcome::Upgraded(_)) => {
                ring.set_liveness(confirmed.into_liveness());
                let because = with_reasons(&because, &reasons);
                Ok(Some(match ring {
                    Ring::Shm(link) => self.start(link, self.settings.on_shm(), &because),
                    Ring::Rdma(link) => self.start(link, self.settings.on_rdma(), &because),
                }))
            }
            (_, Outcome::Upgraded(kind)) => {
                Err(ConnectError::new(format!("the server moved to {kind} without this side")))
            }
            (Err(error), Outcome::Tcp { .. }) if may_end_in_vain && error.was_flushed() => {
                tracing::info!(target = %self.target, %error, "one more attempt");
                Ok(None)
            }
            (upgraded, Outcome::Tcp { reason }) => {
                if chosen != TransportKind::Tcp {
                    let why = upgraded.err().map_or_else(|| reason.clone(), |why| why.to_string());
                    reasons.push((chosen, why));
                }
                self.stay(confirmed, &reasons).map(Some)
            }
        }
    }

    /// Stays on TCP, if that is allowed; `reasons` say why it is nothing else.
    fn stay(
        &self,
        confirmed: Confirmed,
        reasons: &[(TransportKind, String)],
    ) -> Result<ClientConnection, ConnectError> {
        let asked = match self.target.scheme {
            Scheme::Auto if self.settings.allows(Transport::Tcp) => "nothing faster works",
            // That it is allowed was asked at the beginning.
            Scheme::Tcp => "the target asks for it",
            Scheme::Auto | Scheme::Rdma | Scheme::Shm => {
                return Err(ConnectError::new(format!(
                    "the server is there, but only TCP works: {}",
                    sentences_of(reasons)
                )));
            }
        };
        let because = with_reasons(asked, reasons);
        let link = confirmed.into_link(&self.settings.tcp);
        Ok(self.start(link, self.settings.on_socket(), &because))
    }

    /// Moves to what the server chose; the sentence says why.
    async fn upgrade(
        &self,
        bootstrap: &mut ClientBootstrap,
        rdma: Option<&ibv::Offer>,
    ) -> Result<(Ring, String), ibv::UpgradeError> {
        let peer = self.target.address.to_string();
        match (bootstrap.answer().transport, rdma) {
            (TransportKind::Shm, _) => {
                let queue_pair = shm::upgrade_client(bootstrap, &self.settings.shm_device())
                    .await
                    .map_err(|error| error.to_string())?;
                let config = self.settings.shm_ring(&peer);
                let link = build(bootstrap, queue_pair, config, Speaks::First).await?;
                Ok((Ring::Shm(link), "both ends are on one host".to_owned()))
            }
            (TransportKind::Rdma, Some(offer)) => {
                let choice = offer.chosen(bootstrap.answer().body)?;
                let queue_pair = self.ibv.upgrade_client(bootstrap, &choice).await?;
                let config = self.settings.rdma_ring(&peer);
                let link = build(bootstrap, queue_pair, config, Speaks::First).await?;
                Ok((Ring::Rdma(link), choice.describe()))
            }
            (TransportKind::Tcp, _) => Err("tcp was chosen".into()),
            (other, _) => Err(format!("the server chose {other}, which was not offered").into()),
        }
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

fn sentences_of(reasons: &[(TransportKind, String)]) -> String {
    sentences(reasons.iter().map(|(kind, why)| (*kind, why.as_str())))
}

fn with_reasons(first: &str, reasons: &[(TransportKind, String)]) -> String {
    if reasons.is_empty() {
        return first.to_owned();
    }
    format!("{first}; {}", sentences_of(reasons))
}

/// Makes an attempt until one does not end in vain; the last one may not.
async fn attempts<T, E, F>(mut attempt: impl FnMut(bool) -> F) -> Result<T, E>
where
    F: Future<Output = Result<Option<T>, E>>,
{
    let mut left = VAIN_ATTEMPTS;
    loop {
        if let Some(made) = attempt(left > 0).await? {
            return Ok(made);
        }
        left -= 1;
    }
}

impl Connector for Dialer {
    fn connect(
        &self,
    ) -> Pin<Box<dyn Future<Output = Result<ClientConnection, ConnectError>> + Send + '_>> {
        Box::pin(async {
            if self.may_use_rdma() {
                in_turn(self.connect_in_time()).await
            } else {
                self.connect_in_time().await
            }
        })
    }

    fn target(&self) -> String {
        self.target.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_attempt_in_vain_is_made_once_more_and_a_failure_is_final() {
        let mut told = Vec::new();
        let made: Result<u32, &str> = attempts(|may_end_in_vain| {
            told.push(may_end_in_vain);
            let number = told.len() as u32;
            async move { Ok((number > 1).then_some(number)) }
        })
        .await;
        assert_eq!((made, told), (Ok(2), vec![true, false]));

        let mut calls = 0;
        let failed: Result<u32, &str> = attempts(|_| {
            calls += 1;
            async { Err("refused") }
        })
        .await;
        assert_eq!((failed, calls), (Err("refused"), 1));
    }
}
