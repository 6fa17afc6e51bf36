//! The conformance suite over TCP.

use rdma_rpc_tests::conformance_tests;
use rdma_rpc_tests::harness::{Place, Transport};

mod one_process {
    use super::*;
    conformance_tests!(everywhere, Place::one(Transport::Tcp));
    conformance_tests!(sockets, Place::one(Transport::Tcp));
}

mod two_processes {
    use super::*;
    conformance_tests!(everywhere, Place::two(Transport::Tcp));
    conformance_tests!(heavy, Place::two(Transport::Tcp));
    conformance_tests!(sockets, Place::two(Transport::Tcp));
    conformance_tests!(processes, Place::two(Transport::Tcp));
}
