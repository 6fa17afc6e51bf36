//! The smallest program with a server and a client.
//!
//! ```text
//! cargo run --example greeter -- server --listen 127.0.0.1:7401
//! cargo run --example greeter -- client --target auto://127.0.0.1:7401 Ann
//! ```
//!
//! The target's scheme chooses the transport: `auto`, `shm`, `tcp`, `rdma`; `unix:/path` for a
//! Unix socket. `RDMA_RPC_LISTEN`, `RDMA_RPC_TARGET` or a TOML file named by `RDMA_RPC_CONFIG`
//! do as well as the options.

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;
use futures_util::stream::{self, BoxStream, StreamExt};
use rdma_rpc::config::{ClientConfig, ListenAddress, ServerConfig, Target};
use rdma_rpc::{Channel, Request, Response, Server, Status};
use rdma_rpc_examples::{ListenOptions, TargetOptions, stop_signal};

mod proto {
    rdma_rpc::include_proto!("greeter.v1");
}

use proto::greeter_client::GreeterClient;
use proto::greeter_server::{Greeter, GreeterServer};
use proto::{HelloReply, HelloRequest};

const HELLOS: [&str; 5] = ["Hello", "Bonjour", "Hallo", "Hej", "Ciao"];

struct Polite;

impl Greeter for Polite {
    async fn say_hello(
        &self,
        request: Request<HelloRequest>,
    ) -> Result<Response<HelloReply>, Status> {
        let name = name_of(request)?;
        Ok(Response::new(HelloReply { message: format!("Hello, {name}!") }))
    }

    type SayHelloManyTimesStream = BoxStream<'static, Result<HelloReply, Status>>;

    async fn say_hello_many_times(
        &self,
        request: Request<HelloRequest>,
    ) -> Result<Response<Self::SayHelloManyTimesStream>, Status> {
        let name = name_of(request)?;
        let replies = stream::iter(HELLOS)
            .map(move |hello| Ok(HelloReply { message: format!("{hello}, {name}!") }));
        Ok(Response::new(replies.boxed()))
    }
}

fn name_of(request: Request<HelloRequest>) -> Result<String, Status> {
    let HelloRequest { name } = request.into_inner();
    if name.is_empty() {
        return Err(Status::invalid_argument("whom shall I greet? `name` is empty"));
    }
    Ok(name)
}

/// Greets people, on whatever transport there is
#[derive(Debug, Parser)]
#[command(name = "greeter")]
enum Role {
    /// Serve until ctrl-c
    Server(ListenOptions),
    /// Ask for greetings
    Client {
        #[command(flatten)]
        target: TargetOptions,
        #[arg(default_value = "world")]
        name: String,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    rdma_rpc_examples::init_logs();
    let result = match Role::parse() {
        Role::Server(options) => serve(options).await,
        Role::Client { target, name } => greet(target, name).await,
    };
    rdma_rpc_examples::exit_code("greeter", result)
}

async fn serve(options: ListenOptions) -> Result<(), Box<dyn Error>> {
    let config = options.over(ServerConfig::new("127.0.0.1:7401".parse::<ListenAddress>()?))?;
    let server =
        Server::builder().config(config).add_service(GreeterServer::new(Polite)).bind().await?;
    let stop = stop_signal()?;
    for address in server.local_addresses() {
        println!("listening on {address}");
    }
    // Open calls are finished before this returns.
    server.serve_with_shutdown(stop).await;
    Ok(())
}

async fn greet(target: TargetOptions, name: String) -> Result<(), Box<dyn Error>> {
    let config = target.over(ClientConfig::new("auto://127.0.0.1:7401".parse::<Target>()?))?;
    let channel = Channel::connect_with(config).await?;
    let client = GreeterClient::new(channel.clone());

    let reply = client.say_hello(HelloRequest { name: name.clone() }).await?;
    println!("{}", reply.into_inner().message);

    let mut replies = client.say_hello_many_times(HelloRequest { name }).await?.into_inner();
    while let Some(reply) = replies.message().await? {
        println!("{}", reply.message);
    }

    if let Some(info) = channel.info() {
        let because = channel.chosen_because().unwrap_or_default();
        println!("over {}, because {because}", info.transport);
    }
    Ok(())
}
