//! From a connected queue pair to a link: register, say hello, hear the peer's hello.

use std::collections::VecDeque;
use std::fmt;

use rdma_rpc_core::link::LinkError;
use rdma_rpc_core::standing::StandingWaker;
use rdma_rpc_core::upgrade::Liveness;

use super::bulk_pull::Pulls;
use super::bulk_send::BulkSendPool;
use super::cache_share::CacheShare;
use super::config::{CONTROL_RECEIVES, RingConfig};
use super::credits::{ReceiveCredits, SendCredits};
use super::error::{post_failed, verb_failed};
use super::halves::{Ending, Receiver, Sender};
use super::hello::Hello;
use super::layout::max_frame_bytes;
use super::link::RingLink;
use super::pull_pool::PullPool;
use super::send_queue::SendQueue;
use super::staging::Staging;
use crate::verbs::{Access, Caps, QueuePair, Region, RemoteAddr};

/// Bytes of a credit cell: two words.
const CELL_BYTES: usize = 16;

/// Receives posted at a time, at most. What was read counts as released only then, so a greater
/// batch makes a calm ring ([`super::staging::CALM_BYTES`]) look busier than it is.
const RECEIVE_BATCH: u64 = 8;

/// One end that is ready to be written to: its ring and cell are registered and its receives are
/// posted, so the peer may send as soon as it has this end's [`Prepared::hello`].
pub struct Prepared<Q: QueuePair> {
    queue_pair: Q,
    liveness: Option<Box<dyn Liveness>>,
    config: RingConfig,
    /// What the peer writes, or what it views.
    ring: Q::Region,
    cell: Q::Region,
    hello: Hello,
}

/// Where bursts are made, where they go if they are written, and where the peer's arrive.
struct Rings<R> {
    staging: R,
    to: Option<RemoteAddr>,
    receive: R,
}

impl<Q: QueuePair> fmt::Debug for Prepared<Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").field("hello", &self.hello).finish_non_exhaustive()
    }
}

impl<Q: QueuePair> RingLink<Q> {
    /// Registers what the peer writes to and posts the receives. Liveness that is not known yet
    /// can be [set later](RingLink::set_liveness).
    ///
    /// # Errors
    /// A setting out of its bounds, a device that cannot carry a ring, or a verb that failed.
    pub fn prepare(
        mut queue_pair: Q,
        liveness: Option<Box<dyn Liveness>>,
        config: RingConfig,
    ) -> Result<Prepared<Q>, LinkError> {
        config.validate()?;
        let caps = queue_pair.caps();
        config.validate_caps(caps)?;
        let access = if caps.views { Access::Viewed } else { Access::RemoteWrite };
        let ring = queue_pair.register(config.ring_bytes, access).map_err(|e| verb_failed(&e))?;
        let cell =
            queue_pair.register(CELL_BYTES, Access::RemoteWrite).map_err(|e| verb_failed(&e))?;
        let receives = config.receive_depth.min(caps.receive_depth);
        queue_pair.post_receives(receives).map_err(|e| post_failed("receives", e))?;
        let reads = caps.reads_in_flight > 0;
        let hello = Hello {
            write_with_imm: caps.write_with_imm,
            viewed: caps.views,
            ring: ring.remote(),
            ring_bytes: config.ring_bytes as u64,
            cell: cell.remote(),
            receives,
            max_pull_bytes: if reads { config.max_bulk_bytes as u64 } else { 0 },
        };
        Ok(Prepared { queue_pair, liveness, config, ring, cell, hello })
    }
}

impl<Q: QueuePair> Prepared<Q> {
    /// What the peer's [`Prepared::connect`] needs to know: opaque bytes of a fixed layout.
    pub fn hello(&self) -> Vec<u8> {
        self.hello.encode()
    }

    /// Becomes a link, once the peer's hello is known. The peer may have sent already.
    ///
    /// # Errors
    /// A hello that does not make sense (the message names the byte), or a verb that failed.
    pub fn connect(mut self, peer_hello: &[u8]) -> Result<RingLink<Q>, LinkError> {
        let peer = Hello::decode(peer_hello)?;
        let caps = self.queue_pair.caps();
        // A SEND behind each WRITE takes a slot more, if only the peer has no immediates.
        let write_with_imm = self.hello.write_with_imm && peer.write_with_imm;
        self.config.validate_caps(Caps { write_with_imm, ..caps })?;
        // Both ends come to the same size, whatever each would have liked.
        let ring_bytes = self.hello.ring_bytes.min(peer.ring_bytes);
        let rings =
            rings(&mut self.queue_pair, self.ring, &self.hello, &peer, ring_bytes as usize)?;
        let config = &self.config;
        let max_bulk_bytes = (config.max_bulk_bytes as u64).min(peer.max_pull_bytes) as usize;
        let bulk = max_bulk_bytes > config.bulk_threshold_bytes;
        let sender = Sender {
            write_with_imm,
            region: rings.staging,
            staging: Staging::new(ring_bytes),
            credits: SendCredits::new(ring_bytes, u64::from(peer.receives - CONTROL_RECEIVES)),
            queue: SendQueue::new(caps.send_depth, ring_bytes),
            ring: rings.to,
            peer_cell: peer.cell,
            cell: self.cell,
            asked: false,
            want_room: None,
            flush_blocked: false,
            want_bulk: None,
            max_frame_bytes: max_frame_bytes(ring_bytes),
            bulk_threshold_bytes: bulk.then_some(config.bulk_threshold_bytes),
            max_bulk_bytes: if bulk { max_bulk_bytes } else { 0 },
            cache_share: CacheShare::new(config.cached_frames_bytes, config.bulk_threshold_bytes),
            lend_threshold_bytes: caps
                .lends_from_bytes
                .filter(|_| bulk)
                .map(|least| least.max(config.bulk_threshold_bytes)),
        };
        let data_receives = self.hello.receives - CONTROL_RECEIVES;
        let receiver = Receiver {
            ring: rings.receive,
            credits: ReceiveCredits::new(ring_bytes, u64::from(data_receives)),
            arrived: VecDeque::with_capacity(data_receives as usize),
            scratch: Vec::new(),
            burst_bytes: 0,
            burst_position: 0,
            in_ring: false,
            long_frame_bytes: config.long_frame_bytes,
            cursor: 0,
            receives_posted: u64::from(self.hello.receives),
            receives_due: 0,
            credit_due: false,
            drained: false,
            receive_batch: u64::from(data_receives / 8).clamp(1, RECEIVE_BATCH),
            wanted: None,
            answered_bursts: 0,
            max_pull_bytes: self.hello.max_pull_bytes,
            want_pull: None,
            finished: VecDeque::new(),
        };
        let reads = config.reads_in_flight.min(caps.reads_in_flight);
        Ok(RingLink {
            pulls: Pulls::new(config.read_piece_bytes, reads, config.pulls_in_flight),
            bulk_out: BulkSendPool::new(config.send_pool),
            pull_pool: PullPool::new(config.receive_pool),
            transport: config.transport,
            peer: self.config.peer,
            sender,
            receiver,
            ending: Ending::default(),
            read_was_last: false,
            waits_in_set: false,
            starved: false,
            device_full: false,
            queue_pair: self.queue_pair,
            liveness: self.liveness,
            liveness_waker: StandingWaker::default(),
        })
    }
}

/// `ring` is what this side has registered, and told the peer of in `own`.
fn rings<Q: QueuePair>(
    queue_pair: &mut Q,
    ring: Q::Region,
    own: &Hello,
    peer: &Hello,
    ring_bytes: usize,
) -> Result<Rings<Q::Region>, LinkError> {
    if own.viewed != peer.viewed {
        return Err(LinkError::misbehaved(format!(
            "ring hello, byte 6: the peer's ring is {}, and this side's is {}",
            whose(peer.viewed),
            whose(own.viewed)
        )));
    }
    if own.viewed {
        let receive = queue_pair.view(peer.ring, ring_bytes).map_err(|e| verb_failed(&e))?;
        return Ok(Rings { staging: ring, to: None, receive });
    }
    let staging = queue_pair.register(ring_bytes, Access::Local).map_err(|e| verb_failed(&e))?;
    Ok(Rings { staging, to: Some(peer.ring), receive: ring })
}

fn whose(viewed: bool) -> &'static str {
    if viewed { "its sender's, to be viewed" } else { "its receiver's, to be written" }
}
