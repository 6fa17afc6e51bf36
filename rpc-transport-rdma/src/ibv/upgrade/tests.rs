//! The messages of the upgrade, byte by byte, and the probe on the simulated device.

use std::future::{pending, ready};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::super::address::Gid;
use super::*;
use crate::protocol_text::vector;
use crate::sim::{Fabric, SimConfig};

fn candidate(network: Network, ip: &str) -> Candidate {
    let endpoint = Endpoint { network, lid: 0, gid: Gid::from_ip(ip.parse().unwrap()) };
    let mtu = PathMtu::within(4096).unwrap();
    Candidate { device: "none".into(), port: 1, gid_index: 3, mtu, endpoint }
}

fn offer(candidates: Vec<Candidate>) -> Offer {
    Offer { candidates, devices: Vec::new() }
}

#[test]
fn the_document_shows_what_is_sent() {
    let ours = offer(vec![candidate(Network::RoceV2, "10.1.0.1")]);
    assert_eq!(ours.body(), vector("ibv/offer"));
    let remote = candidate(Network::RoceV2, "10.1.0.2").endpoint;
    let mut answer = vec![VERSION, 0];
    remote.encode(&mut answer);
    assert_eq!(answer, vector("ibv/answer"));
    let reads = Reads { responder: 16, initiator: 8 };
    let mtu = PathMtu::within(4096).unwrap();
    assert_eq!(queue_pair_message(0x11, 0x22, mtu, reads), vector("ibv/queue-pair"));
    let reads = Reads { responder: 4, initiator: 3 };
    assert_eq!(listening_message(12345, &[7; TOKEN_BYTES], reads), vector("ibv/listening"));
    assert_eq!([ACCEPTED], *vector("ibv/accepted"));
}

#[test]
fn offers_are_checked_byte_by_byte() {
    let two =
        offer(vec![candidate(Network::RoceV2, "10.1.0.1"), candidate(Network::Iwarp, "10.2.0.1")]);
    let body = two.body();
    let endpoints = parse_offer(&body).unwrap();
    assert_eq!(endpoints.len(), 2);
    assert_eq!(endpoints[1], (1, two.candidates[1].endpoint));
    for len in 0..body.len() {
        assert!(parse_offer(&body[..len]).is_err(), "{len} bytes");
    }
    assert!(parse_offer(&[&body[..], &[0]].concat()).is_err());
    let mut newer = body.clone();
    newer[0] = 9;
    assert!(parse_offer(&newer).unwrap_err().contains("version 9"));
    let mut unknown = body;
    unknown[2] = 77;
    assert_eq!(parse_offer(&unknown).unwrap(), [(1, two.candidates[1].endpoint)]);
    let many = [&[1, 17][..], &[0; 17 * Endpoint::BYTES]].concat();
    assert!(parse_offer(&many).unwrap_err().contains("at most 16"));
}

#[test]
fn answers_must_fit_the_offer() {
    let ours = offer(vec![candidate(Network::RoceV2, "10.1.0.1")]);
    let mut answer = vec![1, 0];
    candidate(Network::RoceV2, "10.1.0.2").endpoint.encode(&mut answer);
    // The device is not open in this test: everything before that was right.
    assert!(ours.chosen(&answer).unwrap_err().contains("none is gone"));
    for len in 0..answer.len() {
        assert!(ours.chosen(&answer[..len]).unwrap_err().contains("answer of"), "{len}");
    }
    let changed = |at: usize, byte: u8| {
        let mut answer = answer.clone();
        answer[at] = byte;
        ours.chosen(&answer).unwrap_err()
    };
    assert!(changed(0, 2).contains("version 2"));
    assert!(changed(1, 5).contains("endpoint 5 of 1"));
    assert!(changed(2, 99).contains("network 99"));
}

#[test]
fn queue_pair_messages_are_checked() {
    let good = [1, 5, 16, 8, 0x11, 0, 0, 0, 0x22, 0, 0, 0];
    let (remote, mtu) = parse_queue_pair(&good).unwrap();
    assert_eq!((remote.qp_num, remote.psn, mtu.bytes()), (0x11, 0x22, 4096));
    assert_eq!((remote.reads_responder, remote.reads_initiator), (16, 8));
    for len in 0..good.len() {
        assert!(parse_queue_pair(&good[..len]).is_err(), "{len} bytes");
    }
    let changed = |at: usize, byte: u8| {
        let mut message = good;
        message[at] = byte;
        parse_queue_pair(&message).unwrap_err()
    };
    assert!(changed(0, 2).contains("due"));
    assert!(changed(1, 6).contains("byte 1"));
    assert!(changed(7, 1).contains("byte 4"));
    assert!(changed(11, 1).contains("byte 8"));
    let mut listening = vec![2, 4, 3, 0, 0x39, 0x30];
    listening.extend([7; TOKEN_BYTES]);
    let (remote, port, token) = parse_listening(&listening).unwrap();
    assert_eq!((remote.reads_responder, port, token), (4, 12345, [7; TOKEN_BYTES]));
    for len in 0..listening.len() {
        assert!(parse_listening(&listening[..len]).is_err(), "{len} bytes");
    }
}

const EXPECTED: Expected = Expected { limit: None, advice: "is it plugged in?" };
const LIMITED: Expected = Expected { limit: Some(Duration::from_secs(7)), ..EXPECTED };

/// The fabric moves, between turns of the others.
async fn steps(fabric: &Fabric) -> std::convert::Infallible {
    loop {
        fabric.step();
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_probe_goes_both_ways_on_every_kind_of_device() {
    for write_with_imm in [true, false] {
        for seed in 0..50 {
            let fabric = Fabric::new(seed);
            let config = SimConfig { write_with_imm, ..SimConfig::default() };
            let (one, two) = fabric.pair(config, config);
            let (mut one, mut two) = (one.queue_pair, two.queue_pair);
            one.post_receives(1).unwrap();
            two.post_receives(1).unwrap();
            let both = async {
                tokio::join!(
                    probe(&mut one, true, EXPECTED, pending()),
                    probe(&mut two, false, EXPECTED, pending())
                )
            };
            tokio::select! {
                results = both => assert_eq!(results, (Ok(()), Ok(())), "seed {seed}"),
                never = steps(&fabric) => match never {},
            }
        }
    }
}

/// Two ends that can connect, and the fabric between them.
fn two_ends(seed: u64) -> (Fabric, impl QueuePair, impl QueuePair) {
    let fabric = Fabric::new(seed);
    let (one, two) = fabric.pair(SimConfig::default(), SimConfig::default());
    let (mut one, mut two) = (one.queue_pair, two.queue_pair);
    one.post_receives(1).unwrap();
    two.post_receives(1).unwrap();
    (fabric, one, two)
}

/// The fabric moves once a millisecond of the test's own time.
async fn moves(fabric: &Fabric) -> std::convert::Infallible {
    loop {
        fabric.step();
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_that_has_other_work_is_waited_for() {
    for first_is_late in [true, false] {
        let (fabric, mut one, mut two) = two_ends(1);
        let late = |is_late: bool| sleep(Duration::from_secs(if is_late { 60 } else { 0 }));
        let first = async {
            late(first_is_late).await;
            probe(&mut one, true, LIMITED, pending()).await
        };
        let second = async {
            late(!first_is_late).await;
            probe(&mut two, false, LIMITED, pending()).await
        };
        tokio::select! {
            results = async { tokio::join!(first, second) } => assert_eq!(results, (Ok(()), Ok(()))),
            never = moves(&fabric) => match never {},
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_network_that_carries_nothing_is_found_out_by_who_sends() {
    // Nothing moves.
    let (_fabric, mut one, mut two) = two_ends(1);
    let begin = Instant::now();
    let why = probe(&mut one, true, LIMITED, pending()).await.unwrap_err();
    assert!((7000..7010).contains(&begin.elapsed().as_millis()), "{:?}", begin.elapsed());
    assert!(why.to_string().contains("did not arrive in 7s: is it plugged in?"), "{why}");
    let gave_up = ready("one.example fell back to tcp".to_owned());
    let why = probe(&mut two, false, LIMITED, gave_up).await.unwrap_err();
    assert_eq!(why.to_string(), "one.example fell back to tcp");
}

/// What Soft-iWARP does now and then, and a server that gives up.
#[tokio::test]
async fn a_queue_pair_that_is_given_up_before_the_probe_is_worth_another_attempt() {
    for seed in 0..20 {
        let fabric = Fabric::new(seed);
        let (one, two) = fabric.pair(SimConfig::default(), SimConfig::default());
        let (mut one, mut two) = (one.queue_pair, two.queue_pair);
        one.post_receives(1).unwrap();
        two.post_receives(1).unwrap();
        two.fail();
        one.fail();
        tokio::select! {
            result = probe(&mut two, false, EXPECTED, pending()) => {
                let error = result.unwrap_err();
                assert!(error.was_flushed(), "{error}");
                assert!(error.to_string().contains("Flushed"), "{error}");
            }
            never = steps(&fabric) => match never {},
        }
    }
    assert!(!UpgradeError::from("anything else").was_flushed());
}
