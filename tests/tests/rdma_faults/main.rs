//! Death, on a real kernel: processes killed and stopped, hosts that vanish, packets lost, devices
//! and links taken away, each in the middle of 64 calls of every kind. Every call ends with a
//! status that says whether it may have run, within a bound; what was held is given back; and the
//! channel connects again, by RDMA, or by TCP while that is what works.
//!
//! They change the network of the machine they run on, so they run in the virtual machine, on the
//! client's host:
//!
//! ```text
//! scripts/rdma-vm run --net siw --timeout 500 -- sh -c 'CONFORMANCE_SCHEME=rdma \
//!     CONFORMANCE_LISTEN=$RDMA_VM_SERVER_ADDRESS CONFORMANCE_SERVER_PREFIX=$RDMA_VM_SERVER_PREFIX \
//!     $RDMA_VM_CLIENT_PREFIX target/debug/deps/rdma_faults-XXXX --ignored --test-threads 1 --nocapture'
//! ```
#![forbid(unsafe_code)]

mod load;
mod net;
mod scene;

mod devices;
mod hosts;
mod processes;

/// One test of the virtual machine.
macro_rules! faults {
    ($($name:ident),* $(,)?) => {$(
        #[test]
        #[ignore = "needs RDMA devices and root: scripts/rdma-vm test"]
        fn $name() {
            use rdma_rpc_tests::harness::{Place, Transport, run};
            eprintln!("{}", stringify!($name));
            run(stringify!($name), Place::two(Transport::Environment), |_| super::$name());
        }
    )*};
}
pub(crate) use faults;
