//! A channel made from a target or a configuration.

use std::fmt;
use std::ops::Deref;

use rdma_rpc_core::client::ReconnectPolicy;
use rdma_rpc_core::service::MessageLimits;
use rdma_rpc_core::{Status, client, codegen};

use crate::config::{ClientConfig, ConfigError, Target};
use crate::transport::Dialer;

/// A shared way to one target: cheap to clone, for many tasks and many calls at once. It connects
/// again by itself after a failure.
///
/// ```no_run
/// # async fn example() -> Result<(), rdma_rpc::Status> {
/// let channel = rdma_rpc::Channel::connect("auto://kv.internal:7400").await?;
/// println!("{:?}: {:?}", channel.info(), channel.chosen_because());
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Channel {
    inner: client::Channel,
}

impl Channel {
    /// Connects to a target such as `auto://host:7400`, `shm://127.0.0.1:7400`,
    /// `tcp://host:7400` or `unix:/path`, with everything else as the environment
    /// (`RDMA_RPC_*`) and the defaults say.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a target or environment that makes no sense, `UNAVAILABLE` when the
    /// target cannot be reached; the message says why.
    pub async fn connect(target: impl AsRef<str>) -> Result<Channel, Status> {
        let target: Target = target.as_ref().parse().map_err(|error| invalid(&error))?;
        let mut config = ClientConfig::from_env().map_err(|error| invalid(&error))?;
        config.target = Some(target);
        Channel::connect_with(config).await
    }

    /// Connects as a configuration says.
    ///
    /// # Errors
    /// As for [`Channel::connect`].
    pub async fn connect_with(config: ClientConfig) -> Result<Channel, Status> {
        let channel = Channel::lazy(config)?;
        channel.ready().await?;
        Ok(channel)
    }

    /// Connects to the target that the environment names, by `RDMA_RPC_TARGET` or by the file in
    /// `RDMA_RPC_CONFIG`.
    ///
    /// # Errors
    /// As for [`Channel::connect`].
    pub async fn from_env() -> Result<Channel, Status> {
        Channel::connect_with(ClientConfig::from_env().map_err(|error| invalid(&error))?).await
    }

    /// A channel that connects when it is first used.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a configuration that makes no sense.
    pub fn lazy(config: ClientConfig) -> Result<Channel, Status> {
        config.validate().map_err(|error| invalid(&error))?;
        let target = config.target.clone().ok_or_else(|| {
            Status::invalid_argument(
                "no target: give one to Channel::connect, set `target` in the file, or set \
                 RDMA_RPC_TARGET (auto://host:port)",
            )
        })?;
        let policy = ReconnectPolicy::default();
        let limits = MessageLimits::default()
            .max_encoding_message_size(config.limits.max_send_message_bytes);
        let dialer = Dialer::new(target, config);
        Ok(Channel { inner: client::Channel::lazy_with_limits(dialer, policy, limits) })
    }
}

fn invalid(error: &ConfigError) -> Status {
    Status::invalid_argument(error.to_string())
}

impl Deref for Channel {
    type Target = client::Channel;

    fn deref(&self) -> &client::Channel {
        &self.inner
    }
}

impl From<Channel> for codegen::Channel {
    fn from(channel: Channel) -> codegen::Channel {
        channel.inner
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}
