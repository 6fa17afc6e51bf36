//! The ring over two shared-memory devices in this process: what a burst of small frames costs to
//! make, send and take out again, and what its credit costs. `ring-there-and-back` returns credit
//! in the bursts that go the other way; `ring-one-way` has none of those, so that the receiver
//! writes the sender's credit cell.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rdma_rpc_core::link::{FrameSink, Link, Received};
use rdma_rpc_transport_rdma::ring::{RingConfig, RingLink};
use rdma_rpc_transport_rdma::shm::{ShmConfig, ShmQueuePair};

type Ring = RingLink<ShmQueuePair>;

/// A 32-byte message behind its header.
const FRAME: [u8; 48] = [7; 48];
const BURSTS: [usize; 3] = [1, 16, 256];

fn pair() -> (Ring, Ring) {
    let (near, far) = ShmQueuePair::pair(&ShmConfig::default()).expect("shared memory");
    let config = RingConfig { transport: "shm", ..RingConfig::default() };
    let near = RingLink::prepare(near, None, config.clone()).expect("a ring");
    let far = RingLink::prepare(far, None, config).expect("a ring");
    let (near_hello, far_hello) = (near.hello(), far.hello());
    let near = near.connect(&far_hello).expect("a hello of ours");
    (near, far.connect(&near_hello).expect("a hello of ours"))
}

fn send(ring: &mut Ring, frames: usize) {
    for _ in 0..frames {
        loop {
            if let Some(room) = ring.reserve(FRAME.len()).expect("an open ring") {
                room.copy_from_slice(&FRAME);
                break;
            }
            // What was released, and what our own device has completed, is found here.
            assert!(ring.receive().expect("an open ring").is_none());
        }
        ring.commit();
    }
    ring.flush().expect("an open ring");
}

fn receive(ring: &mut Ring, mut frames: usize) {
    while frames > 0 {
        if let Some(Received::Frame(frame)) = ring.receive().expect("an open ring") {
            black_box(frame);
            frames -= 1;
        }
    }
}

fn ring(c: &mut Criterion) {
    let mut group = c.benchmark_group("ring-one-way");
    for frames in BURSTS {
        let (mut near, mut far) = pair();
        group.throughput(Throughput::Elements(frames as u64));
        group.bench_function(BenchmarkId::from_parameter(frames), |b| {
            b.iter(|| {
                send(&mut near, frames);
                receive(&mut far, frames);
            });
        });
    }
    group.finish();
    let mut group = c.benchmark_group("ring-there-and-back");
    for frames in BURSTS {
        let (mut near, mut far) = pair();
        group.throughput(Throughput::Elements(2 * frames as u64));
        group.bench_function(BenchmarkId::from_parameter(frames), |b| {
            b.iter(|| {
                send(&mut near, frames);
                receive(&mut far, frames);
                send(&mut far, frames);
                receive(&mut near, frames);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, ring);
criterion_main!(benches);
