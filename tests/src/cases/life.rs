//! Connections begin, end, and begin again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdma_rpc::{Code, RequestSeen};

use super::flow::flood;
use super::stranger::Stranger;
use super::support::{at_once, behave, exchange, failure, next, output, over, within};
use crate::harness::{Place, Processes, Transport, allowed, allowed_ms};
use crate::observe;
use crate::proto::Empty;
use crate::proto::behave_request::Behaviour;
use crate::proto::test_service_client::TestServiceClient;

const SECOND: Duration = Duration::from_secs(1);

/// A shutdown lets open calls finish, of every kind; new calls find another server at the address
/// or fail as never sent.
pub async fn graceful_shutdown(place: Place) {
    let mut world = place.world().await;
    let client = world.client();
    let calls = tokio::spawn(at_once(50, {
        let client = client.clone();
        move |_| {
            let client = client.clone();
            async move { client.behave(behave(Behaviour::Sleep, 500)).await }
        }
    }));
    let mut slow = output(&[20_000], 50);
    slow.response_parameters[0].interval_us = 10_000;
    let mut responses = client.streaming_output_call(slow).await.unwrap().into_inner();
    next(&mut responses, 0, 20_000).await;
    world.observe_until("busy", |seen| seen.running == 51).await;

    let stopped = tokio::spawn(world.shut_down());
    // The word to stop has a way to go: calls before it arrives are calls like any others.
    let refused = async {
        loop {
            match client.empty_call(Empty {}).await {
                Ok(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(status) => break status,
            }
        }
    };
    let status = within(SECOND, "a refused call", refused).await;
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(status.request_seen(), RequestSeen::NeverSent, "{status}");
    for number in 1..50 {
        next(&mut responses, number, 20_000).await;
    }
    over(responses).await;
    for reply in within(SECOND * 5, "open calls", calls).await.unwrap() {
        reply.unwrap();
    }
    within(SECOND * 5, "the shutdown", stopped).await.unwrap();
    world.start_again().await;
    come_back(&client).await;
}

/// A new server takes the address over while the old one lets its calls finish: no call fails
/// that was not made in between, and those were never sent.
pub async fn handover(place: Place) {
    let mut world = place.world().await;
    let client = world.client();
    let old = tokio::spawn({
        let client = client.clone();
        async move { client.behave(behave(Behaviour::Sleep, allowed_ms(1500) as u32)).await }
    });
    let mut slow = output(&[20_000], 100);
    slow.response_parameters[0].interval_us = 10_000;
    let mut responses = client.streaming_output_call(slow).await.unwrap().into_inner();
    next(&mut responses, 0, 20_000).await;
    world.observe_until("busy", |seen| seen.running == 2).await;
    let stopped = tokio::spawn(world.shut_down());
    let begin = Instant::now();
    // The old server's port is free as soon as it accepts nothing more.
    while TestServiceClient::new(world.new_channel()).empty_call(Empty {}).await.is_ok() {
        assert!(begin.elapsed() < allowed(SECOND), "the old server still accepts");
    }
    world.start_again().await;
    come_back(&client).await;
    for number in 0..50 {
        exchange(&client, number, number * 100).await.unwrap();
    }
    assert!(!old.is_finished(), "the old call has to outlast this");
    for number in 1..100 {
        next(&mut responses, number, 20_000).await;
    }
    over(responses).await;
    within(SECOND * 5, "the old call", old).await.unwrap().unwrap();
    within(SECOND * 5, "the old server's shutdown", stopped).await.unwrap();
    exchange(&client, 1000, 1000).await.unwrap();
}

/// Calls until one succeeds after a shutdown; none may fail otherwise than by never having been
/// sent.
async fn come_back(client: &TestServiceClient) {
    come_back_with(client, |seen| seen == RequestSeen::NeverSent).await;
}

/// The same after the server was killed: whoever calls before that was noticed has sent something.
async fn come_back_from_death(client: &TestServiceClient) {
    come_back_with(client, |_| true).await;
}

async fn come_back_with(client: &TestServiceClient, may_be: impl Fn(RequestSeen) -> bool) {
    let begin = Instant::now();
    loop {
        match client.empty_call(Empty {}).await {
            Ok(_) => return,
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable, "{status}");
                assert!(may_be(status.request_seen()), "{status}");
                assert!(begin.elapsed() < allowed(SECOND * 10), "still after 10 s: {status}");
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// As gRPC has it: every call on a channel of its own.
pub async fn channel_soak(place: Place) {
    let world = place.world().await;
    for number in 0..50 {
        let client = TestServiceClient::new(world.new_channel());
        exchange(&client, number * 1000, 50_000 - number * 1000).await.unwrap();
    }
    world.observe_until("at rest", |seen| seen.running == 0).await;
}

/// A channel finds its server again, as often as it goes away.
pub async fn reconnect(place: Place) {
    let mut world = place.world().await;
    let client = world.client();
    for _ in 0..3 {
        exchange(&client, 100, 100).await.unwrap();
        world.kill_server().await;
        let killed = Instant::now();
        // A server in this process may serve one more call before its tasks are gone.
        let status = loop {
            match client.empty_call(Empty {}).await {
                Err(status) => break status,
                Ok(_) => assert!(killed.elapsed() < allowed(SECOND), "the server is not gone"),
            }
        };
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        world.start_again().await;
        come_back(&client).await;
        exchange(&client, 100_000, 100_000).await.unwrap();
    }
}

/// A client that is started before its server.
pub async fn wrong_first_start(place: Place) {
    let mut world = place.world().await;
    world.kill_server().await;
    let channel = world.new_channel();
    let client = TestServiceClient::new(channel.clone());
    let status = channel.ready().await.expect_err("there is no server");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains(&channel.target()), "{status}");
    world.start_again().await;
    come_back(&client).await;
}

/// `limits.max_connections`: the next client is told so, and served when a place is free.
pub async fn max_connections(place: Place) {
    let world = place.tuned(|tuning| tuning.server.limits.max_connections = 2).await;
    let first = TestServiceClient::new(world.new_channel());
    let second = TestServiceClient::new(world.new_channel());
    exchange(&first, 1, 1).await.unwrap();
    exchange(&second, 1, 1).await.unwrap();
    let third = TestServiceClient::new(world.new_channel());
    let status = failure(third.empty_call(Empty {}).await);
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(status.request_seen(), RequestSeen::NeverSent, "{status}");
    assert!(status.message().contains("max_connections"), "{status}");
    exchange(&first, 1000, 1000).await.unwrap();
    drop(second);
    come_back(&third).await;
    exchange(&first, 1, 1).await.unwrap();
}

/// Hundreds of silent clients beyond `limits.max_connections`: the server keeps the sockets of few of
/// them, and clients it cannot tell why are hung up on. When the silent ones are gone it tells why.
pub async fn flood_beyond_max_connections(place: Place) {
    const FLOOD: u64 = 400;
    /// Sockets the server may keep of them: 64 and what comes and goes.
    const KEPT: u64 = 80;
    let world = place
        .tuned(|tuning| {
            tuning.server.limits.max_connections = 1;
            // Nobody is done by the timeout while this looks.
            tuning.server.handshake_timeout_ms = allowed_ms(60_000);
        })
        .await;
    exchange(&world.client(), 1, 1).await.unwrap();
    let before = world.observe().await.open_files;
    let mut strangers = Vec::new();
    for _ in 0..FLOOD {
        strangers.push(Stranger::arrive(&world).await);
    }
    // In one process our ends are counted with the server's.
    let ours = if place.processes == Processes::One { FLOOD } else { 0 };
    // Only who was hung up on hears the end: by then all of them were looked at.
    let last = strangers.last_mut().expect("there are many");
    assert!(last.hear_out().await.is_empty());
    let kept = world.observe().await.open_files.saturating_sub(before + ours);
    assert!(kept <= KEPT, "the server keeps {kept} sockets of {FLOOD} clients it has no place for");
    let newcomer = TestServiceClient::new(world.new_channel());
    let status = failure(newcomer.empty_call(Empty {}).await);
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(status.request_seen(), RequestSeen::NeverSent, "{status}");
    exchange(&world.client(), 1000, 1000).await.unwrap();
    drop(strangers);
    let begin = Instant::now();
    loop {
        let status = failure(newcomer.empty_call(Empty {}).await);
        if status.message().contains("max_connections") {
            break;
        }
        assert!(begin.elapsed() < allowed(SECOND * 10), "not told why: {status}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Two hundred connections with 8 KiB messages both ways and slow readers: nothing may deadlock.
pub async fn two_hundred_connections(place: Place) {
    let world = place.world().await;
    let channels: Vec<_> = (0..200).map(|_| world.new_channel()).collect();
    let floods = at_once(channels.len(), |number| {
        let client = TestServiceClient::new(channels[number].clone());
        async move { flood(&client, 48, Duration::from_millis(number as u64 % 7)).await }
    });
    within(SECOND * 60, "floods on 200 connections", floods).await;
    world.observe_until("at rest", |seen| seen.running == 0).await;
}

/// Connections that came and went leave no file, map, task or socket, at either end.
pub async fn connections_leave_nothing(place: Place) {
    let world = place.world().await;
    exchange(&world.client(), 100_000, 100_000).await.unwrap();
    use_and_drop(&world, 5).await;
    let (mine, theirs) = settled(&world).await;
    use_and_drop(&world, 40).await;
    let begin = Instant::now();
    loop {
        let (now, server) = settled(&world).await;
        if now == mine && server == theirs {
            break;
        }
        assert!(
            begin.elapsed() < allowed(SECOND * 10),
            "files, maps, tasks: here {mine:?} became {now:?}, at the server {theirs:?} became \
             {server:?}"
        );
    }
    if place.transport == Transport::Shm && place.processes == Processes::Two {
        assert!(observe::shm_files().is_empty(), "{:?}", observe::shm_files());
    }
}

async fn use_and_drop(world: &crate::harness::World, count: usize) {
    for _ in 0..count {
        let client = TestServiceClient::new(world.new_channel());
        exchange(&client, 100_000, 100_000).await.unwrap();
        let stream = client.streaming_output_call(output(&[1000], 5)).await.unwrap();
        drop(stream);
    }
}

type Held = (u64, u64, u64);

/// What both ends hold, after a pause that lets connections end.
async fn settled(world: &crate::harness::World) -> (Held, Held) {
    tokio::time::sleep(Duration::from_millis(300)).await;
    let seen = world.observe().await;
    let here = (observe::open_files(), observe::shared_maps(), observe::alive_tasks());
    (here, (seen.open_files, seen.memory_maps, seen.alive_tasks))
}

/// Callers that go on calling while their server is killed and started again: each call ends, by
/// success or UNAVAILABLE, and in the end all succeed.
pub async fn restart_under_load(place: Place) {
    let mut world = place.world().await;
    let client = world.client();
    exchange(&client, 1, 1).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..16)
        .map(|caller| {
            let (client, stop) = (client.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let (mut good, mut bad) = (0, 0);
                while !stop.load(Ordering::SeqCst) {
                    let bytes = (good + bad) * 997 % 60_000;
                    let call = exchange(&client, bytes, 60_000 - bytes);
                    match within(10 * SECOND, "a call", call).await {
                        Ok(()) => good += 1,
                        Err(status) => {
                            assert_eq!(status.code(), Code::Unavailable, "{caller}: {status}");
                            bad += 1;
                            tokio::time::sleep(Duration::from_millis(2)).await;
                        }
                    }
                }
                (good, bad)
            })
        })
        .collect();
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        world.kill_server().await;
        // As long as the client may take to notice.
        tokio::time::sleep(allowed(Duration::from_millis(30))).await;
        world.start_again().await;
        come_back_from_death(&client).await;
    }
    stop.store(true, Ordering::SeqCst);
    for caller in callers {
        let (good, bad) = within(10 * SECOND, "a caller", caller).await.unwrap();
        assert!(good > 0, "{bad} calls failed and none succeeded");
    }
    at_once(16, move |_| {
        let client = client.clone();
        async move { exchange(&client, 1000, 1000).await.unwrap() }
    })
    .await;
    world.observe_until("at rest", |seen| seen.running == 0).await;
}
