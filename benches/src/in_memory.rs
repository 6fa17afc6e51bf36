//! Both ends of a connection in this process.

use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;

use rdma_rpc_core::client::{ClientConnection, ConnectError, Connector, connect_link};
use rdma_rpc_core::memory::{MemoryConfig, pair};
use rdma_rpc_core::server::{ConnectionConfig, Router, serve_connection};

/// Connects to services in this process, with nothing between the two ends but queues.
#[derive(Debug)]
pub struct InMemory {
    router: Arc<Router>,
    config: ConnectionConfig,
}

impl InMemory {
    /// To these services; both ends get the same configuration.
    pub fn new(router: Router, config: ConnectionConfig) -> InMemory {
        InMemory { router: Arc::new(router), config }
    }
}

impl Connector for InMemory {
    fn connect(
        &self,
    ) -> Pin<Box<dyn Future<Output = Result<ClientConnection, ConnectError>> + Send + '_>> {
        let (near, far) = pair(MemoryConfig::default());
        tokio::spawn(serve_connection(far, Arc::clone(&self.router), self.config).1);
        let (connection, driving) = connect_link(near, self.config, "both ends are in memory");
        tokio::spawn(driving);
        Box::pin(ready(Ok(connection)))
    }

    fn target(&self) -> String {
        "memory".into()
    }
}
