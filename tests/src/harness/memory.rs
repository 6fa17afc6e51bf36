//! The memory transport's server: a router that connections in this process reach.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use rdma_rpc::memory::{MemoryConfig, pair};
use rdma_rpc_core::client::{ClientConnection, ConnectError, Connector, connect_link};
use rdma_rpc_core::server::{ConnectionConfig, Router, ServerConnection, serve_connection};
use tokio::task::JoinHandle;

/// Connections that are served, with the tasks that drive them.
type Served = Vec<(ServerConnection, JoinHandle<()>)>;

/// A server without a socket.
#[derive(Clone)]
pub(super) struct Hub {
    state: Arc<Mutex<State>>,
    memory: MemoryConfig,
    server: ConnectionConfig,
    client: ConnectionConfig,
}

#[derive(Default)]
struct State {
    router: Option<Arc<Router>>,
    served: Served,
}

impl Hub {
    pub(super) fn new(
        memory: MemoryConfig,
        server: ConnectionConfig,
        client: ConnectionConfig,
    ) -> Hub {
        Hub { state: Arc::default(), memory, server, client }
    }

    /// The same server, for a client of another configuration.
    pub(super) fn with_client(self, client: ConnectionConfig) -> Hub {
        Hub { client, ..self }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn start(&self, router: Router) {
        self.state().router = Some(Arc::new(router));
    }

    /// Accepts nothing new; the connections that are to be shut down.
    pub(super) fn stop(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut state = self.state();
        state.router = None;
        let served = std::mem::take(&mut state.served);
        for (connection, _) in &served {
            connection.shut_down("the server is shutting down");
        }
        async move {
            for (_, task) in served {
                task.await.expect("a connection's task does not panic");
            }
        }
    }

    /// Drops every connection as a killed process would.
    pub(super) fn kill(&self) {
        let mut state = self.state();
        state.router = None;
        for (_, task) in state.served.drain(..) {
            task.abort();
        }
    }
}

impl Connector for Hub {
    fn connect(
        &self,
    ) -> Pin<Box<dyn Future<Output = Result<ClientConnection, ConnectError>> + Send + '_>> {
        Box::pin(async {
            let mut state = self.state();
            let Some(router) = state.router.clone() else {
                return Err(ConnectError::new("the server does not run"));
            };
            let (near, far) = pair(self.memory);
            let (connection, serving) = serve_connection(far, router, self.server);
            let task = tokio::spawn(async move { drop(serving.await) });
            state.served.push((connection, task));
            let (connection, driving) = connect_link(near, self.client, "the case asks for memory");
            tokio::spawn(driving);
            Ok(connection)
        })
    }

    fn target(&self) -> String {
        "memory".into()
    }
}
