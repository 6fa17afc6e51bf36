//! What a client connects to and a server listens on, as people write it.

use std::fmt;
use std::str::FromStr;

use rdma_rpc_transport_tcp::Address;
use serde::{Deserialize, Serialize};

use super::ConfigError;

/// Which transport a target demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// The best both ends can do.
    Auto,
    /// RDMA, or a clear failure.
    Rdma,
    /// Shared memory, or a clear failure.
    Shm,
    /// The socket of the bootstrap.
    Tcp,
}

impl Scheme {
    fn name(self) -> &'static str {
        match self {
            Scheme::Auto => "auto",
            Scheme::Rdma => "rdma",
            Scheme::Shm => "shm",
            Scheme::Tcp => "tcp",
        }
    }

    fn from_name(name: &str) -> Option<Scheme> {
        [Scheme::Auto, Scheme::Rdma, Scheme::Shm, Scheme::Tcp]
            .into_iter()
            .find(|scheme| scheme.name() == name)
    }
}

/// What a client connects to: a transport and the address of the bootstrap.
///
/// `auto://host:port`, `rdma://host:port`, `shm://host:port`, `tcp://host:port`; `unix:/path` for
/// a Unix socket that stays one, `auto+unix:/path` and `shm+unix:/path` for one that is only the
/// bootstrap.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Target {
    /// The transport.
    pub scheme: Scheme,
    /// Where the server listens.
    pub address: Address,
}

impl FromStr for Target {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Target, ConfigError> {
        let bad = |problem: &str| ConfigError::new(format!("bad target {text:?}: {problem}"));
        let unix = match text.split_once(':') {
            Some(("unix", _)) => Some((Scheme::Tcp, text)),
            Some(("auto+unix", _)) => Some((Scheme::Auto, &text["auto+".len()..])),
            Some(("shm+unix", _)) => Some((Scheme::Shm, &text["shm+".len()..])),
            Some(("rdma+unix", _)) => {
                return Err(bad("rdma connects hosts: it cannot begin on a Unix socket"));
            }
            _ => None,
        };
        let (scheme, address) = match unix {
            Some(found) => found,
            None => {
                let (name, address) = text
                    .split_once("://")
                    .ok_or_else(|| bad("write auto://host:port, or unix:/path"))?;
                let scheme = Scheme::from_name(name).ok_or_else(|| {
                    bad(&format!(
                        "{name:?} is not a transport: auto, rdma, shm, tcp, unix, auto+unix or \
                         shm+unix"
                    ))
                })?;
                if address.starts_with("unix:") {
                    return Err(bad("write unix:/path, auto+unix:/path or shm+unix:/path"));
                }
                (scheme, address)
            }
        };
        let address: Address = address
            .parse()
            .map_err(|error: rdma_rpc_transport_tcp::AddressError| bad(error.problem()))?;
        if matches!(address, Address::Tcp { port: 0, .. }) {
            return Err(bad("port 0 cannot be connected to"));
        }
        Ok(Target { scheme, address })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.address, self.scheme) {
            (Address::Tcp { .. }, scheme) => write!(f, "{}://{}", scheme.name(), self.address),
            (Address::Unix(_), Scheme::Tcp) => write!(f, "{}", self.address),
            (Address::Unix(_), scheme) => write!(f, "{}+{}", scheme.name(), self.address),
        }
    }
}

impl TryFrom<String> for Target {
    type Error = ConfigError;

    fn try_from(text: String) -> Result<Target, ConfigError> {
        text.parse()
    }
}

impl From<Target> for String {
    fn from(target: Target) -> String {
        target.to_string()
    }
}

/// Where a server listens: `host:port`, `tcp://host:port` or `unix:/path`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ListenAddress(pub Address);

impl FromStr for ListenAddress {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<ListenAddress, ConfigError> {
        let address = text.strip_prefix("tcp://").unwrap_or(text);
        let parsed = address.parse::<Address>().map_err(|error| {
            let problem = match address.split_once("://") {
                Some((scheme, _)) if !address.starts_with("unix:") => format!(
                    "a server listens on host:port or unix:/path, never on {scheme}: clients \
                     choose the transport"
                ),
                _ => error.problem().to_string(),
            };
            ConfigError::new(format!("bad listen address {text:?}: {problem}"))
        })?;
        Ok(ListenAddress(parsed))
    }
}

impl TryFrom<String> for ListenAddress {
    type Error = ConfigError;

    fn try_from(text: String) -> Result<ListenAddress, ConfigError> {
        text.parse()
    }
}

impl From<ListenAddress> for String {
    fn from(address: ListenAddress) -> String {
        address.0.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_survive_display_and_parse() {
        for text in [
            "auto://kv.internal:7400",
            "rdma://10.0.0.1:1",
            "shm://localhost:7400",
            "tcp://[::1]:7400",
            "unix:/run/kv.sock",
            "auto+unix:/run/kv.sock",
            "shm+unix:/run/kv.sock",
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        let slashes: Target = "unix:///run/kv.sock".parse().unwrap();
        assert_eq!(slashes.to_string(), "unix:/run/kv.sock");
        assert_eq!(slashes.scheme, Scheme::Tcp);
    }

    #[test]
    fn bad_targets_say_what_to_write() {
        for (text, want) in [
            ("kv.internal:7400", "write auto://host:port"),
            ("http://kv:80", "\"http\" is not a transport"),
            ("auto://kv.internal", "port is missing"),
            ("tcp://kv:0", "port 0"),
            ("rdma+unix:/x", "rdma connects hosts"),
            ("auto://unix:/x", "auto+unix:/path"),
            ("unix:relative", "absolute path"),
        ] {
            let error = text.parse::<Target>().unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
        let error = "rdma://0.0.0.0:1".parse::<ListenAddress>().unwrap_err().to_string();
        assert!(error.contains("never on rdma"), "{error}");
        assert!("tcp://0.0.0.0:0".parse::<ListenAddress>().is_ok());
    }
}
