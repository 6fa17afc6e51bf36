//! The conformance suite over Unix sockets.

use rdma_rpc_tests::conformance_tests;
use rdma_rpc_tests::harness::{Place, Transport};

mod one_process {
    use super::*;
    conformance_tests!(everywhere, Place::one(Transport::Unix));
    conformance_tests!(sockets, Place::one(Transport::Unix));
}

mod two_processes {
    use super::*;
    conformance_tests!(everywhere, Place::two(Transport::Unix));
    conformance_tests!(heavy, Place::two(Transport::Unix));
    conformance_tests!(sockets, Place::two(Transport::Unix));
    conformance_tests!(processes, Place::two(Transport::Unix));
}
