//! What can be set about a queue pair on a verbs device.

use std::time::Duration;

use super::address::PathMtu;
use super::choose::Wish;

/// What can be set about a queue pair on a verbs device, and which device it is on.
#[derive(Debug, Clone)]
pub struct IbvConfig {
    /// Which device, port and GID.
    pub wish: Wish,
    /// Work requests the send queue holds. A device that holds fewer gets as many as it holds.
    pub send_depth: u32,
    /// Receives the receive queue holds.
    pub receive_depth: u32,
    /// Bytes that shall fit into a work request itself; a device that cannot gets none.
    pub inline_bytes: u32,
    /// READs in flight each way, at most; the devices' own limits hold too.
    pub reads_in_flight: u8,
    /// Local ACK timeout, 4.096 us times two to the power of this; 1 to 31 (InfiniBand
    /// Architecture Specification 1.4, section 9.7.6.1.3).
    pub ack_timeout: u8,
    /// How often a request is sent again without an answer; 0 to 7. Soft-RoCE takes 7 for ever.
    pub retry_count: u8,
    /// How often a request is sent again to a receiver that is not ready; 0 to 6 (7 would be for
    /// ever, and hide that credit was miscounted).
    pub rnr_retry: u8,
    /// InfiniBand service level, 0 to 15; the priority on RoCE v1.
    pub service_level: u8,
    /// Traffic class of the global route header: DSCP and ECN of RoCE v2.
    pub traffic_class: u8,
    /// Hops a packet may take (RoCE v2, InfiniBand between subnets).
    pub hop_limit: u8,
    /// Registered memory of the device's pool at most, in bytes. The first to open a device in a
    /// process decides.
    pub memory_bytes: usize,
    /// A message in a [`BulkBuffer`](crate::BulkBuffer), or that was pulled from a connection of this
    /// device, is registered where it lies while the peer pulls it, and not copied, if it is at least
    /// so long.
    pub lends_from_bytes: usize,
}

impl Default for IbvConfig {
    fn default() -> IbvConfig {
        IbvConfig {
            wish: Wish::default(),
            send_depth: 256,
            receive_depth: 256,
            inline_bytes: 64,
            reads_in_flight: 16,
            ack_timeout: 14,
            retry_count: 6,
            rnr_retry: 6,
            service_level: 0,
            traffic_class: 0,
            hop_limit: 64,
            memory_bytes: 4 << 30,
            lends_from_bytes: 256 << 10,
        }
    }
}

impl IbvConfig {
    /// The longest a device may take to give a peer up: an answer is late after up to four times
    /// the timeout (InfiniBand Architecture Specification 1.4, section 9.7.6.1.3), once and once
    /// for each retry. Bounded both ways: not every device has timeouts.
    pub(super) fn retries_bound(&self) -> Duration {
        let late = Duration::from_nanos(4096 << u32::from(self.ack_timeout.min(31))) * 4;
        let bound = late * (u32::from(self.retry_count) + 1);
        bound.clamp(Duration::from_secs(1), Duration::from_secs(30))
    }
}

/// Everything RTR and RTS need to know of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) port: u8,
    pub(super) gid_index: u8,
    pub(super) mtu: PathMtu,
    pub(super) remote: super::address::Endpoint,
    pub(super) service_level: u8,
    pub(super) traffic_class: u8,
    pub(super) hop_limit: u8,
}
