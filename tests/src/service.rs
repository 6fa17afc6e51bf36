//! The service the cases talk to.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use rdma_rpc::metadata::{MetadataMap, MetadataValue};
use rdma_rpc::{Code, Request, Response, Status, Streaming};

use crate::observe;
use crate::pattern::{checksum, payload};
use crate::proto::behave_request::Behaviour;
use crate::proto::test_service_server::TestService;
use crate::proto::{
    BehaveReply, BehaveRequest, EchoStatus, Empty, Observation, ResponseParameters, SimpleRequest,
    SimpleResponse, StreamingInputCallRequest, StreamingInputCallResponse,
    StreamingOutputCallRequest, StreamingOutputCallResponse,
};

/// Metadata the server sends back in its initial metadata, as in gRPC's `custom_metadata`.
pub const ECHO_INITIAL: &str = "x-grpc-test-echo-initial";
/// Metadata the server sends back in its trailers.
pub const ECHO_TRAILING: &str = "x-grpc-test-echo-trailing-bin";

/// What handlers count.
#[derive(Debug, Default)]
struct Counts {
    running: AtomicI64,
    begun: AtomicU64,
    dropped: AtomicU64,
}

/// Counts one handler from its begin to its end.
struct Running {
    counts: Arc<Counts>,
    answered: bool,
}

impl Running {
    fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.counts.running.fetch_sub(1, Ordering::SeqCst);
        if !self.answered {
            self.counts.dropped.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// The service.
#[derive(Debug, Clone, Default)]
pub struct Conformance {
    counts: Arc<Counts>,
}

type Responses = Pin<Box<dyn Stream<Item = Result<StreamingOutputCallResponse, Status>> + Send>>;

impl Conformance {
    fn begin(&self) -> Running {
        self.counts.running.fetch_add(1, Ordering::SeqCst);
        self.counts.begun.fetch_add(1, Ordering::SeqCst);
        Running { counts: Arc::clone(&self.counts), answered: false }
    }
}

/// The metadata that goes back: initial and trailing.
fn echoes(request: &MetadataMap) -> (MetadataMap, MetadataMap) {
    let (mut initial, mut trailing) = (MetadataMap::new(), MetadataMap::new());
    for value in request.get_all(ECHO_INITIAL) {
        initial.append(ECHO_INITIAL, value.clone());
    }
    for value in request.get_all_bin(ECHO_TRAILING) {
        trailing.append_bin(ECHO_TRAILING, value.clone());
    }
    (initial, trailing)
}

fn answer<T>(request: &MetadataMap, message: T) -> Response<T> {
    let mut response = Response::new(message);
    if !request.is_empty() {
        let (initial, trailing) = echoes(request);
        *response.metadata_mut() = initial;
        *response.trailers_mut() = trailing;
    }
    response
}

fn asked_failure(status: Option<&EchoStatus>) -> Result<(), Status> {
    match status {
        Some(status) if status.code != 0 => {
            Err(Status::new(Code::from(status.code), status.message.clone()))
        }
        _ => Ok(()),
    }
}

/// The responses a request asks for.
fn responses(
    request: StreamingOutputCallRequest,
) -> impl Stream<Item = Result<StreamingOutputCallResponse, Status>> + Send {
    let StreamingOutputCallRequest { response_parameters, response_status, repetitions, .. } =
        request;
    let payloads: Vec<(ResponseParameters, Bytes)> = response_parameters
        .into_iter()
        .map(|wanted| (wanted, payload(wanted.bytes as usize, u64::from(wanted.bytes))))
        .collect();
    let total = payloads.len() as u64 * u64::from(repetitions.max(1));
    let sent = stream::iter(0..total).then(move |number| {
        let (wanted, payload) = payloads[(number % payloads.len() as u64) as usize].clone();
        async move {
            if wanted.interval_us > 0 {
                tokio::time::sleep(Duration::from_micros(u64::from(wanted.interval_us))).await;
            }
            Ok(StreamingOutputCallResponse { payload, number })
        }
    });
    let end = asked_failure(response_status.as_ref()).err().map(Err);
    sent.chain(stream::iter(end))
}

fn counted(
    running: Running,
    messages: impl Stream<Item = Result<StreamingOutputCallResponse, Status>> + Send + 'static,
) -> Responses {
    let mut running = Some(running);
    let end = stream::poll_fn(move |_| {
        if let Some(running) = running.take() {
            running.answered();
        }
        std::task::Poll::Ready(None)
    });
    Box::pin(messages.chain(end))
}

impl TestService for Conformance {
    async fn empty_call(&self, request: Request<Empty>) -> Result<Response<Empty>, Status> {
        self.begin().answered();
        Ok(answer(request.metadata(), Empty {}))
    }

    async fn unary_call(
        &self,
        request: Request<SimpleRequest>,
    ) -> Result<Response<SimpleResponse>, Status> {
        self.begin().answered();
        let message = request.get_ref();
        asked_failure(message.response_status.as_ref())?;
        let reply = SimpleResponse {
            payload: payload(message.response_bytes as usize, u64::from(message.response_bytes)),
            request_bytes: message.payload.len() as u32,
            request_checksum: checksum(&message.payload),
        };
        Ok(answer(request.metadata(), reply))
    }

    async fn streaming_input_call(
        &self,
        request: Request<Streaming<StreamingInputCallRequest>>,
    ) -> Result<Response<StreamingInputCallResponse>, Status> {
        let running = self.begin();
        let metadata = request.metadata().clone();
        let mut messages = request.into_inner();
        let mut reply = StreamingInputCallResponse::default();
        while let Some(message) = messages.message().await? {
            reply.aggregated_payload_bytes += message.payload.len() as u64;
            reply.messages += 1;
            reply.checksum = reply.checksum.rotate_left(1) ^ checksum(&message.payload);
        }
        running.answered();
        Ok(answer(&metadata, reply))
    }

    type StreamingOutputCallStream = Responses;

    async fn streaming_output_call(
        &self,
        request: Request<StreamingOutputCallRequest>,
    ) -> Result<Response<Responses>, Status> {
        let running = self.begin();
        let metadata = request.metadata().clone();
        Ok(answer(&metadata, counted(running, responses(request.into_inner()))))
    }

    type FullDuplexCallStream = Responses;

    async fn full_duplex_call(
        &self,
        request: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let running = self.begin();
        let metadata = request.metadata().clone();
        let answers = request.into_inner().flat_map(|message| match message {
            Ok(message) => responses(message).left_stream(),
            Err(status) => stream::iter([Err(status)]).right_stream(),
        });
        Ok(answer(&metadata, counted(running, answers)))
    }

    type HalfDuplexCallStream = Responses;

    async fn half_duplex_call(
        &self,
        request: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let running = self.begin();
        let metadata = request.metadata().clone();
        let mut messages = request.into_inner();
        let mut all = Vec::new();
        while let Some(message) = messages.message().await? {
            all.push(message);
        }
        Ok(answer(&metadata, counted(running, stream::iter(all).flat_map(responses))))
    }

    async fn unimplemented_call(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        Err(Status::unimplemented("UnimplementedCall is not implemented"))
    }

    async fn behave(
        &self,
        request: Request<BehaveRequest>,
    ) -> Result<Response<BehaveReply>, Status> {
        let running = self.begin();
        let deadline_left_us = match request.deadline() {
            Some(at) => at.saturating_duration_since(Instant::now()).as_micros() as u64 + 1,
            None => 0,
        };
        let transport = request.link_info().map_or("", |info| info.transport).to_owned();
        let device = request.link_info().map_or("", |info| &*info.device).to_owned();
        let peer = request.peer().unwrap_or_default().to_owned();
        let pause = Duration::from_millis(u64::from(request.get_ref().millis));
        match request.get_ref().behaviour() {
            Behaviour::Answer => {}
            Behaviour::Sleep => tokio::time::sleep(pause).await,
            Behaviour::Forever => std::future::pending().await,
            Behaviour::Panic => panic_quietly("a handler panics because a case asked for it"),
            Behaviour::PanicLater => {
                tokio::time::sleep(pause).await;
                panic_quietly("a handler panics later because a case asked for it");
            }
            Behaviour::FailRichly => {
                running.answered();
                return Err(rich_failure());
            }
        }
        running.answered();
        Ok(Response::new(BehaveReply { deadline_left_us, transport, peer, device }))
    }

    async fn observe(&self, _: Request<Empty>) -> Result<Response<Observation>, Status> {
        Ok(Response::new(Observation {
            running: self.counts.running.load(Ordering::SeqCst),
            begun: self.counts.begun.load(Ordering::SeqCst),
            dropped: self.counts.dropped.load(Ordering::SeqCst),
            open_files: observe::open_files(),
            memory_maps: observe::shared_maps(),
            resident_bytes: observe::resident_bytes(),
            alive_tasks: observe::alive_tasks(),
            process: u64::from(std::process::id()),
            thread: observe::thread(),
        }))
    }
}

/// Unwinds as `panic!` does, without the report: a handler that panics is no fault of the tests, and
/// its report would bury those of real ones.
fn panic_quietly(why: &'static str) -> ! {
    std::panic::resume_unwind(Box::new(why))
}

/// The status of [`Behaviour::FailRichly`].
pub fn rich_failure() -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert("x-reason", MetadataValue::from_static("because"));
    metadata.insert_bin("x-reason-bin", MetadataValue::from_bytes(&[0, 1, 254, 255]));
    Status::with_details_and_metadata(
        Code::FailedPrecondition,
        "a rich failure",
        Bytes::from_static(&[0, 159, 146, 150]),
        metadata,
    )
}
