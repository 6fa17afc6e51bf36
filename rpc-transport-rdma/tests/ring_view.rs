//! Rings that stay with their senders, on devices through which the peer views them.

mod ring_support;

use rdma_rpc_core::link::{Link, LinkErrorKind};
use rdma_rpc_transport_rdma::ring::{RingConfig, RingLink};
use rdma_rpc_transport_rdma::sim::{Fabric, SimConfig};
use ring_support::{
    assert_no_rule_broken, calm, linked_on, numbered, put, settle, small_config, steps, take,
};

fn viewing() -> SimConfig {
    SimConfig { views: true, ..calm() }
}

/// Sixteen laps of the ring, answered by as many, on a device whose rings stay with their senders.
#[test]
fn a_ring_that_is_viewed_carries_frames_and_credit() {
    for write_with_imm in [true, false] {
        let device = SimConfig { write_with_imm, ..viewing() };
        let (fabric, mut links) = linked_on(24, device, small_config());
        for number in 0..80 {
            let frame = numbered(number, 3000);
            for end in 0..2 {
                assert!(put(&mut links[end], &frame), "{number}");
                assert_eq!(settle(&fabric, &mut links)[1 - end], [&frame[..]]);
            }
        }
        assert_no_rule_broken(&fabric);
    }
}

/// Credit that is not there is waited for: what the peer still reads is not written again.
#[test]
fn a_ring_that_is_viewed_is_not_written_before_it_was_read() {
    let (fabric, mut links) = linked_on(25, viewing(), small_config());
    let mut sent = 0;
    while put(&mut links[0], &numbered(sent, 1000)) {
        sent += 1;
        links[0].flush().unwrap();
        steps(&fabric, 20);
    }
    assert!((12..=16).contains(&sent), "{sent} frames of 1000 bytes in 16 KiB");
    for number in 0..sent {
        assert_eq!(take(&mut links[1]).unwrap(), Some(numbered(number, 1000)));
    }
    assert_no_rule_broken(&fabric);
}

#[test]
fn ends_that_do_not_agree_whose_the_ring_is_do_not_connect() {
    let fabric = Fabric::new(26);
    let (one, two) = fabric.pair(viewing(), calm());
    let one = RingLink::prepare(one.queue_pair, None, small_config()).unwrap();
    let two = RingLink::prepare(two.queue_pair, None, small_config()).unwrap();
    let (hello_one, hello_two) = (one.hello(), two.hello());
    for error in [one.connect(&hello_two).unwrap_err(), two.connect(&hello_one).unwrap_err()] {
        assert_eq!(error.kind(), LinkErrorKind::PeerMisbehaved);
        assert!(error.to_string().contains("ring hello, byte 6"), "{error}");
    }
}

#[test]
fn a_ring_that_is_not_there_to_be_viewed_is_named() {
    for (at, what) in [(24, "another key"), (9, "another address"), (36, "a longer ring")] {
        let fabric = Fabric::new(27);
        let (one, two) = fabric.pair(viewing(), viewing());
        let config = RingConfig { ring_bytes: 64 * 1024, ..small_config() };
        let one = RingLink::prepare(one.queue_pair, None, config).unwrap();
        let two = RingLink::prepare(two.queue_pair, None, small_config()).unwrap();
        let mut hello = two.hello();
        match at {
            36 => hello[32..40].copy_from_slice(&(32 * 1024_u64).to_le_bytes()),
            _ => hello[at] ^= 1,
        }
        let error = one.connect(&hello).unwrap_err().to_string();
        assert!(error.contains("view"), "{what}: {error}");
    }
}
