//! A service written by hand as generated code would be, over the memory link.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use rdma_rpc_core::client::{
    Channel, ClientConnection, ConnectError, Connector, ReconnectPolicy, connect_link,
};
use rdma_rpc_core::codegen::*;
use rdma_rpc_core::memory::{MemoryConfig, pair};
use rdma_rpc_core::server::{ConnectionConfig, Router, ServerConnection, serve_connection};

#[derive(Clone, PartialEq, prost::Message)]
pub struct Ping {
    #[prost(bytes = "bytes", tag = "1")]
    pub payload: bytes::Bytes,
    /// What the server is asked to do, in milliseconds or as a count.
    #[prost(uint32, tag = "2")]
    pub number: u32,
    #[prost(string, tag = "3")]
    pub what: String,
}

pub fn ping(what: &str, number: u32) -> Ping {
    Ping { payload: bytes::Bytes::new(), number, what: what.into() }
}

macro_rules! method {
    ($name:literal, $kind:ident) => {
        MethodDescriptor {
            name: $name,
            path: concat!("/test.Echo/", $name),
            kind: MethodKind::$kind,
            idempotency: Idempotency::Unknown,
        }
    };
}

pub static METHODS: [MethodDescriptor; 4] = [
    method!("Unary", Unary),
    method!("Expand", ServerStreaming),
    method!("Collect", ClientStreaming),
    method!("Chat", BidiStreaming),
];
pub static NOWHERE: MethodDescriptor = method!("Nowhere", Unary);
static SERVICE: ServiceDescriptor = ServiceDescriptor { name: "test.Echo", methods: &METHODS };

#[derive(Debug, Default)]
pub struct Counts {
    /// Handlers that are running.
    pub running: std::sync::atomic::AtomicIsize,
}

pub struct Running(Arc<Counts>);

impl Running {
    fn new(counts: &Arc<Counts>) -> Running {
        counts.running.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Running(Arc::clone(counts))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
    }
}

#[derive(Clone, Default)]
pub struct Echo {
    pub counts: Arc<Counts>,
}

type Messages = Pin<Box<dyn Stream<Item = Result<Ping, Status>> + Send>>;

impl Echo {
    async fn unary(self, request: Request<Ping>) -> Result<Response<Ping>, Status> {
        let _running = Running::new(&self.counts);
        let metadata = request.metadata().clone();
        let message = request.into_inner();
        match message.what.as_str() {
            "fail" => {
                return Err(Status::with_details(
                    rdma_rpc_core::Code::from(message.number as i32),
                    "as you asked",
                    bytes::Bytes::from_static(b"details"),
                ));
            }
            "sleep" => tokio::time::sleep(Duration::from_millis(u64::from(message.number))).await,
            "forever" => std::future::pending().await,
            "panic" => panic!("as the test asked"),
            "big" => {
                let payload = bytes::Bytes::from(vec![7; message.number as usize]);
                return Ok(Response::new(Ping { payload, ..message }));
            }
            _ => {}
        }
        let mut response = Response::new(message);
        if !metadata.is_empty() {
            *response.trailers_mut() = metadata.clone();
            *response.metadata_mut() = metadata;
        }
        Ok(response)
    }

    async fn expand(self, request: Request<Ping>) -> Result<Response<Messages>, Status> {
        let running = Running::new(&self.counts);
        let message = request.into_inner();
        let count = message.number;
        let stream = futures_util::stream::iter(0..count).map(move |number| {
            let _alive = &running;
            if message.what == "fail" && number == count - 1 {
                return Err(Status::aborted("at the last message"));
            }
            Ok(Ping { number, ..message.clone() })
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn collect(self, request: Request<Streaming<Ping>>) -> Result<Response<Ping>, Status> {
        let _running = Running::new(&self.counts);
        let mut messages = request.into_inner();
        let (mut bytes, mut count) = (0, 0);
        while let Some(message) = messages.message().await? {
            if message.what == "enough" {
                return Ok(Response::new(ping("early", count)));
            }
            bytes += message.payload.len();
            count += 1;
        }
        Ok(Response::new(Ping {
            payload: bytes::Bytes::from(bytes.to_string()),
            number: count,
            what: String::new(),
        }))
    }

    async fn chat(self, request: Request<Streaming<Ping>>) -> Result<Response<Messages>, Status> {
        let running = Running::new(&self.counts);
        let stream = request.into_inner().map(move |message| {
            let _alive = &running;
            message
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

impl Service for Echo {
    fn descriptor(&self) -> &'static ServiceDescriptor {
        &SERVICE
    }

    fn call(&self, method: usize, call: IncomingCall<'_>) -> Handler {
        let this = self.clone();
        match method {
            0 => call.unary(&Arc::new(this), |this, request| async move {
                (Echo::clone(&this).unary(request).await, this)
            }),
            1 => call.server_streaming(move |request| this.expand(request)),
            2 => call.client_streaming(move |request| this.collect(request)),
            3 => call.bidi_streaming(move |request| this.chat(request)),
            _ => call.unimplemented(),
        }
    }
}

/// Connects in memory, anew each time.
pub struct InMemory {
    pub memory: MemoryConfig,
    pub config: ConnectionConfig,
    pub echo: Echo,
    pub servers: Arc<std::sync::Mutex<Vec<ServerConnection>>>,
    /// Where the server runs.
    pub runtime: tokio::runtime::Handle,
}

impl Connector for InMemory {
    fn connect(
        &self,
    ) -> Pin<Box<dyn Future<Output = Result<ClientConnection, ConnectError>> + Send + '_>> {
        Box::pin(async {
            let (near, far) = pair(self.memory);
            let router = Arc::new(Router::new().add_service(self.echo.clone()));
            let (server, serving) = serve_connection(far, router, self.config);
            self.runtime.spawn(serving);
            self.servers.lock().unwrap().push(server);
            let (connection, driving) = connect_link(near, self.config, "a test asked for memory");
            tokio::spawn(driving);
            Ok(connection)
        })
    }

    fn target(&self) -> String {
        "memory".into()
    }
}

pub struct World {
    pub client: Client,
    pub echo: Echo,
    pub servers: Arc<std::sync::Mutex<Vec<ServerConnection>>>,
}

pub fn world(memory: MemoryConfig, config: ConnectionConfig) -> World {
    world_on(tokio::runtime::Handle::current(), memory, config)
}

/// The same with the server on a runtime of its own.
pub fn world_on(
    runtime: tokio::runtime::Handle,
    memory: MemoryConfig,
    config: ConnectionConfig,
) -> World {
    let echo = Echo::default();
    let servers = Arc::default();
    let (echo_too, servers_too) = (echo.clone(), Arc::clone(&servers));
    let connector = InMemory { memory, config, echo: echo_too, servers: servers_too, runtime };
    let channel = Channel::lazy(connector, ReconnectPolicy::default());
    World { client: Client::new(channel), echo, servers }
}
