//! Configuration: from code, from a TOML file, from the environment.
//!
//! Each later source replaces what the earlier ones said, key by key:
//!
//! ```text
//!   code  <  file  <  environment
//! ```
//!
//! [`ClientConfig::resolve`] and [`ServerConfig::resolve`] do all three: they start with the value
//! made in code, lay the file named by `RDMA_RPC_CONFIG` over it (if it is set), then the other
//! variables. `load` reads one file over the defaults, `from_env` is `resolve` on the defaults.
//!
//! ```toml
//! target = "auto://kv.internal:7400"     # client: auto | rdma | shm | tcp, or unix:/path
//! # listen = ["0.0.0.0:7400"]            # server instead of target
//! transports = ["rdma", "shm", "tcp"]    # those allowed
//! workers = 0                            # server: threads of its own; 0: the caller's runtime
//! pin_workers = false                    # server: each on a CPU of its own
//! connect_timeout_ms = 5000              # client
//! handshake_timeout_ms = 5000
//! [keepalive]
//! interval_ms = 10000
//! timeout_ms = 20000
//! [limits]
//! max_message_bytes = "4MiB"             # sizes: bytes, or text with KiB, MiB, GiB
//! [rdma]
//! device = "auto"
//! progress = "adaptive"                  # busy | adaptive | event
//! spin_us = 50
//! ```
//!
//! | variable | key |
//! |---|---|
//! | `RDMA_RPC_CONFIG` | path of a file |
//! | `RDMA_RPC_TARGET` | `target` (client) |
//! | `RDMA_RPC_LISTEN` | `listen`, separated by commas (server) |
//! | `RDMA_RPC_TRANSPORTS` | `transports`, separated by commas |
//! | `RDMA_RPC_CONNECT_TIMEOUT_MS` | `connect_timeout_ms` (client) |
//! | `RDMA_RPC_HANDSHAKE_TIMEOUT_MS` | `handshake_timeout_ms` |
//! | `RDMA_RPC_WORKERS` | `workers` (server) |
//! | `RDMA_RPC_PIN_WORKERS` | `pin_workers`: `true` or `false` (server) |
//! | `RDMA_RPC_MAX_MESSAGE_BYTES` | `limits.max_message_bytes` |
//! | `RDMA_RPC_MAX_SEND_MESSAGE_BYTES` | `limits.max_send_message_bytes` |
//! | `RDMA_RPC_LOCAL_ADDRESS` | `tcp.local_address` |
//! | `RDMA_RPC_DEVICE` | `rdma.device` |
//! | `RDMA_RPC_PROGRESS` | `rdma.progress`, `shm.progress` and `tcp.progress` |
//! | `RDMA_RPC_SPIN_US` | `rdma.spin_us`, `shm.spin_us` and `tcp.spin_us` |
//! | `RDMA_RPC_DIRECT_READS` | `shm.direct_reads`: `true` or `false` |
//!
//! Empty variables count as not set. Client variables do not concern a server, nor the other way
//! round.

mod client;
mod error;
mod layers;
mod sections;
mod server;
mod target;
mod values;

pub use client::ClientConfig;
pub use error::ConfigError;
pub use sections::{KeepaliveConfig, LimitsConfig, RdmaConfig, ShmConfig, TcpConfig};
pub use server::ServerConfig;
pub use target::{ListenAddress, Scheme, Target};
pub use values::{Progress, Transport};
