//! Which transport it shall be, and the sentence that says why.

use rdma_rpc_transport_rdma::shm::{HostId, host_id};
use rdma_rpc_transport_tcp::bootstrap::Declined;
use rdma_rpc_transport_tcp::{Offer, TransportKind};

use super::settings::Settings;
use crate::config::{Scheme, Transport};

/// What a client offers, and why it does not offer the rest.
pub(super) struct Offers {
    pub(super) offers: Vec<Offer>,
    pub(super) missing: Vec<(TransportKind, String)>,
}

/// What a client can offer for a target.
pub(super) fn offers(scheme: Scheme, settings: &Settings) -> Offers {
    let mut found = Offers { offers: Vec::new(), missing: Vec::new() };
    let wanted = |kind: Scheme| scheme == Scheme::Auto || scheme == kind;
    if wanted(Scheme::Rdma) {
        let why = if settings.allows(Transport::Rdma) {
            rdma_rpc_transport_rdma::probe::why_no_device()
        } else {
            "not among the allowed transports".into()
        };
        found.missing.push((TransportKind::Rdma, why));
    }
    if wanted(Scheme::Shm) {
        match host_id() {
            _ if !settings.allows(Transport::Shm) => {
                found.missing.push((TransportKind::Shm, "not among the allowed transports".into()));
            }
            Ok(host) => found
                .offers
                .push(Offer { transport: TransportKind::Shm, body: host.as_bytes().to_vec() }),
            Err(error) => found.missing.push((
                TransportKind::Shm,
                format!("this host's identity cannot be read: {error}"),
            )),
        }
    }
    found
}

/// What a server answers.
pub(super) struct Choice {
    pub(super) transport: TransportKind,
    pub(super) declined: Vec<Declined>,
    pub(super) because: String,
}

/// The best of what a client offers.
pub(super) fn choose(offers: &[Offer], settings: &Settings) -> Choice {
    let mut declined = Vec::new();
    let mut decline = |transport, reason: String| declined.push(Declined { transport, reason });
    let mut taken = None;
    for offer in offers {
        match offer.transport {
            TransportKind::Shm if !settings.allows(Transport::Shm) => {
                decline(offer.transport, "the server does not allow it".into());
            }
            TransportKind::Shm => match same_host(&offer.body) {
                Ok(()) if taken.is_none() => taken = Some(TransportKind::Shm),
                Ok(()) => decline(offer.transport, "another transport was chosen".into()),
                Err(reason) => decline(offer.transport, reason),
            },
            TransportKind::Rdma => decline(
                offer.transport,
                format!("at the server: {}", rdma_rpc_transport_rdma::probe::why_no_device()),
            ),
            other => decline(other, "the server does not know it".into()),
        }
    }
    let because = match taken {
        Some(_) => "both ends are on one host".to_owned(),
        None => because_tcp(offers, &declined),
    };
    Choice { transport: taken.unwrap_or(TransportKind::Tcp), declined, because }
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
