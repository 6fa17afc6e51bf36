//! What our benchmarks share: the echo service, and a channel to a server in the same process.

mod in_memory;
mod service;

pub use in_memory::InMemory;
pub use service::{Down, Service};

/// The echo service's messages and stubs.
#[allow(missing_docs, missing_debug_implementations)]
pub mod proto {
    rdma_rpc::include_proto!("bench");
}
