//! The conformance suite over what the environment names: RDMA devices, say, which not every
//! machine has. Ignored unless asked for:
//!
//! ```text
//! CONFORMANCE_SCHEME=rdma CONFORMANCE_LISTEN=10.0.0.2 CONFORMANCE_SERVER_PREFIX="ip netns exec b" \
//!     cargo nextest run -p rdma-rpc-tests --test environment --run-ignored only
//! ```

use rdma_rpc_tests::conformance_tests;
use rdma_rpc_tests::harness::{Place, Transport};

mod one_process {
    use super::*;
    conformance_tests!(everywhere, Place::one(Transport::Environment), #[ignore = "set CONFORMANCE_SCHEME"]);
    conformance_tests!(sockets, Place::one(Transport::Environment), #[ignore = "set CONFORMANCE_SCHEME"]);
    conformance_tests!(rings, Place::one(Transport::Environment), #[ignore = "set CONFORMANCE_SCHEME"]);
}

mod two_processes {
    use super::*;
    conformance_tests!(everywhere, Place::two(Transport::Environment), #[ignore = "set CONFORMANCE_SCHEME"]);
    conformance_tests!(heavy, Place::two(Transport::Environment), #[ignore = "set CONFORMANCE_SCHEME"]);
    conformance_tests!(sockets, Place::two(Transport::Environment), #[ignore = "set CONFORMANCE_SCHEME"]);
    conformance_tests!(processes, Place::two(Transport::Environment), #[ignore = "set CONFORMANCE_SCHEME"]);
    conformance_tests!(rings, Place::two(Transport::Environment), #[ignore = "set CONFORMANCE_SCHEME"]);
}
