//! Random lists of messages, both ways, on random devices; hundreds of seeds.
//!
//! `RDMA_RPC_SIM_SEED=n` runs one seed, `RDMA_RPC_SIM_SEEDS=n` runs so many of each campaign.

mod ring_support;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use rdma_rpc_core::link::LinkErrorKind;
use rdma_rpc_transport_rdma::ring::{PoolLimits, RingConfig};
use rdma_rpc_transport_rdma::sim::{Fabric, Fault, Rng, SimConfig};
use ring_support::{Message, Owner, drive, join};

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

/// Runs `one` for every seed; says how to run the one that failed again.
fn campaign(name: &str, default_seeds: u64, one: impl Fn(u64)) {
    let seeds = match number_from("RDMA_RPC_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number_from("RDMA_RPC_SIM_SEEDS").unwrap_or(default_seeds),
    };
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| one(seed))) {
            eprintln!(
                "seed {seed} failed; again: RDMA_RPC_SIM_SEED={seed} cargo test \
                 -p rdma-rpc-transport-rdma --test ring_campaign {name}"
            );
            resume_unwind(panic);
        }
    }
}

fn random_config(rng: &mut Rng) -> RingConfig {
    let pool = PoolLimits {
        max_bytes: rng.pick(&[128 * 1024, 512 * 1024]),
        max_idle_bytes: rng.pick(&[0, 64 * 1024, 512 * 1024]),
        max_buffers: rng.pick(&[1, 2, 8]),
    };
    RingConfig {
        ring_bytes: rng.pick(&[16 * 1024, 16 * 1024, 64 * 1024]),
        receive_depth: rng.pick(&[4, 5, 16, 64]),
        bulk_threshold_bytes: 2048,
        max_bulk_bytes: 100 * 1024,
        send_pool: pool,
        receive_pool: pool,
        read_piece_bytes: rng.pick(&[4096, 32 * 1024]),
        reads_in_flight: rng.pick(&[1, 3, 8]),
        pulls_in_flight: rng.pick(&[1, 4]),
        ..RingConfig::default()
    }
}

fn random_messages(rng: &mut Rng) -> Vec<Message> {
    let count = rng.pick(&[0, 1, 20, 80, 200]);
    let longest = rng.pick(&[16, 500, 3000, 7000]);
    let bulk = rng.pick(&[0, 0, 50, 200]);
    (0..count)
        .map(|_| {
            if rng.chance(bulk) {
                Message::Bulk(rng.below(60_000) as usize)
            } else {
                Message::Frame(rng.below(longest) as usize)
            }
        })
        .collect()
}

fn random_owners(seed: u64, rng: &mut Rng) -> (Fabric, [Owner; 2]) {
    let fabric = Fabric::new(seed);
    let mut first = SimConfig::random(rng);
    let mut second = SimConfig::random(rng);
    if rng.chance(800) {
        second.write_with_imm = first.write_with_imm;
    }
    first.views = rng.chance(400);
    second.views = first.views;
    if !(first.write_with_imm && second.write_with_imm) {
        first.send_depth = first.send_depth.max(5);
        second.send_depth = second.send_depth.max(5);
    }
    let (one, two) = fabric.pair(first, second);
    let links = join(one, two, [random_config(rng), random_config(rng)]);
    let lists = [random_messages(rng), random_messages(rng)];
    let counts = [lists[0].len(), lists[1].len()];
    let [list_one, list_two] = lists;
    let [one, two] = links;
    let owners = [
        Owner::new(0, one, list_one, counts[1], seed),
        Owner::new(1, two, list_two, counts[0], seed),
    ];
    (fabric, owners)
}

fn check_rules(fabric: &Fabric) {
    let stats = fabric.stats();
    assert_eq!(stats.receiver_not_ready, 0, "receives were exceeded");
    assert_eq!(stats.source_changed, 0, "staging memory was reused before its completion");
    assert_eq!(stats.region_dropped_in_use, 0, "a region was dropped under a request");
}

fn all_goes_well(seed: u64) {
    let mut rng = Rng::new(seed);
    let (fabric, mut owners) = random_owners(seed, &mut rng);
    let mut now = 0;
    drive(&fabric, &mut owners, &mut now, |o| o.iter().all(Owner::is_satisfied));
    // One closes, or both at once.
    let both = rng.chance(500);
    let first = rng.below(2) as usize;
    owners[first].close();
    if both {
        owners[1 - first].close();
    }
    drive(&fabric, &mut owners, &mut now, |o| o.iter().all(|o| o.ended.is_some()));
    for owner in &owners {
        let usage = owner.last_usage.unwrap();
        assert_eq!(usage.bulk_buffers_busy, 0, "bulk buffers left");
        assert_eq!(usage.pull_buffers_busy, 0, "pull buffers left");
        match owner.ended.as_ref().unwrap() {
            Ok(()) => assert!(owner.closing),
            Err(error) => {
                assert!(!owner.closing, "closing side: {error}");
                assert_eq!(error.kind(), LinkErrorKind::Closed, "{error}");
                assert!(error.to_string().contains("in order"), "{error}");
            }
        }
    }
    assert_eq!(fabric.stats().access_refused, 0);
    check_rules(&fabric);
}

#[test]
fn messages_arrive_whole_in_order_and_once() {
    campaign("messages_arrive_whole_in_order_and_once", 400, all_goes_well);
}

fn something_breaks(seed: u64) {
    let mut rng = Rng::new(seed ^ 0xFA01);
    let (fabric, mut owners) = random_owners(seed, &mut rng);
    let fault = rng.pick(&Fault::ALL);
    let side = rng.below(2) as usize;
    let at = rng.below(rng.clone().pick(&[20, 200, 2000]));
    let mut now = 0;
    drive(&fabric, &mut owners, &mut now, |o| {
        o.iter().all(Owner::is_satisfied) || fabric.stats().steps >= at
    });
    fabric.inject(fault, side);
    owners.iter_mut().for_each(Owner::stop_spinning);
    if fault == Fault::ProcessKilled {
        // Its code does not run any more either.
        std::mem::forget(owners[side].link.take());
        owners[side].ended = Some(Ok(()));
    }
    if fault == Fault::CompletionError {
        // It strikes with the next request: there may be none, so an end closes.
        owners[side].close();
    }
    drive(&fabric, &mut owners, &mut now, |o| o.iter().all(|o| o.ended.is_some()));
    for owner in &owners {
        if let Some(Err(error)) = &owner.ended {
            let device = fault == Fault::CompletionError && error.kind() == LinkErrorKind::Io;
            assert!(device || error.kind() == LinkErrorKind::Closed, "{fault:?}: {error}");
        }
    }
    check_rules(&fabric);
}

#[test]
fn a_fault_ends_both_sides_cleanly() {
    campaign("a_fault_ends_both_sides_cleanly", 400, something_breaks);
}
