//! The conformance suite of rdma-rpc.
