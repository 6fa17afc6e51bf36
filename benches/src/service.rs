//! The echo service.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;
use rdma_rpc::{Request, Response, Status};

use crate::proto::echo_server::Echo;
use crate::proto::{EchoMsg, StreamReq};

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
}
