//! The four kinds of call, by the example that gRPC's tutorials use: a guide to places.
//!
//! ```text
//! cargo run --example route-guide -- server --listen 127.0.0.1:7402
//! cargo run --example route-guide -- client --target auto://127.0.0.1:7402
//! ```

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;
use rdma_rpc::config::{ClientConfig, ListenAddress, ServerConfig, Target};
use rdma_rpc::{Channel, Server};
use rdma_rpc_examples::{ListenOptions, TargetOptions, stop_signal};

mod client;
mod geometry;
mod server;

mod proto {
    rdma_rpc::include_proto!("routeguide.v1");
}

use proto::route_guide_server::RouteGuideServer;

/// A guide to places: one method of each kind
#[derive(Debug, Parser)]
#[command(name = "route-guide")]
enum Role {
    /// Serve until ctrl-c
    Server(ListenOptions),
    /// Make a call of each kind
    Client(TargetOptions),
}

#[tokio::main]
async fn main() -> ExitCode {
    rdma_rpc_examples::init_logs();
    let result = match Role::parse() {
        Role::Server(options) => serve(options).await,
        Role::Client(options) => visit(options).await,
    };
    rdma_rpc_examples::exit_code("route-guide", result)
}

async fn serve(options: ListenOptions) -> Result<(), Box<dyn Error>> {
    let config = options.over(ServerConfig::new("127.0.0.1:7402".parse::<ListenAddress>()?))?;
    let guide = RouteGuideServer::new(server::Guide::new(geometry::features()?));
    let server = Server::builder().config(config).add_service(guide).bind().await?;
    let stop = stop_signal()?;
    for address in server.local_addresses() {
        println!("listening on {address}");
    }
    server.serve_with_shutdown(stop).await;
    Ok(())
}

async fn visit(options: TargetOptions) -> Result<(), Box<dyn Error>> {
    let config = options.over(ClientConfig::new("auto://127.0.0.1:7402".parse::<Target>()?))?;
    client::visit(Channel::connect_with(config).await?).await
}
