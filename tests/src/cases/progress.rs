//! How a connection waits for news: each mode does the same.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use rdma_rpc::config::Progress;

use super::flow::flood;
use super::support::{at_once, exchange, next, output, over, within};
use crate::harness::{Place, Tuning, World, allowed};
use crate::proto::test_service_client::TestServiceClient;

const MINUTE: Duration = Duration::from_secs(60);

fn set(tuning: &mut Tuning, client: Progress, server: Progress) {
    tuning.client.shm.progress = client;
    tuning.client.rdma.progress = client;
    tuning.client.tcp.progress = client;
    tuning.server.shm.progress = server;
    tuning.server.rdma.progress = server;
    tuning.server.tcp.progress = server;
}

async fn everything(world: &World) {
    let client = world.client();
    for number in 0..300 {
        exchange(&client, number * 10, number * 20).await.unwrap();
    }
    exchange(&client, 1_000_000, 2_000_000).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let calls = at_once(100, |number| {
        let client = client.clone();
        async move { exchange(&client, number * 500, 50_000 - number * 500).await }
    });
    within(MINUTE, "100 calls", calls).await.into_iter().for_each(Result::unwrap);
    let own = TestServiceClient::new(world.new_channel());
    let both = async {
        tokio::join!(flood(&client, 200, Duration::ZERO), flood(&own, 200, Duration::ZERO))
    };
    within(MINUTE, "floods", both).await;
    let mut responses =
        client.streaming_output_call(output(&[500], 1000)).await.unwrap().into_inner();
    for number in 0..1000 {
        next(&mut responses, number, 500).await;
    }
    over(responses).await;
}

/// Both ends poll without end.
pub async fn busy(place: Place) {
    let tune = |tuning: &mut Tuning| set(tuning, Progress::Busy, Progress::Busy);
    everything(&place.tuned(tune).await).await;
}

/// Both ends poll for a while and then sleep.
pub async fn adaptive(place: Place) {
    for spin_us in [0, 50, 100_000] {
        let tune = |tuning: &mut Tuning| {
            set(tuning, Progress::Adaptive, Progress::Adaptive);
            (tuning.client.shm.spin_us, tuning.server.shm.spin_us) = (spin_us, spin_us);
            (tuning.client.rdma.spin_us, tuning.server.rdma.spin_us) = (spin_us, spin_us);
            (tuning.client.tcp.spin_us, tuning.server.tcp.spin_us) = (spin_us, spin_us);
        };
        everything(&place.tuned(tune).await).await;
    }
}

/// Both ends sleep until woken.
pub async fn event(place: Place) {
    let tune = |tuning: &mut Tuning| set(tuning, Progress::Event, Progress::Event);
    everything(&place.tuned(tune).await).await;
}

/// The ends differ.
pub async fn mixed(place: Place) {
    for (client, server) in [
        (Progress::Busy, Progress::Event),
        (Progress::Event, Progress::Busy),
        (Progress::Adaptive, Progress::Event),
    ] {
        everything(&place.tuned(|tuning| set(tuning, client, server)).await).await;
    }
}

/// The smallest rings, of different sizes at the two ends.
pub async fn small_rings(place: Place) {
    let tune = |tuning: &mut Tuning| {
        for (shm, rdma, ring_bytes) in [
            (&mut tuning.client.shm, &mut tuning.client.rdma, 16 << 10),
            (&mut tuning.server.shm, &mut tuning.server.rdma, 32 << 10),
        ] {
            (shm.ring_bytes, rdma.ring_bytes) = (ring_bytes, ring_bytes);
            (shm.bulk_threshold_bytes, rdma.bulk_threshold_bytes) = (4 << 10, 4 << 10);
        }
    };
    everything(&place.tuned(tune).await).await;
}

/// Client, and server where it shares the process, on one thread: nobody may starve the other.
pub async fn single_thread(place: Place) {
    for mode in [Progress::Busy, Progress::Adaptive, Progress::Event] {
        let whole = tokio::task::spawn_blocking(move || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            let runtime = builder.enable_all().build().expect("a runtime starts");
            runtime.block_on(async {
                let world = place.tuned(|tuning| set(tuning, mode, mode)).await;
                everything(&world).await;
            });
        });
        within(MINUTE, "one thread", whole).await.unwrap();
    }
}

/// Calls on several connections, awaited together on a thread that is none of its runtime's: they go round among
/// the connections. A wake that was lost would be made good by a timer, after ten seconds.
pub async fn from_main(place: Place) {
    const SLOW: Duration = Duration::from_secs(5);
    for connections in [2, 8, 40] {
        let whole = tokio::task::spawn_blocking(move || {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            let runtime = builder.worker_threads(2).enable_all().build().expect("a runtime starts");
            runtime.block_on(async {
                let world = place.world().await;
                let clients: Vec<_> =
                    (0..connections).map(|_| TestServiceClient::new(world.new_channel())).collect();
                for round in 0..200 {
                    if round % 40 == 0 {
                        // The drivers fall asleep.
                        tokio::time::sleep(Duration::from_millis(30)).await;
                    }
                    let calls = clients.iter().cycle().take(1 << (round % 8));
                    let begin = Instant::now();
                    try_join_all(calls.map(|client| exchange(client, 30, 40))).await.unwrap();
                    let took = begin.elapsed();
                    assert!(round == 0 || took < allowed(SLOW), "round {round} took {took:?}");
                }
            });
        });
        within(MINUTE, "calls from main", whole).await.unwrap();
    }
}
