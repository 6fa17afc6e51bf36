//! What people write to name the other end: `host:port`, or the path of a Unix socket.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The longest path a Unix socket address holds on Linux, in bytes.
pub const MAX_UNIX_PATH_BYTES: usize = 107;

/// The longest host name of the domain name system, in bytes.
const MAX_HOST_BYTES: usize = 253;

/// Where a server listens, or where a client connects to.
///
/// Written as `host:port` (`kv.internal:7400`, `127.0.0.1:7400`, `[::1]:7400`) or as
/// `unix:/path` (`unix:///path` is the same).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// A TCP port.
    Tcp {
        /// A name or an IP address; IPv6 addresses without their brackets.
        host: String,
        /// The port. 0 lets the system choose one, which only makes sense for a listener.
        port: u16,
    },
    /// A Unix socket in the file system.
    Unix(PathBuf),
}

impl Address {
    /// A TCP address.
    ///
    /// # Errors
    /// If `host` is empty or holds characters no host name has.
    pub fn tcp(host: impl Into<String>, port: u16) -> Result<Address, AddressError> {
        let host = host.into();
        check_host(&host, &host)?;
        Ok(Address::Tcp { host, port })
    }

    /// A Unix socket's address.
    ///
    /// # Errors
    /// If the path is empty, relative, too long for a socket address or holds a zero byte.
    pub fn unix(path: impl Into<PathBuf>) -> Result<Address, AddressError> {
        let path = path.into();
        check_path(&path)?;
        Ok(Address::Unix(path))
    }

    /// The name a client asks for by default: the host and port, or `localhost`.
    pub fn authority(&self) -> String {
        match self {
            Address::Tcp { .. } => self.to_string(),
            Address::Unix(_) => "localhost".to_string(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "{host}:{port}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            check_path(Path::new(path)).map_err(|error| error.in_text(text))?;
            return Ok(Address::Unix(PathBuf::from(path)));
        }
        let (host, port) = split_port(text)?;
        check_host(host, text)?;
        let port = port.parse::<u16>().map_err(|_| {
            AddressError::new(text, format!("`{port}` is not a port: a number from 0 to 65535"))
        })?;
        Ok(Address::Tcp { host: host.to_string(), port })
    }
}

/// Splits `host:port` or `[v6]:port`.
fn split_port(text: &str) -> Result<(&str, &str), AddressError> {
    let no_port =
        || AddressError::new(text, "the port is missing: write host:port, such as 127.0.0.1:7400");
    if let Some(rest) = text.strip_prefix('[') {
        let Some((host, port)) = rest.split_once(']') else {
            return Err(AddressError::new(text, "`[` is not closed: write [::1]:7400"));
        };
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(AddressError::new(text, format!("`{host}` is not an IPv6 address")));
        }
        return Ok((host, port.strip_prefix(':').ok_or_else(no_port)?));
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(no_port)?;
    if host.contains(':') {
        return Err(AddressError::new(
            text,
            "an IPv6 address needs brackets before its port: write [::1]:7400",
        ));
    }
    if port.is_empty() {
        return Err(no_port());
    }
    Ok((host, port))
}

fn check_host(host: &str, text: &str) -> Result<(), AddressError> {
    if host.is_empty() {
        return Err(AddressError::new(text, "the host is missing: write host:port"));
    }
    if host.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    if host.len() > MAX_HOST_BYTES {
        return Err(AddressError::new(
            text,
            format!("the host is {} bytes long, at most {MAX_HOST_BYTES} are allowed", host.len()),
        ));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match host.chars().find(|&c| !allowed(c)) {
        Some(bad) => Err(AddressError::new(text, format!("{bad:?} cannot be in a host name"))),
        None => Ok(()),
    }
}

fn check_path(path: &Path) -> Result<(), AddressError> {
    let shown = path.display().to_string();
    let bytes = path.as_os_str().as_encoded_bytes();
    if !path.is_absolute() {
        return Err(AddressError::new(
            &shown,
            "a Unix socket needs an absolute path: write unix:/run/kv.sock",
        ));
    }
    if bytes.len() > MAX_UNIX_PATH_BYTES {
        return Err(AddressError::new(
            &shown,
            format!(
                "the socket path is {} bytes long, the system allows {MAX_UNIX_PATH_BYTES}",
                bytes.len()
            ),
        ));
    }
    if bytes.contains(&0) {
        return Err(AddressError::new(&shown, "the socket path holds a zero byte"));
    }
    Ok(())
}

/// Why a text is not an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressError {
    text: String,
    problem: String,
}

impl AddressError {
    fn new(text: &str, problem: impl Into<String>) -> AddressError {
        AddressError { text: text.to_string(), problem: problem.into() }
    }

    fn in_text(mut self, text: &str) -> AddressError {
        self.text = text.to_string();
        self
    }

    /// What is wrong, without the text itself.
    pub fn problem(&self) -> &str {
        &self.problem
    }
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bad address {:?}: {}", self.text, self.problem)
    }
}

impl std::error::Error for AddressError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_display_and_parse() {
        for text in [
            "127.0.0.1:7400",
            "[::1]:7400",
            "kv.internal:1",
            "a_b-c:65535",
            "localhost:0",
            "unix:/run/kv.sock",
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
        }
        assert_eq!(
            "unix:///run/kv.sock".parse::<Address>().unwrap(),
            Address::Unix("/run/kv.sock".into())
        );
    }

    #[test]
    fn bad_addresses_say_what_to_write() {
        let long = format!("unix:/{}", "x".repeat(MAX_UNIX_PATH_BYTES));
        let long_host = format!("{}:1", "h".repeat(254));
        for (text, want) in [
            ("kv.internal", "port is missing"),
            ("kv.internal:", "port is missing"),
            ("[::1]", "port is missing"),
            (":7400", "host is missing"),
            ("::1:7400", "needs brackets"),
            ("[::1:7400", "not closed"),
            ("[kv]:7400", "not an IPv6"),
            ("kv:70000", "not a port"),
            ("kv:-1", "not a port"),
            ("http://kv:80", "needs brackets"),
            ("k v:80", "cannot be in a host name"),
            ("unix:", "absolute path"),
            ("unix:run/kv.sock", "absolute path"),
            ("unix://run/kv.sock", "absolute path"),
            (&long, "the system allows 107"),
            (&long_host, "at most 253"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
            assert!(error.contains(&format!("{text:?}")), "{text}: {error}");
        }
    }
}
