//! Makes a number of calls and ends: something for an instruction counter to count.
//!
//! ```text
//! valgrind --tool=callgrind target/release/call-cost memory|shm|tcp CALLS OUTSTANDING
//! ```
//!
//! Client and server share one thread, and nobody spins, so the count is the same every time, or
//! nearly. Two runs with different numbers of calls give the cost of one; `benches/README.md` has
//! the command.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use rdma_rpc::client::{ClientConnection, ConnectError, Connector, ReconnectPolicy, connect_link};
use rdma_rpc::config::{ClientConfig, Progress, ServerConfig};
use rdma_rpc::memory::{MemoryConfig, pair};
use rdma_rpc::{Request, Response, Server, Status, codegen};
use rdma_rpc_core::server::{ConnectionConfig, Router, serve_connection};

#[allow(unreachable_pub)]
mod proto {
    rdma_rpc::include_proto!("bench");
}

use proto::echo_client::EchoClient;
use proto::echo_server::{Echo, EchoServer};
use proto::{EchoMsg, StreamReq};

const PAYLOAD: &[u8; 32] = b"thirty-two bytes of any content.";

struct Service;

type NoMessages = Pin<Box<dyn futures_core::Stream<Item = Result<EchoMsg, Status>> + Send>>;

impl Echo for Service {
    async fn unary(&self, request: Request<EchoMsg>) -> Result<Response<EchoMsg>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    type DownStream = NoMessages;

    async fn down(&self, _: Request<StreamReq>) -> Result<Response<NoMessages>, Status> {
        Err(Status::unimplemented("only unary calls are counted"))
    }
}

/// Both ends in this process, with nothing between them but queues.
struct InMemory;

impl Connector for InMemory {
    fn connect(
        &self,
    ) -> Pin<Box<dyn Future<Output = Result<ClientConnection, ConnectError>> + Send + '_>> {
        let (near, far) = pair(MemoryConfig::default());
        let config =
            ConnectionConfig { progress: rdma_rpc::Progress::EVENT, ..ConnectionConfig::default() };
        let router = Arc::new(Router::new().add_service(EchoServer::new(Service)));
        tokio::spawn(serve_connection(far, router, config).1);
        let (connection, driving) = connect_link(near, config, "in memory");
        tokio::spawn(driving);
        Box::pin(std::future::ready(Ok(connection)))
    }

    fn target(&self) -> String {
        "memory".into()
    }
}

async fn channel(transport: &str) -> Result<codegen::Channel, String> {
    if transport == "memory" {
        return Ok(codegen::Channel::lazy(InMemory, ReconnectPolicy::default()));
    }
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let mut config = ServerConfig::new("127.0.0.1:0".parse().map_err(|e| text(&e))?);
    config.shm.progress = Progress::Event;
    let builder = Server::builder().config(config).add_service(EchoServer::new(Service));
    let server = builder.bind().await.map_err(|e| text(&e))?;
    let address = server.local_addresses().first().map(ToString::to_string).unwrap_or_default();
    tokio::spawn(server.serve());
    let target = format!("{transport}://{address}").parse().map_err(|e| text(&e))?;
    let mut config = ClientConfig::new(target);
    config.shm.progress = Progress::Event;
    let channel = rdma_rpc::Channel::connect_with(config).await.map_err(|e| text(&e))?;
    Ok(channel.into())
}

async fn run(transport: &str, calls: usize, outstanding: usize) -> Result<(), String> {
    let client = EchoClient::new(channel(transport).await?);
    let tasks: Vec<_> = (0..outstanding)
        .map(|task| {
            let client = client.clone();
            let calls = calls / outstanding + usize::from(task < calls % outstanding);
            tokio::spawn(async move {
                for _ in 0..calls {
                    let request = EchoMsg { data: Bytes::from_static(PAYLOAD) };
                    let reply = client.unary(request).await.map_err(|status| status.to_string())?;
                    if reply.get_ref().data != PAYLOAD[..] {
                        return Err("the echo is not what was sent".to_owned());
                    }
                }
                Ok(())
            })
        })
        .collect();
    for task in tasks {
        task.await.map_err(|error| error.to_string())??;
    }
    Ok(())
}

fn main() -> Result<(), String> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [transport, calls, outstanding] = &words[..] else {
        return Err("call-cost memory|shm|tcp CALLS OUTSTANDING".into());
    };
    let number = |text: &str| text.parse::<usize>().map_err(|_| format!("{text:?}: no number"));
    let (calls, outstanding) = (number(calls)?, number(outstanding)?.max(1));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| error.to_string())?.block_on(run(transport, calls, outstanding))
}
