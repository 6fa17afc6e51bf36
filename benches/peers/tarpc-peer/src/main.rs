//! tarpc's echo, in bincode. `--transport tcp|unix`. tarpc has no streams.

use bytes::Bytes;
use futures::StreamExt;
use rpc_bench_load::{MAX_MESSAGE_BYTES, MAX_OPEN_CALLS, Options};
use tarpc::server::{BaseChannel, Channel};
use tarpc::tokio_serde::formats::Bincode;
use tarpc::{ClientMessage, Response, Transport, client, context, serde_transport, server};

/// Its bytes are written in one piece, not as a sequence of numbers.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Msg {
    pub data: Bytes,
}

#[tarpc::service]
pub trait Echo {
    async fn unary(message: Msg) -> Msg;
}

#[derive(Clone)]
struct Service;

impl Echo for Service {
    async fn unary(self, _: context::Context, message: Msg) -> Msg {
        message
    }
}

#[derive(Clone)]
struct Tarpc(EchoClient);

impl rpc_bench_load::Echo for Tarpc {
    async fn echo(&self, data: Bytes) -> Result<Bytes, String> {
        let reply = self.0.unary(context::current(), Msg { data }).await;
        Ok(reply.map_err(|error| error.to_string())?.data)
    }
}

async fn connect(options: Options) -> Result<Tarpc, String> {
    let mut config = client::Config::default();
    // The default of 1,000 would hold back the cases with more calls open.
    config.max_in_flight_requests = MAX_OPEN_CALLS as usize;
    let client = if options.transport == "unix" {
        let mut connecting = serde_transport::unix::connect(&options.addr, Bincode::default);
        connecting.config_mut().max_frame_length(MAX_MESSAGE_BYTES);
        let transport = connecting.await.map_err(|error| error.to_string())?;
        EchoClient::new(config, transport).spawn()
    } else {
        let mut connecting = serde_transport::tcp::connect(&options.addr, Bincode::default);
        connecting.config_mut().max_frame_length(MAX_MESSAGE_BYTES);
        let transport = connecting.await.map_err(|error| error.to_string())?;
        transport.get_ref().set_nodelay(true).map_err(|error| error.to_string())?;
        EchoClient::new(config, transport).spawn()
    };
    Ok(Tarpc(client))
}

/// A task for each connection, and one for each call, as tarpc's own examples have it.
fn handle<T>(transport: T)
where
    T: Transport<Response<EchoResponse>, ClientMessage<EchoRequest>> + Send + 'static,
    T::Error: std::error::Error + Send + Sync + 'static,
{
    let channel = BaseChannel::new(server::Config::default(), transport);
    tokio::spawn(channel.execute(Service.serve()).for_each(|answer| async move {
        tokio::spawn(answer);
    }));
}

async fn serve(options: Options) -> Result<(), String> {
    if options.transport == "unix" {
        let listening = serde_transport::unix::listen(&options.addr, Bincode::default).await;
        let mut listener = listening.map_err(|error| error.to_string())?;
        listener.config_mut().max_frame_length(MAX_MESSAGE_BYTES);
        rpc_bench_load::ready()?;
        while let Some(transport) = listener.next().await {
            handle(transport.map_err(|error| error.to_string())?);
        }
    } else {
        let listening = serde_transport::tcp::listen(&options.addr, Bincode::default).await;
        let mut listener = listening.map_err(|error| error.to_string())?;
        listener.config_mut().max_frame_length(MAX_MESSAGE_BYTES);
        rpc_bench_load::ready()?;
        while let Some(transport) = listener.next().await {
            let transport = transport.map_err(|error| error.to_string())?;
            transport.get_ref().set_nodelay(true).map_err(|error| error.to_string())?;
            handle(transport);
        }
    }
    Ok(())
}

fn main() {
    rpc_bench_load::run("tarpc", env!("PEER_VERSION"), serve, connect);
}
