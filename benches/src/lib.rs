//! Benchmarks of rdma-rpc.
