//! The server: one method for each kind of call, and the lies of the self-check.

use std::error::Error;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::ValueEnum;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use rdma_rpc::{Request, Response, Server, Status, Streaming};

use crate::proto::arithmetic_server::{Arithmetic, ArithmeticServer};
use crate::proto::{AddRequest, Blob, CountRequest, DigestReply, Number};

/// The longest request: the echoed data and its field's header.
pub const MAX_MESSAGE_BYTES: usize = 17 << 20;

/// An answer the server gets wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Wrong {
    /// One sum among many is off by one
    Add,
    /// Two numbers of a stream change places
    CountOrder,
    /// A stream ends one number early
    CountShort,
    /// A digest misses its last number
    Digest,
    /// One square among many is off by one
    Square,
    /// One bit in the middle of a large message flips
    Echo,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}

/// Serves until our standard input closes.
pub async fn serve(wrong: Option<Wrong>) -> Result<(), Box<dyn Error>> {
    let service = ArithmeticServer::new(Calculator { wrong, sums: AtomicU64::new(0) })
        .max_decoding_message_size(MAX_MESSAGE_BYTES);
    let server = Server::builder().listen("127.0.0.1:0").add_service(service).bind().await?;
    for address in server.local_addresses() {
        println!("{address}");
    }
    let closed = crate::stdin_closed().shared();
    // Open calls may finish, but a client that outlives its parent must not keep us for long.
    let too_long = closed.clone().then(|()| tokio::time::sleep(Duration::from_secs(2)));
    tokio::select! {
        () = server.serve_with_shutdown(closed) => Ok(()),
        () = too_long => Err("calls were still open when the server was to end".into()),
    }
}

struct Calculator {
    wrong: Option<Wrong>,
    sums: AtomicU64,
}

impl Arithmetic for Calculator {
    async fn add(&self, request: Request<AddRequest>) -> Result<Response<Number>, Status> {
        let AddRequest { a, b } = request.into_inner();
        let mut value = a.wrapping_add(b);
        if self.wrong == Some(Wrong::Add) && self.sums.fetch_add(1, Ordering::Relaxed) == 500 {
            value += 1;
        }
        Ok(Response::new(Number { value }))
    }

    type CountStream = BoxStream<'static, Result<Number, Status>>;

    async fn count(
        &self,
        request: Request<CountRequest>,
    ) -> Result<Response<Self::CountStream>, Status> {
        let CountRequest { mut end } = request.into_inner();
        let swap = self.wrong == Some(Wrong::CountOrder);
        if self.wrong == Some(Wrong::CountShort) {
            end = end.saturating_sub(1);
        }
        let numbers = (0..end).map(move |value| match value {
            500 if swap => 501,
            501 if swap => 500,
            value => value,
        });
        Ok(Response::new(stream::iter(numbers.map(|value| Ok(Number { value }))).boxed()))
    }

    async fn digest(
        &self,
        request: Request<Streaming<Number>>,
    ) -> Result<Response<DigestReply>, Status> {
        let mut numbers = request.into_inner();
        let (mut count, mut digest, mut before) = (0, 0, 0);
        while let Some(Number { value }) = numbers.message().await? {
            before = digest;
            digest = digest_step(digest, value);
            count += 1;
        }
        let digest = if self.wrong == Some(Wrong::Digest) { before } else { digest };
        Ok(Response::new(DigestReply { count, digest }))
    }

    type SquareStream = BoxStream<'static, Result<Number, Status>>;

    async fn square(
        &self,
        request: Request<Streaming<Number>>,
    ) -> Result<Response<Self::SquareStream>, Status> {
        let wrong = self.wrong == Some(Wrong::Square);
        let squares = request.into_inner().map(move |number| {
            let Number { value } = number?;
            let off = u64::from(wrong && value == 500);
            Ok(Number { value: value.wrapping_mul(value) + off })
        });
        Ok(Response::new(squares.boxed()))
    }

    async fn echo(&self, request: Request<Blob>) -> Result<Response<Blob>, Status> {
        let Blob { mut data } = request.into_inner();
        if self.wrong == Some(Wrong::Echo) {
            let mut bytes = Vec::from(data);
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            data = bytes.into();
        }
        Ok(Response::new(Blob { data }))
    }
}

/// One number more. The order of the numbers counts.
pub fn digest_step(digest: u64, value: u64) -> u64 {
    digest.wrapping_mul(31).wrapping_add(value)
}
