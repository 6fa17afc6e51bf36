//! Servers with threads of their own: the conformance suite, and which thread serves whom.

use std::collections::BTreeMap;

use rdma_rpc_tests::conformance_tests;
use rdma_rpc_tests::harness::{Place, Transport, run};
use rdma_rpc_tests::proto::Empty;
use rdma_rpc_tests::proto::test_service_client::TestServiceClient;

const WORKERS: u32 = 3;

mod shm {
    use super::*;
    conformance_tests!(everywhere, Place::one(Transport::Shm).workers(WORKERS));
    conformance_tests!(rings, Place::one(Transport::Shm).workers(WORKERS));
}

mod shm_two_processes {
    use super::*;
    conformance_tests!(sockets, Place::two(Transport::Shm).workers(WORKERS));
    conformance_tests!(processes, Place::two(Transport::Shm).workers(WORKERS));
    conformance_tests!(rings, Place::two(Transport::Shm).workers(WORKERS));
}

mod tcp {
    use super::*;
    conformance_tests!(everywhere, Place::one(Transport::Tcp).workers(WORKERS));
}

mod tcp_two_processes {
    use super::*;
    conformance_tests!(sockets, Place::two(Transport::Tcp).workers(WORKERS));
    conformance_tests!(processes, Place::two(Transport::Tcp).workers(WORKERS));
}

/// All calls of a connection run on one thread, also those that became tasks, and connections
/// spread evenly.
async fn connections_are_pinned(place: Place) {
    let world = place.world().await;
    let mut by_thread = BTreeMap::<String, u32>::new();
    let mut channels = Vec::new();
    for _ in 0..WORKERS * 4 {
        let channel = world.new_channel();
        let client = TestServiceClient::new(channel.clone());
        let mut threads = Vec::new();
        for _ in 0..20 {
            let seen = client.observe(Empty {}).await.expect("the server answers").into_inner();
            threads.push(seen.thread);
        }
        threads.dedup();
        assert_eq!(threads.len(), 1, "one connection was served by {threads:?}");
        let thread = threads.remove(0);
        assert!(thread.contains("rdma-rpc-"), "{thread} is no worker");
        *by_thread.entry(thread).or_default() += 1;
        channels.push(channel);
    }
    assert_eq!(by_thread.len(), WORKERS as usize, "{by_thread:?}");
    assert!(by_thread.values().all(|&count| count == 4), "{by_thread:?}");
}

#[test]
fn connections_are_pinned_on_shm() {
    run("pinned", Place::two(Transport::Shm).workers(WORKERS), connections_are_pinned);
}

#[test]
fn connections_are_pinned_on_tcp() {
    run("pinned", Place::one(Transport::Tcp).workers(WORKERS), connections_are_pinned);
}
