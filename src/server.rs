//! A server: listens, shakes hands, serves, shuts down in order.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rdma_rpc_core::codegen::Service;
use rdma_rpc_core::server::Router;
use rdma_rpc_transport_tcp::{Listener, Socket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::config::{ConfigError, ListenAddress, ServerConfig};
use crate::transport::Acceptor;

/// After an `accept` that failed for want of file descriptors or memory, wait this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where servers begin.
#[derive(Debug)]
pub struct Server;

impl Server {
    /// A server with the defaults and what the environment says (`RDMA_RPC_*`), and no services.
    pub fn builder() -> ServerBuilder {
        ServerBuilder {
            config: ServerConfig::from_env(),
            listen: Vec::new(),
            router: Router::new(),
        }
    }
}

/// A server that is being put together.
#[derive(Debug)]
pub struct ServerBuilder {
    config: Result<ServerConfig, ConfigError>,
    listen: Vec<Result<ListenAddress, ConfigError>>,
    router: Router,
}

impl ServerBuilder {
    /// Uses this configuration instead of the environment's.
    #[must_use]
    pub fn config(mut self, config: ServerConfig) -> ServerBuilder {
        self.config = Ok(config);
        self
    }

    /// Listens on this address too: `host:port`, port 0 for any that is free, or `unix:/path`.
    /// Addresses given here replace those of the configuration.
    #[must_use]
    pub fn listen(mut self, address: impl AsRef<str>) -> ServerBuilder {
        self.listen.push(address.as_ref().parse());
        self
    }

    /// Adds a service.
    #[must_use]
    pub fn add_service(mut self, service: impl Service) -> ServerBuilder {
        self.router = self.router.add_service(service);
        self
    }

    /// Opens the listening sockets.
    ///
    /// # Errors
    /// For a configuration that makes no sense, or an address that cannot be listened on.
    pub async fn bind(self) -> Result<BoundServer, ServeError> {
        let mut config = self.config.map_err(ServeError::Config)?;
        if !self.listen.is_empty() {
            config.listen =
                self.listen.into_iter().collect::<Result<_, _>>().map_err(ServeError::Config)?;
        }
        config.validate().map_err(ServeError::Config)?;
        if config.listen.is_empty() {
            return Err(ServeError::NoAddress);
        }
        let router = self.router.max_encoding_message_size(config.limits.max_send_message_bytes);
        let acceptor = Acceptor::new(&config, Arc::new(router));
        let mut listeners = Vec::new();
        for ListenAddress(address) in &config.listen {
            let listener = Listener::bind(address, &acceptor.options().socket).await;
            listeners
                .push(listener.map_err(|error| ServeError::Listen(address.to_string(), error))?);
        }
        Ok(BoundServer { config, acceptor: Arc::new(acceptor), listeners })
    }

    /// Listens and serves until the future is dropped.
    ///
    /// # Errors
    /// As for [`ServerBuilder::bind`].
    pub async fn serve(self) -> Result<(), ServeError> {
        self.serve_with_shutdown(std::future::pending()).await
    }

    /// Listens and serves until `signal` is ready; then accepts nothing new, lets every open call
    /// finish, and returns.
    ///
    /// # Errors
    /// As for [`ServerBuilder::bind`].
    pub async fn serve_with_shutdown(
        self,
        signal: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        self.bind().await?.serve_with_shutdown(signal).await;
        Ok(())
    }
}

/// A server whose sockets are open.
#[derive(Debug)]
pub struct BoundServer {
    config: ServerConfig,
    acceptor: Arc<Acceptor>,
    listeners: Vec<Listener>,
}

impl BoundServer {
    /// The addresses in use, with the ports that were chosen where 0 was asked for.
    pub fn local_addresses(&self) -> Vec<String> {
        self.listeners.iter().map(|listener| listener.local_address().to_string()).collect()
    }

    /// Serves until the future is dropped.
    pub async fn serve(self) {
        self.serve_with_shutdown(std::future::pending()).await;
    }

    /// Serves until `signal` is ready; then accepts nothing new, lets every open call finish, and
    /// returns.
    pub async fn serve_with_shutdown(self, signal: impl Future<Output = ()>) {
        let (stop, stopped) = watch::channel(false);
        let places = Arc::new(Semaphore::new(self.config.limits.max_connections as usize));
        let mut accepting = JoinSet::new();
        for listener in self.listeners {
            let address = listener.local_address().to_string();
            tracing::info!(%address, "listening");
            let (acceptor, places) = (Arc::clone(&self.acceptor), Arc::clone(&places));
            accepting.spawn(accept_all(listener, acceptor, places, stopped.clone()));
        }
        drop(stopped);
        signal.await;
        stop.send_replace(true);
        tracing::info!("shutting down: no new calls; open ones may finish");
        while accepting.join_next().await.is_some() {}
    }
}

/// Accepts on one listener until told to stop, and then waits for its connections to end.
async fn accept_all(
    listener: Listener,
    acceptor: Arc<Acceptor>,
    places: Arc<Semaphore>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        let told = async { drop(stopped.wait_for(|stopped| *stopped).await) };
        tokio::select! {
            () = told => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok(socket) => {
                    let acceptor = Arc::clone(&acceptor);
                    let (places, stopped) = (Arc::clone(&places), stopped.clone());
                    connections.spawn(serve_one(acceptor, socket, places, stopped));
                }
                Err(error) => {
                    tracing::warn!(address = %listener.local_address(), %error, "cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn serve_one(
    acceptor: Arc<Acceptor>,
    socket: Socket,
    places: Arc<Semaphore>,
    mut stopped: watch::Receiver<bool>,
) {
    let Ok(place) = places.try_acquire_owned() else {
        return acceptor.turn_away(socket).await;
    };
    // The guard that `wait_for` gives must not live across an await.
    let mut told = std::pin::pin!(async move { drop(stopped.wait_for(|stopped| *stopped).await) });
    let accepted = tokio::select! {
        accepted = acceptor.accept(socket) => accepted,
        // In the middle of its handshake a client has no calls that would have to finish.
        () = &mut told => return,
    };
    let Some((connection, serving)) = accepted else { return };
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        () = &mut serving => return,
        () = told => connection.shut_down("the server is shutting down"),
    }
    serving.await;
    drop(place);
}

/// Why a server could not begin.
#[derive(Debug)]
#[non_exhaustive]
pub enum ServeError {
    /// The configuration makes no sense.
    Config(ConfigError),
    /// There is no address to listen on.
    NoAddress,
    /// An address cannot be listened on.
    Listen(String, io::Error),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServeError::Config(error) => error.fmt(f),
            ServeError::NoAddress => f.write_str(
                "no address to listen on: call ServerBuilder::listen, set `listen` in the file, \
                 or set RDMA_RPC_LISTEN (host:port)",
            ),
            ServeError::Listen(address, error) => write!(f, "cannot listen on {address}: {error}"),
        }
    }
}

impl std::error::Error for ServeError {}
