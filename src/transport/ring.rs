//! Building a ring link over a connected queue pair, while the bootstrap still holds the socket.

use rdma_rpc_core::upgrade::{Exchange, Liveness};
use rdma_rpc_transport_rdma::ibv::IbvQueuePair;
use rdma_rpc_transport_rdma::ring::{RingConfig, RingLink};
use rdma_rpc_transport_rdma::shm::ShmQueuePair;
use rdma_rpc_transport_rdma::verbs::QueuePair;

/// Who speaks first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaks {
    First,
    Second,
}

/// A ring, on whichever device.
#[derive(Debug)]
pub(super) enum Ring {
    Shm(RingLink<ShmQueuePair>),
    Rdma(RingLink<IbvQueuePair>),
}

impl Ring {
    pub(super) fn set_liveness(&mut self, liveness: impl Liveness) {
        match self {
            Ring::Shm(link) => link.set_liveness(Box::new(liveness)),
            Ring::Rdma(link) => link.set_liveness(Box::new(liveness)),
        }
    }
}

/// Exchanges ring addresses and connects the rings. An empty message means "I cannot".
pub(super) async fn build<Q: QueuePair, E: Exchange>(
    exchange: &mut E,
    queue_pair: Q,
    config: RingConfig,
    speaks: Speaks,
) -> Result<RingLink<Q>, String> {
    let prepared = RingLink::prepare(queue_pair, None, config);
    let ours = prepared.as_ref().map_or_else(|_| Vec::new(), |prepared| prepared.hello());
    let lost = |error: std::io::Error| format!("the ring handshake broke off: {error}");
    let theirs = match speaks {
        Speaks::First => {
            exchange.send(&ours).await.map_err(lost)?;
            exchange.receive().await.map_err(lost)?
        }
        Speaks::Second => {
            let theirs = exchange.receive().await.map_err(lost)?;
            exchange.send(&ours).await.map_err(lost)?;
            theirs
        }
    };
    let prepared = prepared.map_err(|error| error.to_string())?;
    if theirs.is_empty() {
        return Err("the other end could not set up its ring".into());
    }
    prepared.connect(&theirs).map_err(|error| error.to_string())
}
