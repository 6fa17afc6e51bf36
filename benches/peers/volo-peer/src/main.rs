//! volo's echo in thrift, over its shared memory. `--transport shmipc` wakes the other end through
//! a Unix socket, `shmipc-eventfd` by an eventfd. It has no streams.

use std::os::unix::net::SocketAddr;

use bytes::Bytes;
use rpc_bench_load::Options;
use volo::net::shmipc::config::{
    Config, DEFAULT_SESSION_MANAGER_CONFIG, DEFAULT_SHMIPC_CONFIG, MemMapType, SessionManagerConfig,
};
use volo::net::{Address, MakeIncoming};

#[allow(clippy::all, warnings)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/echo.rs"));
}
use generated::echo::echo::{Echo, EchoClient, EchoClientBuilder, EchoServer, Msg};

/// What a connection shares: enough for every case, and not its default of 32 MiB.
const SHARED_BYTES: u32 = 128 << 20;

struct Service;

impl Echo for Service {
    async fn unary(&self, message: Msg) -> Result<Msg, volo_thrift::ServerError> {
        Ok(message)
    }
}

#[derive(Clone)]
struct Volo(EchoClient);

impl rpc_bench_load::Echo for Volo {
    async fn echo(&self, data: Bytes) -> Result<Bytes, String> {
        let reply = self.0.unary(Msg { data }).await;
        Ok(reply.map_err(|error| error.to_string())?.data)
    }
}

/// A session for each connection.
fn configure(options: &Options) {
    let mut config = Config::default();
    config.mem_map_type = MemMapType::MemMapTypeMemFd;
    config.share_memory_buffer_cap = SHARED_BYTES;
    if options.transport == "shmipc-eventfd" {
        config = config.with_v4_eventfd();
    }
    let sessions = SessionManagerConfig::new().with_config(config.clone());
    DEFAULT_SHMIPC_CONFIG.store(config.into());
    DEFAULT_SESSION_MANAGER_CONFIG.store(sessions.with_session_num(options.conns).into());
}

fn address(options: &Options) -> Result<Address, String> {
    let path = SocketAddr::from_pathname(&options.addr).map_err(|error| error.to_string())?;
    Ok(Address::Shmipc(volo::net::shmipc::Address::Unix(path)))
}

async fn connect(options: Options) -> Result<Volo, String> {
    configure(&options);
    Ok(Volo(EchoClientBuilder::new("echo").address(address(&options)?).build()))
}

async fn serve(options: Options) -> Result<(), String> {
    configure(&options);
    let incoming = address(&options)?.make_incoming().await.map_err(|error| error.to_string())?;
    rpc_bench_load::ready()?;
    EchoServer::new(Service).run(incoming).await.map_err(|error| error.to_string())
}

fn main() {
    rpc_bench_load::run("volo", env!("PEER_VERSION"), serve, connect);
}
