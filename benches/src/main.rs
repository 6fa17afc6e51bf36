//! `echo`: one server or one client of an echo service, measured. See `benches/README.md`.
//!
//! ```text
//! echo server --transport tcp|unix|shm|rdma --addr 127.0.0.1:PORT [--rt st|st-pin|main|mt|spin]
//! echo client --transport ... --addr ... --case NAME --mode unary|stream|idle --payload BYTES
//!             --conns N --outstanding N --secs S --warmup S --server-pid PID --rep N
//! ```

mod wiring;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use rdma_rpc::{BulkBuffer, Channel, Request, Server};
use rpc_bench_load::{BoxStream, EXTRAS, Echo, MAX_MESSAGE_BYTES, Options, StreamExt, in_order};
use rpc_benches::Service;
use rpc_benches::proto::echo_client::EchoClient;
use rpc_benches::proto::echo_server::EchoServer;
use rpc_benches::proto::{EchoMsg, StreamReq};
use tokio::sync::mpsc;

#[derive(Clone)]
struct Ours(EchoClient);

impl Echo for Ours {
    fn payload(bytes: Vec<u8>) -> Bytes {
        BulkBuffer::copy_from_slice(&bytes).freeze()
    }

    async fn echo(&self, data: Bytes) -> Result<Bytes, String> {
        let reply = self.0.unary(EchoMsg { data }).await;
        Ok(reply.map_err(|status| status.to_string())?.into_inner().data)
    }

    async fn stream(&self, size: usize, count: Arc<AtomicU64>) -> Result<(), String> {
        let stream = self.0.down(StreamReq { size: size as u32 }).await;
        let mut stream = stream.map_err(|status| status.to_string())?.into_inner();
        while let Some(message) = stream.message().await.map_err(|status| status.to_string())? {
            assert_eq!(message.data.len(), size);
            count.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    async fn echo_with_extras(&self, data: Bytes, deadline: Duration) -> Result<(), String> {
        let mut request = Request::new(EchoMsg { data });
        request.set_timeout(deadline);
        for (key, value) in EXTRAS {
            let value = value.parse().map_err(|_| format!("{key} cannot be sent"))?;
            request.metadata_mut().insert(key, value);
        }
        self.0.unary(request).await.map(drop).map_err(|status| status.to_string())
    }

    async fn echo_spawned(&self, data: Bytes) -> Result<(), String> {
        self.0.spawned(EchoMsg { data }).await.map(drop).map_err(|status| status.to_string())
    }

    async fn upload(&self, messages: mpsc::Receiver<Bytes>) -> Result<u64, String> {
        let reply = self.0.upload(in_order(messages).map(|data| EchoMsg { data })).await;
        Ok(reply.map_err(|status| status.to_string())?.into_inner().messages)
    }

    async fn chat(
        &self,
        messages: mpsc::Receiver<Bytes>,
    ) -> Result<BoxStream<'static, Result<Bytes, String>>, String> {
        let reply = self
            .0
            .chat(in_order(messages).map(|data| EchoMsg { data }))
            .await
            .map_err(|status| status.to_string())?;
        let answers = reply.into_inner();
        Ok(answers.map(|answer| answer.map(|it| it.data).map_err(|s| s.to_string())).boxed())
    }
}

async fn connect(options: Options) -> Result<Ours, String> {
    let channel = Channel::connect_with(wiring::client_config(&options)?);
    let channel = channel.await.map_err(|status| status.to_string())?;
    Ok(Ours(EchoClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES)))
}

async fn serve(options: Options) -> Result<(), String> {
    let server = Server::builder()
        .config(wiring::server_config(&options)?)
        .add_service(EchoServer::new(Service))
        .bind()
        .await
        .map_err(|error| error.to_string())?;
    rpc_bench_load::ready()?;
    server.serve().await;
    Ok(())
}

fn main() {
    // Why a connection was lost, if one is.
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_writer(std::io::stderr)
        .init();
    rpc_bench_load::run("rdma-rpc", env!("CARGO_PKG_VERSION"), serve, connect);
}
