//! Calls from end to end over the memory link.

mod support;

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use rdma_rpc_core::memory::MemoryConfig;
use rdma_rpc_core::server::ConnectionConfig;
use rdma_rpc_core::{Code, Request, RequestSeen, Response, Status, Streaming};
use support::*;

fn no_bulk() -> MemoryConfig {
    MemoryConfig { bulk_threshold_bytes: None, max_frame_bytes: 4096, queue_bytes: 16 * 1024 }
}

async fn unary(world: &World, message: Ping) -> Result<Response<Ping>, Status> {
    world.client.unary(&METHODS[0], Request::new(message)).await
}

#[tokio::test]
async fn unary_calls_of_all_sizes_come_back() {
    for memory in [MemoryConfig::default(), no_bulk()] {
        let world = world(memory, ConnectionConfig::default());
        for len in [0, 1, 100, 104, 105, 4000, 4079, 4080, 4081, 70_000, 1 << 20, 4_000_000] {
            let message = Ping { payload: Bytes::from(vec![5; len]), number: 1, what: "x".into() };
            let response = unary(&world, message.clone()).await.unwrap();
            assert_eq!(response.into_inner(), message, "{len} bytes");
        }
    }
}

#[tokio::test]
async fn all_four_kinds_work() {
    for memory in [MemoryConfig::default(), no_bulk()] {
        let world = world(memory, ConnectionConfig::default());
        let expanded: Streaming<Ping> = world
            .client
            .server_streaming(&METHODS[1], Request::new(ping("", 1000)))
            .await
            .unwrap()
            .into_inner();
        let numbers: Vec<u32> = expanded.map(|message| message.unwrap().number).collect().await;
        assert_eq!(numbers, (0..1000).collect::<Vec<_>>());

        let payload = Bytes::from(vec![1; 10_000]);
        let messages = (0..100).map(move |number| Ping {
            payload: payload.clone(),
            number,
            what: String::new(),
        });
        let sum: Response<Ping> = world
            .client
            .client_streaming(&METHODS[2], Request::new(futures_util::stream::iter(messages)))
            .await
            .unwrap();
        assert_eq!((sum.get_ref().number, &sum.get_ref().payload[..]), (100, &b"1000000"[..]));

        let messages = futures_util::stream::iter((0..1000).map(|number| ping("", number)));
        let mut chat: Streaming<Ping> = world
            .client
            .bidi_streaming(&METHODS[3], Request::new(messages))
            .await
            .unwrap()
            .into_inner();
        for number in 0..1000 {
            assert_eq!(chat.message().await.unwrap().unwrap().number, number);
        }
        assert_eq!(chat.message().await.unwrap(), None);
    }
}

#[tokio::test]
async fn errors_metadata_and_unknown_methods_arrive() {
    let world = world(MemoryConfig::default(), ConnectionConfig::default());
    for code in 1..=16 {
        let status = unary(&world, ping("fail", code)).await.unwrap_err();
        assert_eq!(status.code(), Code::from(code as i32));
        assert_eq!((status.message(), status.details()), ("as you asked", &b"details"[..]));
    }
    let mut request = Request::new(ping("", 0));
    request.metadata_mut().insert("x-a", "text".parse().unwrap());
    request
        .metadata_mut()
        .insert_bin("x-b-bin", rdma_rpc_core::metadata::MetadataValue::from_bytes(&[0, 255]));
    let response: Response<Ping> = world.client.unary(&METHODS[0], request).await.unwrap();
    for map in [response.metadata(), response.trailers()] {
        assert_eq!(map.get("x-a").unwrap(), "text");
        assert_eq!(map.get_bin("x-b-bin").unwrap().to_bytes().unwrap(), &[0u8, 255][..]);
    }
    let status =
        world.client.unary::<_, Ping>(&NOWHERE, Request::new(ping("", 0))).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(status.message().contains("/test.Echo/Nowhere"), "{status}");
    let status = unary(&world, ping("panic", 0)).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Internal, "the handler panicked"));
    unary(&world, ping("", 0)).await.unwrap();
}

#[tokio::test]
async fn deadlines_end_calls_on_both_sides_and_drops_cancel() {
    let world = world(MemoryConfig::default(), ConnectionConfig::default());
    let running = || world.echo.counts.running.load(Ordering::SeqCst);
    let mut request = Request::new(ping("forever", 0));
    request.set_timeout(Duration::from_millis(50));
    let status = world.client.unary::<_, Ping>(&METHODS[0], request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_ne!(status.request_seen(), RequestSeen::NeverSent);
    let forever = unary(&world, ping("forever", 0));
    let _ = tokio::time::timeout(Duration::from_millis(50), forever).await.unwrap_err();
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        if running() == 0 {
            break;
        }
    }
    assert_eq!(running(), 0, "handlers of calls that are over still run");
    unary(&world, ping("sleep", 5)).await.unwrap();
}

/// Its handlers' tasks may be dropped before its connection or after: callers see no difference.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_a_server_whose_runtime_goes_down_are_unavailable() {
    for _ in 0..10 {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let handle = runtime.handle().clone();
        let world = world_on(handle, MemoryConfig::default(), ConnectionConfig::default());
        let calls: Vec<_> = (0..32)
            .map(|_| {
                let client = world.client.clone();
                tokio::spawn(async move {
                    let request = Request::new(ping("forever", 0));
                    client.unary::<_, Ping>(&METHODS[0], request).await
                })
            })
            .collect();
        while world.echo.counts.running.load(Ordering::SeqCst) < 32 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        runtime.shutdown_background();
        for call in calls {
            let status = call.await.unwrap().unwrap_err();
            assert_eq!(status.code(), Code::Unavailable, "{status}");
            assert_ne!(status.request_seen(), RequestSeen::NeverSent, "{status}");
        }
    }
}

#[tokio::test]
async fn messages_beyond_the_limits_are_refused() {
    for memory in [MemoryConfig::default(), no_bulk()] {
        let world = world(memory, ConnectionConfig::default());
        let status = unary(&world, ping("big", 5_000_000)).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        let message = Ping { payload: Bytes::from(vec![0; 5_000_000]), ..ping("", 0) };
        let status = unary(&world, message.clone()).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        let client = world.client.clone().max_encoding_message_size(1000);
        let status = client.unary::<_, Ping>(&METHODS[0], Request::new(message)).await.unwrap_err();
        assert_eq!(status.request_seen(), RequestSeen::NeverSent);
        unary(&world, ping("", 0)).await.unwrap();
    }
}

#[tokio::test]
async fn a_message_that_must_not_be_sent_makes_no_connection() {
    let world = world(MemoryConfig::default(), ConnectionConfig::default());
    let client = world.client.clone().max_encoding_message_size(2);
    let call = client.unary::<_, Ping>(&METHODS[0], Request::new(ping("long", 1)));
    let status = call.await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert_eq!(status.request_seen(), RequestSeen::NeverSent);
    assert!(world.servers.lock().unwrap().is_empty());
}

#[tokio::test]
async fn many_calls_share_a_connection_and_shutdown_lets_them_finish() {
    let world = world(MemoryConfig::default(), ConnectionConfig::default());
    let calls = (0..1000).map(|number| {
        let client = world.client.clone();
        tokio::spawn(async move {
            let request = Request::new(ping("sleep", 30));
            client.unary::<_, Ping>(&METHODS[0], request).await.map(|_| number)
        })
    });
    let calls: Vec<_> = calls.collect();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(world.servers.lock().unwrap().len(), 1);
    world.servers.lock().unwrap()[0].shut_down("maintenance");
    for call in calls {
        call.await.unwrap().unwrap();
    }
    unary(&world, ping("", 0)).await.unwrap();
    assert_eq!(world.servers.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn everything_sent_before_a_failure_arrives_in_order() {
    for memory in [MemoryConfig::default(), no_bulk()] {
        let world = world(memory, ConnectionConfig::default());
        // Long enough to be pulled.
        let payload = Bytes::from(vec![1; 40_000]);
        let message = Ping { payload, number: 40, what: "fail".into() };
        let mut messages: Streaming<Ping> = world
            .client
            .server_streaming(&METHODS[1], Request::new(message))
            .await
            .unwrap()
            .into_inner();
        for number in 0..39 {
            assert_eq!(messages.message().await.unwrap().unwrap().number, number);
        }
        assert_eq!(messages.message().await.unwrap_err().code(), Code::Aborted);
    }
}

#[tokio::test]
async fn a_reader_that_stops_stops_only_its_own_stream() {
    for memory in [MemoryConfig::default(), no_bulk()] {
        let world = world(memory, ConnectionConfig::default());
        let message =
            Ping { payload: Bytes::from(vec![1; 2000]), number: 10_000, what: String::new() };
        let mut slow: Streaming<Ping> = world
            .client
            .server_streaming(&METHODS[1], Request::new(message))
            .await
            .unwrap()
            .into_inner();
        for _ in 0..200 {
            unary(&world, ping("", 0)).await.unwrap();
        }
        for number in 0..10_000 {
            assert_eq!(slow.message().await.unwrap().unwrap().number, number);
        }
        assert_eq!(slow.message().await.unwrap(), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_threads_share_a_connection() {
    let world = world(MemoryConfig::default(), ConnectionConfig::default());
    let tasks: Vec<_> = (0..64)
        .map(|task| {
            let client = world.client.clone();
            tokio::spawn(async move {
                for number in 0..200 {
                    let request = Request::new(ping("", task * 1000 + number));
                    let response: Response<Ping> =
                        client.unary(&METHODS[0], request).await.unwrap();
                    assert_eq!(response.get_ref().number, task * 1000 + number);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn a_stream_of_messages_that_panics_ends_its_call() {
    let world = world(MemoryConfig::default(), ConnectionConfig::default());
    let messages = futures_util::stream::iter(0..5).map(|number| {
        assert!(number < 3, "as the test wants");
        ping("", number)
    });
    let mut chat: Streaming<Ping> = world
        .client
        .bidi_streaming(&METHODS[3], Request::new(messages))
        .await
        .unwrap()
        .into_inner();
    let status = loop {
        match chat.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the call ended well"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Cancelled, "{status}");
    unary(&world, ping("", 0)).await.unwrap();
}

/// What answers, the service and the memory of the handler go from one call of a method to the next.
#[tokio::test]
async fn handlers_of_a_method_follow_each_other_whatever_became_of_the_last() {
    let world = world(MemoryConfig::default(), ConnectionConfig::default());
    let malformed = || world.client.unary::<u32, Ping>(&METHODS[0], Request::new(7));
    let long = |bytes| Ping { payload: vec![3; bytes].into(), ..ping("", 5) };
    let answer = async |message| unary(&world, message).await.map(Response::into_inner);
    for round in 0..3 {
        assert_eq!(answer(ping("", round)).await.unwrap().number, round);
        let status = answer(ping("panic", round)).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Internal, "the handler panicked"));
        assert_eq!(answer(ping("", round)).await.unwrap().number, round);
        let status = malformed().await.unwrap_err();
        assert!(status.message().contains("is not a"), "{status}");
        // One goes on as a task while others are served.
        let (slept, at_once) = tokio::join!(answer(ping("sleep", 20)), answer(ping("", round)));
        assert_eq!((slept.unwrap().number, at_once.unwrap().number), (20, round));
        let status = answer(ping("fail", 5)).await.unwrap_err();
        assert_eq!((status.code(), status.details()), (Code::NotFound, &b"details"[..]));
        // In memory of its own, and in pieces.
        for bytes in [5_000, 3_000_000] {
            assert_eq!(answer(long(bytes)).await.unwrap(), long(bytes));
        }
    }
    assert_eq!(world.echo.counts.running.load(Ordering::SeqCst), 0);
}
