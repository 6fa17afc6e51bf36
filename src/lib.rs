//! rdma-rpc.
#![forbid(unsafe_code)]

pub mod config;
