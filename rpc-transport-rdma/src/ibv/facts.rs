//! What a device says of itself, as plain data: recorded once when it is opened, and written by
//! hand in tests.

use super::address::{Gid, Network, PathMtu};

/// Soft-iWARP's vendor number ("bmt").
pub(super) const SIW_VENDOR: u32 = 0x0062_6D74;

/// A device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DeviceFacts {
    /// The kernel's name for it, such as `mlx5_0`.
    pub(super) name: String,
    /// Whether it speaks iWARP.
    pub(super) iwarp: bool,
    /// The vendor's number.
    pub(super) vendor_id: u32,
    /// Its limits.
    pub(super) limits: DeviceLimits,
    /// Its ports.
    pub(super) ports: Vec<PortFacts>,
}

/// What a device can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DeviceLimits {
    /// Work requests in a queue.
    pub(super) max_qp_wr: u32,
    /// Completions in a completion queue.
    pub(super) max_cqe: u32,
    /// Bytes of one memory region.
    pub(super) max_mr_bytes: u64,
    /// READs that peers may have in flight at one queue pair of ours.
    pub(super) max_reads_responder: u8,
    /// READs that one queue pair of ours may have in flight.
    pub(super) max_reads_initiator: u8,
}

/// What a port says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PortState {
    /// Ready.
    Active,
    /// Anything else; the verbs' number.
    Down(u32),
}

/// What a port runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkLayer {
    /// InfiniBand.
    InfiniBand,
    /// Ethernet: RoCE or iWARP.
    Ethernet,
}

/// A port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PortFacts {
    /// Its number; the first is 1.
    pub(super) number: u8,
    /// Its state.
    pub(super) state: PortState,
    /// What it runs on.
    pub(super) link_layer: LinkLayer,
    /// Its LID.
    pub(super) lid: u16,
    /// The largest packet it carries now.
    pub(super) active_mtu: PathMtu,
    /// Its table of GIDs, without the empty entries.
    pub(super) gids: Vec<GidFacts>,
}

/// One entry of a port's table of GIDs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GidFacts {
    /// Its place in the table.
    pub(super) index: u32,
    /// The GID.
    pub(super) gid: Gid,
    /// What it is good for. Never [`Network::Iwarp`]: an iWARP port is found by its IP address.
    pub(super) network: Network,
}

impl DeviceFacts {
    /// Whether READs may land in memory that the peer cannot write.
    ///
    /// On iWARP the place where a READ lands is named to the peer (RFC 5040, section 4.4), and
    /// devices other than Soft-iWARP demand that it be registered for remote writing. A message
    /// that its sender may still change must not be decoded in place, so on those devices long
    /// messages go through the ring.
    pub(super) fn has_private_reads(&self) -> bool {
        !self.iwarp || self.is_soft_iwarp()
    }

    /// READs one queue pair may have in flight each way, where the device can do less than it
    /// says. Soft-iWARP (seen on Linux 6.1) loses READs for ever when several are under way in
    /// both directions among WRITEs and SENDs: six of twelve runs hung with two, none with one.
    pub(super) fn most_reads(&self) -> u8 {
        if self.is_soft_iwarp() { 1 } else { u8::MAX }
    }

    fn is_soft_iwarp(&self) -> bool {
        self.iwarp && self.vendor_id == SIW_VENDOR
    }
}
