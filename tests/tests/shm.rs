//! The conformance suite over rings in shared memory.

use rdma_rpc_tests::conformance_tests;
use rdma_rpc_tests::harness::{Place, Transport};

mod one_process {
    use super::*;
    conformance_tests!(everywhere, Place::one(Transport::Shm));
    conformance_tests!(sockets, Place::one(Transport::Shm));
    conformance_tests!(rings, Place::one(Transport::Shm));
    conformance_tests!(shared_memory, Place::one(Transport::Shm));
}

mod two_processes {
    use super::*;
    conformance_tests!(everywhere, Place::two(Transport::Shm));
    conformance_tests!(heavy, Place::two(Transport::Shm));
    conformance_tests!(sockets, Place::two(Transport::Shm));
    conformance_tests!(processes, Place::two(Transport::Shm));
    conformance_tests!(rings, Place::two(Transport::Shm));
    conformance_tests!(shared_memory, Place::two(Transport::Shm));
}
