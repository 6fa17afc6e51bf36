//! tonic's echo. `--transport tcp|unix`; `tcp-wide` and `unix-wide` have HTTP/2 windows of 16 MiB
//! and frames of 1 MiB, which suit long messages better than the defaults.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use rpc_bench_load::{BoxStream, EXTRAS, Echo, MAX_MESSAGE_BYTES, Options, StreamExt, in_order};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server, Uri};
use tonic::{Request, Response, Status, Streaming};

mod proto {
    tonic::include_proto!("bench");
}
use proto::echo_client::EchoClient;
use proto::echo_server::EchoServer;
use proto::{Count, EchoMsg, StreamReq};

/// The default of 200 would hold back the cases with more calls open on a connection. With 4096, h2
/// ends connections on which so many small messages have come at once (`too_many_data_frames`); with
/// this, further calls wait at the client.
const OPEN_CALLS: u32 = 2048;
const WIDE_WINDOW_BYTES: u32 = 16 << 20;
const WIDE_FRAME_BYTES: u32 = 1 << 20;

struct Service;

/// The same message for ever.
struct Down(Bytes);

impl Stream for Down {
    type Item = Result<EchoMsg, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // tonic does not yield by itself between messages that are always ready.
        ready!(tokio::task::coop::poll_proceed(cx)).made_progress();
        Poll::Ready(Some(Ok(EchoMsg { data: self.0.clone() })))
    }
}

#[tonic::async_trait]
impl proto::echo_server::Echo for Service {
    async fn unary(&self, request: Request<EchoMsg>) -> Result<Response<EchoMsg>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    type DownStream = Down;

    async fn down(&self, request: Request<StreamReq>) -> Result<Response<Down>, Status> {
        Ok(Response::new(Down(vec![7; request.into_inner().size as usize].into())))
    }

    async fn spawned(&self, request: Request<EchoMsg>) -> Result<Response<EchoMsg>, Status> {
        let work = tokio::spawn(async move { request.into_inner() });
        work.await.map(Response::new).map_err(|error| Status::internal(error.to_string()))
    }

    async fn upload(
        &self,
        request: Request<Streaming<EchoMsg>>,
    ) -> Result<Response<Count>, Status> {
        let mut stream = request.into_inner();
        let mut messages = 0;
        while stream.message().await?.is_some() {
            messages += 1;
        }
        Ok(Response::new(Count { messages }))
    }

    type ChatStream = Streaming<EchoMsg>;

    async fn chat(
        &self,
        request: Request<Streaming<EchoMsg>>,
    ) -> Result<Response<Streaming<EchoMsg>>, Status> {
        Ok(Response::new(request.into_inner()))
    }
}

#[derive(Clone)]
struct Tonic(EchoClient<Channel>);

impl Echo for Tonic {
    async fn echo(&self, data: Bytes) -> Result<Bytes, String> {
        let reply = self.0.clone().unary(EchoMsg { data }).await;
        Ok(reply.map_err(|status| status.to_string())?.into_inner().data)
    }

    async fn stream(&self, size: usize, count: Arc<AtomicU64>) -> Result<(), String> {
        let stream = self.0.clone().down(StreamReq { size: size as u32 }).await;
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
        self.0.clone().unary(request).await.map(drop).map_err(|status| status.to_string())
    }

    async fn echo_spawned(&self, data: Bytes) -> Result<(), String> {
        let reply = self.0.clone().spawned(EchoMsg { data }).await;
        reply.map(drop).map_err(|status| status.to_string())
    }

    async fn upload(&self, messages: mpsc::Receiver<Bytes>) -> Result<u64, String> {
        let reply = self.0.clone().upload(in_order(messages).map(|data| EchoMsg { data })).await;
        Ok(reply.map_err(|status| status.to_string())?.into_inner().messages)
    }

    async fn chat(
        &self,
        messages: mpsc::Receiver<Bytes>,
    ) -> Result<BoxStream<'static, Result<Bytes, String>>, String> {
        let reply = self.0.clone().chat(in_order(messages).map(|data| EchoMsg { data })).await;
        let answers = reply.map_err(|status| status.to_string())?.into_inner();
        Ok(answers.map(|answer| answer.map(|it| it.data).map_err(|s| s.to_string())).boxed())
    }
}

async fn connect(options: Options) -> Result<Tonic, String> {
    let unix = options.transport.starts_with("unix");
    // The address of a Unix socket is the connector's business; HTTP wants a name all the same.
    let uri = if unix { "http://localhost".into() } else { format!("http://{}", options.addr) };
    let mut endpoint = Endpoint::from_shared(uri).map_err(|e| e.to_string())?.tcp_nodelay(true);
    if options.transport.ends_with("-wide") {
        endpoint = endpoint
            .initial_stream_window_size(WIDE_WINDOW_BYTES)
            .initial_connection_window_size(WIDE_WINDOW_BYTES);
    }
    let channel = if unix {
        let path = options.addr;
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        endpoint.connect_with_connector(connector).await
    } else {
        endpoint.connect().await
    };
    let client = EchoClient::new(channel.map_err(|error| error.to_string())?);
    Ok(Tonic(client.max_decoding_message_size(MAX_MESSAGE_BYTES)))
}

async fn serve(options: Options) -> Result<(), String> {
    let mut server = Server::builder().tcp_nodelay(true).max_concurrent_streams(OPEN_CALLS);
    if options.transport.ends_with("-wide") {
        server = server
            .initial_stream_window_size(WIDE_WINDOW_BYTES)
            .initial_connection_window_size(WIDE_WINDOW_BYTES)
            .max_frame_size(WIDE_FRAME_BYTES);
    }
    let service = EchoServer::new(Service).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let server = server.add_service(service);
    let served = if options.transport.starts_with("unix") {
        let listener = UnixListener::bind(&options.addr).map_err(|error| error.to_string())?;
        rpc_bench_load::ready()?;
        server.serve_with_incoming(UnixListenerStream::new(listener)).await
    } else {
        let address = options.addr.parse().map_err(|error| format!("{error}"))?;
        let incoming = TcpIncoming::bind(address).map_err(|error| error.to_string())?;
        rpc_bench_load::ready()?;
        server.serve_with_incoming(incoming.with_nodelay(Some(true))).await
    };
    served.map_err(|error| error.to_string())
}

fn main() {
    rpc_bench_load::run("tonic", env!("PEER_VERSION"), serve, connect);
}
