//! Calls over the in-memory link, where no socket or ring is in the way. `dispatch-32` is the
//! server's half: a session fed by hand asks, the server's driver looks up the method, runs the
//! handler and answers. `unary-32` is the whole: the stub, both drivers, and the runtime that
//! wakes the caller.

use std::future::Future;
use std::hint::black_box;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Instant;

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use rdma_rpc::client::ReconnectPolicy;
use rdma_rpc::codegen::Channel;
use rdma_rpc_core::link::{FrameSink, Link, Received};
use rdma_rpc_core::memory::{MemoryConfig, MemoryLink, pair};
use rdma_rpc_core::metadata::MetadataMap;
use rdma_rpc_core::server::{ConnectionConfig, Router, serve_connection};
use rdma_rpc_core::session::{
    Encode, Event, FrameRef, NewStream, Opened, Role, Session, SessionConfig,
};
use rpc_benches::proto::EchoMsg;
use rpc_benches::proto::echo_client::EchoClient;
use rpc_benches::proto::echo_server::EchoServer;
use rpc_benches::{InMemory, Service};

fn router() -> Router {
    Router::new().add_service(EchoServer::new(Service))
}

fn config() -> ConnectionConfig {
    // Nobody spins: one thread does everything.
    ConnectionConfig { progress: rdma_rpc::Progress::EVENT, ..ConnectionConfig::default() }
}

fn message() -> EchoMsg {
    EchoMsg { data: Bytes::from_static(&[7; 32]) }
}

fn runtime() -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a tokio runtime")
}

/// Sends one request, already encoded.
fn ask(session: &mut Session, link: &mut MemoryLink, none: &MetadataMap, message: &dyn Encode) {
    let request = NewStream {
        path: "/bench.Echo/Unary",
        metadata: none,
        timeout: None,
        message: Some(message),
        end: true,
        max_message_bytes: 1 << 20,
    };
    assert!(matches!(session.open(link, &request), Ok(Opened::Stream(_))));
    link.flush().expect("an open link");
}

/// Takes what has come, and says whether an answer was there.
fn answered(session: &mut Session, link: &mut MemoryLink, now: Instant) -> bool {
    let mut answered = false;
    while let Some(received) = link.receive().expect("an open link") {
        let frame = match &received {
            Received::Frame(bytes) => FrameRef { bytes, owner: None },
            Received::Owned(bytes) => FrameRef { bytes, owner: Some(bytes) },
            Received::Pulled { .. } => unreachable!("short messages are not pulled"),
        };
        let event = session.handle_frame(now, frame).expect("a frame of ours");
        answered |= matches!(black_box(event), Event::Response { .. });
    }
    answered
}

fn dispatch(c: &mut Criterion) {
    let runtime = runtime();
    let _inside = runtime.enter();
    let (mut link, far) = pair(MemoryConfig::default());
    let mut serving = pin!(serve_connection(far, Arc::new(router()), config()).1);
    let now = Instant::now();
    let mut session = Session::new(Role::Client, SessionConfig::default(), link.limits(), now);
    session.transmit(&mut link).expect("an open link");
    let message = Bytes::from(prost::Message::encode_to_vec(&message()));
    let (none, mut cx) = (MetadataMap::new(), Context::from_waker(Waker::noop()));
    c.bench_function("dispatch-32", |b| {
        b.iter(|| {
            ask(&mut session, &mut link, &none, &message);
            while !answered(&mut session, &mut link, now) {
                assert!(serving.as_mut().poll(&mut cx).is_pending(), "the server has ended");
            }
        });
    });
}

fn unary(c: &mut Criterion) {
    let runtime = runtime();
    let connector = InMemory::new(router(), config());
    let client = EchoClient::new(Channel::lazy(connector, ReconnectPolicy::default()));
    c.bench_function("unary-32", |b| {
        b.iter(|| runtime.block_on(client.unary(message())).expect("an echo"));
    });
}

criterion_group!(benches, dispatch, unary);
criterion_main!(benches);
