//! Deadlines and cancellation, on both sides.

use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt, stream};
use rdma_rpc::{Code, Request, RequestSeen};

use super::support::{MIB, at_once, behave, exchange, failure, fed, next, output, simple, within};
use crate::harness::{Place, allowed};
use crate::pattern::payload;
use crate::proto::behave_request::Behaviour;
use crate::proto::{StreamingInputCallRequest, StreamingOutputCallRequest};

const MILLI: Duration = Duration::from_millis(1);

/// As gRPC has it: a millisecond for a stream whose server sleeps longer.
pub async fn timeout_on_sleeping_server(place: Place) {
    let world = place.world().await;
    world.client().unary_call(simple(payload(0, 0), 0)).await.unwrap();
    let mut sleepy = output(&[31_415], 1);
    sleepy.payload = payload(27_182, 1);
    sleepy.response_parameters[0].interval_us = 10_000_000;
    let mut request = Request::new(stream::iter([sleepy]).chain(stream::pending()));
    request.set_timeout(MILLI);
    let begin = Instant::now();
    let status = match world.client().full_duplex_call(request).await {
        Err(status) => status,
        Ok(responses) => responses.into_inner().message().await.expect_err("time is up"),
    };
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(begin.elapsed() < allowed(1000 * MILLI), "only after {:?}", begin.elapsed());
    world.observe_until("at rest", |seen| seen.running == 0).await;
}

/// The handler sees what is left of the time the client gave, and no deadline where none was.
pub async fn deadline_travels(place: Place) {
    let world = place.world().await;
    let reply = world.client().behave(behave(Behaviour::Answer, 0)).await.unwrap().into_inner();
    assert_eq!(reply.deadline_left_us, 0, "a deadline nobody set");
    for millis in [1_000, 30_000, 86_400_000] {
        let mut request = Request::new(behave(Behaviour::Answer, 0));
        request.set_timeout(millis * MILLI);
        let begin = Instant::now();
        let reply = world.client().behave(request).await.unwrap().into_inner();
        let took = begin.elapsed().as_micros() as u64;
        let (left, given) = (reply.deadline_left_us, u64::from(millis) * 1000);
        assert!(left > 0 && left <= given + 1, "{left} µs left of {given}");
        assert!(left + took + 2 >= given, "{left} µs left of {given}, though only {took} passed");
    }
}

/// A deadline ends the call at the client and drops the handler at the server.
pub async fn deadline_drops_the_handler(place: Place) {
    let world = place.world().await;
    let before = world.observe().await;
    for _ in 0..3 {
        let mut request = Request::new(behave(Behaviour::Forever, 0));
        // Longer than the request takes to its handler.
        let limit = allowed(50 * MILLI);
        request.set_timeout(limit);
        let begin = Instant::now();
        let status = failure(world.client().behave(request).await);
        let took = begin.elapsed();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
        assert_ne!(status.request_seen(), RequestSeen::NeverSent, "{status}");
        assert!(took >= limit - MILLI && took < allowed(1000 * MILLI), "after {took:?}");
    }
    world
        .observe_until("three dropped handlers", |seen| {
            seen.running == 0 && seen.dropped == before.dropped + 3
        })
        .await;
    // A deadline that is over before the call begins: it is never sent.
    let mut request = Request::new(behave(Behaviour::Answer, 0));
    request.set_timeout(Duration::ZERO);
    assert_eq!(failure(world.client().behave(request).await).code(), Code::DeadlineExceeded);
}

/// A stream's deadline holds for all of it: messages come until then.
pub async fn deadline_of_a_stream(place: Place) {
    let world = place.world().await;
    exchange(&world.client(), 10, 10).await.unwrap();
    let mut steady = output(&[1000], 1000);
    steady.response_parameters[0].interval_us = 5_000;
    let mut request = Request::new(steady);
    request.set_timeout(allowed(150 * MILLI));
    let mut responses = world.client().streaming_output_call(request).await.unwrap().into_inner();
    next(&mut responses, 0, 1000).await;
    let status = loop {
        match responses.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended well"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    // A client that sends for ever to a handler that reads for ever.
    let endless = stream::repeat(StreamingInputCallRequest { payload: payload(1000, 1) });
    let mut request = Request::new(endless);
    request.set_timeout(100 * MILLI);
    let status = failure(world.client().streaming_input_call(request).await);
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    world.observe_until("at rest", |seen| seen.running == 0).await;
}

/// A deadline fires for a caller that is blocked in sending, on a stream whose handler reads
/// nothing, and in the middle of a long message.
pub async fn deadline_while_blocked(place: Place) {
    let world = place.world().await;
    let client = world.client();
    let mut slow = output(&[10], 1);
    slow.response_parameters[0].interval_us = 60_000_000;
    let mut quick = output(&[], 1);
    quick.payload = payload(100_000, 1);
    let mut request = Request::new(stream::iter([slow]).chain(stream::repeat(quick)));
    request.set_timeout(150 * MILLI);
    let begin = Instant::now();
    let status = match client.full_duplex_call(request).await {
        Err(status) => status,
        Ok(responses) => responses.into_inner().message().await.expect_err("time is up"),
    };
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    for micros in [200, 1_000, 3_000] {
        let mut request = Request::new(simple(payload(3 * MIB, 1), 3 * MIB));
        request.set_timeout(Duration::from_micros(micros));
        // In time or not: both are well.
        if let Err(status) = client.unary_call(request).await {
            assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
        }
    }
    assert!(begin.elapsed() < allowed(5000 * MILLI), "after {:?}", begin.elapsed());
    exchange(&client, 100_000, 100_000).await.unwrap();
    world.observe_until("at rest", |seen| seen.running == 0).await;
}

/// As gRPC has it: a client stream, given up before its first message.
pub async fn cancel_after_begin(place: Place) {
    let world = place.world().await;
    let before = world.observe().await;
    let client = world.client();
    let call = client.streaming_input_call(stream::pending::<StreamingInputCallRequest>());
    assert!(tokio::time::timeout(100 * MILLI, call).await.is_err(), "there is nothing to answer");
    world
        .observe_until("cancelled", |seen| seen.running == 0 && seen.dropped == before.dropped + 1)
        .await;
}

/// As gRPC has it: a full-duplex call, given up after its first response.
pub async fn cancel_after_first_response(place: Place) {
    let world = place.world().await;
    let before = world.observe().await;
    let (requests, stream) = fed::<StreamingOutputCallRequest>();
    let mut responses = world.client().full_duplex_call(stream).await.unwrap().into_inner();
    requests.send(output(&[31_415], 1)).await.expect("the call is open");
    next(&mut responses, 0, 31_415).await;
    drop(responses);
    world
        .observe_until("cancelled", |seen| seen.running == 0 && seen.dropped == before.dropped + 1)
        .await;
    within(1000 * MILLI, "the end of the request stream", requests.closed()).await;
}

/// Dropping the future of a call, or a stream that was not read to its end, drops the handler.
pub async fn dropped_call_cancels_the_handler(place: Place) {
    let world = place.world().await;
    let before = world.observe().await;
    let client = world.client();
    let call = client.behave(behave(Behaviour::Forever, 0));
    assert!(tokio::time::timeout(50 * MILLI, call).await.is_err());
    let mut endless = output(&[100_000], u32::MAX);
    endless.payload = payload(100, 1);
    let mut responses = client.streaming_output_call(endless).await.unwrap().into_inner();
    next(&mut responses, 0, 100_000).await;
    drop(responses);
    world
        .observe_until("two dropped handlers", |seen| {
            seen.running == 0 && seen.dropped == before.dropped + 2
        })
        .await;
    exchange(&client, 1000, 1000).await.unwrap();
}

/// Calls whose futures are dropped at any moment of a long message leave a usable connection.
pub async fn cancelled_in_the_middle_of_a_send(place: Place) {
    let world = place.world().await;
    let client = world.client();
    let large = payload(3 * MIB, 1);
    for round in 0..60u32 {
        let request = simple(large.clone(), 2 * MIB);
        if round % 3 == 0 {
            // Polled once: as much is sent as goes at once.
            let call = client.unary_call(request);
            assert!(call.now_or_never().is_none_or(|result| result.is_ok()));
        } else {
            let call = client.unary_call(request);
            // In time or not: both are well.
            let _ = tokio::time::timeout(Duration::from_micros(u64::from(round) * 150), call).await;
        }
        exchange(&client, 10, 10).await.unwrap();
    }
    exchange(&client, 3 * MIB, 3 * MIB).await.unwrap();
    world.observe_until("at rest", |seen| seen.running == 0).await;
}

/// A thousand calls given up at once leave no handler behind, and the connection works.
pub async fn thousand_cancelled_calls(place: Place) {
    let world = place.world().await;
    let client = world.client();
    at_once(1000, |number| {
        let client = client.clone();
        async move {
            let call = client.behave(behave(Behaviour::Forever, 0));
            let millis = 20 + number as u32 % 80;
            assert!(tokio::time::timeout(millis * MILLI, call).await.is_err());
        }
    })
    .await;
    world.observe_until("at rest", |seen| seen.running == 0).await;
    exchange(&client, 70_000, 70_000).await.unwrap();
}
