//! What a connection in shared memory costs: the figures of the README.

use std::time::{Duration, Instant};

use super::support::{at_once, exchange, within};
use crate::harness::{Place, World};
use crate::observe::{proportional_bytes, shared_maps};
use crate::proto::Empty;
use crate::proto::test_service_client::TestServiceClient;

const CONNECTIONS: u64 = 64;
const KIB: u64 = 1024;
/// Calls of 1,900 bytes each way, 278 KiB in all.
const CALM_CALLS: usize = 150;

/// Per end, after one call.
const IDLE_BYTES: u64 = 72 * KIB;
/// Per end, after calls one at a time.
const CALM_BYTES: u64 = 112 * KIB;
/// Per end, when every byte of both rings has been used: a ring of 1 MiB, and what is not rings.
const USED_BYTES: u64 = (1024 + 384) * KIB;
/// Per end, that the allocator may keep of connections that are gone, for the next ones.
const KEPT_BYTES: u64 = 384 * KIB;
/// How often as many connections come and go again.
const ROUNDS: usize = 8;
/// Per end, that the second half of the rounds together may add to what is kept: a sixteenth of
/// what a ring lost in each would.
const LEAKED_BYTES: u64 = 64 * KIB;

/// The memory of all processes there are.
fn memory(server: Option<u32>) -> u64 {
    [Some(std::process::id()), server].into_iter().flatten().map(proportional_bytes).sum()
}

/// Idle connections cost a few pages, used ones their rings, and closed ones give all of it back.
pub async fn connections_cost_what_is_stated(place: Place) {
    let mut world = place.world().await;
    let server = world.server_process();
    // Whatever a process has once, and does not give back, it has now.
    let mut warm = Vec::new();
    for _ in 0..8 {
        warm.push(connect(&world.new_channel()).await);
    }
    for client in warm {
        use_rings(&client).await;
    }
    connect(world.channel()).await;
    settle().await;
    let before = memory(server);
    let first = come_and_go(&world, before).await;
    println!("per end: {first:?}");
    assert!(first.idle < IDLE_BYTES, "{first:?}: an idle connection");
    assert!(first.calm < CALM_BYTES, "{first:?}: a connection with one call at a time");
    assert!(first.used < USED_BYTES, "{first:?}: a connection that was used");
    assert!(first.used > 512 * KIB, "{first:?}: the traffic has not touched the rings");
    assert!(first.left < KEPT_BYTES, "{first:?}: connections that are gone");
    // The allocator's holes grow for some rounds; what is lost grows with every round.
    let mut rounds = vec![first];
    for _ in 0..ROUNDS {
        rounds.push(come_and_go(&world, before).await);
    }
    // A single round may find more or fewer of them than the next: three are taken together.
    let kept = |last: usize| rounds[last - 2..=last].iter().map(|cost| cost.left).sum::<u64>() / 3;
    let grown = kept(ROUNDS).saturating_sub(kept(ROUNDS / 2));
    assert!(grown < LEAKED_BYTES, "{grown} bytes per end are lost: {rounds:#?}");
    world.shut_down().await;
}

/// Bytes per end of a connection.
#[derive(Debug)]
struct Cost {
    idle: u64,
    calm: u64,
    used: u64,
    left: u64,
}

async fn come_and_go(world: &World, before: u64) -> Cost {
    let server = world.server_process();
    let per_end = |bytes: u64| bytes.saturating_sub(before) / CONNECTIONS / 2;
    let maps = (world.observe().await.memory_maps, shared_maps());
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(connect(&world.new_channel()).await);
    }
    settle().await;
    let idle = per_end(memory(server));
    for client in &clients {
        for _ in 0..CALM_CALLS {
            exchange(client, 1900, 1900).await.expect("the server answers");
        }
    }
    let calm = per_end(memory(server));
    for client in &clients {
        within(Duration::from_secs(30), "traffic", use_rings(client)).await;
    }
    settle().await;
    let used = per_end(memory(server));
    drop(clients);
    let begin = Instant::now();
    while world.observe().await.memory_maps > maps.0 || shared_maps() > maps.1 {
        assert!(begin.elapsed() < Duration::from_secs(20), "connections do not close");
        settle().await;
    }
    settle().await;
    Cost { idle, calm, used, left: per_end(memory(server)) }
}

async fn connect(channel: &rdma_rpc_core::client::Channel) -> TestServiceClient {
    let client = TestServiceClient::new(channel.clone());
    client.empty_call(Empty {}).await.expect("the server answers");
    client
}

/// Goes round both rings of a connection with messages too short for bulk.
async fn use_rings(client: &TestServiceClient) {
    let calls = at_once(72, |_| {
        let client = client.clone();
        async move {
            for _ in 0..2 {
                exchange(&client, 15_000, 15_000).await?;
            }
            Ok::<(), rdma_rpc::Status>(())
        }
    });
    calls.await.into_iter().for_each(Result::unwrap);
}

/// Lets what is closing close.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(300)).await;
}
