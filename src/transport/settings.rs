//! What the configuration means to each layer below.

use std::time::Duration;

use rdma_rpc_core::server::ConnectionConfig;
use rdma_rpc_core::session::SessionConfig;
use rdma_rpc_core::{Progress, ProgressMode};
use rdma_rpc_transport_rdma::ibv::{IbvConfig, PathMtu, Wish};
use rdma_rpc_transport_rdma::ring::{PoolLimits, RingConfig};
use rdma_rpc_transport_rdma::shm;
use rdma_rpc_transport_tcp::{BootstrapOptions, Keepalive, SocketOptions, TcpLinkOptions};

use crate::config;

/// Buffers a bulk pool may have; its bytes are configured.
const POOL_BUFFERS: usize = 256;

/// Long frames of shared memory under way on a connection: four of 64 KiB. With more than that they no
/// longer stay in a core's cache, and pulls are as fast or faster.
const CACHED_FRAMES_BYTES: usize = 264 << 10;

/// Bytes of a long message that are pulled by one READ.
const READ_PIECE_BYTES: usize = 128 << 10;

/// The settings of one end.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    session: SessionConfig,
    shm: config::ShmConfig,
    rdma: config::RdmaConfig,
    /// Of a connection on a socket.
    on_socket: Progress,
    pub(super) bootstrap: BootstrapOptions,
    pub(super) tcp: TcpLinkOptions,
    pub(super) transports: Vec<config::Transport>,
}

fn progress(mode: config::Progress, spin_us: u64) -> Progress {
    let mode = match mode {
        config::Progress::Busy => ProgressMode::Busy,
        config::Progress::Adaptive => ProgressMode::Adaptive,
        config::Progress::Event => ProgressMode::Event,
    };
    Progress { mode, spin: Duration::from_micros(spin_us) }
}

impl Settings {
    pub(super) fn of_client(config: &config::ClientConfig) -> Settings {
        let mut settings = Settings::of(
            &config.limits,
            &config.keepalive,
            &config.shm,
            &config.rdma,
            &config.tcp,
            &config.transports,
            config.handshake_timeout_ms,
        );
        settings.bootstrap.connect_timeout = Duration::from_millis(config.connect_timeout_ms);
        settings
    }

    pub(super) fn of_server(config: &config::ServerConfig) -> Settings {
        Settings::of(
            &config.limits,
            &config.keepalive,
            &config.shm,
            &config.rdma,
            &config.tcp,
            &config.transports,
            config.handshake_timeout_ms,
        )
    }

    fn of(
        limits: &config::LimitsConfig,
        keepalive: &config::KeepaliveConfig,
        shm: &config::ShmConfig,
        rdma: &config::RdmaConfig,
        tcp: &config::TcpConfig,
        transports: &[config::Transport],
        handshake_timeout_ms: u64,
    ) -> Settings {
        let keepalive_interval = Duration::from_millis(keepalive.interval_ms);
        let keepalive_timeout = Duration::from_millis(keepalive.timeout_ms);
        let mut socket = SocketOptions::default();
        socket.keepalive =
            Some(Keepalive { interval: keepalive_interval, timeout: keepalive_timeout });
        socket.send_buffer_bytes = tcp.send_buffer_bytes;
        socket.receive_buffer_bytes = tcp.receive_buffer_bytes;
        socket.local_address = tcp.local_address;
        let mut link = TcpLinkOptions::default();
        link.max_frame_bytes = tcp.max_frame_bytes;
        link.staging_bytes = tcp.staging_bytes;
        link.max_owned_bytes = tcp.max_owned_bytes;
        Settings {
            session: SessionConfig {
                max_streams: limits.max_concurrent_streams,
                window_bytes: limits.stream_window_bytes as u64,
                max_message_bytes: limits.max_message_bytes,
                max_buffered_bytes: limits.max_buffered_bytes as u64,
                keepalive_interval,
                keepalive_timeout,
            },
            shm: shm.clone(),
            rdma: rdma.clone(),
            bootstrap: BootstrapOptions {
                handshake_timeout: Duration::from_millis(handshake_timeout_ms),
                max_frame_bytes: tcp.max_frame_bytes,
                socket,
                ..BootstrapOptions::default()
            },
            on_socket: progress(tcp.progress, tcp.spin_us),
            tcp: link,
            transports: transports.to_vec(),
        }
    }

    pub(super) fn allows(&self, transport: config::Transport) -> bool {
        self.transports.contains(&transport)
    }

    /// A connection on a socket.
    pub(super) fn on_socket(&self) -> ConnectionConfig {
        ConnectionConfig { session: self.session, progress: self.on_socket }
    }

    /// A connection on a ring in shared memory.
    pub(super) fn on_shm(&self) -> ConnectionConfig {
        let progress = progress(self.shm.progress, self.shm.spin_us);
        ConnectionConfig { session: self.session, progress }
    }

    /// A connection on a ring over a verbs device.
    pub(super) fn on_rdma(&self) -> ConnectionConfig {
        let progress = progress(self.rdma.progress, self.rdma.spin_us);
        ConnectionConfig { session: self.session, progress }
    }

    pub(super) fn shm_device(&self) -> shm::ShmConfig {
        shm::ShmConfig {
            direct_reads: self.shm.direct_reads,
            // With more than the ring posts, the completion ring is only longer.
            receive_depth: ring(self.shm.bulk_pool_bytes).receive_depth,
            ..Default::default()
        }
    }

    pub(super) fn shm_ring(&self, peer: &str) -> RingConfig {
        let ring = ring(self.shm.bulk_pool_bytes);
        RingConfig {
            transport: "shm",
            peer: peer.to_owned(),
            ring_bytes: self.shm.ring_bytes,
            bulk_threshold_bytes: self.shm.bulk_threshold_bytes,
            cached_frames_bytes: CACHED_FRAMES_BYTES.min(self.shm.ring_bytes / 2),
            ..ring
        }
    }

    pub(super) fn rdma_ring(&self, peer: &str) -> RingConfig {
        let ring = ring(self.rdma.bulk_pool_bytes);
        RingConfig {
            transport: "rdma",
            peer: peer.to_owned(),
            ring_bytes: self.rdma.ring_bytes,
            bulk_threshold_bytes: self.rdma.bulk_threshold_bytes,
            receive_depth: self.rdma.queue_depth,
            // A READ that has lost a packet begins again, and devices count that against its
            // retries even if it got further: with 1 MiB, 256 packets, one packet lost in a
            // hundred ended connections on Soft-RoCE.
            read_piece_bytes: READ_PIECE_BYTES,
            ..ring
        }
    }

    /// The verbs device.
    pub(super) fn ibv(&self) -> IbvConfig {
        let rdma = &self.rdma;
        let wish = Wish {
            device: (rdma.device != "auto").then(|| rdma.device.clone()),
            port: rdma.port,
            gid_index: rdma.gid_index.map(u32::from),
            address: rdma.address,
            mtu: rdma.mtu_bytes.and_then(PathMtu::within),
        };
        IbvConfig {
            wish,
            send_depth: rdma.queue_depth,
            receive_depth: rdma.queue_depth,
            ack_timeout: rdma.ack_timeout,
            retry_count: rdma.retry_count,
            service_level: rdma.service_level,
            traffic_class: rdma.traffic_class,
            memory_bytes: rdma.memory_bytes,
            lends_from_bytes: rdma.direct_reads_from_bytes,
            ..IbvConfig::default()
        }
    }
}

/// A ring with bulk pools of so many bytes each way.
fn ring(bulk_pool_bytes: usize) -> RingConfig {
    let pool = PoolLimits {
        max_bytes: bulk_pool_bytes,
        max_idle_bytes: bulk_pool_bytes / 8,
        max_buffers: POOL_BUFFERS,
    };
    RingConfig {
        // Buffers come in powers of two, and one message must not take the whole pool.
        max_bulk_bytes: 1 << (bulk_pool_bytes.ilog2() - 1),
        send_pool: pool,
        receive_pool: pool,
        ..RingConfig::default()
    }
}
