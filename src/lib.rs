//! rdma-rpc.
