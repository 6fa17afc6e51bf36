//! What a verbs device holds, gives back and refuses. Ignored unless asked for; `ibv_support` says
//! what the environment must name. Limits of the system are tried in processes of their own: this
//! test binary started again by `setpriv` (util-linux) as a user without rights.

mod ibv_support;

use std::process::{Command, Stdio};
use std::time::Duration;

use ibv_support::{World, descriptors, eventually, turn, variable, worker};
use rdma_rpc_transport_rdma::ibv::IbvConfig;
use rdma_rpc_transport_rdma::verbs::{Access, QueuePair, Region};
use rustix::process::{Resource, Rlimit, setrlimit};

const ROLE: &str = "IBV_TEST_ROLE";
const MIB: usize = 1 << 20;

/// The pool's limit is a clear error; what comes back can be had again.
fn pool_limit() {
    let world = World::new();
    world.local.block_on(async {
        let config = IbvConfig { memory_bytes: 8 * MIB, ..Default::default() };
        let (mut one, _two) = world.pair(&config).await;
        let mut regions = Vec::new();
        let error = loop {
            match one.register(MIB, Access::RemoteWrite) {
                Ok(region) => regions.push(region),
                Err(error) => break error.to_string(),
            }
            assert!(regions.len() <= 8, "no limit");
        };
        assert!(error.contains("rdma.memory_bytes"), "{error}");
        assert!((5..=8).contains(&regions.len()), "{}", regions.len());
        assert!(
            one.register(16 * MIB, Access::Local)
                .unwrap_err()
                .to_string()
                .contains("rdma.memory_bytes")
        );
        drop(regions);
        let long = one.register(4 * MIB, Access::Local).expect("room again");
        assert_eq!(long.len(), 4 * MIB);
    });
}

/// Without the right to lock more memory, registering says which limit to raise.
fn memlock_limit() {
    let limit = 4 * MIB as u64;
    setrlimit(Resource::Memlock, Rlimit { current: Some(limit), maximum: Some(limit) }).unwrap();
    let world = World::new();
    world.local.block_on(async {
        let (one, two) = (worker(&IbvConfig::default()), worker(&IbvConfig::default()));
        let error = match world.connect(&one, &two).await {
            Err(error) => error,
            Ok((mut one, _two)) => one.register(8 * MIB, Access::Local).unwrap_err().to_string(),
        };
        assert!(error.contains("memlock is 4096 KiB"), "{error}");
        assert!(error.contains("ulimit -l"), "{error}");
    });
}

/// A device that may not be opened: the sentence says which files.
fn no_permission() {
    let world = World::new();
    let ip = world.local.ip;
    let offer = world.local.block_on(async {
        let ibv = worker(&IbvConfig::default());
        world.local.spawn(async move { ibv.offer(Some(ip)).await.map(drop) }).await.unwrap()
    });
    let error = offer.unwrap_err();
    assert!(error.contains("/dev/infiniband"), "{error}");
}

/// Not a test of its own: what the processes do that the tests start.
#[test]
#[ignore = "needs an RDMA device: scripts/rdma-vm test"]
fn the_other_process() {
    match std::env::var(ROLE).as_deref() {
        Ok("pool limit") => pool_limit(),
        Ok("memlock limit") => memlock_limit(),
        Ok("no permission") => no_permission(),
        _ => println!("skipped: this is what the processes do that other tests start"),
    }
}

/// Starts this binary again; as a user without rights, unless it needs some.
fn in_a_process_of_its_own(role: &str, as_nobody: bool) {
    let this = std::env::current_exe().unwrap();
    let mut command = if as_nobody {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(this);
        command
    } else {
        Command::new(this)
    };
    command.args(["--ignored", "--exact", "the_other_process", "--nocapture"]).env(ROLE, role);
    let output = command.stdin(Stdio::null()).output().expect("setpriv (util-linux) is there");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{role}: {}\n{stdout}\n{stderr}", output.status);
    assert!(stdout.contains("1 passed"), "{role}: {stdout}");
}

#[test]
#[ignore = "needs an RDMA device: scripts/rdma-vm test"]
fn the_pool_has_a_limit_that_its_error_names() {
    let _turn = turn();
    // The first to open a device in a process decides about its pool.
    in_a_process_of_its_own("pool limit", false);
}

#[test]
#[ignore = "needs an RDMA device: scripts/rdma-vm test"]
fn the_memlock_limit_is_named() {
    let _turn = turn();
    if variable("RDMA_RPC_TEST_PEER_NETNS").is_some() {
        println!("skipped: entering a network namespace needs the rights that this test gives up");
        return;
    }
    in_a_process_of_its_own("memlock limit", true);
}

#[test]
#[ignore = "needs an RDMA device: scripts/rdma-vm test"]
fn devices_that_may_not_be_opened_are_named() {
    use std::os::unix::fs::PermissionsExt;
    let _turn = turn();
    if variable("RDMA_RPC_TEST_PEER_NETNS").is_some() {
        println!("skipped: entering a network namespace needs the rights that this test gives up");
        return;
    }
    let nodes: Vec<_> = std::fs::read_dir("/dev/infiniband")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().contains("uverbs"))
        .collect();
    assert!(!nodes.is_empty());
    let allow = |mode| {
        for node in &nodes {
            std::fs::set_permissions(node, std::fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    allow(0o600);
    let result = std::panic::catch_unwind(|| in_a_process_of_its_own("no permission", true));
    allow(0o666);
    result.unwrap();
}

/// Descriptors and memory of 200 connections come back, however they end.
#[test]
#[ignore = "needs an RDMA device: scripts/rdma-vm test"]
fn two_hundred_connections_leave_nothing_behind() {
    let _turn = turn();
    let world = World::new();
    world.local.block_on(async {
        let config = IbvConfig { send_depth: 16, receive_depth: 16, ..Default::default() };
        let (one, two) = (worker(&config), worker(&config));
        // Whatever is opened once and kept.
        drop(world.connect(&one, &two).await.unwrap());
        tokio::time::sleep(Duration::from_millis(300)).await;
        let (before, locked_before) = (descriptors(), locked_kib());
        for round in 0..200 {
            let (mut a, mut b) = world.connect(&one, &two).await.unwrap();
            let _ring = a.register(256 << 10, Access::RemoteWrite).unwrap();
            match round % 3 {
                0 => a.fail(),
                1 => drop(a),
                _ => drop(b.register(64 << 10, Access::RemoteRead).unwrap()),
            }
        }
        eventually("descriptors stay open", || descriptors() <= before).await;
        eventually("memory stays pinned", || locked_kib() <= locked_before).await;
        // Handshakes that break off half-way, at either end.
        for round in 0..20u32 {
            let (near, mut far) = ibv_support::line();
            let (ibv, ip) = (one.clone(), world.local.ip);
            let client = world.local.spawn(async move {
                let mut near = near;
                let offer = ibv.offer(Some(ip)).await.unwrap();
                use rdma_rpc_core::upgrade::Exchange;
                near.send(&offer.body()).await.unwrap();
                let choice = offer.chosen(&near.receive().await.unwrap()).unwrap();
                ibv.upgrade_client(&mut near, &choice).await.map(drop)
            });
            use rdma_rpc_core::upgrade::Exchange;
            let offer = far.receive().await.unwrap();
            let (ibv, ip) = (two.clone(), world.peer.ip);
            let choosing = async move { ibv.choose(&offer, Some(ip)).await };
            let choice = world.peer.spawn(choosing).await.unwrap().unwrap();
            far.send(&choice.body()).await.unwrap();
            match round % 3 {
                0 => client.abort(),
                1 => {
                    drop(far);
                    assert!(client.await.unwrap().unwrap_err().to_string().contains("broke off"));
                }
                _ => {
                    far.receive().await.unwrap();
                    client.abort();
                }
            }
        }
        eventually("descriptors of broken handshakes stay open", || descriptors() <= before).await;
    });
}

/// As many queue pairs at once as a busy program has, on one device. With queues of a page each,
/// one of them starts at every page up to the hundreds: Soft-iWARP's library refuses one of them
/// if it is let.
#[test]
#[ignore = "needs an RDMA device: scripts/rdma-vm test"]
fn eighty_connections_are_open_at_once() {
    let _turn = turn();
    let world = World::new();
    world.local.block_on(async {
        let config = IbvConfig { send_depth: 32, receive_depth: 31, ..Default::default() };
        let (one, two) = (worker(&config), worker(&config));
        let mut open = Vec::new();
        for number in 0..80 {
            let pair = world.connect(&one, &two).await;
            open.push(pair.unwrap_or_else(|error| panic!("connection {number}: {error}")));
        }
    });
}

/// Memory of this process that devices hold in place.
fn locked_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    line("VmPin:") + line("VmLck:")
}
