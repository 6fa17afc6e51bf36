//! What the cases share.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use rdma_rpc::{Code, Response, Status, Streaming};
use tokio::task::JoinSet;

use crate::harness::allowed;
use crate::pattern::{checksum, payload};
use crate::proto::behave_request::Behaviour;
use crate::proto::test_service_client::TestServiceClient;
use crate::proto::{
    BehaveRequest, ResponseParameters, SimpleRequest, StreamingOutputCallRequest,
    StreamingOutputCallResponse,
};

/// 1024.
pub const KIB: usize = 1 << 10;
/// 1024 times that.
pub const MIB: usize = 1 << 20;

/// A unary request with a payload, which asks for one.
pub fn simple(payload: Bytes, response_bytes: usize) -> SimpleRequest {
    SimpleRequest { payload, response_bytes: response_bytes as u32, response_status: None }
}

/// A unary call with payloads of these sizes; both are checked byte by byte.
pub async fn exchange(
    client: &TestServiceClient,
    request_bytes: usize,
    response_bytes: usize,
) -> Result<(), Status> {
    let sent = payload(request_bytes, request_bytes as u64 + 1);
    let want = checksum(&sent);
    let reply = client.unary_call(simple(sent, response_bytes)).await?.into_inner();
    assert_eq!(
        (reply.request_bytes as usize, reply.request_checksum),
        (request_bytes, want),
        "the request arrived changed"
    );
    let want = payload(response_bytes, response_bytes as u64);
    assert!(reply.payload == want, "the response of {response_bytes} bytes arrived changed");
    Ok(())
}

/// What a handler shall do.
pub fn behave(behaviour: Behaviour, millis: u32) -> BehaveRequest {
    BehaveRequest { behaviour: behaviour.into(), millis }
}

/// Asks for responses of these sizes, all of them `repetitions` times.
pub fn output(sizes: &[usize], repetitions: u32) -> StreamingOutputCallRequest {
    let response_parameters = sizes
        .iter()
        .map(|bytes| ResponseParameters { bytes: *bytes as u32, interval_us: 0 })
        .collect();
    StreamingOutputCallRequest { response_parameters, repetitions, ..Default::default() }
}

/// The next response, which must be number `number` with a payload of `bytes`.
pub async fn next(
    responses: &mut Streaming<StreamingOutputCallResponse>,
    number: u64,
    bytes: usize,
) {
    let response = responses.message().await.expect("the stream goes on");
    let response = response.unwrap_or_else(|| panic!("the stream ended before {number}"));
    assert_eq!(response.number, number, "responses out of order");
    assert!(response.payload == payload(bytes, bytes as u64), "response {number} arrived changed");
}

/// The stream is over, and well.
pub async fn over(mut responses: Streaming<StreamingOutputCallResponse>) {
    let rest = responses.message().await.expect("the stream ends well");
    assert!(rest.is_none(), "more responses than were asked for");
}

/// The code and message a call failed with.
pub fn failure<T>(result: Result<Response<T>, Status>) -> Status {
    match result {
        Ok(_) => panic!("the call succeeded"),
        Err(status) => {
            assert_ne!(status.code(), Code::Ok, "a failure with the code OK");
            status
        }
    }
}

/// Runs `count` futures at once and gives what they gave.
pub async fn at_once<T, F>(count: usize, make: impl Fn(usize) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for number in 0..count {
        tasks.spawn(make(number));
    }
    tasks.join_all().await
}

/// Fails with `what` when it takes longer than [`allowed`].
pub async fn within<T>(limit: Duration, what: &str, future: impl Future<Output = T>) -> T {
    let limit = allowed(limit);
    tokio::time::timeout(limit, future)
        .await
        .unwrap_or_else(|_| panic!("{what}: not after {limit:?}"))
}

/// A stream of requests fed by hand.
pub fn fed<T: Send + 'static>()
-> (tokio::sync::mpsc::Sender<T>, impl Stream<Item = T> + Send + 'static) {
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    (sender, futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx)))
}

/// The size of a `bytes` field with which a message of nothing else has `total` bytes.
pub fn field_bytes(total: usize) -> Option<usize> {
    let varint = |value: usize| (1..).find(|bytes| value >> (7 * bytes) == 0);
    (1..=5).find_map(|len| {
        let bytes = total.checked_sub(1 + len)?;
        (bytes > 0 && varint(bytes) == Some(len)).then_some(bytes)
    })
}
