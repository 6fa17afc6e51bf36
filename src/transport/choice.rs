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

/// Why something is not offered that could be.
pub(super) const NOT_ALLOWED: &str = "not among the allowed transports";

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
        return "the client offers nothing faster".into();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ClientConfig, ServerConfig};

    async fn chosen(transports: Vec<Transport>, offers: &[Offer]) -> Choice {
        let settings = Settings::of_server(&ServerConfig::default().transports(transports));
        let ibv = Ibv::new(settings.ibv());
        choose(offers, &settings, &ibv, None).await
    }

    async fn offered(transports: Vec<Transport>, scheme: Scheme) -> Offers {
        let settings = Settings::of_client(&ClientConfig::default().transports(transports));
        let ibv = Ibv::new(settings.ibv());
        offers(scheme, &settings, &ibv, None).await
    }

    fn offer(transport: TransportKind, body: impl Into<Vec<u8>>) -> Offer {
        Offer { transport, body: body.into() }
    }

    fn shm() -> Offer {
        offer(TransportKind::Shm, *host_id().unwrap().as_bytes())
    }

    fn declined(choice: &Choice) -> Vec<(TransportKind, &str)> {
        let declined = choice.declined.iter();
        declined.map(|declined| (declined.transport, &*declined.reason)).collect()
    }

    #[tokio::test]
    async fn nothing_offered_is_tcp() {
        let choice = chosen(vec![Transport::Shm, Transport::Tcp], &[]).await;
        assert_eq!(choice.taken.kind(), TransportKind::Tcp);
        assert_eq!(choice.because, "the client offers nothing faster");
        assert!(choice.declined.is_empty());
    }

    #[tokio::test]
    async fn shared_memory_of_this_host_is_taken() {
        let choice = chosen(vec![Transport::Shm], &[shm()]).await;
        assert_eq!(choice.taken.kind(), TransportKind::Shm);
        assert_eq!(choice.because, "both ends are on one host");
        assert!(choice.declined.is_empty());
    }

    #[tokio::test]
    async fn only_one_is_taken_and_the_clients_order_decides() {
        let offers = [shm(), offer(TransportKind::Rdma, []), shm(), offer(TransportKind::Tcp, [])];
        let choice = chosen(vec![Transport::Rdma, Transport::Shm], &offers).await;
        assert_eq!(choice.taken.kind(), TransportKind::Shm);
        let another = "another transport was chosen";
        let want = [
            (TransportKind::Rdma, another),
            (TransportKind::Shm, another),
            (TransportKind::Tcp, "the server does not know it"),
        ];
        assert_eq!(declined(&choice), want);
    }

    #[tokio::test]
    async fn what_the_server_does_not_allow_is_declined_whatever_it_holds() {
        let offers =
            [offer(TransportKind::Rdma, [9; 3]), shm(), offer(TransportKind::Unknown(9), [])];
        let choice = chosen(vec![Transport::Tcp], &offers).await;
        assert_eq!(choice.taken.kind(), TransportKind::Tcp);
        let want = [
            (TransportKind::Rdma, "the server does not allow it"),
            (TransportKind::Shm, "the server does not allow it"),
            (TransportKind::Unknown(9), "the server does not know it"),
        ];
        assert_eq!(declined(&choice), want);
        assert_eq!(
            choice.because,
            "rdma: the server does not allow it; shm: the server does not allow it; \
             transport 9: the server does not know it"
        );
    }

    #[tokio::test]
    async fn a_foreign_host_gets_no_shared_memory() {
        let mut foreign = *host_id().unwrap().as_bytes();
        foreign[HostId::BYTES - 1] ^= 1;
        let choice = chosen(vec![Transport::Shm], &[offer(TransportKind::Shm, foreign)]).await;
        let want = "client and server are on different hosts or in different network namespaces";
        assert_eq!(choice.taken.kind(), TransportKind::Tcp);
        assert_eq!(declined(&choice), [(TransportKind::Shm, want)]);
        assert_eq!(choice.because, format!("shm: {want}"));
    }

    #[test]
    fn a_host_that_is_none_is_told_by_its_length() {
        let bytes = *host_id().unwrap().as_bytes();
        assert_eq!(same_host(&bytes), Ok(()));
        for length in [0, HostId::BYTES - 1, HostId::BYTES + 1, 4096] {
            let mut body = bytes.to_vec();
            body.resize(length, 0);
            let want = format!("an offer of {length} bytes, not {}", HostId::BYTES);
            assert_eq!(same_host(&body), Err(want));
        }
    }

    #[tokio::test]
    async fn rdma_that_cannot_be_is_the_servers_to_explain() {
        // With a device here, what does not hold is the offer.
        let choice = chosen(vec![Transport::Rdma], &[offer(TransportKind::Rdma, [0; 3])]).await;
        assert_eq!(choice.taken.kind(), TransportKind::Tcp);
        let [(TransportKind::Rdma, why)] = declined(&choice)[..] else { panic!("not declined") };
        let why = why.strip_prefix("at the server: ").expect(why);
        if let Some(missing) = probe::why_no_device() {
            assert_eq!(why, missing);
        }
    }

    #[tokio::test]
    async fn a_client_offers_what_is_wanted_and_allowed() {
        let found = offered(vec![Transport::Tcp], Scheme::Auto).await;
        assert!(found.offers.is_empty());
        let want = [TransportKind::Rdma, TransportKind::Shm].map(|kind| (kind, NOT_ALLOWED.into()));
        assert_eq!(found.missing, want);

        let found = offered(vec![Transport::Shm], Scheme::Auto).await;
        assert_eq!(found.offers, [shm()]);
        assert_eq!(found.missing, [(TransportKind::Rdma, NOT_ALLOWED.into())]);

        let found = offered(vec![Transport::Tcp], Scheme::Shm).await;
        assert!(found.offers.is_empty());
        assert_eq!(found.missing, [(TransportKind::Shm, NOT_ALLOWED.into())]);

        let all = vec![Transport::Rdma, Transport::Shm, Transport::Tcp];
        let found = offered(all, Scheme::Tcp).await;
        assert!(found.offers.is_empty() && found.missing.is_empty());
    }
}
