//! A server: listens, shakes hands, serves, shuts down in order.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rdma_rpc_core::codegen::Service;
use rdma_rpc_core::server::Router;
use rdma_rpc_transport_tcp::{Listener, Socket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use crate::config::{ConfigError, ListenAddress, ServerConfig};
use crate::transport::Acceptor;
use crate::workers::Workers;

/// After an `accept` that failed for want of file descriptors or memory, wait this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Clients beyond `limits.max_connections` that are told so at the same time. It takes a handshake,
/// which a client may draw out to its timeout; clients beyond these find their socket closed.
const MAX_TURNED_AWAY: usize = 64;

/// Where servers begin.
#[derive(Debug)]
pub struct Server;

impl Server {
    /// A server with the defaults and what the environment says (`RDMA_RPC_*`), and no services.
    pub fn builder() -> ServerBuilder {
        ServerBuilder {
            config: ServerConfig::from_env(),
            listen: Vec::new(),
            workers: None,
            pin_workers: None,
            router: Router::new(),
        }
    }
}

/// A server that is being put together.
#[derive(Debug)]
pub struct ServerBuilder {
    config: Result<ServerConfig, ConfigError>,
    listen: Vec<Result<ListenAddress, ConfigError>>,
    workers: Option<u32>,
    pin_workers: Option<bool>,
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

    /// Serves connections on this many threads of the server's own, each connection on one of
    /// them for life; 0: in the runtime the server is started in. Tasks that handlers spawn live
    /// on the thread of their connection. Replaces the configuration's `workers`.
    #[must_use]
    pub fn workers(mut self, workers: u32) -> ServerBuilder {
        self.workers = Some(workers);
        self
    }

    /// Whether each worker stays on a CPU of its own. Replaces the configuration's `pin_workers`.
    #[must_use]
    pub fn pin_workers(mut self, pin: bool) -> ServerBuilder {
        self.pin_workers = Some(pin);
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
        config.workers = self.workers.unwrap_or(config.workers);
        config.pin_workers = self.pin_workers.unwrap_or(config.pin_workers);
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
        let workers = match config.workers as usize {
            0 => None,
            count => {
                let started = Workers::start(count, config.pin_workers);
                Some(Arc::new(started.map_err(ServeError::Workers)?))
            }
        };
        Ok(BoundServer { config, acceptor: Arc::new(acceptor), listeners, workers })
    }

    /// Listens and serves until the future is dropped, as [`BoundServer::serve`] does.
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
    workers: Option<Arc<Workers>>,
}

impl BoundServer {
    /// The addresses in use, with the ports that were chosen where 0 was asked for.
    pub fn local_addresses(&self) -> Vec<String> {
        self.listeners.iter().map(|listener| listener.local_address().to_string()).collect()
    }

    /// Serves until the future is dropped. The address is free a moment later, once the runtime has dropped
    /// the tasks that listened; after a shutdown it is when the future is done.
    pub async fn serve(self) {
        self.serve_with_shutdown(std::future::pending()).await;
    }

    /// Serves until `signal` is ready; then accepts nothing new, lets every open call finish, and
    /// returns.
    pub async fn serve_with_shutdown(self, signal: impl Future<Output = ()>) {
        let (stop, stopped) = watch::channel(false);
        let max_connections = self.config.limits.max_connections;
        let places = Arc::new(Semaphore::new(max_connections as usize));
        let refusals = Arc::new(Semaphore::new(MAX_TURNED_AWAY));
        let mut accepting = JoinSet::new();
        for listener in self.listeners {
            let address = listener.local_address().to_string();
            tracing::info!(%address, "listening");
            let accepting_one = Accepting {
                acceptor: Arc::clone(&self.acceptor),
                workers: self.workers.clone(),
                places: Arc::clone(&places),
                refusals: Arc::clone(&refusals),
                stopped: stopped.clone(),
            };
            accepting.spawn(accepting_one.accept_all(listener));
        }
        drop(stopped);
        signal.await;
        stop.send_replace(true);
        tracing::info!("shutting down: no new calls; open ones may finish");
        while accepting.join_next().await.is_some() {}
        if let Some(workers) = self.workers {
            // Each connection holds its place to its end, so that with all places there is none.
            drop(places.acquire_many(max_connections).await);
            if let Some(workers) = Arc::into_inner(workers) {
                workers.end().await;
            }
        }
    }
}

/// What accepting connections takes.
#[derive(Clone)]
struct Accepting {
    acceptor: Arc<Acceptor>,
    workers: Option<Arc<Workers>>,
    places: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    stopped: watch::Receiver<bool>,
}

impl Accepting {
    /// Accepts on one listener until told to stop, and then waits for the connections that are
    /// served here to end.
    async fn accept_all(self, listener: Listener) {
        let mut connections = JoinSet::new();
        let mut stopped = self.stopped.clone();
        loop {
            let told = async { drop(stopped.wait_for(|stopped| *stopped).await) };
            tokio::select! {
                () = told => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok(socket) => self.begin(socket, &mut connections),
                    Err(error) => {
                        let address = listener.local_address();
                        tracing::warn!(%address, %error, "cannot accept");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    }

    /// Tells a client that there is no place for it, or, in a flood of them, hangs up.
    fn turn_away(&self, socket: Socket, here: &mut JoinSet<()>) {
        let peer = socket.peer_text();
        let Ok(refusal) = Arc::clone(&self.refusals).try_acquire_owned() else {
            tracing::debug!(%peer, "hung up: too many clients beyond limits.max_connections");
            return;
        };
        let acceptor = Arc::clone(&self.acceptor);
        here.spawn(async move {
            acceptor.turn_away(socket).await;
            drop(refusal);
        });
    }

    /// Gives a connection to a worker, or serves it among those that are served here.
    fn begin(&self, socket: Socket, here: &mut JoinSet<()>) {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            self.turn_away(socket, here);
            return;
        };
        let (acceptor, stopped) = (Arc::clone(&self.acceptor), self.stopped.clone());
        let Some(workers) = &self.workers else {
            here.spawn(serve_one(acceptor, socket, place, stopped));
            return;
        };
        let socket = match socket.detach() {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(%error, "cannot give a connection to a worker");
                return;
            }
        };
        let job = move || async move {
            match socket.attach() {
                Ok(socket) => serve_one(acceptor, socket, place, stopped).await,
                Err(error) => tracing::warn!(%error, "a worker cannot take a connection"),
            }
        };
        if let Err(job) = workers.run(Box::new(move || Box::pin(job()))) {
            tracing::error!("no worker is left alive; serving in the runtime of the server");
            here.spawn(async move { job().await });
        }
    }
}

async fn serve_one(
    acceptor: Arc<Acceptor>,
    socket: Socket,
    place: OwnedSemaphorePermit,
    mut stopped: watch::Receiver<bool>,
) {
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
    /// The workers cannot be started.
    Workers(io::Error),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServeError::Config(error) => error.fmt(f),
            ServeError::NoAddress => f.write_str(
                "no address to listen on: call ServerBuilder::listen, set `listen` in the file, \
                 or set RDMA_RPC_LISTEN (host:port)",
            ),
            ServeError::Workers(error) => write!(f, "cannot start the workers: {error}"),
            ServeError::Listen(address, error) => write!(f, "cannot listen on {address}: {error}"),
        }
    }
}

impl std::error::Error for ServeError {}
