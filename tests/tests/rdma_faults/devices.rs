//! Devices that are removed, and queue pairs whose connection is cut.

use std::time::{Duration, Instant};

use rdma_rpc_tests::cases::support::exchange;
use rdma_rpc_tests::pattern::payload;
use rdma_rpc_tests::proto::SimpleRequest;

use super::load::Load;
use super::net::{Host, Kind};
use super::scene::{Scene, Settings, open_devices, open_files};

/// How soon calls end whose device is being removed: the system's entries are looked at twice a
/// second, and the queue pair has a second to flush; and as much again for a machine that is
/// emulated.
const REMOVED: Duration = Duration::from_secs(4);

/// Keepalive is not what these are about; an emulated machine may be silent for a second.
const PATIENT_MS: (u64, u64) = (5000, 10_000);

/// How soon the device is gone: the same, and the connection's own end.
const DELETED: Duration = Duration::from_secs(6);

/// How soon a channel works again.
const AGAIN: Duration = Duration::from_secs(10);

/// The client's device is removed: the removal is done soon, calls end, the channel goes on by
/// TCP, and takes RDMA with its next connection once the device is back.
async fn client_device_removed() {
    device_removed(true).await;
}

/// The same with the server's device.
async fn server_device_removed() {
    device_removed(false).await;
}

async fn device_removed(of_client: bool) {
    let settings = Settings { keepalive_ms: PATIENT_MS, ..Settings::new("auto") };
    let mut scene = Scene::set(settings).await;
    let host = if of_client { scene.net.client.clone() } else { scene.net.server.clone() };
    // A long message that the program keeps is not to keep the device.
    let request = SimpleRequest { response_bytes: 1 << 20, ..Default::default() };
    let kept = scene.client.unary_call(request).await.expect("a reply").into_inner().payload;
    let load = Load::begin(&scene.client).await;
    let begin = Instant::now();
    let deletion = host.delete_device();
    let (_, statuses) = load.die(begin, REMOVED, "device removed").await;
    scene.check_names(&statuses);
    scene.works_again(AGAIN, "by TCP").await;
    assert_eq!(scene.transport(), "tcp");
    let because = scene.channel.chosen_because().unwrap_or_default();
    assert!(because.contains("rdma"), "{because:?} does not say why not RDMA");
    let took = deletion.done_within(DELETED, &host.device).await;
    eprintln!("  {} deleted after {:?} more, at {:?}", host.device, took, begin.elapsed());
    assert!(kept == payload(1 << 20, 1 << 20), "what was kept is unharmed");
    Load::begin(&scene.client).await.finish(AGAIN, "calls over TCP").await;
    scene.net.add_device(&host);
    back_on_rdma(&mut scene).await;
}

async fn back_on_rdma(scene: &mut Scene) {
    scene.world.kill_server().await;
    scene.world.start_again().await;
    scene.works_again(AGAIN, "the next connection").await;
    assert_eq!(scene.transport(), "rdma", "{:?}", scene.channel.chosen_because());
}

/// Without a connection no device is held: the connection manager's library keeps its own open,
/// and is made to let go.
async fn idle_device_removed() {
    let scene = Scene::set(Settings::new("rdma")).await;
    let files = open_files();
    let (client, server): (Host, Host) = (scene.net.client.clone(), scene.net.server.clone());
    let Scene { world, channel, client: calls, net, .. } = scene;
    let mut world = world;
    drop((channel, calls));
    let begin = Instant::now();
    // The server's side is at rest as well, but its process lives.
    while net.queue_pairs(world.server_process().expect("a process")) > 0 {
        assert!(begin.elapsed() < AGAIN, "the server holds its queue pair");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for host in [&client, &server] {
        let took = host.delete_device().done_within(DELETED, &host.device).await;
        eprintln!("  idle: {} deleted after {took:?}", host.device);
        let held: Vec<String> =
            open_devices().into_iter().filter(|name| name.contains("deleted")).collect();
        assert!(held.is_empty(), "held: {held:?}");
    }
    assert!(open_files() <= files, "files: {files} became {}", open_files());
    for host in [&client, &server] {
        net.add_device(host);
    }
    within_shut_down(&mut world).await;
}

async fn within_shut_down(world: &mut rdma_rpc_tests::harness::World) {
    rdma_rpc_tests::cases::support::within(AGAIN, "an orderly end", world.shut_down()).await;
}

/// The TCP connection under an iWARP queue pair is reset from outside; the bootstrap connection
/// lives. On RoCE there is no connection to cut.
async fn cut_iwarp_connection() {
    let settings = Settings { keepalive_ms: PATIENT_MS, ..Settings::new("rdma") };
    let scene = Scene::set(settings).await;
    if scene.net.kind == Kind::Rxe {
        eprintln!("  skipped: RoCE has no connection that could be cut");
        return;
    }
    let before = scene.client_holds();
    let load = Load::begin(&scene.client).await;
    let (peer, port) = (&scene.net.client.address, scene.port());
    let killed = scene.net.server.ask(&format!("ss -K -H -t dst {peer} and sport != :{port}"));
    // Not before: to start `ss` in the other network takes a while where it is emulated.
    let begin = Instant::now();
    assert!(!killed.trim().is_empty(), "no connection was cut");
    let (_, statuses) = load.die(begin, REMOVED, "cut connection").await;
    scene.check_names(&statuses);
    scene.works_again(AGAIN, "after the cut").await;
    assert_eq!(scene.transport(), "rdma");
    exchange(&scene.client, 1000, 1000).await.expect("it works");
    scene.client_holds_no_more_than(&before).await;
}

#[cfg(test)]
mod tests {
    crate::faults!(
        client_device_removed,
        server_device_removed,
        idle_device_removed,
        cut_iwarp_connection
    );
}
