//! `kill -9` of either side in the middle of calls.

use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt};
use futures_util::{Stream, stream};
use rdma_rpc::{Channel, Code, RequestSeen, Status};

use super::support::{MIB, behave, exchange, next, output, simple, within};
use crate::harness::{Child, Place, Signal, World, allowed, allowed_ms, send_signal};
use crate::observe;
use crate::pattern::payload;
use crate::proto::behave_request::Behaviour;
use crate::proto::test_service_client::TestServiceClient;
use crate::proto::{Empty, StreamingInputCallRequest, StreamingOutputCallRequest};

/// Calls of each of the four groups below.
const GROUP: usize = 16;

/// How soon a call must end after its peer was killed.
const NOTICE: Duration = Duration::from_secs(1);

/// Kills the server in the middle of 64 calls: unary, streams each way, and long messages. Each
/// ends with UNAVAILABLE within a second, and says whether it may have run. What the client held for
/// the connection is free, and the client works again after the server was started again.
pub async fn killed_server(place: Place) {
    let mut world = place.tuned(|tuning| tuning.max_message_bytes(16 * MIB)).await;
    // The first round warms up what is made once in a process.
    kill_once(&mut world).await;
    let held = settled().await;
    for _ in 0..3 {
        kill_once(&mut world).await;
    }
    let begin = Instant::now();
    loop {
        let now = settled().await;
        if now == held {
            break;
        }
        assert!(
            begin.elapsed() < allowed(10 * NOTICE),
            "files, maps, tasks: {held:?} became {now:?}"
        );
    }
}

/// Files, maps and tasks of this process, and sockets and files on this host.
async fn settled() -> (u64, u64, u64) {
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(observe::shm_files().is_empty(), "{:?}", observe::shm_files());
    (observe::open_files(), observe::shared_maps(), observe::alive_tasks())
}

async fn kill_once(world: &mut World) {
    let client = world.client();
    exchange(&client, 100_000, 100_000).await.unwrap();
    let mut calls = FuturesUnordered::new();
    for number in 0..4 * GROUP {
        let client = client.clone();
        calls.push(tokio::spawn(async move { (number, endless_call(&client, number).await) }));
    }
    world.observe_until("busy", |seen| seen.running >= 3 * GROUP as i64).await;
    let ends = [Some(std::process::id()), world.server_process()];
    let before = observe::abstract_sockets_of(&ends.into_iter().flatten().collect::<Vec<_>>());
    world.kill_server().await;
    let killed = Instant::now();
    let mut ended = 0;
    while let Some(status) = within(10 * NOTICE, "the end of a call", calls.next()).await {
        let (number, status) = status.expect("a call does not panic");
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        match status.request_seen() {
            RequestSeen::MayHaveRun => {}
            // Long requests that follow one another: the last may still have waited here.
            RequestSeen::NeverSent if number % 4 == 3 => {}
            _ => panic!("call {number} had reached its handler: {status}"),
        }
        ended += 1;
    }
    assert_eq!(ended, 4 * GROUP);
    assert!(killed.elapsed() < allowed(NOTICE), "after {:?}", killed.elapsed());
    // A call made now was never sent.
    let status = client.empty_call(Empty {}).await.expect_err("there is no server");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(status.request_seen(), RequestSeen::NeverSent, "{status}");
    no_socket_stays(before).await;
    world.start_again().await;
    let begin = Instant::now();
    while let Err(status) = exchange(&client, 100_000, 100_000).await {
        assert_eq!(status.request_seen(), RequestSeen::NeverSent, "{status}");
        assert!(
            begin.elapsed() < allowed(10 * NOTICE),
            "still after {:?}: {status}",
            begin.elapsed()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// None of these abstract sockets stays.
async fn no_socket_stays(mut sockets: Vec<String>) {
    let begin = Instant::now();
    while !sockets.is_empty() {
        assert!(
            begin.elapsed() < allowed(10 * NOTICE),
            "abstract sockets left behind: {sockets:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = observe::abstract_sockets();
        sockets.retain(|one| now.contains(one));
    }
}

/// A call that goes on until its server dies.
async fn endless_call(client: &TestServiceClient, number: usize) -> Status {
    match number % 4 {
        0 => client.behave(behave(Behaviour::Forever, 0)).await.expect_err("it has no answer"),
        1 => {
            let endless = output(&[1000, 50_000], u32::MAX / 2);
            let mut responses = match client.streaming_output_call(endless).await {
                Ok(responses) => responses.into_inner(),
                Err(status) => return status,
            };
            loop {
                match responses.message().await {
                    Ok(response) => assert!(response.is_some(), "it has no end"),
                    Err(status) => return status,
                }
            }
        }
        2 => {
            let call = client.streaming_input_call(endless_input());
            call.await.expect_err("it has no answer")
        }
        _ => loop {
            if let Err(status) = client.unary_call(simple(payload(MIB, 1), MIB)).await {
                return status;
            }
        },
    }
}

fn endless_input() -> impl Stream<Item = StreamingInputCallRequest> + Send {
    let message = StreamingInputCallRequest { payload: payload(30_000, 1) };
    stream::unfold(message, |message| async {
        tokio::task::yield_now().await;
        Some((message.clone(), message))
    })
}

/// Kills a client in the middle of 64 calls: the server drops their handlers within a second,
/// holds nothing of the connection, and serves others as before.
pub async fn killed_client(place: Place) {
    let world = place.world().await;
    let client = world.client();
    exchange(&client, 100_000, 100_000).await.unwrap();
    let (files, maps, tasks) = kill_a_client(&world).await;
    for _ in 0..3 {
        let now = kill_a_client(&world).await;
        assert_eq!(now, (files, maps, tasks), "files, maps and tasks of the server");
    }
    let mut responses = client.streaming_output_call(output(&[100], 2)).await.unwrap().into_inner();
    next(&mut responses, 0, 100).await;
}

/// Gives what the server holds afterwards.
async fn kill_a_client(world: &World) -> (u64, u64, u64) {
    let mut victim = Child::client(&["hold", &world.target()]);
    assert_eq!(victim.line(), "holding");
    world.observe_until("busy", |seen| seen.running == 4 * GROUP as i64).await;
    victim.kill();
    let killed = Instant::now();
    world.observe_until("at rest", |seen| seen.running == 0).await;
    assert!(killed.elapsed() < allowed(NOTICE), "handlers ran for {:?}", killed.elapsed());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let seen = world.observe().await;
    (seen.open_files, seen.memory_maps, seen.alive_tasks)
}

/// The client that is killed: opens 64 calls that do not end, says so, and waits.
pub async fn hold_calls(target: &str) {
    let target = target.parse().expect("the case names a target");
    let config = crate::harness::client_config().target(target);
    let channel = Channel::lazy(config).expect("the configuration is good");
    let client = TestServiceClient::new(channel);
    let mut streams = Vec::new();
    for number in 0..4 * GROUP {
        match number % 4 {
            0 => {
                let client = client.clone();
                tokio::spawn(async move { client.behave(behave(Behaviour::Forever, 0)).await });
            }
            1 => {
                let endless = output(&[1000, 50_000], u32::MAX / 2);
                let responses = client.streaming_output_call(endless).await;
                streams.push(responses.expect("the server streams").into_inner());
            }
            2 => {
                let client = client.clone();
                tokio::spawn(async move { client.streaming_input_call(endless_input()).await });
            }
            _ => {
                let silent = stream::pending::<StreamingOutputCallRequest>();
                let responses = client.full_duplex_call(silent).await;
                streams.push(responses.expect("the server streams").into_inner());
            }
        }
    }
    println!("holding");
    std::future::pending().await
}

/// A server that is stopped (`kill -STOP`) neither reads nor answers, and its socket stays open:
/// keepalive ends the calls, those that were blocked in sending as well.
pub async fn stopped_server(place: Place) {
    let world = place
        .tuned(|tuning| {
            tuning.max_message_bytes(16 * MIB);
            let keepalive = &mut tuning.client.keepalive;
            (keepalive.interval_ms, keepalive.timeout_ms) = (allowed_ms(300), allowed_ms(400));
            // A call that was never sent tries a new connection, and nobody answers there either.
            tuning.client.handshake_timeout_ms = allowed_ms(1000);
        })
        .await;
    let client = world.client();
    exchange(&client, 1000, 1000).await.unwrap();
    let mut calls = FuturesUnordered::new();
    for number in 0..4 * GROUP {
        let client = client.clone();
        calls.push(tokio::spawn(async move { endless_call(&client, number).await }));
    }
    world.observe_until("busy", |seen| seen.running >= 3 * GROUP as i64).await;
    let server = world.server_process().expect("the server is a process");
    send_signal(server, Signal::STOP);
    let stopped = Instant::now();
    while let Some(status) = within(20 * NOTICE, "the end of a call", calls.next()).await {
        let status = status.expect("a call does not panic");
        assert_eq!(status.code(), Code::Unavailable, "{status}");
    }
    assert!(stopped.elapsed() < allowed(3 * NOTICE), "after {:?}", stopped.elapsed());
    send_signal(server, Signal::CONT);
    let begin = Instant::now();
    while let Err(status) = exchange(&client, 1000, 1000).await {
        assert!(
            begin.elapsed() < allowed(10 * NOTICE),
            "still after {:?}: {status}",
            begin.elapsed()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.observe_until("at rest", |seen| seen.running == 0).await;
}

/// A client that is stopped: the server's keepalive drops its handlers.
pub async fn stopped_client(place: Place) {
    let world = place
        .tuned(|tuning| {
            let keepalive = &mut tuning.server.keepalive;
            (keepalive.interval_ms, keepalive.timeout_ms) = (allowed_ms(300), allowed_ms(400));
        })
        .await;
    exchange(&world.client(), 1000, 1000).await.unwrap();
    let mut victim = Child::client(&["hold", &world.target()]);
    assert_eq!(victim.line(), "holding");
    world.observe_until("busy", |seen| seen.running == 4 * GROUP as i64).await;
    send_signal(victim.id(), Signal::STOP);
    let stopped = Instant::now();
    world.observe_until("at rest", |seen| seen.running == 0).await;
    assert!(stopped.elapsed() < allowed(3 * NOTICE), "handlers ran for {:?}", stopped.elapsed());
    exchange(&world.client(), 1000, 1000).await.unwrap();
}
