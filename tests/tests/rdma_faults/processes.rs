//! Processes that are killed, stopped, and started in another order.

use std::time::{Duration, Instant};

use rdma_rpc::config::Progress;
use rdma_rpc_tests::cases::support::{exchange, within};
use rdma_rpc_tests::harness::{Child, Signal};

use super::load::Load;
use super::scene::{KEEPALIVE_MS, Scene, Settings};

/// How soon calls end whose peer's process is gone: its socket closes at once. A second would do
/// but for an emulated machine that others use as well.
const KILLED: Duration = Duration::from_secs(3);

/// How soon calls end whose peer is silent: a ping after the interval, its timeout, and as much
/// again for a machine that is emulated.
const SILENT: Duration = Duration::from_millis(2 * (KEEPALIVE_MS.0 + KEEPALIVE_MS.1));

/// How soon a channel works again when it can.
const AGAIN: Duration = Duration::from_secs(10);

async fn killed_server_busy() {
    killed_server(Progress::Busy, 1).await;
}

async fn killed_server_adaptive() {
    killed_server(Progress::Adaptive, 2).await;
}

async fn killed_server_event() {
    killed_server(Progress::Event, 1).await;
}

/// The server is killed and started again at once, at the same address.
async fn killed_server(progress: Progress, rounds: usize) {
    let mut scene = Scene::set(Settings { progress, ..Settings::new("rdma") }).await;
    let mut before = None;
    for _ in 0..=rounds {
        let load = Load::begin(&scene.client).await;
        let killed = Instant::now();
        scene.world.kill_server().await;
        let (_, statuses) = load.die(killed, KILLED, "killed server").await;
        scene.check_names(&statuses);
        scene.world.start_again().await;
        scene.works_again(AGAIN, "server started again").await;
        assert_eq!(scene.transport(), "rdma", "{:?}", scene.channel.chosen_because());
        match &before {
            // The first round warms up.
            None => before = Some(scene.client_holds()),
            Some(before) => scene.client_holds_no_more_than(before).await,
        }
    }
}

/// Clients that are killed: their handlers are dropped, what they held comes back, and others are
/// served meanwhile.
async fn killed_client() {
    let scene = Scene::set(Settings::new("rdma")).await;
    let address = scene.net.client.address.clone();
    let variables =
        [("RDMA_RPC_LOCAL_ADDRESS", address), ("RDMA_RPC_TRANSPORTS", "rdma,tcp".to_owned())];
    let target = format!("rdma://{}", scene.world.address());
    let mut before = None;
    for _ in 0..3 {
        let mut victim = Child::start(&["hold", &target], &variables);
        assert_eq!(victim.line(), "holding");
        observe_until(&scene, "busy", 64).await;
        let load = Load::begin(&scene.client).await;
        let killed = Instant::now();
        victim.kill();
        while running_of(&scene).await >= 64 {
            assert!(killed.elapsed() < KILLED, "handlers run on after {:?}", killed.elapsed());
        }
        eprintln!("  killed client: handlers dropped after {:?}", killed.elapsed());
        load.finish(AGAIN, "other calls go on").await;
        observe_until(&scene, "at rest", 0).await;
        match &before {
            None => before = Some(scene.server_holds()),
            Some(before) => scene.server_holds_no_more_than(before).await,
        }
    }
}

/// Handlers of calls that never end, as far as the server knows. The load's own come on top.
async fn running_of(scene: &Scene) -> i64 {
    let seen = scene.client.observe(rdma_rpc_tests::proto::Empty {}).await;
    seen.expect("the server can be observed").into_inner().running
}

async fn observe_until(scene: &Scene, what: &str, running: i64) {
    let begin = Instant::now();
    while running_of(scene).await != running {
        assert!(begin.elapsed() < AGAIN, "not {what} after {AGAIN:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A process that is stopped keeps its sockets and queue pairs, and its device still answers:
/// only keepalive finds out. When it goes on, nothing is corrupt.
async fn stopped_server() {
    for progress in [Progress::Busy, Progress::Event] {
        let scene = Scene::set(Settings { progress, ..Settings::new("rdma") }).await;
        let before = scene.client_holds();
        let load = Load::begin(&scene.client).await;
        scene.signal_server(Signal::STOP);
        let stopped = Instant::now();
        let (_, statuses) = load.die(stopped, SILENT, "stopped server").await;
        scene.check_names(&statuses);
        scene.signal_server(Signal::CONT);
        scene.works_again(AGAIN, "server goes on").await;
        Load::begin(&scene.client).await.finish(AGAIN, "calls after it goes on").await;
        scene.client_holds_no_more_than(&before).await;
    }
}

/// The client is there first: it says so at once, and works when the server comes; and a server
/// that restarts at once, with calls before and after, is found again.
async fn server_restarted_and_late() {
    let mut scene = Scene::set(Settings::new("auto")).await;
    let stopped = scene.world.shut_down();
    let early = scene.other_channel("rdma");
    within(AGAIN, "an orderly end", stopped).await;
    let client = rdma_rpc_tests::proto::test_service_client::TestServiceClient::new(early.clone());
    for _ in 0..3 {
        let status = exchange(&client, 10, 10).await.expect_err("there is no server");
        assert_eq!(status.request_seen(), rdma_rpc::RequestSeen::NeverSent, "{status}");
    }
    scene.world.start_again().await;
    scene.works_again(AGAIN, "late server").await;
    assert_eq!(scene.transport(), "rdma", "{:?}", scene.channel.chosen_because());
    let begin = Instant::now();
    while let Err(status) = exchange(&client, 10, 10).await {
        assert!(begin.elapsed() < AGAIN, "the client that was first does not recover: {status}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(early.info().map(|info| info.transport), Some("rdma"));
}

#[cfg(test)]
mod tests {
    crate::faults!(
        killed_server_busy,
        killed_server_adaptive,
        killed_server_event,
        killed_client,
        stopped_server,
        server_restarted_and_late,
    );
}
