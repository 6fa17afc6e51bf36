//! The conformance suite over the memory link.

use rdma_rpc_tests::conformance_tests;
use rdma_rpc_tests::harness::{Place, Transport};

mod one_process {
    use super::*;
    conformance_tests!(everywhere, Place::one(Transport::Memory));
    conformance_tests!(heavy, Place::one(Transport::Memory));
}
