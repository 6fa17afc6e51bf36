//! A channel: one target, connected when needed, connected again when the connection fails.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::connection::{ClientConnection, Held};
use crate::brief::Brief;
use crate::driver::now;
use crate::link::LinkInfo;
use crate::service::MessageLimits;
use crate::status::{RequestSeen, Status};

/// Makes connections to one target. A transport set implements it.
pub trait Connector: Send + Sync + 'static {
    /// Connects once, or fails within a time of its own: only it knows when it waits for a peer and
    /// when for its turn.
    fn connect(
        &self,
    ) -> Pin<Box<dyn Future<Output = Result<ClientConnection, ConnectError>> + Send + '_>>;

    /// The target, for people.
    fn target(&self) -> String;
}

/// Why a connection could not be made: every attempt and its reason, in one text.
#[derive(Debug, Clone)]
pub struct ConnectError {
    message: Box<str>,
}

impl ConnectError {
    /// An error with this text.
    pub fn new(message: impl Into<String>) -> ConnectError {
        ConnectError { message: message.into().into() }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConnectError {}

/// How a channel connects again. After a failure, calls fail at once with the reason until the
/// pause is over; the pause grows, with some chance in it, as in gRPC's connection backoff
/// (doc/connection-backoff.md), from a shorter first step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReconnectPolicy {
    /// The pause after the first failure.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
}

impl Default for ReconnectPolicy {
    fn default() -> ReconnectPolicy {
        ReconnectPolicy {
            first_pause: Duration::from_millis(50),
            longest_pause: Duration::from_secs(30),
        }
    }
}

/// A shared way to one target: cheap to clone, for many tasks and many calls at once.
///
/// It connects at the first call (or by [`Channel::ready`]) and again after a failure.
#[derive(Clone)]
pub struct Channel {
    shared: Arc<Shared>,
}

struct Shared {
    connector: Box<dyn Connector>,
    policy: ReconnectPolicy,
    /// For clients that have no limits of their own.
    limits: MessageLimits,
    /// The first connection, which is most channels' only one: calls borrow it, without a lock and
    /// without a count of theirs.
    first: OnceLock<ClientConnection>,
    /// The present one, once the first is over.
    later: Brief<Option<ClientConnection>>,
    /// Held by whoever connects.
    connecting: tokio::sync::Mutex<Trouble>,
}

/// What is remembered of failed attempts.
#[derive(Debug, Default)]
struct Trouble {
    failures: u32,
    until: Option<(Instant, ConnectError)>,
}

impl Channel {
    /// A channel that connects when it is first used.
    pub fn lazy(connector: impl Connector, policy: ReconnectPolicy) -> Channel {
        Channel::lazy_with_limits(connector, policy, MessageLimits::default())
    }

    /// The same, with limits for clients that have none of their own.
    pub fn lazy_with_limits(
        connector: impl Connector,
        policy: ReconnectPolicy,
        limits: MessageLimits,
    ) -> Channel {
        Channel {
            shared: Arc::new(Shared {
                connector: Box::new(connector),
                policy,
                limits,
                first: OnceLock::new(),
                later: Brief::new(None),
                connecting: tokio::sync::Mutex::default(),
            }),
        }
    }

    /// Connects now if there is no connection.
    ///
    /// # Errors
    /// `UNAVAILABLE`, with the target and why it could not be reached.
    pub async fn ready(&self) -> Result<(), Status> {
        self.connection().await.map(drop)
    }

    /// What the present connection is made of; `None` while there is none.
    pub fn info(&self) -> Option<LinkInfo> {
        self.current().map(|connection| connection.info().clone())
    }

    /// Why the present connection's transport was chosen; `None` while there is none.
    pub fn chosen_because(&self) -> Option<String> {
        self.current().map(|connection| connection.chosen_because().to_owned())
    }

    pub(super) fn limits(&self) -> MessageLimits {
        self.shared.limits
    }

    /// The target, for people.
    pub fn target(&self) -> String {
        self.shared.connector.target()
    }

    /// The present connection, if it takes new calls.
    #[inline]
    pub(super) fn current(&self) -> Option<Held<'_>> {
        match self.shared.first.get() {
            Some(first) if !first.is_closed() => Some(Held::Lent(first)),
            Some(_) => self.later(),
            None => None,
        }
    }

    fn later(&self) -> Option<Held<'_>> {
        let later = self.shared.later.lock();
        later.as_ref().filter(|connection| !connection.is_closed()).cloned().map(Held::Own)
    }

    /// A connection that was made just now.
    fn put(&self, connection: ClientConnection) {
        if let Err(connection) = self.shared.first.set(connection) {
            // The old one is dropped when the lock is free again.
            let old = self.shared.later.lock().replace(connection);
            drop(old);
        }
    }

    /// The present connection, or a new one.
    pub(super) async fn connection(&self) -> Result<Held<'_>, Status> {
        match self.current() {
            Some(connection) => Ok(connection),
            None => self.connect().await,
        }
    }

    async fn connect(&self) -> Result<Held<'_>, Status> {
        let shared = &*self.shared;
        let mut trouble = shared.connecting.lock().await;
        if let Some(connection) = self.current() {
            return Ok(connection);
        }
        if let Some((until, error)) = &trouble.until
            && now() < *until
        {
            return Err(self.unavailable(error));
        }
        match shared.connector.connect().await {
            Ok(connection) => {
                *trouble = Trouble::default();
                self.put(connection.clone());
                Ok(Held::Own(connection))
            }
            Err(error) => {
                let pause = shared.policy.pause(trouble.failures);
                trouble.failures = trouble.failures.saturating_add(1);
                tracing::warn!(target = %self.target(), %error, pause_ms = pause.as_millis() as u64, "cannot connect");
                trouble.until = Some((now() + pause, error.clone()));
                Err(self.unavailable(&error))
            }
        }
    }

    fn unavailable(&self, error: &ConnectError) -> Status {
        Status::unavailable(format!("cannot connect to {}: {error}", self.target()))
            .with_request_seen(RequestSeen::NeverSent)
    }
}

impl ReconnectPolicy {
    /// The pause after this many failures before: doubled each time, less up to a fifth by chance
    /// so that many clients of one server do not come back at once.
    fn pause(&self, failures: u32) -> Duration {
        let full = self.first_pause.saturating_mul(1 << failures.min(20)).min(self.longest_pause);
        // The clock's last digits are chance enough for this.
        let chance = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.subsec_nanos() % 1000);
        full.mul_f64(1.0 - 0.2 * f64::from(chance) / 1000.0)
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("target", &self.target())
            .field("connection", &self.info())
            .finish()
    }
}
