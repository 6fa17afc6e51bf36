//! What the configuration means to each layer below.

use std::time::Duration;

use rdma_rpc_core::server::ConnectionConfig;
use rdma_rpc_core::session::SessionConfig;
use rdma_rpc_core::{Progress, ProgressMode};
use rdma_rpc_transport_rdma::ring::{PoolLimits, RingConfig};
use rdma_rpc_transport_tcp::{BootstrapOptions, Keepalive, SocketOptions, TcpLinkOptions};

use crate::config;

/// Buffers a bulk pool may have; its bytes are configured.
const POOL_BUFFERS: usize = 256;

/// The settings of one end.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    session: SessionConfig,
    shm: config::ShmConfig,
    pub(super) bootstrap: BootstrapOptions,
    pub(super) tcp: TcpLinkOptions,
    pub(super) transports: Vec<config::Transport>,
}

impl Settings {
    pub(super) fn of_client(config: &config::ClientConfig) -> Settings {
        let mut settings = Settings::of(
            &config.limits,
            &config.keepalive,
            &config.shm,
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
            &config.tcp,
            &config.transports,
            config.handshake_timeout_ms,
        )
    }

    fn of(
        limits: &config::LimitsConfig,
        keepalive: &config::KeepaliveConfig,
        shm: &config::ShmConfig,
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
            bootstrap: BootstrapOptions {
                handshake_timeout: Duration::from_millis(handshake_timeout_ms),
                max_frame_bytes: tcp.max_frame_bytes,
                socket,
                ..BootstrapOptions::default()
            },
            tcp: link,
            transports: transports.to_vec(),
        }
    }

    pub(super) fn allows(&self, transport: config::Transport) -> bool {
        self.transports.contains(&transport)
    }

    /// A connection on a socket: polling a socket is a system call each time, so it sleeps.
    pub(super) fn on_socket(&self) -> ConnectionConfig {
        ConnectionConfig { session: self.session, progress: Progress::EVENT }
    }

    /// A connection on a ring in shared memory.
    pub(super) fn on_shm(&self) -> ConnectionConfig {
        let mode = match self.shm.progress {
            config::Progress::Busy => ProgressMode::Busy,
            config::Progress::Adaptive => ProgressMode::Adaptive,
            config::Progress::Event => ProgressMode::Event,
        };
        let spin = Duration::from_micros(self.shm.spin_us);
        ConnectionConfig { session: self.session, progress: Progress { mode, spin } }
    }

    pub(super) fn shm_ring(&self, peer: &str) -> RingConfig {
        let pool = PoolLimits {
            max_bytes: self.shm.bulk_pool_bytes,
            max_idle_bytes: self.shm.bulk_pool_bytes / 8,
            max_buffers: POOL_BUFFERS,
        };
        RingConfig {
            transport: "shm",
            peer: peer.to_owned(),
            ring_bytes: self.shm.ring_bytes,
            bulk_threshold_bytes: self.shm.bulk_threshold_bytes,
            // Buffers come in powers of two, and one message must not take the whole pool.
            max_bulk_bytes: 1 << (self.shm.bulk_pool_bytes.ilog2() - 1),
            send_pool: pool,
            receive_pool: pool,
            ..RingConfig::default()
        }
    }
}
