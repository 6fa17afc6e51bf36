//! Building a ring link over a connected queue pair, while the bootstrap still holds the socket.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use rdma_rpc_core::upgrade::{Exchange, Liveness};
use rdma_rpc_transport_rdma::ring::{RingConfig, RingLink};
use rdma_rpc_transport_rdma::verbs::QueuePair;
use rdma_rpc_transport_tcp::SocketLiveness;

/// Who speaks first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaks {
    First,
    Second,
}

/// Exchanges ring addresses and connects the rings. An empty message means "I cannot".
pub(super) async fn build<Q: QueuePair, E: Exchange>(
    exchange: &mut E,
    queue_pair: Q,
    config: RingConfig,
    speaks: Speaks,
) -> Result<(RingLink<Q>, LateLiveness), String> {
    let liveness = LateLiveness::default();
    let prepared = RingLink::prepare(queue_pair, Box::new(liveness.clone()), config);
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
    let link = prepared.connect(&theirs).map_err(|error| error.to_string())?;
    Ok((link, liveness))
}

/// A sign of life that is known only after the ring: the bootstrap needs its socket until both
/// ends have confirmed. Looked at only when a link arms, never while it polls.
#[derive(Clone, Default)]
pub(super) struct LateLiveness {
    socket: Arc<Mutex<Option<SocketLiveness>>>,
}

impl LateLiveness {
    pub(super) fn set(&self, socket: SocketLiveness) {
        *self.socket.lock().unwrap_or_else(PoisonError::into_inner) = Some(socket);
    }
}

impl Liveness for LateLiveness {
    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Error> {
        match &mut *self.socket.lock().unwrap_or_else(PoisonError::into_inner) {
            // The link is not driven before the socket is set.
            None => Poll::Pending,
            Some(socket) => socket.poll_closed(cx),
        }
    }
}

impl fmt::Debug for LateLiveness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LateLiveness").finish_non_exhaustive()
    }
}
