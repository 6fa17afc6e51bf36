//! A client's configuration.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::layers::{self, Layered};
use super::sections::{
    KeepaliveConfig, LimitsConfig, MAX_TIMEOUT_MS, RdmaConfig, ShmConfig, TcpConfig,
    check_transports, within,
};
use super::{ConfigError, Target, Transport};

/// A client's configuration; see the [module](super) for its sources.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ClientConfig {
    /// What to connect to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// The transports that may be used. Default all. Without `tcp`, connecting fails where
    /// nothing else works, and says why.
    pub transports: Vec<Transport>,
    /// How long a client may take to have a connected socket. Default 5000.
    pub connect_timeout_ms: u64,
    /// How long the handshake may take after that. Default 5000.
    pub handshake_timeout_ms: u64,
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

impl Default for ClientConfig {
    fn default() -> Self {
        ClientConfig {
            target: None,
            transports: vec![Transport::Rdma, Transport::Shm, Transport::Tcp],
            connect_timeout_ms: 5000,
            handshake_timeout_ms: 5000,
            keepalive: KeepaliveConfig::default(),
            limits: LimitsConfig::default(),
            rdma: RdmaConfig::default(),
            shm: ShmConfig::default(),
            tcp: TcpConfig::default(),
        }
    }
}

impl Layered for ClientConfig {
    fn knows(key: &str) -> bool {
        !matches!(key, "listen" | "workers" | "pin_workers")
    }

    fn check(&self) -> Result<(), ConfigError> {
        check_transports(&self.transports)?;
        within("connect_timeout_ms", self.connect_timeout_ms, 1, MAX_TIMEOUT_MS)?;
        within("handshake_timeout_ms", self.handshake_timeout_ms, 1, MAX_TIMEOUT_MS)?;
        self.keepalive.check()?;
        self.limits.check()?;
        self.rdma.check()?;
        self.shm.check()?;
        self.tcp.check()
    }
}

impl ClientConfig {
    /// The defaults, with a target.
    pub fn new(target: Target) -> ClientConfig {
        ClientConfig { target: Some(target), ..ClientConfig::default() }
    }

    /// Reads a file over the defaults.
    ///
    /// # Errors
    /// If it cannot be read, a key is unknown, or a value is out of its range.
    pub fn load(path: impl AsRef<Path>) -> Result<ClientConfig, ConfigError> {
        layers::over_file(ClientConfig::default(), path.as_ref())
    }

    /// Reads the text of a file over the defaults.
    ///
    /// # Errors
    /// As [`ClientConfig::load`].
    pub fn from_toml(text: &str) -> Result<ClientConfig, ConfigError> {
        layers::over_text(ClientConfig::default(), text)
    }

    /// The defaults, the file and the variables of the environment.
    ///
    /// # Errors
    /// As [`ClientConfig::load`], naming the variable.
    pub fn from_env() -> Result<ClientConfig, ConfigError> {
        ClientConfig::default().resolve()
    }

    /// This value, then the environment's file, then its variables.
    ///
    /// # Errors
    /// As [`ClientConfig::load`], naming the variable.
    pub fn resolve(self) -> Result<ClientConfig, ConfigError> {
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

macro_rules! setters {
    ($config:ty { $($(#[$doc:meta])* $name:ident: $kind:ty => $value:expr;)* }) => {
        impl $config {
            $($(#[$doc])* #[must_use] pub fn $name(mut self, $name: $kind) -> Self {
                self.$name = ($value)($name);
                self
            })*
        }
    };
}
pub(super) use setters;

setters!(ClientConfig {
    /// Sets the target.
    target: Target => Some;
    /// Sets the transports that may be used.
    transports: Vec<Transport> => std::convert::identity;
    /// Sets the connect timeout.
    connect_timeout_ms: u64 => std::convert::identity;
    /// Sets the handshake timeout.
    handshake_timeout_ms: u64 => std::convert::identity;
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
    use super::super::Progress;
    use super::*;

    fn resolve_with(
        base: ClientConfig,
        vars: &[(&str, &str)],
    ) -> Result<ClientConfig, ConfigError> {
        layers::resolve(base, &|name| {
            Ok(vars.iter().find(|(known, _)| *known == name).map(|(_, text)| text.to_string()))
        })
    }

    #[test]
    fn a_file_sets_what_it_names_and_nothing_else() {
        let config = ClientConfig::from_toml(
            "target = \"auto://kv.internal:7400\"\n[rdma]\nprogress = \"busy\"\nspin_us = 7\n\
             [limits]\nmax_message_bytes = \"64MiB\"\n[tcp]\nsend_buffer_bytes = 65536\n",
        )
        .unwrap();
        let mut want = ClientConfig::new("auto://kv.internal:7400".parse().unwrap());
        want.rdma.progress = Progress::Busy;
        want.rdma.spin_us = 7;
        want.limits.max_message_bytes = 64 << 20;
        want.tcp.send_buffer_bytes = Some(65_536);
        assert_eq!(config, want);
        assert_eq!(ClientConfig::from_toml("").unwrap(), ClientConfig::default());
    }

    #[test]
    fn code_gives_way_to_the_file_and_the_file_to_the_environment() {
        let path = std::env::temp_dir().join(format!("rdma-rpc-{}.toml", std::process::id()));
        std::fs::write(&path, "[rdma]\nspin_us = 20\ndevice = \"rxe0\"\n").unwrap();
        let mut base = ClientConfig::default().connect_timeout_ms(77);
        base.rdma.spin_us = 10;
        base.rdma.device = "mlx5_0".into();
        let file = path.to_str().unwrap();
        let config = resolve_with(
            base.clone(),
            &[
                ("RDMA_RPC_CONFIG", file),
                ("RDMA_RPC_SPIN_US", "30"),
                ("RDMA_RPC_TARGET", "tcp://a:1"),
                ("RDMA_RPC_TRANSPORTS", "tcp, shm"),
                ("RDMA_RPC_MAX_MESSAGE_BYTES", "8 MiB"),
                ("RDMA_RPC_LISTEN", "not for clients"),
            ],
        )
        .unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(config.connect_timeout_ms, 77, "from code");
        assert_eq!(config.rdma.device, "rxe0", "from the file");
        let spins = [config.rdma.spin_us, config.shm.spin_us, config.tcp.spin_us];
        assert_eq!(spins, [30; 3], "from the environment");
        assert_eq!(config.target.unwrap().to_string(), "tcp://a:1");
        assert_eq!(config.transports, [Transport::Tcp, Transport::Shm]);
        assert_eq!(config.limits.max_message_bytes, 8 << 20);
    }

    #[test]
    fn direct_reads_can_be_turned_off_in_the_file_and_the_environment() {
        assert!(ClientConfig::default().shm.direct_reads);
        let config = ClientConfig::from_toml("[shm]\ndirect_reads = false").unwrap();
        assert!(!config.shm.direct_reads);
        let resolve =
            |text| resolve_with(ClientConfig::default(), &[("RDMA_RPC_DIRECT_READS", text)]);
        assert!(!resolve("false").unwrap().shm.direct_reads);
        let error = resolve("no").unwrap_err().to_string();
        assert!(error.contains("RDMA_RPC_DIRECT_READS"), "{error}");
    }

    #[test]
    fn errors_name_source_line_key_and_range() {
        for (text, line, key, want) in [
            ("\n[limits]\nmax_message_bytes = 0", 3, "limits.max_message_bytes", "1 to 1073741824"),
            ("[rdma]\nspin = 5", 2, "rdma.spin", "unknown field `spin`"),
            ("[rdma]\nprogress = \"lazy\"", 2, "rdma.progress", "unknown variant `lazy`"),
            ("target = \"auto://kv\"", 1, "target", "port is missing"),
            ("# c\ntransports = []", 2, "transports", "empty"),
            ("transports = [\"tcp\", \"tcp\"]", 1, "transports", "twice"),
            ("[tcp]\nmax_frame_bytes = \"1 kB\"", 2, "tcp.max_frame_bytes", "is not a size"),
            ("handshake_timeout_ms = 0", 1, "handshake_timeout_ms", "0 is out of range"),
        ] {
            let error = ClientConfig::from_toml(text).unwrap_err();
            assert_eq!(error.line(), Some(line), "{error}");
            assert_eq!(error.key(), Some(key), "{error}");
            assert!(error.to_string().contains(want), "{error}");
        }
        let error =
            resolve_with(ClientConfig::default(), &[("RDMA_RPC_SPIN_US", "fast")]).unwrap_err();
        assert_eq!(error.source_name(), Some("RDMA_RPC_SPIN_US"));
        let error = resolve_with(ClientConfig::default(), &[("RDMA_RPC_CONFIG", "/no/such.toml")])
            .unwrap_err();
        assert!(error.to_string().contains("/no/such.toml"), "{error}");
    }
}
