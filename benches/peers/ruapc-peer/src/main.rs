//! ruapc's echo, in MessagePack. `--transport tcp`. It has no streams of a server.

use std::sync::Arc;

use bytes::Bytes;
use rpc_bench_load::Options;
use ruapc::{Client, Context, Endpoint, ListenMode, Router, Server, SocketPoolConfig};

/// Its bytes are written in one piece, not as a sequence of numbers.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
struct Msg {
    #[schemars(with = "Vec<u8>")]
    data: Bytes,
}

#[ruapc::service]
trait EchoService {
    async fn unary(&self, context: &Context, message: &Msg) -> ruapc::Result<Msg>;
}

struct Service;

impl EchoService for Service {
    async fn unary(&self, _: &Context, message: &Msg) -> ruapc::Result<Msg> {
        Ok(message.clone())
    }
}

#[derive(Clone)]
struct Ruapc(Context, Arc<Client>);

impl rpc_bench_load::Echo for Ruapc {
    async fn echo(&self, data: Bytes) -> Result<Bytes, String> {
        let reply = self.1.unary(&self.0, &Msg { data }).await;
        Ok(reply.map_err(|error| error.to_string())?.data)
    }
}

fn config() -> SocketPoolConfig {
    let mut config = SocketPoolConfig::default();
    config.listen_mode = ListenMode::UNIFIED;
    config
}

/// A context has one pool of sockets, and that one connection to the server.
async fn connect(options: Options) -> Result<Ruapc, String> {
    let endpoint = format!("{}://{}", options.transport, options.addr);
    let endpoint: Endpoint = endpoint.parse().map_err(|error| format!("{endpoint}: {error}"))?;
    let context = Context::create(&config()).map_err(|error| error.to_string())?;
    Ok(Ruapc(context.with_endpoint(endpoint), Arc::new(Client::default())))
}

async fn serve(options: Options) -> Result<(), String> {
    let mut router = Router::default();
    EchoService::ruapc_export(Arc::new(Service), &mut router);
    let server = Server::create(router, &config()).map_err(|error| error.to_string())?;
    let address = options.addr.parse().map_err(|error| format!("{}: {error}", options.addr))?;
    server.listen(address).await.map_err(|error| error.to_string())?;
    rpc_bench_load::ready()?;
    server.join().await;
    Ok(())
}

fn main() {
    rpc_bench_load::run("ruapc", env!("PEER_VERSION"), serve, connect);
}
