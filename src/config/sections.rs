//! The sections a client's and a server's configuration share, and the ranges of their keys.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::values::{Progress, size, some_size};
use super::{ConfigError, Transport};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;
/// More than a second is `busy`.
const MAX_SPIN_US: u64 = 1_000_000;

/// The longest timeout, in milliseconds: one day.
pub(super) const MAX_TIMEOUT_MS: u64 = 24 * 3600 * 1000;

/// A range check that names key, value and range.
pub(super) fn within(key: &str, value: u64, min: u64, max: u64) -> Result<(), ConfigError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(ConfigError::new(format!("{value} is out of range: {min} to {max} are allowed"))
        .with_key(key))
}

fn bytes_within(key: &str, value: usize, min: usize, max: usize) -> Result<(), ConfigError> {
    within(key, value as u64, min as u64, max as u64)
}

pub(super) fn check_transports(transports: &[Transport]) -> Result<(), ConfigError> {
    if transports.is_empty() {
        return Err(ConfigError::new("the list is empty: name at least one of rdma, shm, tcp")
            .with_key("transports"));
    }
    for (i, transport) in transports.iter().enumerate() {
        if transports[..i].contains(transport) {
            return Err(
                ConfigError::new(format!("{transport:?} is named twice")).with_key("transports")
            );
        }
    }
    Ok(())
}

/// `[keepalive]`: when a silent peer counts as gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeepaliveConfig {
    /// How long a connection may be idle before it is probed. Default 10000.
    pub interval_ms: u64,
    /// How long the peer may leave that unanswered. Default 20000.
    pub timeout_ms: u64,
}

impl Default for KeepaliveConfig {
    fn default() -> Self {
        KeepaliveConfig { interval_ms: 10_000, timeout_ms: 20_000 }
    }
}

impl KeepaliveConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        within("keepalive.interval_ms", self.interval_ms, 100, MAX_TIMEOUT_MS)?;
        within("keepalive.timeout_ms", self.timeout_ms, 100, MAX_TIMEOUT_MS)
    }
}

/// `[limits]`: what one connection, and one process, may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// The longest message received. Default 4 MiB.
    #[serde(deserialize_with = "size")]
    pub max_message_bytes: usize,
    /// The longest message sent. Default 1 GiB.
    #[serde(deserialize_with = "size")]
    pub max_send_message_bytes: usize,
    /// Calls open at once on one connection. Default 16384.
    pub max_concurrent_streams: u32,
    /// Bytes one stream may have under way before its reader asks for more. Default 256 KiB.
    #[serde(deserialize_with = "size")]
    pub stream_window_bytes: usize,
    /// Connections a server takes at once. Default 10000. Of the clients beyond them 64 at a time
    /// are told so, each within the handshake timeout; if there are more, the server hangs up.
    pub max_connections: u32,
    /// Bytes of messages one connection may buffer. Default 512 MiB.
    #[serde(deserialize_with = "size")]
    pub max_buffered_bytes: usize,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        LimitsConfig {
            max_message_bytes: 4 * MIB,
            max_send_message_bytes: GIB,
            max_concurrent_streams: 16 * 1024,
            stream_window_bytes: 256 * KIB,
            max_connections: 10_000,
            max_buffered_bytes: 512 * MIB,
        }
    }
}

impl LimitsConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let max = GIB;
        bytes_within("limits.max_message_bytes", self.max_message_bytes, 1, max)?;
        bytes_within("limits.max_send_message_bytes", self.max_send_message_bytes, 1, max)?;
        let streams = u64::from(self.max_concurrent_streams);
        within("limits.max_concurrent_streams", streams, 1, 1 << 20)?;
        bytes_within("limits.stream_window_bytes", self.stream_window_bytes, 64 * KIB, max)?;
        within("limits.max_connections", u64::from(self.max_connections), 1, 1 << 20)?;
        bytes_within("limits.max_buffered_bytes", self.max_buffered_bytes, 64 * KIB, 16 * GIB)
    }
}

/// `[rdma]`: rings over a RDMA device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RdmaConfig {
    /// The device's name, such as `mlx5_0`, or `auto`: the one on the route to the peer.
    pub device: String,
    /// The device's port; not set: the first that is active and fits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u8>,
    /// The local IP address whose device is used; not set: that of the bootstrap connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The place in the port's table of GIDs; not set: by address, RoCE v2 before v1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid_index: Option<u8>,
    /// The largest packet: 256, 512, 1024, 2048 or 4096; not set: the largest both ports carry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu_bytes: Option<u32>,
    /// InfiniBand service level, or the priority on RoCE v1. Default 0.
    pub service_level: u8,
    /// DSCP and ECN bits of RoCE v2 packets. Default 0.
    pub traffic_class: u8,
    /// How long a packet may stay unanswered: 4.096 us times two to the power of this. Default 14
    /// (67 ms).
    pub ack_timeout: u8,
    /// How often it is sent again. Default 6; with the default timeout a silent peer is given up
    /// after about a second.
    pub retry_count: u8,
    /// Work requests a queue pair holds, and receives. Default 256.
    pub queue_depth: u32,
    /// Registered memory of the device's pool, at most, for all connections of this process; the
    /// first to use a device decides. Default 4 GiB.
    #[serde(deserialize_with = "size")]
    pub memory_bytes: usize,
    /// How arrivals are noticed. Default adaptive.
    pub progress: Progress,
    /// How long adaptive progress polls before it sleeps. Default 50.
    pub spin_us: u64,
    /// Size of a connection's receive ring. Default 256 KiB.
    #[serde(deserialize_with = "size")]
    pub ring_bytes: usize,
    /// Messages longer than this are pulled instead of sent through the ring. Default 16 KiB.
    #[serde(deserialize_with = "size")]
    pub bulk_threshold_bytes: usize,
    /// Registered memory for long messages, each way, at most; it is taken as it is needed.
    /// Messages of more than half of it travel in pieces. Default 512 MiB.
    #[serde(deserialize_with = "size")]
    pub bulk_pool_bytes: usize,
    /// Long messages that lie in a `BulkBuffer`, or were themselves pulled, and are at least so long
    /// are registered where they are until the peer has them; others are copied to registered
    /// memory. Default 256 KiB.
    #[serde(deserialize_with = "size")]
    pub direct_reads_from_bytes: usize,
}

impl Default for RdmaConfig {
    fn default() -> Self {
        RdmaConfig {
            device: "auto".to_string(),
            port: None,
            address: None,
            gid_index: None,
            mtu_bytes: None,
            service_level: 0,
            traffic_class: 0,
            ack_timeout: 14,
            retry_count: 6,
            queue_depth: 256,
            memory_bytes: 4 * GIB,
            progress: Progress::Adaptive,
            spin_us: 50,
            ring_bytes: 256 * KIB,
            bulk_threshold_bytes: 16 * KIB,
            bulk_pool_bytes: 512 * MIB,
            // By what others have published of cards; not measured here.
            direct_reads_from_bytes: 256 * KIB,
        }
    }
}

impl RdmaConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.device.is_empty() {
            return Err(ConfigError::new("the name is empty: write \"auto\" or a device's name")
                .with_key("rdma.device"));
        }
        if self.port == Some(0) {
            return Err(ConfigError::new("ports are counted from 1").with_key("rdma.port"));
        }
        if let Some(bytes) = self.mtu_bytes
            && ![256, 512, 1024, 2048, 4096].contains(&bytes)
        {
            return Err(ConfigError::new(format!(
                "{bytes} is not an RDMA MTU: 256, 512, 1024, 2048 or 4096"
            ))
            .with_key("rdma.mtu_bytes"));
        }
        within("rdma.service_level", u64::from(self.service_level), 0, 15)?;
        within("rdma.ack_timeout", u64::from(self.ack_timeout), 1, 31)?;
        // Soft-RoCE takes 7 for ever.
        within("rdma.retry_count", u64::from(self.retry_count), 0, 6)?;
        within("rdma.queue_depth", u64::from(self.queue_depth), 16, 16 * 1024)?;
        // Otherwise the longest message that is announced could wait for memory for ever.
        let least = self.bulk_pool_bytes.saturating_add(2 * self.ring_bytes).max(2 * MIB);
        bytes_within("rdma.memory_bytes", self.memory_bytes, least, 1 << 44)?;
        check_ring(
            "rdma",
            self.spin_us,
            self.ring_bytes,
            self.bulk_threshold_bytes,
            self.bulk_pool_bytes,
        )
    }
}

/// `[shm]`: rings in shared memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShmConfig {
    /// How arrivals are noticed. Default adaptive.
    pub progress: Progress,
    /// How long adaptive progress polls before it sleeps. Default 50.
    pub spin_us: u64,
    /// Size of a connection's ring, of which there is one for each direction. Default 1 MiB.
    #[serde(deserialize_with = "size")]
    pub ring_bytes: usize,
    /// Messages longer than this are pulled instead of sent through the ring; those of unary calls
    /// only from three times this on while few of them are under way. Default 24 KiB.
    #[serde(deserialize_with = "size")]
    pub bulk_threshold_bytes: usize,
    /// Shared memory for long messages, each way, at most; it is taken as it is needed.
    /// Messages of more than half of it travel in pieces. Default 512 MiB.
    #[serde(deserialize_with = "size")]
    pub bulk_pool_bytes: usize,
    /// Whether long messages may be read out of one process's memory by the other, without a copy
    /// to shared memory between. It needs both ends, one user, and a kernel that lets a process
    /// read another (Yama's `ptrace_scope` or a seccomp filter may forbid `process_vm_readv`);
    /// where one is missing, messages are copied. Default true.
    pub direct_reads: bool,
}

impl Default for ShmConfig {
    fn default() -> Self {
        let RdmaConfig { progress, spin_us, bulk_pool_bytes, .. } = RdmaConfig::default();
        ShmConfig {
            progress,
            spin_us,
            // Takes memory only where there is traffic for it, unlike a card's.
            ring_bytes: MIB,
            // Up to here two copies by processors that share their caches take less than the system
            // call of a pull, with one call under way and with many.
            bulk_threshold_bytes: 24 * KIB,
            bulk_pool_bytes,
            direct_reads: true,
        }
    }
}

impl ShmConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        check_ring(
            "shm",
            self.spin_us,
            self.ring_bytes,
            self.bulk_threshold_bytes,
            self.bulk_pool_bytes,
        )
    }
}

fn check_ring(
    section: &str,
    spin_us: u64,
    ring: usize,
    threshold: usize,
    pool: usize,
) -> Result<(), ConfigError> {
    within(&format!("{section}.spin_us"), spin_us, 0, MAX_SPIN_US)?;
    let key = format!("{section}.ring_bytes");
    bytes_within(&key, ring, 16 * KIB, GIB)?;
    if !ring.is_power_of_two() {
        return Err(ConfigError::new(format!("{ring} is not a power of two")).with_key(key));
    }
    bytes_within(&format!("{section}.bulk_threshold_bytes"), threshold, KIB, GIB)?;
    bytes_within(&format!("{section}.bulk_pool_bytes"), pool, 2 * threshold.max(32 * KIB), 64 * GIB)
}

/// `[tcp]`: the link over the bootstrap's socket, and that socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TcpConfig {
    /// How arrivals are noticed, on Unix sockets too. Default adaptive.
    pub progress: Progress,
    /// How long adaptive progress polls before it sleeps. Default 50.
    pub spin_us: u64,
    /// The longest frame. Default 1088 KiB: messages of a mebibyte go in one piece.
    #[serde(deserialize_with = "size")]
    pub max_frame_bytes: usize,
    /// The most bytes copied frames may wait in, if one longest frame is not more. Default 256 KiB.
    #[serde(deserialize_with = "size")]
    pub staging_bytes: usize,
    /// The most bytes of messages that wait where they lie. Default 1 MiB.
    #[serde(deserialize_with = "size")]
    pub max_owned_bytes: usize,
    /// The kernel's send buffer; not set: tuned by the kernel.
    #[serde(deserialize_with = "some_size", skip_serializing_if = "Option::is_none")]
    pub send_buffer_bytes: Option<usize>,
    /// The kernel's receive buffer; not set: tuned by the kernel.
    #[serde(deserialize_with = "some_size", skip_serializing_if = "Option::is_none")]
    pub receive_buffer_bytes: Option<usize>,
    /// The address of this host a client connects from, and so the one whose RDMA device it uses;
    /// not set: the route to the server decides. Servers do not use it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_address: Option<IpAddr>,
}

impl Default for TcpConfig {
    fn default() -> Self {
        let RdmaConfig { progress, spin_us, .. } = RdmaConfig::default();
        TcpConfig {
            progress,
            spin_us,
            max_frame_bytes: 1088 * KIB,
            staging_bytes: 256 * KIB,
            max_owned_bytes: MIB,
            send_buffer_bytes: None,
            receive_buffer_bytes: None,
            local_address: None,
        }
    }
}

impl TcpConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        within("tcp.spin_us", self.spin_us, 0, MAX_SPIN_US)?;
        bytes_within("tcp.max_frame_bytes", self.max_frame_bytes, 4 * KIB, 16 * MIB)?;
        bytes_within("tcp.staging_bytes", self.staging_bytes, 4 * KIB, 64 * MIB)?;
        bytes_within("tcp.max_owned_bytes", self.max_owned_bytes, 0, GIB)?;
        for (key, value) in [
            ("tcp.send_buffer_bytes", self.send_buffer_bytes),
            ("tcp.receive_buffer_bytes", self.receive_buffer_bytes),
        ] {
            if let Some(bytes) = value {
                bytes_within(key, bytes, 4 * KIB, GIB)?;
            }
        }
        Ok(())
    }
}
