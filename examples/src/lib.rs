//! Runnable examples of rdma-rpc.
