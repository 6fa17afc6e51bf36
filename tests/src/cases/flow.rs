//! Flow control: who waits for whom, and who must not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, stream};
use rdma_rpc::Code;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::support::{KIB, MIB, at_once, behave, exchange, fed, next, output, over, within};
use crate::harness::{Place, Tuning, allowed, allowed_ms};
use crate::pattern::payload;
use crate::proto::StreamingOutputCallRequest;
use crate::proto::behave_request::Behaviour;
use crate::proto::test_service_client::TestServiceClient;

const MINUTE: Duration = Duration::from_secs(60);

/// A client that stops reading a stream of 20 MB: calls and streams beside it keep their pace,
/// the server does not run ahead, and at last everything arrives.
pub async fn stopped_reader_stops_only_its_stream(place: Place) {
    let world = place.world().await;
    let client = world.client();
    let mut stopped = Vec::new();
    // Small messages in frames, and long ones by bulk.
    for (bytes, count) in [(2_000, 5_000), (100_000, 100), (0, 20_000)] {
        let request = output(&[bytes], count);
        let responses = client.streaming_output_call(request).await.unwrap().into_inner();
        stopped.push((responses, bytes, u64::from(count)));
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let begin = Instant::now();
    for number in 0..100 {
        exchange(&client, 10, 10).await.unwrap();
        exchange(&client, number * 900, 90_000 - number * 900).await.unwrap();
    }
    let mut beside =
        client.streaming_output_call(output(&[5_000], 500)).await.unwrap().into_inner();
    for number in 0..500 {
        next(&mut beside, number, 5_000).await;
    }
    over(beside).await;
    assert!(begin.elapsed() < allowed(Duration::from_secs(20)), "beside: {:?}", begin.elapsed());
    assert_eq!(world.observe().await.running, 3, "the stopped streams' handlers wait");
    for (mut responses, bytes, count) in stopped {
        for number in 0..count {
            next(&mut responses, number, bytes).await;
        }
        over(responses).await;
    }
    world.observe_until("at rest", |seen| seen.running == 0).await;
}

/// A handler that does not read its requests stops that client stream only.
pub async fn stopped_server_reader_stops_only_its_stream(place: Place) {
    let world = place.world().await;
    let client = world.client();
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    // The first request asks for an answer after a second: until then the handler reads nothing.
    let mut slow = output(&[10], 1);
    slow.response_parameters[0].interval_us = 1_000_000;
    let mut quick = output(&[], 1);
    quick.payload = payload(10_000, 1);
    let requests = stream::iter([slow]).chain(stream::iter(0..400).map(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        quick.clone()
    }));
    let mut responses = client.full_duplex_call(requests).await.unwrap().into_inner();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let ahead = sent.load(Ordering::SeqCst) * 10_000;
    assert!(ahead < 2 * 256 * KIB, "{ahead} bytes sent to a handler that reads nothing");
    let begin = Instant::now();
    for _ in 0..50 {
        exchange(&client, 20_000, 20_000).await.unwrap();
    }
    assert!(begin.elapsed() < allowed(Duration::from_secs(5)), "beside: {:?}", begin.elapsed());
    next(&mut responses, 0, 10).await;
    over(responses).await;
    assert_eq!(sent.load(Ordering::SeqCst), 400);
}

/// A thousand streams open on one connection at once, all in use.
pub async fn thousand_streams(place: Place) {
    let world = place.world().await;
    let client = world.client();
    let mut calls = Vec::new();
    for _ in 0..1000 {
        let (requests, stream) = fed::<StreamingOutputCallRequest>();
        calls.push((requests, client.full_duplex_call(stream).await.unwrap().into_inner()));
    }
    for bytes in [100, 3_000] {
        for (requests, _) in &calls {
            requests.send(output(&[bytes], 1)).await.expect("the call is open");
        }
        for (_, responses) in &mut calls {
            next(responses, 0, bytes).await;
        }
    }
    assert_eq!(world.observe().await.running, 1000);
    for (requests, responses) in calls {
        drop(requests);
        over(responses).await;
    }
    world.observe_until("at rest", |seen| seen.running == 0).await;
}

/// More calls than `max_concurrent_streams` wait for their turn and all succeed; never more run.
/// One that waits longer than its deadline was never sent.
pub async fn more_calls_than_streams(place: Place) {
    let world = place.tuned(|tuning| tuning.server.limits.max_concurrent_streams = 4).await;
    let client = world.client();
    // The server's limit is known after its first frame.
    exchange(&client, 1, 1).await.unwrap();
    let begin = Instant::now();
    let calls = at_once(40, |_| {
        let client = client.clone();
        async move { client.behave(behave(Behaviour::Sleep, 20)).await }
    });
    within(MINUTE, "40 calls", calls).await.into_iter().for_each(|reply| drop(reply.unwrap()));
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(190), "more than 4 at once: 40 took {took:?}");

    let blocking = at_once(4, {
        let client = client.clone();
        move |_| {
            let client = client.clone();
            async move { client.behave(behave(Behaviour::Sleep, allowed_ms(1500) as u32)).await }
        }
    });
    let blocking = tokio::spawn(blocking);
    // To observe it would take a stream, and there is none left.
    tokio::time::sleep(allowed(Duration::from_millis(250))).await;
    let begun = Instant::now();
    let mut request = rdma_rpc::Request::new(behave(Behaviour::Answer, 0));
    request.set_timeout(Duration::from_millis(50));
    let status = super::support::failure(client.behave(request).await);
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert_eq!(status.request_seen(), rdma_rpc::RequestSeen::NeverSent, "{status}");
    assert!(begun.elapsed() < allowed(Duration::from_millis(1000)), "after {:?}", begun.elapsed());
    blocking.await.unwrap().into_iter().for_each(|reply| drop(reply.unwrap()));
    exchange(&client, 1, 1).await.unwrap();
}

/// Both sides send 8 KiB messages as fast as they can and read slowly: the classic deadlock of
/// rings, on few connections (many: `life::two_hundred_connections`).
pub async fn slow_duplex_both_ways(place: Place) {
    let world = place.world().await;
    let streams = (0..4).map(|_| {
        let (client, channel) = (world.client(), world.new_channel());
        async move {
            let own = TestServiceClient::new(channel);
            for client in [client, own] {
                flood(&client, 300, Duration::from_micros(50)).await;
            }
        }
    });
    within(MINUTE, "floods", futures_util::future::join_all(streams)).await;
}

/// Sends `count` requests of 8 KiB as fast as they go, each answered by 8 KiB, and reads slowly.
pub(super) async fn flood(client: &TestServiceClient, count: u64, pause: Duration) {
    let mut request = output(&[8 * KIB], 1);
    request.payload = payload(8 * KIB, 1);
    let requests = stream::iter(0..count).map(move |_| request.clone());
    let mut responses = client.full_duplex_call(requests).await.unwrap().into_inner();
    for number in 0..count {
        next(&mut responses, 0, 8 * KIB).await;
        if number % 16 == 0 {
            tokio::time::sleep(pause).await;
        }
    }
    over(responses).await;
}

/// The same on two hundred connections with the smallest rings and windows sixty-four times as long:
/// the rings are what is full, both ways and on most connections at once, while the readers pause.
pub async fn two_hundred_full_rings(place: Place) {
    const CONNECTIONS: usize = 200;
    const STREAMS: usize = 4;
    let tune = |tuning: &mut Tuning| {
        for (limits, shm, rdma) in [
            (&mut tuning.client.limits, &mut tuning.client.shm, &mut tuning.client.rdma),
            (&mut tuning.server.limits, &mut tuning.server.shm, &mut tuning.server.rdma),
        ] {
            limits.stream_window_bytes = MIB;
            (shm.ring_bytes, rdma.ring_bytes) = (16 * KIB, 16 * KIB);
            // Everything goes through the ring.
            (shm.bulk_threshold_bytes, rdma.bulk_threshold_bytes) = (MIB, MIB);
        }
    };
    let world = place.tuned(tune).await;
    let channels: Vec<_> = (0..CONNECTIONS).map(|_| world.new_channel()).collect();
    let floods = at_once(CONNECTIONS * STREAMS, |number| {
        let channel = channels[number % CONNECTIONS].clone();
        let client = TestServiceClient::new(channel);
        async move { flood(&client, 20, Duration::from_millis(100)).await }
    });
    within(MINUTE, "floods through the smallest rings", floods).await;
    world.observe_until("at rest", |seen| seen.running == 0).await;
}

/// A connection that was idle takes a burst of calls without a pause.
pub async fn idle_then_burst(place: Place) {
    let world = place.world().await;
    let client = world.client();
    exchange(&client, 10, 10).await.unwrap();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let begin = Instant::now();
        let calls = at_once(200, |number| {
            let client = client.clone();
            async move { exchange(&client, number * 50, number * 70).await }
        });
        within(MINUTE, "200 calls", calls).await.into_iter().for_each(Result::unwrap);
        assert!(begin.elapsed() < allowed(Duration::from_secs(5)), "after {:?}", begin.elapsed());
    }
}

/// Threads with runtimes of their own share one connection.
pub async fn many_threads_one_connection(place: Place) {
    let world = place.world().await;
    exchange(&world.client(), 1, 1).await.unwrap();
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let client = world.client();
            tokio::task::spawn_blocking(move || {
                let mut builder = tokio::runtime::Builder::new_current_thread();
                let runtime = builder.enable_all().build().expect("a runtime starts");
                runtime.block_on(async {
                    for number in 0..150 {
                        exchange(&client, thread * 5_000 + number, number * 200).await.unwrap();
                    }
                });
            })
        })
        .collect();
    for thread in threads {
        within(MINUTE, "a thread", thread).await.unwrap();
    }
}

/// Threads that are none of the runtime's wait for several calls at a time, give some up, and share the
/// connection with each other and with a task of the runtime.
pub async fn callers_on_other_threads(place: Place) {
    let world = place.world().await;
    exchange(&world.client(), 1, 1).await.unwrap();
    let ended: Vec<_> = (0..3)
        .map(|thread| {
            let (client, runtime) = (world.client(), Handle::current());
            let (end, ended) = oneshot::channel();
            std::thread::spawn(move || {
                runtime.block_on(async {
                    for round in 0..60 {
                        let count = 1 + (round + thread) % 9;
                        let call = |number| exchange(&client, number * 3_000, round * 100);
                        let calls: FuturesUnordered<_> = (0..count).map(call).collect();
                        let wanted = if round % 4 == 3 { 1 } else { count };
                        let answered = calls.take(wanted).map(Result::unwrap).count().await;
                        assert_eq!(answered, wanted);
                    }
                });
                let _ = end.send(());
            });
            ended
        })
        .collect();
    let client = world.client();
    let task = tokio::spawn(async move {
        for number in 0..60 {
            exchange(&client, number * 100, number).await.unwrap();
        }
    });
    within(MINUTE, "the task", task).await.unwrap();
    for thread in ended {
        within(MINUTE, "a thread", thread).await.expect("it panicked");
    }
}
