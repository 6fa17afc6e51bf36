//! The kinds of call, and how calls fail.

use futures_util::{StreamExt, stream};
use rdma_rpc::codegen::{Client, Idempotency, MethodDescriptor, MethodKind};
use rdma_rpc::{Code, Request, Status, Streaming};

use super::support::{at_once, behave, exchange, failure, fed, next, output, over, simple, within};
use crate::harness::Place;
use crate::pattern::{checksum, payload};
use crate::proto::behave_request::Behaviour;
use crate::proto::unimplemented_service_client::UnimplementedServiceClient;
use crate::proto::{
    BehaveReply, EchoStatus, Empty, ResponseParameters, SimpleRequest, SimpleResponse,
    StreamingInputCallRequest, StreamingOutputCallRequest,
};
use crate::service::rich_failure;
use std::time::Duration;

const SECONDS: Duration = Duration::from_secs(5);

/// The sizes of gRPC's streaming cases.
const INPUT_SIZES: [usize; 4] = [27_182, 8, 1_828, 45_904];
const OUTPUT_SIZES: [usize; 4] = [31_415, 9, 2_653, 58_979];

/// One empty message each way.
pub async fn empty_unary(place: Place) {
    let world = place.world().await;
    let reply = world.client().empty_call(Empty {}).await.unwrap();
    assert!(reply.metadata().is_empty() && reply.trailers().is_empty());
}

/// 271,828 bytes there, 314,159 back.
pub async fn large_unary(place: Place) {
    let world = place.world().await;
    exchange(&world.client(), 271_828, 314_159).await.unwrap();
}

/// Messages of several sizes there, their sum back.
pub async fn client_streaming(place: Place) {
    let world = place.world().await;
    let payloads: Vec<_> = INPUT_SIZES.iter().map(|bytes| payload(*bytes, 3)).collect();
    let want = payloads.iter().fold(0u64, |sum, p| sum.rotate_left(1) ^ checksum(p));
    let messages = payloads.into_iter().map(|payload| StreamingInputCallRequest { payload });
    let reply = world.client().streaming_input_call(stream::iter(messages)).await.unwrap();
    let reply = reply.into_inner();
    assert_eq!((reply.messages, reply.aggregated_payload_bytes, reply.checksum), (4, 74_922, want));
}

/// One message there, several back.
pub async fn server_streaming(place: Place) {
    let world = place.world().await;
    let request = output(&OUTPUT_SIZES, 1);
    let mut responses = world.client().streaming_output_call(request).await.unwrap().into_inner();
    for (number, bytes) in OUTPUT_SIZES.into_iter().enumerate() {
        next(&mut responses, number as u64, bytes).await;
    }
    over(responses).await;
}

/// A request, its response, the next request, on one stream.
pub async fn ping_pong(place: Place) {
    let world = place.world().await;
    let (requests, stream) = fed();
    let mut responses = world.client().full_duplex_call(stream).await.unwrap().into_inner();
    for round in 0..25 {
        for (request_bytes, response_bytes) in INPUT_SIZES.into_iter().zip(OUTPUT_SIZES) {
            let mut request = output(&[response_bytes], 1);
            request.payload = payload(request_bytes, round);
            requests.send(request).await.expect("the call is open");
            next(&mut responses, 0, response_bytes).await;
        }
    }
    drop(requests);
    over(responses).await;
}

/// All requests first, then all responses.
pub async fn half_duplex(place: Place) {
    let world = place.world().await;
    let requests = stream::iter(OUTPUT_SIZES.map(|bytes| output(&[bytes], 2)));
    let mut responses = world.client().half_duplex_call(requests).await.unwrap().into_inner();
    for bytes in OUTPUT_SIZES {
        next(&mut responses, 0, bytes).await;
        next(&mut responses, 1, bytes).await;
    }
    over(responses).await;
}

/// Streams without a message, either way.
pub async fn empty_stream(place: Place) {
    let world = place.world().await;
    let client = world.client();
    let none = || stream::iter([] as [StreamingOutputCallRequest; 0]);
    over(client.full_duplex_call(none()).await.unwrap().into_inner()).await;
    over(client.half_duplex_call(none()).await.unwrap().into_inner()).await;
    over(client.streaming_output_call(output(&[], 1)).await.unwrap().into_inner()).await;
    let none = stream::iter([] as [StreamingInputCallRequest; 0]);
    let reply = client.streaming_input_call(none).await.unwrap().into_inner();
    assert_eq!(reply.messages, 0);
}

fn failing(code: i32, message: &str) -> Option<EchoStatus> {
    Some(EchoStatus { code, message: message.into() })
}

/// All codes but OK, and codes nobody has defined, from unary and streaming calls.
pub async fn every_code(place: Place) {
    let world = place.world().await;
    let client = world.client();
    for code in (1..=16).chain([17, 99, -1, i32::MAX]) {
        let text = format!("code {code}");
        let request = SimpleRequest { response_status: failing(code, &text), ..Default::default() };
        let status = failure(client.unary_call(request).await);
        assert_eq!((status.code(), status.message()), (Code::from(code), &*text));
        let request = StreamingOutputCallRequest {
            response_status: failing(code, &text),
            ..Default::default()
        };
        let status = match client.streaming_output_call(request).await {
            Ok(responses) => responses.into_inner().message().await.expect_err("it must fail"),
            Err(status) => status,
        };
        assert_eq!((status.code(), status.message()), (Code::from(code), &*text));
    }
    // 0 is no failure.
    client.unary_call(SimpleRequest::default()).await.unwrap();
}

/// As gRPC has it: code 2 and its message, from a unary and a full-duplex call.
pub async fn status_code_and_message(place: Place) {
    let world = place.world().await;
    let text = "test status message";
    let request = SimpleRequest { response_status: failing(2, text), ..Default::default() };
    let status = failure(world.client().unary_call(request).await);
    assert_eq!((status.code(), status.message()), (Code::Unknown, text));
    let request =
        StreamingOutputCallRequest { response_status: failing(2, text), ..Default::default() };
    let mut responses =
        world.client().full_duplex_call(stream::iter([request])).await.unwrap().into_inner();
    let status = responses.message().await.expect_err("it must fail");
    assert_eq!((status.code(), status.message()), (Code::Unknown, text));
    assert!(responses.message().await.unwrap().is_none(), "a call ends once");
}

/// Whitespace, line ends and letters from everywhere survive in a status message.
pub async fn special_status_message(place: Place) {
    let world = place.world().await;
    let text = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n";
    for text in [text.to_owned(), String::new(), "%25 \0 %zz".into(), "☺".repeat(400)] {
        let request = SimpleRequest { response_status: failing(2, &text), ..Default::default() };
        let status = failure(world.client().unary_call(request).await);
        // 1024 bytes travel; a longer text is cut between characters.
        let end = (0..=text.len().min(1024)).rev().find(|end| text.is_char_boundary(*end));
        let travels = &text[..end.expect("0 is a boundary")];
        assert_eq!((status.code(), status.message()), (Code::Unknown, travels));
    }
}

/// Details and metadata of a failure arrive.
pub async fn rich_status(place: Place) {
    let world = place.world().await;
    let status = failure(world.client().behave(behave(Behaviour::FailRichly, 0)).await);
    let want = rich_failure();
    assert_eq!((status.code(), status.message()), (want.code(), want.message()));
    assert_eq!(status.details(), want.details());
    assert_eq!(status.metadata().get("x-reason").unwrap(), "because");
    let bytes = status.metadata().get_bin("x-reason-bin").unwrap().to_bytes().unwrap();
    assert_eq!(&bytes[..], [0, 1, 254, 255]);
}

/// Messages before a failure are delivered, and then the failure.
pub async fn failure_after_messages(place: Place) {
    let world = place.world().await;
    let mut request = output(&[10, 40_000], 20);
    request.response_status = failing(10, "at the end");
    let mut responses = world.client().streaming_output_call(request).await.unwrap().into_inner();
    for number in 0..40 {
        next(&mut responses, number, if number % 2 == 0 { 10 } else { 40_000 }).await;
    }
    let status = responses.message().await.expect_err("it must fail");
    assert_eq!((status.code(), status.message()), (Code::Aborted, "at the end"));
}

/// A server that answers before the client has sent everything ends the call for both.
pub async fn early_answer(place: Place) {
    let world = place.world().await;
    let mut first = output(&[100], 1);
    first.response_status = failing(9, "enough");
    let endless = stream::iter([first]).chain_forever(output(&[100], 1));
    let mut responses = world.client().full_duplex_call(endless).await.unwrap().into_inner();
    next(&mut responses, 0, 100).await;
    let status = within(SECONDS, "the end", responses.message()).await.expect_err("it must fail");
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "enough"));
    world.observe_until("ended", |seen| seen.running == 0).await;
}

trait ChainForever: futures_util::Stream + Sized {
    fn chain_forever(self, then: Self::Item) -> impl futures_util::Stream<Item = Self::Item> + Send
    where
        Self: Send,
        Self::Item: Clone + Send,
    {
        StreamExt::chain(self, stream::repeat(then))
    }
}

impl<S: futures_util::Stream> ChainForever for S {}

/// A method the service answers with UNIMPLEMENTED.
pub async fn unimplemented_method(place: Place) {
    let world = place.world().await;
    let status = failure(world.client().unimplemented_call(Empty {}).await);
    assert_eq!(status.code(), Code::Unimplemented);
}

/// A service the server does not have: the message says which it has.
pub async fn unimplemented_service(place: Place) {
    let world = place.world().await;
    let client = UnimplementedServiceClient::new(world.channel().clone());
    let status = failure(client.unimplemented_call(Empty {}).await);
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(status.message().contains("conformance.v1.UnimplementedService"), "{status}");
    assert!(status.message().contains("conformance.v1.TestService"), "{status}");
    world.client().empty_call(Empty {}).await.unwrap();
}

const fn method(path: &'static str, kind: MethodKind) -> MethodDescriptor {
    MethodDescriptor { name: "Method", path, kind, idempotency: Idempotency::Unknown }
}

static UNKNOWN: [MethodDescriptor; 5] = [
    method("/conformance.v1.TestService/NoSuchMethod", MethodKind::Unary),
    method("no slash", MethodKind::Unary),
    method("", MethodKind::Unary),
    method("/", MethodKind::Unary),
    method("/conformance.v1.TestService/unarycall", MethodKind::Unary),
];

/// Methods and paths that are not there, in every kind of call.
pub async fn unknown_method(place: Place) {
    let world = place.world().await;
    let client = Client::new(world.channel().clone());
    for method in &UNKNOWN {
        let result = client.unary::<_, Empty>(method, Request::new(Empty {})).await;
        let status = failure(result);
        assert_eq!(status.code(), Code::Unimplemented, "{status}");
        assert!(status.message().contains(method.path), "{status}");
    }
    let endless = stream::repeat(simple(payload(1000, 1), 0));
    let result = client.client_streaming::<_, Empty, _>(&UNKNOWN[0], Request::new(endless)).await;
    assert_eq!(failure(result).code(), Code::Unimplemented);
    world.client().empty_call(Empty {}).await.unwrap();
}

static UNARY_AS_BYTES: MethodDescriptor =
    method("/conformance.v1.TestService/UnaryCall", MethodKind::Unary);

/// Field 2 is `bytes` at the server and a number here.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct WrongType {
    #[prost(fixed64, tag = "2")]
    payload: u64,
}

/// Reads a response's payload as a message.
#[derive(Clone, PartialEq, prost::Message)]
struct WrongReply {
    #[prost(message, optional, tag = "1")]
    payload: Option<BehaveReply>,
}

/// Messages that are not what was declared: an error that names message and method, on the side
/// that reads it; the connection goes on.
pub async fn wrong_message_type(place: Place) {
    let world = place.world().await;
    let client = Client::new(world.channel().clone());
    let request = Request::new(WrongType { payload: 1 });
    let result = client.unary::<_, SimpleResponse>(&UNARY_AS_BYTES, request).await;
    let status = failure(result);
    assert_eq!(status.code(), Code::Internal, "{status}");
    assert!(
        status.message().contains("request of /conformance.v1.TestService/UnaryCall"),
        "{status}"
    );
    let request = Request::new(simple(payload(0, 0), 1000));
    let result = client.unary::<_, WrongReply>(&UNARY_AS_BYTES, request).await;
    let status = failure(result);
    assert_eq!(status.code(), Code::Internal, "{status}");
    assert!(
        status.message().contains("response of /conformance.v1.TestService/UnaryCall"),
        "{status}"
    );
    world.client().empty_call(Empty {}).await.unwrap();
}

static INPUT_AS_BYTES: MethodDescriptor =
    method("/conformance.v1.TestService/StreamingInputCall", MethodKind::ClientStreaming);
static OUTPUT_AS_BYTES: MethodDescriptor =
    method("/conformance.v1.TestService/StreamingOutputCall", MethodKind::ServerStreaming);
static DUPLEX_AS_BYTES: MethodDescriptor =
    method("/conformance.v1.TestService/FullDuplexCall", MethodKind::BidiStreaming);

/// Without its field a `StreamingInputCallRequest` like any other.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct WrongInput {
    #[prost(fixed64, optional, tag = "1")]
    payload: Option<u64>,
}

/// Without its last field a `StreamingOutputCallRequest` like any other.
#[derive(Clone, PartialEq, prost::Message)]
struct WrongRequest {
    #[prost(message, repeated, tag = "1")]
    response_parameters: Vec<ResponseParameters>,
    #[prost(fixed64, optional, tag = "2")]
    payload: Option<u64>,
}

/// The same in streams: the messages before the wrong one arrive, the call ends with it on both
/// sides, and a stream beside it goes on.
pub async fn wrong_message_type_in_streams(place: Place) {
    let world = place.world().await;
    let client = Client::new(world.channel().clone());
    let (requests, stream) = fed::<StreamingOutputCallRequest>();
    let mut beside = world.client().full_duplex_call(stream).await.unwrap().into_inner();
    let named = |status: &Status, what: &str| {
        assert_eq!(status.code(), Code::Internal, "{status}");
        assert!(status.message().contains(what), "{status}");
    };

    // At the server. What the client would send next never ends.
    let inputs = [None, None, Some(1)].map(|payload| WrongInput { payload });
    let inputs = stream::iter(inputs).chain(stream::repeat(WrongInput { payload: None }));
    let call = client.client_streaming::<_, Empty, _>(&INPUT_AS_BYTES, Request::new(inputs));
    let status = failure(within(SECONDS, "the end of a wrong input", call).await);
    named(&status, "request message of /conformance.v1.TestService/StreamingInputCall");
    let good =
        WrongRequest { response_parameters: output(&[10], 1).response_parameters, payload: None };
    let wrong = WrongRequest { payload: Some(1), ..good.clone() };
    let inputs = stream::iter([good, wrong]).chain(stream::pending());
    let call = client.bidi_streaming(&DUPLEX_AS_BYTES, Request::new(inputs));
    let mut responses = call.await.expect("the first message is right").into_inner();
    next(&mut responses, 0, 10).await;
    let ending = within(SECONDS, "the end of a wrong duplex", responses.message()).await;
    let status = ending.expect_err("the second message is wrong");
    named(&status, "request message of /conformance.v1.TestService/FullDuplexCall");

    // At the client. What the server would send next never ends.
    let endless = output(&[0, 1000], u32::MAX / 2);
    let call = client.server_streaming::<_, WrongReply>(&OUTPUT_AS_BYTES, Request::new(endless));
    let mut responses = call.await.unwrap().into_inner();
    wrong_second_response(&mut responses, "StreamingOutputCall").await;
    let inputs = stream::iter([output(&[0, 1000], 1)]).chain(stream::pending());
    let call = client.bidi_streaming::<_, WrongReply, _>(&DUPLEX_AS_BYTES, Request::new(inputs));
    let mut duplex = call.await.unwrap().into_inner();
    wrong_second_response(&mut duplex, "FullDuplexCall").await;
    // The readers are still held, and read nothing more: the handlers end nevertheless.
    world.observe_until("at rest but for one stream", |seen| seen.running == 1).await;

    requests.send(output(&[100], 1)).await.expect("the call is open");
    next(&mut beside, 0, 100).await;
    drop(requests);
    over(beside).await;
    exchange(&world.client(), 100_000, 100_000).await.unwrap();
}

async fn wrong_second_response(responses: &mut Streaming<WrongReply>, method: &str) {
    let first = responses.message().await.expect("the first message is right");
    assert_eq!(first, Some(WrongReply { payload: None }));
    let second = within(SECONDS, "the end of wrong responses", responses.message()).await;
    let status = second.expect_err("the second message is wrong");
    assert_eq!(status.code(), Code::Internal, "{status}");
    let named = format!("response message of /conformance.v1.TestService/{method}");
    assert!(status.message().contains(&named), "{status}");
}

/// A handler that panics ends its own call only.
pub async fn handler_panic(place: Place) {
    let world = place.world().await;
    let client = world.client();
    let other = client.clone();
    let slow = tokio::spawn(async move { other.behave(behave(Behaviour::Sleep, 200)).await });
    for behaviour in [Behaviour::Panic, Behaviour::PanicLater] {
        for _ in 0..3 {
            let status = failure(client.behave(behave(behaviour, 5)).await);
            assert_eq!((status.code(), status.message()), (Code::Internal, "the handler panicked"));
        }
    }
    slow.await.unwrap().unwrap();
    world.observe_until("at rest", |seen| seen.running == 0).await;
}

/// The handler and the client agree on what carries the call.
pub async fn handler_sees_its_connection(place: Place) {
    let world = place.world().await;
    let reply = world.client().behave(behave(Behaviour::Answer, 0)).await.unwrap().into_inner();
    let info = world.channel().info().expect("there is a connection");
    assert_eq!((&*reply.transport, info.transport), (&*place.link_name(), &*place.link_name()));
    assert!(!reply.peer.is_empty() && !info.peer.is_empty(), "{reply:?} {info:?}");
    let because = world.channel().chosen_because().expect("there is a connection");
    assert!(!because.is_empty());
    if let Some((client, server)) = place.devices() {
        assert_eq!((&*info.device, &*reply.device), (&*client, &*server), "{because}");
        assert!(because.contains(&client), "{because}");
    }
}

/// Many large calls at once on one connection.
pub async fn concurrent_large_unary(place: Place) {
    let world = place.world().await;
    let client = world.client();
    let calls = at_once(32, |number| {
        let client = client.clone();
        async move { exchange(&client, 271_828 + number, 314_159 - number).await }
    });
    within(SECONDS * 6, "32 large calls", calls).await.into_iter().for_each(Result::unwrap);
}

/// Many calls one after another, of changing sizes.
pub async fn rpc_soak(place: Place) {
    let world = place.world().await;
    let client = world.client();
    for number in 0..1000 {
        exchange(&client, number * 37 % 5000, number * 101 % 9000).await.unwrap();
    }
    assert_eq!(world.observe().await.running, 0);
}
