//! gRPC-like services over RDMA rings, shared memory or TCP, chosen by configuration.
//!
//! ```text
//!   .proto --(rdma-rpc-codegen, in build.rs)--> typed clients and servers
//!   Channel::connect("auto://host:7400")        one port, one handshake, the fastest transport
//!   Server::builder().add_service(..).serve()   both ends have
//! ```
//!
//! * [`Channel`] and the generated clients make calls; [`Server`] and the generated traits answer
//!   them. [`Request`], [`Response`], [`Status`], [`Streaming`] and [`metadata`] are what a user
//!   of tonic knows.
//! * [`config`] says how targets, TOML files and environment variables choose transports.
//! * Long messages are made in a [`BulkBuffer`], which the other end reads fastest.
//! * Which transport a connection took, and why, is in the log and on the channel
//!   ([`Channel::info`](rdma_rpc_core::client::Channel::info),
//!   [`chosen_because`](rdma_rpc_core::client::Channel::chosen_because)).
//!
//! Generated code is included with [`include_proto!`].
#![forbid(unsafe_code)]

mod channel;
pub mod config;
mod server;
mod transport;
mod workers;

pub use channel::Channel;
#[doc(hidden)]
pub use rdma_rpc_core::codegen;
pub use rdma_rpc_core::link::LinkInfo;
pub use rdma_rpc_core::{
    Code, Extensions, IntoRequest, IntoStreamingRequest, Progress, ProgressMode, Request,
    RequestSeen, Response, Status, Streaming, client, memory, metadata, service,
};
pub use rdma_rpc_transport_rdma::BulkBuffer;
pub use server::{BoundServer, ServeError, Server, ServerBuilder};

/// Includes the code that `rdma-rpc-codegen` generated for a package from `OUT_DIR`.
///
/// ```ignore
/// pub mod kv {
///     rdma_rpc::include_proto!("kv.v1");
/// }
/// ```
#[macro_export]
macro_rules! include_proto {
    ($package:tt) => {
        include!(concat!(env!("OUT_DIR"), concat!("/", $package, ".rs")));
    };
}
