//! Calls, sessions and the link contract of rdma-rpc.
#![forbid(unsafe_code)]

pub mod link;
pub mod upgrade;
