//! The conformance suite of rdma-rpc: one suite for every transport.
//!
//! ```text
//!   tests/*.rs        one #[test] for each case, transport and number of processes
//!     cases/          what every transport must do: async functions of a Place
//!       harness/      servers and clients at a Place: in this process, or in a child process
//!         service     the service they talk to (proto/conformance.proto)
//! ```
//!
//! The `conformance` binary is the server of the two-process tests, and runs the same cases by
//! hand: `conformance server ADDRESS`, `conformance case NAME PLACE`.
#![forbid(unsafe_code)]

pub mod cases;
pub mod harness;
pub mod observe;
pub mod pattern;
pub mod service;

/// The generated stubs.
#[allow(missing_docs)]
pub mod proto {
    rdma_rpc::include_proto!("conformance.v1");
}
