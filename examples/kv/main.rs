//! A key-value service: server, client, self-checking demonstration and a small benchmark.
//!
//! ```text
//! cargo run --release --example kv -- server --listen 127.0.0.1:7400
//! cargo run --release --example kv -- client --target auto://127.0.0.1:7400
//! cargo run --release --example kv -- client --target tcp://127.0.0.1:7400 put greeting hello
//! cargo run --release --example kv -- client --target shm://127.0.0.1:7400 get greeting
//! ```
//!
//! `store.rs` keeps the entries and knows nothing of calls; `server.rs` answers calls from it.

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use rdma_rpc::Server;
use rdma_rpc::config::{ListenAddress, ServerConfig};
use rdma_rpc_examples::{ListenOptions, stop_signal};

mod bench;
mod client;
mod demo;
mod server;
mod store;

mod proto {
    rdma_rpc::include_proto!("kv.v1");
}

use proto::kv_server::KvServer;

/// Where server and client meet unless told otherwise.
const ADDRESS: &str = "127.0.0.1:7400";

/// The longest message: a value, and room for the rest of its entry.
const MAX_MESSAGE_BYTES: usize = store::MAX_VALUE_BYTES + (64 << 10);

/// A key-value store in memory
#[derive(Debug, Parser)]
#[command(name = "kv")]
enum Role {
    /// Serve until ctrl-c
    Server(ServerOptions),
    /// Call a server; without a command: a demonstration that checks every answer
    Client(client::Options),
}

#[derive(Debug, clap::Args)]
struct ServerOptions {
    #[command(flatten)]
    listen: ListenOptions,
    /// The most MiB of keys and values the store holds
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    memory_mib: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    rdma_rpc_examples::init_logs();
    let result = match Role::parse() {
        Role::Server(options) => serve(options).await,
        Role::Client(options) => client::run(options).await,
    };
    rdma_rpc_examples::exit_code("kv", result)
}

async fn serve(options: ServerOptions) -> Result<(), Box<dyn Error>> {
    let mut config = ServerConfig::new(ADDRESS.parse::<ListenAddress>()?);
    // What arrives and is not yet read, for one connection: a few of the longest messages.
    config.limits.max_buffered_bytes = 8 * MAX_MESSAGE_BYTES;
    let config = options.listen.over(config)?;

    let store = Arc::new(store::Store::new(options.memory_mib.saturating_mul(1 << 20)));
    let service = server::Service { store: Arc::clone(&store) };
    let service = KvServer::new(service)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let server = Server::builder().config(config).add_service(service).bind().await?;
    let stop = stop_signal()?;
    for address in server.local_addresses() {
        println!("listening on {address}");
    }
    server
        .serve_with_shutdown(async {
            stop.await;
            store.close();
        })
        .await;
    Ok(())
}
