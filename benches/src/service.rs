//! The echo service.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;
use rdma_rpc::{Request, Response, Status, Streaming};

use crate::proto::echo_server::Echo;
use crate::proto::{Count, EchoMsg, StreamReq};

/// Gives back what it gets.
#[derive(Debug, Clone, Copy)]
pub struct Service;

/// The same message for ever.
#[derive(Debug)]
pub struct Down(Bytes);

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
