//! What every example needs besides its service: the two options that name an address, and logs.
//!
//! An address is looked for in this order: the option (`--listen`, `--target`), the environment
//! (`RDMA_RPC_LISTEN`, `RDMA_RPC_TARGET`), the TOML file named by `RDMA_RPC_CONFIG`, the example's
//! default. Everything else in the file and the environment (transports, limits, progress) holds
//! too, so that changing the transport never needs a rebuild.

use std::error::Error;
use std::io::{self, IsTerminal};
use std::process::ExitCode;

use rdma_rpc::Status;
use rdma_rpc::config::{ClientConfig, ConfigError, ListenAddress, ServerConfig, Target};
use tokio::signal::unix::{SignalKind, signal};
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

/// The options of a server.
#[derive(Debug, Clone, clap::Args)]
pub struct ListenOptions {
    /// Where to listen: host:port (port 0: any that is free) or unix:/path; may be repeated
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<ListenAddress>,
}

impl ListenOptions {
    /// Lays the file, the environment and the options over what the example starts from.
    ///
    /// # Errors
    /// For a file or variable that makes no sense.
    pub fn over(self, base: ServerConfig) -> Result<ServerConfig, ConfigError> {
        let config = base.resolve()?;
        Ok(if self.listen.is_empty() { config } else { config.listen(self.listen) })
    }
}

/// The options of a client.
#[derive(Debug, Clone, clap::Args)]
pub struct TargetOptions {
    /// What to connect to: auto://host:port, shm://.., tcp://.., rdma://.. or unix:/path
    #[arg(long)]
    target: Option<Target>,
}

impl TargetOptions {
    /// Lays the file, the environment and the options over what the example starts from.
    ///
    /// # Errors
    /// For a file or variable that makes no sense.
    pub fn over(self, base: ClientConfig) -> Result<ClientConfig, ConfigError> {
        let config = base.resolve()?;
        Ok(match self.target {
            Some(target) => config.target(target),
            None => config,
        })
    }
}

/// Logs go to standard error: warnings, or what `RUST_LOG` asks for (`info`, `rdma_rpc=debug`).
/// They have colours on a terminal only.
pub fn init_logs() {
    let wanted = std::env::var("RUST_LOG").unwrap_or_default();
    let (levels, bad) = match wanted.parse::<Targets>() {
        Ok(levels) if !wanted.is_empty() => (levels, None),
        parsed => (Targets::new().with_default(Level::WARN), parsed.err()),
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    tracing_subscriber::registry().with(lines.with_filter(levels)).init();
    if let Some(error) = bad {
        tracing::warn!(%error, "RUST_LOG makes no sense and is not used");
    }
}

/// Ready at ctrl-c (SIGINT) or when asked to terminate (SIGTERM): finish what is open and go.
///
/// Both signals are caught from the call on, not from the first poll: call it before telling
/// anybody that the server is there, for who is told may stop it at once.
///
/// # Errors
/// For signals that cannot be caught.
pub fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Success, or the error in one line on standard error and failure.
pub fn exit_code(program: &str, result: Result<(), Box<dyn Error>>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            match error.downcast_ref::<Status>() {
                Some(status) => eprintln!("{program}: {:?}: {}", status.code(), status.message()),
                None => eprintln!("{program}: {error}"),
            }
            ExitCode::FAILURE
        }
    }
}
