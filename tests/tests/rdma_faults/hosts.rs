//! Hosts that vanish, packets that are lost, links that go down.

use std::time::{Duration, Instant};

use rdma_rpc::config::Progress;
use rdma_rpc_tests::cases::support::exchange;

use super::load::{Load, mixed};
use super::net::{Kind, Net};
use super::scene::{KEEPALIVE_MS, Scene, Settings};

/// How soon calls end when no packet gets through: by the device's retries (about half a second
/// with the defaults) or, where the device tries for longer, by keepalive; and as much again for a
/// machine that is emulated.
const SILENT: Duration = Duration::from_millis(2 * (KEEPALIVE_MS.0 + KEEPALIVE_MS.1));

/// How soon a channel works again when it can: a handshake that hangs takes up to its timeout, the
/// pause after a failure comes on top.
const AGAIN: Duration = Duration::from_secs(12);

/// Of calls whose packets come in disorder.
const DISORDER: Duration = Duration::from_secs(10);
/// Odd, and so in memory that is lent (`pattern::payload`).
const LENT_BYTES: usize = 300_001;

/// No packet gets through: calls end, and go on over RDMA when the network heals.
async fn blackholed_busy() {
    for progress in [Progress::Adaptive, Progress::Event] {
        let scene = Scene::set(Settings { progress, ..Settings::new("auto") }).await;
        let before = scene.client_holds();
        let server_before = scene.server_holds();
        let load = Load::begin(&scene.client).await;
        let begin = Instant::now();
        scene.net.lose_percent("100");
        let (_, statuses) = load.die(begin, SILENT, "blackhole").await;
        scene.check_names(&statuses);
        // Somebody goes on trying meanwhile.
        let status = exchange(&scene.client, 10, 10).await.expect_err("no packet gets through");
        super::scene::check_says_enough(&status);
        scene.net.heal();
        scene.works_again(AGAIN, "healed").await;
        assert_eq!(scene.transport(), "rdma", "{:?}", scene.channel.chosen_because());
        scene.client_holds_no_more_than(&before).await;
        scene.server_holds_no_more_than(&server_before).await;
    }
}

/// A connection without calls: the bootstrap socket's own keepalive finds out, on both sides.
async fn blackholed_idle() {
    let scene = Scene::set(Settings::new("rdma")).await;
    let before = scene.server_holds();
    let begin = Instant::now();
    scene.net.lose_percent("100");
    // TCP counts keepalive in whole seconds, at least one.
    let bound = Duration::from_secs(5);
    while scene.channel.info().is_some() {
        assert!(begin.elapsed() < bound, "not noticed after {bound:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    eprintln!("  idle blackhole: noticed after {:?}", begin.elapsed());
    while scene.net.queue_pairs(std::process::id()) > 0 {
        assert!(begin.elapsed() < bound * 2, "the queue pair stays");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    scene.net.heal();
    scene.works_again(AGAIN, "healed").await;
    assert_eq!(scene.transport(), "rdma", "{:?}", scene.channel.chosen_because());
    scene.server_holds_no_more_than(&before).await;
}

/// The network carries TCP but not RDMA: the channel goes on by TCP and says why. It takes RDMA
/// again with the next connection after the network has healed.
async fn rdma_packets_dropped() {
    let mut scene = Scene::set(Settings::new("auto")).await;
    let load = Load::begin(&scene.client).await;
    scene.net.drop_rdma_only(scene.port()).await;
    let begin = Instant::now();
    let (_, statuses) = load.die(begin, SILENT, "RDMA packets dropped").await;
    scene.check_names(&statuses);
    scene.works_again(AGAIN, "by TCP").await;
    assert_eq!(scene.transport(), "tcp");
    let because = scene.channel.chosen_because().unwrap_or_default();
    assert!(because.contains("rdma"), "{because:?} does not say why not RDMA");
    Load::begin(&scene.client).await.finish(AGAIN, "calls over TCP").await;
    scene.net.heal();
    // A connection that works is kept.
    exchange(&scene.client, 10, 10).await.expect("TCP works");
    assert_eq!(scene.transport(), "tcp");
    scene.world.kill_server().await;
    scene.world.start_again().await;
    scene.works_again(AGAIN, "the next connection").await;
    assert_eq!(scene.transport(), "rdma", "{:?}", scene.channel.chosen_because());
}

/// The network carries no RDMA for less time than the devices try again: no call notices.
async fn short_outage() {
    if Net::from_environment().kind == Kind::Siw {
        eprintln!(
            "  skipped: TCP sends again there, as the conformance suite with loss shows; and"
        );
        eprintln!("  Soft-iWARP's driver may lock up when its packets stop and go on");
        return;
    }
    // A ping that is lost is not to end the connection. An emulated machine takes half a second
    // for the commands, or ten times that when it is busy; the devices try for 15 seconds.
    let settings =
        Settings { keepalive_ms: (10_000, 20_000), ack_timeout: 19, ..Settings::new("rdma") };
    let scene = Scene::set(settings).await;
    let load = Load::begin(&scene.client).await;
    for _ in 0..2 {
        let begin = Instant::now();
        scene.net.drop_rdma_only(scene.port()).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        scene.net.heal();
        eprintln!("  no packet for up to {:?}", begin.elapsed());
        let (done, begin) = (load.done(), Instant::now());
        while load.done() < done + 64 {
            assert!(begin.elapsed() < AGAIN, "calls do not go on after the outage");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    load.finish(AGAIN, "short outage").await;
}

/// A link goes down and comes up at once. Cards carry their connections over it. Soft-iWARP gives
/// them up, and so does Soft-RoCE if it sends meanwhile: whatever was under way has one end, and the
/// channel works again.
async fn short_link_flap() {
    let scene = Scene::set(Settings::new("rdma")).await;
    let load = Load::begin(&scene.client).await;
    scene.net.take_down(&scene.net.client);
    tokio::time::sleep(Duration::from_millis(50)).await;
    scene.net.bring_up(&scene.net.client);
    let failed = load.end(AGAIN, "link down and up").await;
    if scene.net.kind == Kind::Siw {
        assert!(failed > 0, "Soft-iWARP does not go on with the connections it had");
    }
    scene.works_again(AGAIN, "after the flap").await;
    assert_eq!(scene.transport(), "rdma", "{:?}", scene.channel.chosen_because());
}

/// A link that is down for longer: calls end, and go on when it is up.
async fn long_link_flap() {
    let scene = Scene::set(Settings::new("auto")).await;
    let before = scene.client_holds();
    let load = Load::begin(&scene.client).await;
    let begin = Instant::now();
    scene.net.take_down(&scene.net.client);
    let (_, statuses) = load.die(begin, SILENT, "link down").await;
    scene.check_names(&statuses);
    let status = exchange(&scene.client, 10, 10).await.expect_err("the link is down");
    super::scene::check_says_enough(&status);
    scene.net.bring_up(&scene.net.client);
    scene.works_again(AGAIN, "link up").await;
    assert_eq!(scene.transport(), "rdma", "{:?}", scene.channel.chosen_because());
    scene.client_holds_no_more_than(&before).await;
}

/// One packet in a hundred is lost, and every result is right.
async fn one_percent_loss() {
    let settings = Settings { keepalive_ms: (10_000, 20_000), ..Settings::new("rdma") };
    let scene = Scene::set(settings).await;
    scene.net.lose_percent("1");
    let begin = Instant::now();
    mixed(&scene.client, 2000).await.expect("lost packets are sent again");
    eprintln!("  2000 calls with 1 % loss in {:?}", begin.elapsed());
    assert_eq!(scene.transport(), "rdma");
}

/// Packets overtake each other, on a queue pair too: READs of what is lent are repeated, and some of these come
/// when the memory's owner has been told that it is no longer needed.
async fn packets_overtake_each_other() {
    let settings = Settings { keepalive_ms: (10_000, 20_000), ..Settings::new("rdma") };
    let scene = Scene::set(settings).await;
    scene.net.disorder_ms(2);
    let begin = Instant::now();
    let calls = (0..4).map(|_| async {
        let mut calls = 0;
        while begin.elapsed() < DISORDER {
            exchange(&scene.client, LENT_BYTES, LENT_BYTES).await?;
            calls += 1;
        }
        Ok::<usize, rdma_rpc::Status>(calls)
    });
    let calls = futures_util::future::try_join_all(calls).await.expect("no connection is lost");
    let calls = calls.iter().sum::<usize>();
    eprintln!("  {calls} calls with packets out of order in {:?}", begin.elapsed());
    assert!(calls > 0);
    assert_eq!(scene.transport(), "rdma");
}

#[cfg(test)]
mod tests {
    crate::faults!(
        blackholed_busy,
        blackholed_idle,
        rdma_packets_dropped,
        short_outage,
        short_link_flap,
        long_link_flap,
        one_percent_loss,
        packets_overtake_each_other
    );
}
