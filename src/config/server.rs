//! A server's configuration.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::client::setters;
use super::layers::{self, Layered};
use super::sections::{
    KeepaliveConfig, LimitsConfig, MAX_TIMEOUT_MS, RdmaConfig, ShmConfig, TcpConfig,
    check_transports, within,
};
use super::values::listen;
use super::{ConfigError, ListenAddress, Transport};

/// The most workers a server may have.
const MAX_WORKERS: u64 = 1024;

/// A server's configuration; see the [module](super) for its sources.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ServerConfig {
    /// Where to listen: one address or a list.
    #[serde(deserialize_with = "listen")]
    pub listen: Vec<ListenAddress>,
    /// The transports that may be used. Default all. Without `tcp`, clients for whom nothing
    /// else works are turned away, and told why.
    pub transports: Vec<Transport>,
    /// How long a client's handshake may take. Default 5000.
    pub handshake_timeout_ms: u64,
    /// Threads that serve connections, each connection on one of them for life; 0: connections
    /// are served in the runtime the server is started in. Default 0.
    pub workers: u32,
    /// Whether each worker stays on a CPU of its own, of those the process may use. Default no.
    pub pin_workers: bool,
    /// `[keepalive]`
    pub keepalive: KeepaliveConfig,
    /// `[limits]`
    pub limits: LimitsConfig,
    /// `[rdma]`
    pub rdma: RdmaConfig,
    /// `[shm]`
    pub shm: ShmConfig,
    /// `[tcp]`
    pub tcp: TcpConfig,
}

impl Default for ServerConfig {
    fn default() -> Self {
        ServerConfig {
            listen: Vec::new(),
            transports: vec![Transport::Rdma, Transport::Shm, Transport::Tcp],
            handshake_timeout_ms: 5000,
            workers: 0,
            pin_workers: false,
            keepalive: KeepaliveConfig::default(),
            limits: LimitsConfig::default(),
            rdma: RdmaConfig::default(),
            shm: ShmConfig::default(),
            tcp: TcpConfig::default(),
        }
    }
}

impl Layered for ServerConfig {
    fn knows(key: &str) -> bool {
        !matches!(key, "target" | "connect_timeout_ms")
    }

    fn check(&self) -> Result<(), ConfigError> {
        check_transports(&self.transports)?;
        within("handshake_timeout_ms", self.handshake_timeout_ms, 1, MAX_TIMEOUT_MS)?;
        within("workers", u64::from(self.workers), 0, MAX_WORKERS)?;
        if self.pin_workers && self.workers == 0 {
            let text = "there are no workers to pin: set workers to their number";
            return Err(ConfigError::new(text).with_key("pin_workers"));
        }
        self.keepalive.check()?;
        self.limits.check()?;
        self.rdma.check()?;
        self.shm.check()?;
        self.tcp.check()
    }
}

impl ServerConfig {
    /// The defaults, with one address to listen on.
    pub fn new(listen: ListenAddress) -> ServerConfig {
        ServerConfig { listen: vec![listen], ..ServerConfig::default() }
    }

    /// Reads a file over the defaults.
    ///
    /// # Errors
    /// If it cannot be read, a key is unknown, or a value is out of its range.
    pub fn load(path: impl AsRef<Path>) -> Result<ServerConfig, ConfigError> {
        layers::over_file(ServerConfig::default(), path.as_ref())
    }

    /// Reads the text of a file over the defaults.
    ///
    /// # Errors
    /// As [`ServerConfig::load`].
    pub fn from_toml(text: &str) -> Result<ServerConfig, ConfigError> {
        layers::over_text(ServerConfig::default(), text)
    }

    /// The defaults, the file and the variables of the environment.
    ///
    /// # Errors
    /// As [`ServerConfig::load`], naming the variable.
    pub fn from_env() -> Result<ServerConfig, ConfigError> {
        ServerConfig::default().resolve()
    }

    /// This value, then the environment's file, then its variables.
    ///
    /// # Errors
    /// As [`ServerConfig::load`], naming the variable.
    pub fn resolve(self) -> Result<ServerConfig, ConfigError> {
        layers::resolve(self, &layers::process_variable)
    }

    /// Whether all values are in their ranges.
    ///
    /// # Errors
    /// Names the first key that is not, its value and the range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.check()
    }
}

setters!(ServerConfig {
    /// Sets the addresses to listen on.
    listen: Vec<ListenAddress> => std::convert::identity;
    /// Sets the transports that may be used.
    transports: Vec<Transport> => std::convert::identity;
    /// Sets the handshake timeout.
    handshake_timeout_ms: u64 => std::convert::identity;
    /// Sets the number of workers; 0 for none.
    workers: u32 => std::convert::identity;
    /// Sets whether each worker stays on a CPU of its own.
    pin_workers: bool => std::convert::identity;
    /// Sets the keepalive section.
    keepalive: KeepaliveConfig => std::convert::identity;
    /// Sets the limits.
    limits: LimitsConfig => std::convert::identity;
    /// Sets the rdma section.
    rdma: RdmaConfig => std::convert::identity;
    /// Sets the shm section.
    shm: ShmConfig => std::convert::identity;
    /// Sets the tcp section.
    tcp: TcpConfig => std::convert::identity;
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_is_one_address_or_a_list() {
        let one = ServerConfig::from_toml("listen = \"0.0.0.0:7400\"").unwrap();
        assert_eq!(one, ServerConfig::new("0.0.0.0:7400".parse().unwrap()));
        let two = ServerConfig::from_toml("listen = [\"[::]:7400\", \"unix:/run/kv.sock\"]");
        assert_eq!(two.unwrap().listen.len(), 2);
        for text in ["listen = 7400", "\nlisten = [\"kv\"]", "target = \"tcp://a:1\""] {
            let error = ServerConfig::from_toml(text).unwrap_err();
            assert!(error.line().is_some() && error.key().is_some(), "{error}");
        }
    }

    #[test]
    fn the_environment_lists_addresses_with_commas() {
        let vars = |name: &str| {
            Ok((name == "RDMA_RPC_LISTEN").then(|| "0.0.0.0:1, unix:/run/s".to_string()))
        };
        let config = layers::resolve(ServerConfig::default(), &vars).unwrap();
        assert_eq!(config.listen.len(), 2);
        assert_eq!(config.listen[1], "unix:/run/s".parse().unwrap());
    }

    #[test]
    fn workers_come_from_the_file_and_the_environment() {
        let config = ServerConfig::from_toml("workers = 4\npin_workers = true").unwrap();
        assert_eq!((config.workers, config.pin_workers), (4, true));
        for (text, line, want) in [
            ("\npin_workers = true", 2, "no workers to pin"),
            ("workers = 5000", 1, "0 to 1024"),
            ("workers = -1", 1, "workers"),
        ] {
            let error = ServerConfig::from_toml(text).unwrap_err();
            assert!(error.line() == Some(line) && error.to_string().contains(want), "{error}");
        }
        let resolve = |pin: &'static str| {
            layers::resolve(ServerConfig::default(), &move |name: &str| {
                Ok(match name {
                    "RDMA_RPC_WORKERS" => Some("3".to_string()),
                    "RDMA_RPC_PIN_WORKERS" => Some(pin.to_string()),
                    _ => None,
                })
            })
        };
        assert_eq!(resolve("false").unwrap(), ServerConfig::default().workers(3));
        assert!(resolve("true").unwrap().pin_workers);
        let error = resolve("yes").unwrap_err().to_string();
        assert!(
            error.contains("RDMA_RPC_PIN_WORKERS") && error.contains("true or false"),
            "{error}"
        );
    }
}
