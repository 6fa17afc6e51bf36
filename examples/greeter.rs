//! The smallest program: `greeter server [ADDRESS]` and `greeter client [TARGET] [NAME]`.

use rdma_rpc::{Channel, Request, Response, Server, Status};

mod proto {
    rdma_rpc::include_proto!("greeter.v1");
}

use proto::greeter_client::GreeterClient;
use proto::greeter_server::{Greeter, GreeterServer};
use proto::{HelloReply, HelloRequest};

struct Polite;

impl Greeter for Polite {
    async fn say_hello(
        &self,
        request: Request<HelloRequest>,
    ) -> Result<Response<HelloReply>, Status> {
        let name = request.into_inner().name;
        if name.is_empty() {
            return Err(Status::invalid_argument("whom shall I greet? `name` is empty"));
        }
        Ok(Response::new(HelloReply { message: format!("Hello, {name}!") }))
    }

    type SayHelloManyTimesStream =
        futures_util::stream::Iter<std::vec::IntoIter<Result<HelloReply, Status>>>;

    async fn say_hello_many_times(
        &self,
        request: Request<HelloRequest>,
    ) -> Result<Response<Self::SayHelloManyTimesStream>, Status> {
        let name = request.into_inner().name;
        let replies: Vec<_> = ["Hello", "Bonjour", "Hallo", "Hej", "Ciao"]
            .map(|hello| Ok(HelloReply { message: format!("{hello}, {name}!") }))
            .into();
        Ok(Response::new(futures_util::stream::iter(replies)))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    rdma_rpc_examples::init_logs();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |at: usize, default: &'static str| {
        arguments.get(at).cloned().unwrap_or_else(|| default.to_owned())
    };
    match argument(0, "").as_str() {
        "server" => {
            let server = Server::builder()
                .listen(argument(1, "127.0.0.1:7401"))
                .add_service(GreeterServer::new(Polite));
            server
                .serve_with_shutdown(async {
                    let _ = tokio::signal::ctrl_c().await;
                })
                .await?;
        }
        "client" => {
            let channel = Channel::connect(argument(1, "auto://127.0.0.1:7401")).await?;
            let client = GreeterClient::new(channel.clone());
            let name = argument(2, "world");
            let reply = client.say_hello(HelloRequest { name: name.clone() }).await?;
            println!("{}", reply.into_inner().message);
            let mut replies =
                client.say_hello_many_times(HelloRequest { name }).await?.into_inner();
            while let Some(reply) = replies.message().await? {
                println!("{}", reply.message);
            }
            if let Some(info) = channel.info() {
                println!(
                    "over {}, because {}",
                    info.transport,
                    channel.chosen_because().unwrap_or_default()
                );
            }
        }
        _ => eprintln!("usage: greeter server [ADDRESS] | greeter client [TARGET] [NAME]"),
    }
    Ok(())
}
