//! Frames long enough for memory of their own: what else is in their burst, and when its place in the
//! ring is free.

mod ring_support;

use rdma_rpc_core::link::{Link, Received};
use rdma_rpc_transport_rdma::sim::{Fabric, SimConfig};
use ring_support::{SimLink, linked_on, numbered, put, small_config, steps, take};

/// [`ring_support::small_config`] says so.
const LONG_FRAME_BYTES: usize = 1024;

/// Two links whose rings are written, and two whose rings are viewed.
fn linked(seed: u64) -> [(Fabric, [SimLink; 2]); 2] {
    [false, true]
        .map(|views| linked_on(seed, SimConfig { views, ..SimConfig::default() }, small_config()))
}

/// One frame, and whether it was given away.
fn receive(link: &mut SimLink) -> Option<(Vec<u8>, bool)> {
    match link.receive().unwrap()? {
        Received::Frame(frame) => Some((frame.to_vec(), false)),
        Received::Owned(frame) => Some((frame.to_vec(), true)),
        other @ Received::Pulled { .. } => panic!("{other:?}"),
    }
}

#[test]
fn a_burst_that_begins_with_a_long_frame_is_given_out_frame_by_frame() {
    let lens = [
        (vec![LONG_FRAME_BYTES], vec![true]),
        (vec![LONG_FRAME_BYTES, 0, 1, 7], vec![true, false, false, false]),
        (vec![2000, 9, 1500, LONG_FRAME_BYTES - 1], vec![true, false, true, false]),
        // Copied whole: what is lent of it is copied again if it is kept.
        (vec![LONG_FRAME_BYTES - 1, 2000], vec![false, false]),
        (vec![8, 2000], vec![false, false]),
    ];
    for (lens, given_away) in lens {
        for (fabric, [mut one, mut two]) in linked(1) {
            for (number, len) in lens.iter().enumerate() {
                assert!(put(&mut one, &numbered(number as u64, *len)));
            }
            one.flush().unwrap();
            steps(&fabric, 200);
            for (number, (len, given)) in lens.iter().zip(&given_away).enumerate() {
                let expected = (numbered(number as u64, *len), *given);
                assert_eq!(receive(&mut two), Some(expected), "frame {number} of {lens:?}");
            }
            assert_eq!(receive(&mut two), None);
        }
    }
}

/// The sender may not write where the receiver will yet read.
#[test]
fn the_place_is_free_after_the_last_frame_and_not_before() {
    for (fabric, [one, two]) in linked(2) {
        the_place_is_free_for_laps(&fabric, one, two);
    }
    for (fabric, [one, two]) in linked(3) {
        the_place_is_not_free_before(&fabric, one, two);
    }
}

fn the_place_is_free_for_laps(fabric: &Fabric, mut one: SimLink, mut two: SimLink) {
    let mut sent = 0;
    while put(&mut one, &numbered(sent, 3000)) {
        sent += 1;
        one.flush().unwrap();
    }
    assert!(sent >= 4, "{sent}");
    steps(fabric, 500);
    for number in 0..sent {
        assert_eq!(take(&mut two).unwrap(), Some(numbered(number, 3000)));
    }
    // All of it is told of, and the ring is as good as new for several laps.
    for number in 0..50 {
        two.flush().unwrap();
        steps(fabric, 200);
        assert!(put(&mut one, &numbered(number, 3000)), "{number}: {one:?}");
        one.flush().unwrap();
        steps(fabric, 200);
        assert_eq!(take(&mut two).unwrap(), Some(numbered(number, 3000)));
    }
}

fn the_place_is_not_free_before(fabric: &Fabric, mut one: SimLink, mut two: SimLink) {
    // A burst of two, of which the first is taken only.
    assert!(put(&mut one, &numbered(0, 3000)) && put(&mut one, &numbered(1, 3000)));
    one.flush().unwrap();
    steps(fabric, 500);
    assert_eq!(take(&mut two).unwrap(), Some(numbered(0, 3000)));
    let mut found_room = 0;
    for round in 0..30 {
        two.flush().unwrap();
        steps(fabric, 200);
        // Whatever finds room goes elsewhere.
        found_room += u64::from(put(&mut one, &numbered(2 + round, 900)));
        one.flush().unwrap();
        steps(fabric, 200);
    }
    assert!((1..30).contains(&found_room), "{found_room}");
    for (number, len) in (1..).zip([3000].into_iter().chain((0..found_room).map(|_| 900))) {
        assert_eq!(take(&mut two).unwrap(), Some(numbered(number, len)), "{number}");
    }
}

#[test]
fn the_end_of_the_connection_comes_after_what_is_left_of_a_burst() {
    for (fabric, [mut one, mut two]) in linked(4) {
        assert!(put(&mut one, &numbered(0, 2000)) && put(&mut one, &numbered(1, 2000)));
        one.flush().unwrap();
        steps(&fabric, 200);
        assert_eq!(take(&mut two).unwrap(), Some(numbered(0, 2000)));
        drop(one);
        steps(&fabric, 500);
        assert_eq!(take(&mut two).unwrap(), Some(numbered(1, 2000)));
        let ended = (0..100).any(|_| {
            steps(&fabric, 20);
            take(&mut two).is_err()
        });
        assert!(ended);
    }
}
