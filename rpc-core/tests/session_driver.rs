//! What the driver owes its calls when peers misbehave, streams are short and callers give up.

mod support;

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use rdma_rpc_core::client::{
    Channel, ClientConnection, ConnectError, Connector, ReconnectPolicy, connect_link,
};
use rdma_rpc_core::codegen::Client;
use rdma_rpc_core::link::{FrameSink, Link, LinkErrorKind, Received};
use rdma_rpc_core::memory::{MemoryConfig, MemoryLink, pair};
use rdma_rpc_core::server::ConnectionConfig;
use rdma_rpc_core::wire::{Header, Kind, flag};
use rdma_rpc_core::{Code, Progress, ProgressMode, Request, RequestSeen, Status, Streaming};
use support::*;

/// Gives the connections it has, the last first.
struct Given(Mutex<Vec<ClientConnection>>);

impl Connector for Given {
    fn connect(
        &self,
    ) -> Pin<Box<dyn Future<Output = Result<ClientConnection, ConnectError>> + Send + '_>> {
        let connection = self.0.lock().unwrap().pop();
        Box::pin(async move { connection.ok_or_else(|| ConnectError::new("only one")) })
    }

    fn target(&self) -> String {
        "scripted".into()
    }
}

/// A client whose server the test plays, frame by frame.
struct Scripted {
    client: Client,
    far: MemoryLink,
    ended: tokio::task::JoinHandle<Option<Status>>,
}

fn event_mode() -> ConnectionConfig {
    ConnectionConfig { progress: Progress::EVENT, ..ConnectionConfig::default() }
}

fn scripted(max_streams: u64) -> Scripted {
    scripted_in(event_mode(), max_streams)
}

fn scripted_in(config: ConnectionConfig, max_streams: u64) -> Scripted {
    scripted_with(config, max_streams, Vec::new())
}

/// With more connections for later.
fn scripted_with(
    config: ConnectionConfig,
    max_streams: u64,
    mut connections: Vec<ClientConnection>,
) -> Scripted {
    let (near, far) = pair(MemoryConfig::default());
    let (connection, driving) = connect_link(near, config, "a test");
    let ended = tokio::spawn(driving);
    connections.push(connection);
    let channel = Channel::lazy(Given(Mutex::new(connections)), ReconnectPolicy::default());
    let mut scripted = Scripted { client: Client::new(channel), far, ended };
    let mut settings = Vec::new();
    settings.extend_from_slice(&1u16.to_le_bytes());
    settings.extend_from_slice(&max_streams.to_le_bytes());
    scripted.say(Header::new(Kind::Settings, 0), &settings);
    scripted
}

impl Scripted {
    fn say(&mut self, header: Header, body: &[u8]) {
        let frame = [&header.to_bytes(), body].concat();
        self.far.reserve(frame.len()).unwrap().unwrap().copy_from_slice(&frame);
        self.far.commit();
        self.far.flush().unwrap();
    }

    /// The next frame of this kind, and its body.
    async fn hears(&mut self, kind: Kind) -> (Header, Vec<u8>) {
        for _ in 0..10_000 {
            let frame = match self.far.receive() {
                Ok(Some(Received::Owned(frame))) => frame,
                Ok(None) => {
                    tokio::task::yield_now().await;
                    continue;
                }
                other => panic!("{other:?} while waiting for {kind:?}"),
            };
            let (header, body) = Header::parse(&frame).unwrap();
            if header.kind == kind as u8 {
                return (header, body.to_vec());
            }
        }
        panic!("no {kind:?} came");
    }

    fn call(&self, timeout: Option<Duration>) -> tokio::task::JoinHandle<Result<(), Status>> {
        let client = self.client.clone();
        tokio::spawn(async move {
            let mut request = Request::new(ping("", 1));
            if let Some(timeout) = timeout {
                request.set_timeout(timeout);
            }
            client.unary::<_, Ping>(&METHODS[0], request).await.map(drop)
        })
    }
}

#[tokio::test]
async fn a_peer_that_breaks_the_protocol_is_told_why_and_the_link_is_let_go() {
    let mut scripted = scripted(10);
    let call = scripted.call(None);
    scripted.hears(Kind::Request).await;
    scripted.say(Header { kind: 0x7f, ..Header::new(Kind::Ping, 0) }, &[]);
    let status = call.await.unwrap().unwrap_err();
    assert_eq!((status.code(), status.request_seen()), (Code::Internal, RequestSeen::MayHaveRun));
    assert!(status.message().contains("byte 0 of the frame"), "{status}");
    let (header, reason) = scripted.hears(Kind::GoAway).await;
    assert_eq!(header.code, Code::Internal as u16);
    assert!(String::from_utf8(reason).unwrap().contains("unknown kind"));
    assert!((&mut scripted.ended).await.unwrap().is_some());
    // The channel still remembers the connection; the peer must not wait for it to forget.
    let error = scripted.far.receive().unwrap_err();
    assert_eq!(error.kind(), LinkErrorKind::Closed);
}

#[tokio::test]
async fn a_call_that_never_left_a_broken_connection_can_be_made_again() {
    let mut scripted = scripted(1);
    tokio::task::yield_now().await;
    let first = scripted.call(None);
    scripted.hears(Kind::Request).await;
    let second = scripted.call(None);
    tokio::task::yield_now().await;
    scripted.say(Header { kind: 0x7f, ..Header::new(Kind::Ping, 0) }, &[]);
    assert_eq!(first.await.unwrap().unwrap_err().code(), Code::Internal);
    // It was tried again: the connector has no other connection to give.
    let status = second.await.unwrap().unwrap_err();
    assert!(status.message().contains("only one"), "{status}");
    assert_eq!((status.code(), status.request_seen()), (Code::Unavailable, RequestSeen::NeverSent));
}

#[tokio::test]
async fn a_connection_that_was_replaced_is_closed_though_the_server_would_keep_it() {
    let (near, _second) = pair(MemoryConfig::default());
    let (second, driving) = connect_link(near, event_mode(), "for later");
    tokio::spawn(driving);
    let mut scripted = scripted_with(event_mode(), 10, vec![second]);
    let open = scripted.call(None);
    let (request, _) = scripted.hears(Kind::Request).await;
    scripted.say(Header::new(Kind::GoAway, 0).wide(1), b"moving");
    tokio::task::yield_now().await;
    let _later = scripted.call(None);
    tokio::task::yield_now().await;
    assert!(!scripted.ended.is_finished(), "not before its open call");
    scripted.say(Header::new(Kind::Response, request.stream), &[]);
    open.await.unwrap().unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(10), scripted.ended).await;
    assert!(ended.expect("it closes").unwrap().is_none());
}

#[tokio::test]
async fn a_stream_with_malformed_metadata_is_given_up_at_the_server_too() {
    let mut scripted = scripted(10);
    let call = scripted.call(None);
    let (request, _) = scripted.hears(Kind::Request).await;
    scripted.say(Header::new(Kind::Headers, request.stream).numbers(3, 0), &[1, 0, 9]);
    let status = call.await.unwrap().unwrap_err();
    assert!(status.message().contains("malformed response metadata"), "{status}");
    let (reset, _) = scripted.hears(Kind::Reset).await;
    assert_eq!(reset.stream, request.stream);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waited_for_a_stream_tells_the_time_that_is_left() {
    let mut scripted = scripted(1);
    tokio::task::yield_now().await;
    let first = scripted.call(None);
    let (request, _) = scripted.hears(Kind::Request).await;
    let second = scripted.call(Some(Duration::from_millis(100)));
    tokio::time::sleep(Duration::from_millis(60)).await;
    scripted.say(Header::new(Kind::Response, request.stream), &[]);
    first.await.unwrap().unwrap();
    let (header, body) = scripted.hears(Kind::Request).await;
    assert_ne!(header.flags & flag::TIMEOUT, 0);
    let left_us = u64::from_le_bytes(body[..8].try_into().unwrap());
    assert!(left_us <= 40_000, "{left_us}");
    scripted.say(Header::new(Kind::Response, header.stream), &[]);
    second.await.unwrap().unwrap();
}

/// The clock stands still unless everybody sleeps, and of those that poll nobody may.
#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_in_parts_does_not_find_the_driver_at_a_nap() {
    let progress = Progress { mode: ProgressMode::Busy, ..Progress::default() };
    let mut scripted =
        scripted_in(ConnectionConfig { progress, ..ConnectionConfig::default() }, 10);
    tokio::task::yield_now().await;
    for _ in 0..10 {
        let start = tokio::time::Instant::now();
        let call = scripted.call(None);
        let (request, _) = scripted.hears(Kind::Request).await;
        // The caller polls for a while, finds this, and has to wait all the same.
        let flags = flag::MESSAGE;
        scripted.say(Header { flags, ..Header::new(Kind::Message, request.stream) }, &[]);
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        scripted.say(Header::new(Kind::Trailers, request.stream), &[]);
        call.await.unwrap().unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn calls_that_wait_for_a_stream_end_at_their_deadline_and_were_never_sent() {
    let mut scripted = scripted(1);
    tokio::task::yield_now().await;
    let _first = scripted.call(None);
    scripted.hears(Kind::Request).await;
    let calls: Vec<_> = (1..100).map(|ms| scripted.call(Some(Duration::from_millis(ms)))).collect();
    for call in calls {
        let status = call.await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert_eq!(status.request_seen(), RequestSeen::NeverSent);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_done_closes_at_once_although_its_client_says_nothing() {
    let world = world(MemoryConfig::default(), event_mode());
    let slow = {
        let client = world.client.clone();
        tokio::spawn(async move {
            client.unary::<_, Ping>(&METHODS[0], Request::new(ping("sleep", 500))).await
        })
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    world.servers.lock().unwrap()[0].shut_down("done");
    let start = tokio::time::Instant::now();
    slow.await.unwrap().unwrap();
    for _ in 0..1000 {
        if world.client.channel().info().is_none() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(world.client.channel().info().is_none(), "the connection still takes calls");
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_short_message_before_a_very_long_one_does_not_stop_the_stream() {
    let memory =
        MemoryConfig { bulk_threshold_bytes: None, max_frame_bytes: 4096, queue_bytes: 16 * 1024 };
    let world = world(memory, event_mode());
    let messages = [10, 3_000_000, 20, 2_000_000, 1]
        .map(|len| Ping { payload: Bytes::from(vec![3; len]), ..ping("", 0) });
    let request = Request::new(futures_util::stream::iter(messages.clone()));
    let chat: Streaming<Ping> =
        world.client.bidi_streaming(&METHODS[3], request).await.unwrap().into_inner();
    let back = tokio::time::timeout(Duration::from_secs(20), chat.collect::<Vec<_>>());
    let back: Vec<Ping> = back.await.expect("stuck").into_iter().map(Result::unwrap).collect();
    assert_eq!(back, messages);
}

#[tokio::test]
async fn a_future_dropped_in_the_middle_of_a_send_leaves_the_connection_usable() {
    for bulk_threshold_bytes in [None, Some(8192)] {
        let memory =
            MemoryConfig { bulk_threshold_bytes, max_frame_bytes: 4096, queue_bytes: 8 * 1024 };
        let world = world(memory, event_mode());
        for round in 0..200 {
            let messages =
                futures_util::stream::iter((0..50).map(|number| Ping {
                    payload: Bytes::from(vec![1; 60_000]),
                    ..ping("", number)
                }));
            let client = world.client.clone();
            let mut call = Box::pin(async move {
                client.client_streaming::<_, Ping, _>(&METHODS[2], Request::new(messages)).await
            });
            // A different number of steps each time, then the caller loses interest.
            for _ in 0..round % 23 {
                if let Poll::Ready(result) =
                    call.as_mut().poll(&mut Context::from_waker(Waker::noop()))
                {
                    result.unwrap();
                    break;
                }
                tokio::task::yield_now().await;
            }
            drop(call);
        }
        let answer = world.client.unary::<_, Ping>(&METHODS[0], Request::new(ping("", 7)));
        let answer = tokio::time::timeout(Duration::from_secs(20), answer).await;
        assert_eq!(answer.expect("stuck").unwrap().get_ref().number, 7);
        assert_eq!(world.servers.lock().unwrap().len(), 1, "it is still the first connection");
        settles(&world).await;
    }
}

/// Every handler ends.
async fn settles(world: &World) {
    for _ in 0..2000 {
        if world.echo.counts.running.load(std::sync::atomic::Ordering::SeqCst) == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("handlers of calls that are over still run");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_every_kind_and_fate_from_many_tasks_all_end() {
    for progress in [Progress::EVENT, Progress::default()] {
        let memory = MemoryConfig {
            bulk_threshold_bytes: Some(20_000),
            max_frame_bytes: 4096,
            queue_bytes: 16 * 1024,
        };
        let config = ConnectionConfig { progress, ..ConnectionConfig::default() };
        let world = Arc::new(world(memory, config));
        let tasks: Vec<_> = (0..16u32)
            .map(|task| {
                let world = Arc::clone(&world);
                tokio::spawn(async move {
                    for round in 0..60u32 {
                        one_fate(&world.client, task.wrapping_mul(7919) + round).await;
                    }
                })
            })
            .collect();
        for task in tasks {
            tokio::time::timeout(Duration::from_secs(60), task).await.expect("stuck").unwrap();
        }
        assert_eq!(world.servers.lock().unwrap().len(), 1, "the connection broke");
        settles(&world).await;
    }
}

/// One call: answered, expired, or dropped after a while.
async fn one_fate(client: &Client, seed: u32) {
    let payload = Bytes::from(vec![seed as u8; [0, 50, 5000, 50_000][seed as usize % 4]]);
    let what = if seed.is_multiple_of(5) { "forever" } else { "" };
    let message = Ping { payload: payload.clone(), number: 20, what: what.into() };
    let mut request = Request::new(message.clone());
    if what == "forever" {
        request.set_timeout(Duration::from_millis(u64::from(seed % 7) + 1));
    }
    let patience = Duration::from_micros(u64::from(seed % 11) * 300);
    match seed % 3 {
        0 => {
            let call = client.unary::<_, Ping>(&METHODS[0], request);
            if what == "forever" {
                assert_eq!(call.await.unwrap_err().code(), Code::DeadlineExceeded);
            } else {
                assert_eq!(call.await.unwrap().into_inner(), message);
            }
        }
        1 => {
            let call = client.server_streaming::<_, Ping>(&METHODS[1], request);
            let read = async {
                let messages = call.await?.into_inner();
                Ok::<_, Status>(messages.collect::<Vec<_>>().await)
            };
            let _ = tokio::time::timeout(patience, read).await;
        }
        _ => {
            let messages = futures_util::stream::iter(
                (0..10).map(move |number| Ping { payload: payload.clone(), ..ping("", number) }),
            );
            let call = client.client_streaming::<_, Ping, _>(&METHODS[2], Request::new(messages));
            if let Ok(result) = tokio::time::timeout(patience, call).await {
                assert_eq!(result.unwrap().get_ref().number, 10);
            }
        }
    }
}

/// Each message would have to wake the caller else, who may be on another thread than their source, and need
/// not even be polled.
#[tokio::test]
async fn a_stream_that_waits_for_its_source_is_sent_by_a_task_of_its_own() {
    let world = world(MemoryConfig::default(), event_mode());
    let source = |mut given: tokio::sync::mpsc::Receiver<Ping>| {
        Request::new(futures_util::stream::poll_fn(move |cx| given.poll_recv(cx)))
    };
    let begun = |given| {
        let client = world.client.clone();
        let mut call = Box::pin(async move {
            client.client_streaming::<_, Ping, _>(&METHODS[2], source(given)).await
        });
        assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        call
    };
    let (give, given) = tokio::sync::mpsc::channel(1);
    let call = begun(given);
    for number in 0..100 {
        let sent = tokio::time::timeout(Duration::from_secs(5), give.send(ping("", number)));
        sent.await.expect("nobody takes it").unwrap();
    }
    drop(give);
    assert_eq!(call.await.unwrap().get_ref().number, 100);

    // A caller that gives the call up gives up its messages.
    let (give, given) = tokio::sync::mpsc::channel(1);
    let call = begun(given);
    give.send(ping("", 1)).await.unwrap();
    drop(call);
    tokio::time::timeout(Duration::from_secs(5), give.closed()).await.expect("still wanted");
    settles(&world).await;
}
