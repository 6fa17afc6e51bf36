//! Makes a number of calls and ends: something for an instruction counter to count.
//!
//! ```text
//! valgrind --tool=callgrind target/release/call-cost \
//!     memory|shm|shm-busy|tcp CALLS OUTSTANDING [CONNECTIONS]
//! ```
//!
//! Client and server share one thread, so the count is the same every time, or nearly; nobody spins
//! but with `shm-busy`, where connections wait in the poll set. Calls are spread over the connections. Two runs with different numbers of calls give the cost of one; `benches/README.md` has
//! the command.

use bytes::Bytes;
use rdma_rpc::client::ReconnectPolicy;
use rdma_rpc::config::{ClientConfig, Progress, ServerConfig};
use rdma_rpc::{Server, codegen};
use rdma_rpc_core::server::{ConnectionConfig, Router};
use rpc_benches::proto::EchoMsg;
use rpc_benches::proto::echo_client::EchoClient;
use rpc_benches::proto::echo_server::EchoServer;
use rpc_benches::{InMemory, Service};

const PAYLOAD: &[u8; 32] = b"thirty-two bytes of any content.";

/// Channels to one server.
async fn channels(transport: &str, connections: usize) -> Result<Vec<codegen::Channel>, String> {
    if transport == "memory" {
        let router = Router::new().add_service(EchoServer::new(Service));
        let config =
            ConnectionConfig { progress: rdma_rpc::Progress::EVENT, ..ConnectionConfig::default() };
        let connector = InMemory::new(router, config);
        let channel = codegen::Channel::lazy(connector, ReconnectPolicy::default());
        return Ok(vec![channel; connections]);
    }
    let (transport, progress) = match transport {
        "shm-busy" => ("shm", Progress::Busy),
        other => (other, Progress::Event),
    };
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let mut config = ServerConfig::new("127.0.0.1:0".parse().map_err(|e| text(&e))?);
    config.shm.progress = progress;
    let builder = Server::builder().config(config).add_service(EchoServer::new(Service));
    let server = builder.bind().await.map_err(|e| text(&e))?;
    let address = server.local_addresses().first().map(ToString::to_string).unwrap_or_default();
    tokio::spawn(server.serve());
    let target = format!("{transport}://{address}").parse().map_err(|e| text(&e))?;
    let mut config = ClientConfig::new(target);
    config.shm.progress = progress;
    let mut channels = Vec::new();
    for _ in 0..connections {
        let channel = rdma_rpc::Channel::connect_with(config.clone()).await;
        channels.push(channel.map_err(|e| text(&e))?.into());
    }
    Ok(channels)
}

async fn run(
    transport: &str,
    calls: usize,
    outstanding: usize,
    connections: usize,
) -> Result<(), String> {
    let clients = channels(transport, connections).await?;
    let clients: Vec<_> = clients.into_iter().map(EchoClient::new).collect();
    let tasks: Vec<_> = (0..outstanding)
        .map(|task| {
            let client = clients[task % connections].clone();
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
    let (transport, calls, outstanding, connections) = match &words[..] {
        [transport, calls, outstanding] => (transport, calls, outstanding, "1"),
        [transport, calls, outstanding, connections] => {
            (transport, calls, outstanding, connections.as_str())
        }
        _ => return Err("call-cost TRANSPORT CALLS OUTSTANDING [CONNECTIONS]".into()),
    };
    let number = |text: &str| text.parse::<usize>().map_err(|_| format!("{text:?}: no number"));
    let (calls, outstanding) = (number(calls)?, number(outstanding)?.max(1));
    let connections = number(connections)?.max(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| error.to_string())?.block_on(run(
        transport,
        calls,
        outstanding,
        connections,
    ))
}
