//! Which transport it shall be, and the sentence that says why.

use std::net::IpAddr;

use rdma_rpc_transport_rdma::ibv::{self, Ibv};
use rdma_rpc_transport_rdma::probe;
use rdma_rpc_transport_rdma::shm::{HostId, host_id};
use rdma_rpc_transport_tcp::bootstrap::Declined;
use rdma_rpc_transport_tcp::{Offer, TransportKind};

use super::settings::Settings;
use crate::config::{Scheme, Transport};

/// What a client offers, and why it does not offer the rest.
pub(super) struct Offers {
    pub(super) offers: Vec<Offer>,
    pub(super) missing: Vec<(TransportKind, String)>,
    /// What stands behind an offer of rdma.
    pub(super) rdma: Option<ibv::Offer>,
}

const NOT_ALLOWED: &str = "not among the allowed transports";

/// What a client can offer for a target that it reaches from the address `local`.
pub(super) async fn offers(
    scheme: Scheme,
    settings: &Settings,
    ibv: &Ibv,
    local: Option<IpAddr>,
) -> Offers {
    let mut found = Offers { offers: Vec::new(), missing: Vec::new(), rdma: None };
    let wanted = |kind: Scheme| scheme == Scheme::Auto || scheme == kind;
    if wanted(Scheme::Rdma) {
        match rdma_offer(settings, ibv, local).await {
            Ok(offer) => {
                let transport = TransportKind::Rdma;
                found.offers.push(Offer { transport, body: offer.body() });
                found.rdma = Some(offer);
            }
            Err(why) => found.missing.push((TransportKind::Rdma, why)),
        }
    }
    if wanted(Scheme::Shm) {
        match shm_offer(settings) {
            Ok(offer) => found.offers.push(offer),
            Err(why) => found.missing.push((TransportKind::Shm, why)),
        }
    }
    found
}

async fn rdma_offer(
    settings: &Settings,
    ibv: &Ibv,
    local: Option<IpAddr>,
) -> Result<ibv::Offer, String> {
    if !settings.allows(Transport::Rdma) {
        return Err(NOT_ALLOWED.into());
    }
    // Asked first: it needs no library, and knows what to advise.
    if let Some(why) = probe::why_no_device() {
        return Err(why);
    }
    ibv.offer(local).await
}

fn shm_offer(settings: &Settings) -> Result<Offer, String> {
    if !settings.allows(Transport::Shm) {
        return Err(NOT_ALLOWED.into());
    }
    let host =
        host_id().map_err(|error| format!("this host's identity cannot be read: {error}"))?;
    Ok(Offer { transport: TransportKind::Shm, body: host.as_bytes().to_vec() })
}

/// What a server takes.
#[derive(Debug)]
pub(super) enum Taken {
    Tcp,
    Shm,
    Rdma(ibv::Choice),
}

impl Taken {
    pub(super) fn kind(&self) -> TransportKind {
        match self {
            Taken::Tcp => TransportKind::Tcp,
            Taken::Shm => TransportKind::Shm,
            Taken::Rdma(_) => TransportKind::Rdma,
        }
    }
}

/// What a server answers.
pub(super) struct Choice {
    pub(super) taken: Taken,
    pub(super) declined: Vec<Declined>,
    pub(super) because: String,
}

/// The first of what a client offers that can be taken.
pub(super) async fn choose(
    offers: &[Offer],
    settings: &Settings,
    ibv: &Ibv,
    local: Option<IpAddr>,
) -> Choice {
    let mut declined = Vec::new();
    let mut taken = Taken::Tcp;
    for offer in offers {
        let outcome = match (&taken, offer.transport) {
            (Taken::Tcp, TransportKind::Shm) => take_shm(offer, settings),
            (Taken::Tcp, TransportKind::Rdma) => take_rdma(offer, settings, ibv, local).await,
            (_, TransportKind::Shm | TransportKind::Rdma) => {
                Err("another transport was chosen".into())
            }
            _ => Err("the server does not know it".into()),
        };
        match outcome {
            Ok(choice) => taken = choice,
            Err(reason) => declined.push(Declined { transport: offer.transport, reason }),
        }
    }
    let because = match &taken {
        Taken::Rdma(choice) => choice.describe(),
        Taken::Shm => "both ends are on one host".to_owned(),
        Taken::Tcp => because_tcp(offers, &declined),
    };
    Choice { taken, declined, because }
}

fn take_shm(offer: &Offer, settings: &Settings) -> Result<Taken, String> {
    if !settings.allows(Transport::Shm) {
        return Err("the server does not allow it".into());
    }
    same_host(&offer.body).map(|()| Taken::Shm)
}

async fn take_rdma(
    offer: &Offer,
    settings: &Settings,
    ibv: &Ibv,
    local: Option<IpAddr>,
) -> Result<Taken, String> {
    if !settings.allows(Transport::Rdma) {
        return Err("the server does not allow it".into());
    }
    if let Some(why) = probe::why_no_device() {
        return Err(format!("at the server: {why}"));
    }
    let choice = ibv.choose(&offer.body, local).await;
    choice.map(Taken::Rdma).map_err(|why| format!("at the server: {why}"))
}

fn because_tcp(offers: &[Offer], declined: &[Declined]) -> String {
    if offers.is_empty() {
        return "the client asked for it".into();
    }
    sentences(declined.iter().map(|declined| (declined.transport, declined.reason.as_str())))
}

/// "shm: reason; rdma: reason".
pub(super) fn sentences<'a>(reasons: impl Iterator<Item = (TransportKind, &'a str)>) -> String {
    let parts: Vec<String> = reasons.map(|(kind, reason)| format!("{kind}: {reason}")).collect();
    parts.join("; ")
}

fn same_host(body: &[u8]) -> Result<(), String> {
    let Ok(bytes) = <[u8; HostId::BYTES]>::try_from(body) else {
        return Err(format!("an offer of {} bytes, not {}", body.len(), HostId::BYTES));
    };
    match host_id() {
        Ok(ours) if ours == HostId::from_bytes(bytes) => Ok(()),
        Ok(_) => Err("client and server are on different hosts or in different network \
                      namespaces"
            .into()),
        Err(error) => Err(format!("the server's host identity cannot be read: {error}")),
    }
}
