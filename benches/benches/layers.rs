//! What each layer costs by itself: frame headers, metadata blocks, and a whole unary call
//! (stub, session, driver, both ends) over the in-memory link, where no socket or ring is in the
//! way.

use std::future::Future;
use std::hint::black_box;
use std::pin::Pin;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use rdma_rpc_core::client::{
    Channel, Client, ClientConnection, ConnectError, Connector, ReconnectPolicy, connect_link,
};
use rdma_rpc_core::codegen::{
    Handler, Idempotency, IncomingCall, MethodDescriptor, MethodKind, Service, ServiceDescriptor,
};
use rdma_rpc_core::memory::{MemoryConfig, pair};
use rdma_rpc_core::metadata::MetadataMap;
use rdma_rpc_core::server::{ConnectionConfig, Router, serve_connection};
use rdma_rpc_core::wire::{Header, Kind};
use rdma_rpc_core::{Request, Response};

#[derive(Clone, PartialEq, prost::Message)]
struct Small {
    #[prost(bytes = "bytes", tag = "1")]
    data: bytes::Bytes,
}

static METHODS: [MethodDescriptor; 1] = [MethodDescriptor {
    name: "Echo",
    path: "/bench.Layers/Echo",
    kind: MethodKind::Unary,
    idempotency: Idempotency::Unknown,
}];
static SERVICE: ServiceDescriptor = ServiceDescriptor { name: "bench.Layers", methods: &METHODS };

struct Echo;

impl Service for Echo {
    fn descriptor(&self) -> &'static ServiceDescriptor {
        &SERVICE
    }

    fn call(&self, _: usize, call: IncomingCall) -> Handler {
        call.unary(|request: Request<Small>| async { Ok(Response::new(request.into_inner())) })
    }
}

struct InMemory;

impl Connector for InMemory {
    fn connect(
        &self,
    ) -> Pin<Box<dyn Future<Output = Result<ClientConnection, ConnectError>> + Send + '_>> {
        let (near, far) = pair(MemoryConfig::default());
        let config = ConnectionConfig::default();
        let router = Arc::new(Router::new().add_service(Echo));
        tokio::spawn(serve_connection(far, router, config).1);
        let (connection, driving) = connect_link(near, config, "a benchmark");
        tokio::spawn(driving);
        Box::pin(std::future::ready(Ok(connection)))
    }

    fn target(&self) -> String {
        "memory".into()
    }
}

fn layers(c: &mut Criterion) {
    let header = Header::new(Kind::Request, 7).code(1).numbers(0, 32);
    c.bench_function("header-encode", |b| b.iter(|| black_box(header).to_bytes()));
    let bytes = header.to_bytes();
    c.bench_function("header-parse", |b| b.iter(|| Header::parse(black_box(&bytes)).is_ok()));

    let mut metadata = MetadataMap::new();
    metadata.insert("x-request-id", "0123456789abcdef".parse().expect("ASCII"));
    let mut block = vec![0; metadata.encoded_len()];
    metadata.encode(&mut block);
    c.bench_function("metadata-decode", |b| b.iter(|| MetadataMap::decode(black_box(&block))));

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a tokio runtime");
    let client = Client::new(Channel::lazy(InMemory, ReconnectPolicy::default()));
    let message = Small { data: bytes::Bytes::from_static(&[7; 32]) };
    c.bench_function("unary-32-in-memory", |b| {
        b.iter(|| {
            let request = Request::new(message.clone());
            let call = client.unary::<Small, Small>(&METHODS[0], request);
            runtime.block_on(call).expect("an echo")
        })
    });
}

criterion_group!(benches, layers);
criterion_main!(benches);
