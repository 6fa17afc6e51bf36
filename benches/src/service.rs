//! The echo service.

use std::io::{Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;
use rdma_rpc::{Request, Response, Server, Status};

use crate::options::Options;

#[allow(unreachable_pub)]
pub(crate) mod proto {
    rdma_rpc::include_proto!("bench");
}

use proto::echo_server::{Echo, EchoServer};
use proto::{EchoMsg, StreamReq};

struct Service;

/// The same message for ever.
pub(crate) struct Down(Bytes);

impl Stream for Down {
    type Item = Result<EchoMsg, Status>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(Some(Ok(EchoMsg { data: self.0.clone() })))
    }
}

impl Echo for Service {
    async fn unary(&self, request: Request<EchoMsg>) -> Result<Response<EchoMsg>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    type DownStream = Down;

    async fn down(&self, request: Request<StreamReq>) -> Result<Response<Down>, Status> {
        Ok(Response::new(Down(vec![7; request.into_inner().size as usize].into())))
    }
}

/// Serves until stdin closes, so that no server outlives whoever started it.
pub(crate) async fn serve(options: Options) -> Result<(), String> {
    std::thread::spawn(|| {
        let mut buffer = [0; 64];
        while std::io::stdin().read(&mut buffer).is_ok_and(|bytes| bytes > 0) {}
        std::process::exit(0);
    });
    let server = Server::builder()
        .config(options.server_config()?)
        .add_service(EchoServer::new(Service))
        .bind()
        .await
        .map_err(|error| error.to_string())?;
    println!("READY {}", std::process::id());
    std::io::stdout().flush().map_err(|error| error.to_string())?;
    server.serve().await;
    Ok(())
}
