//! A peer made by hand. One that breaks the rules, byte by byte: always `PeerMisbehaved`, never a
//! panic. And a few that keep them in unlikely ways.

mod ring_support;

use std::task::{Context, Waker};

use rdma_rpc_core::link::{BulkDescriptor, FrameSink, Link, LinkError, LinkErrorKind, Received};
use rdma_rpc_transport_rdma::ring::RingLink;
use rdma_rpc_transport_rdma::sim::{Fabric, Rng, SimConfig, SimQueuePair, SimRegion};
use rdma_rpc_transport_rdma::verbs::{
    Access, Completed, Completion, Local, Op, QueuePair, Region, RemoteAddr, Status, WorkRequest,
};
use ring_support::{SimLink, put, small_config, steps, take};

/// A link, and a peer made by hand from raw verbs.
struct Lies {
    fabric: Fabric,
    link: SimLink,
    raw: SimQueuePair,
    memory: SimRegion,
    ring: RemoteAddr,
    cell: RemoteAddr,
    /// What the link writes to.
    own_ring: SimRegion,
    next: u64,
}

const RING: usize = 16 * 1024;

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn lies() -> Lies {
    let fabric = Fabric::new(7);
    let device = SimConfig { wake_spuriously: 0, ..SimConfig::default() };
    let (one, two) = fabric.pair(device, device);
    let prepared =
        RingLink::prepare(one.queue_pair, Some(Box::new(one.liveness)), small_config()).unwrap();
    let mut raw = two.queue_pair;
    std::mem::forget(two.liveness);
    let own_ring = raw.register(RING + 16, Access::RemoteWrite).unwrap();
    let memory = raw.register(RING, Access::Local).unwrap();
    raw.post_receives(64).unwrap();
    let hello = prepared.hello();
    let mut mine = hello.clone();
    mine[8..16].copy_from_slice(&own_ring.remote().addr.to_le_bytes());
    mine[16..24].copy_from_slice(&(own_ring.remote().addr + RING as u64).to_le_bytes());
    mine[24..28].copy_from_slice(&own_ring.remote().rkey.to_le_bytes());
    mine[28..32].copy_from_slice(&own_ring.remote().rkey.to_le_bytes());
    let link = prepared.connect(&mine).unwrap();
    Lies {
        fabric,
        link,
        raw,
        memory,
        ring: RemoteAddr { addr: u64_at(&hello, 8), rkey: u32_at(&hello, 24) },
        cell: RemoteAddr { addr: u64_at(&hello, 16), rkey: u32_at(&hello, 28) },
        own_ring,
        next: 0,
    }
}

impl Lies {
    fn post(&mut self, op: Op<'_, SimRegion>) {
        self.next += 1;
        self.raw.post_send(&[WorkRequest { id: self.next, op, signaled: false }]).unwrap();
    }

    /// Writes `bytes` to the link's ring at `offset`, with an immediate.
    fn write(&mut self, offset: u64, bytes: &[u8], imm: Option<u32>) {
        self.memory.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        self.next += 1;
        let from = Some(Local { region: &self.memory, offset: 0, len: bytes.len() });
        let to = self.ring.offset(offset).unwrap();
        let op = Op::Write { from, to, imm };
        self.raw.post_send(&[WorkRequest { id: self.next, op, signaled: false }]).unwrap();
        steps(&self.fabric, 50);
    }

    fn immediate(&mut self, imm: u32) {
        self.post(Op::Write { from: None, to: self.ring, imm: Some(imm) });
        steps(&self.fabric, 50);
    }

    fn set_cell(&mut self, count: u64, which: u64) {
        let low = count as u32;
        self.set_cell_word(u64::from(!low) << 32 | u64::from(low), which);
    }

    fn set_cell_word(&mut self, word: u64, which: u64) {
        let to = self.cell.offset(which * 8).unwrap();
        self.post(Op::WriteWord { word, to });
        steps(&self.fabric, 50);
    }

    /// The error `receive` ends with.
    fn outcome(&mut self) -> LinkError {
        for _ in 0..100 {
            match take(&mut self.link) {
                Ok(_) => steps(&self.fabric, 20),
                Err(error) => {
                    let again = self.link.flush().unwrap_err();
                    assert_eq!(again.to_string(), error.to_string(), "the error stays");
                    return error;
                }
            }
        }
        panic!("the lie was believed: {:?}", self.link);
    }
}

#[track_caller]
fn blamed(error: &LinkError, expected: &str) {
    assert_eq!(error.kind(), LinkErrorKind::PeerMisbehaved, "{error}");
    assert!(error.to_string().contains(expected), "{error}");
}

/// A burst with the given released counts and one frame of four bytes, and its immediate.
fn burst(bytes: u64, bursts: u64) -> (Vec<u8>, u32) {
    let mut burst = Vec::new();
    burst.extend_from_slice(&bytes.to_le_bytes());
    burst.extend_from_slice(&bursts.to_le_bytes());
    burst.extend_from_slice(&4u32.to_le_bytes());
    burst.extend_from_slice(b"abcd");
    (burst, 3)
}

#[test]
fn an_honest_raw_peer_is_understood() {
    let mut lies = lies();
    let (bytes, imm) = burst(0, 0);
    lies.write(0, &bytes, Some(imm));
    assert_eq!(take(&mut lies.link).unwrap().as_deref(), Some(&b"abcd"[..]));
    assert_eq!(take(&mut lies.link).unwrap(), None);
    // Back to back at the next offset, then in order to the end.
    lies.write(24, &bytes, Some(imm));
    assert_eq!(take(&mut lies.link).unwrap().as_deref(), Some(&b"abcd"[..]));
    lies.immediate(0x6000_0000);
    let end = lies.outcome();
    assert_eq!(end.kind(), LinkErrorKind::Closed);
}

#[test]
fn immediates_that_mean_nothing() {
    let cases: [(u32, &str); 9] = [
        (0x8000_0000, "unknown kind 4"),
        (0xFFFF_FFFF, "unknown kind 7"),
        (0x0800_0003, "mean nothing"),
        (0x6000_0001, "mean nothing"),
        (0, "burst at position 0 has 0 bytes"),
        (2, "burst at position 0 has 16 bytes"),
        (0x03FF_FFFF, "the most 7168"),
        (0x0400_0003, "skips to the ring's start"),
        (0x4000_0000, "not asked"),
    ];
    for (imm, expected) in cases {
        let mut lies = lies();
        lies.immediate(imm);
        blamed(&lies.outcome(), expected);
    }
}

#[test]
fn a_second_question_before_the_answer() {
    let mut lies = lies();
    lies.immediate(0x2000_0000);
    assert_eq!(take(&mut lies.link).unwrap(), None);
    lies.immediate(0x2000_0000);
    blamed(&lies.outcome(), "again before it was answered");
}

#[test]
fn something_after_the_close() {
    let mut lies = lies();
    lies.immediate(0x6000_0000);
    lies.immediate(0x6000_0000);
    blamed(&lies.outcome(), "after the peer's close");
}

#[test]
fn frame_lengths_beyond_the_burst() {
    let cases: [(u32, &str); 3] = [
        (5, "frame length 5 at byte 16"),
        (u32::MAX, "frame length 4294967295 at byte 16"),
        (1 << 31, "4 bytes are left"),
    ];
    for (len, expected) in cases {
        let mut lies = lies();
        let (mut bytes, imm) = burst(0, 0);
        bytes[16..20].copy_from_slice(&len.to_le_bytes());
        lies.write(0, &bytes, Some(imm));
        blamed(&lies.outcome(), expected);
    }
}

/// A burst that begins with a long frame is copied out frame by frame.
#[test]
fn frame_lengths_beyond_the_burst_behind_a_long_frame() {
    let long = 1024;
    for (second, expected) in [
        (
            8u32,
            "frame length 8 at byte 1048 of the burst at position 0 is beyond the burst's end: 4",
        ),
        (u32::MAX, "at byte 1048"),
    ] {
        let mut lies = lies();
        let mut bytes = vec![0; 16];
        bytes.extend_from_slice(&(long as u32).to_le_bytes());
        bytes.extend_from_slice(&vec![7; long]);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        assert_eq!(bytes.len(), 1048);
        bytes.extend_from_slice(&second.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        let imm = (bytes.len() / 8) as u32;
        lies.write(0, &bytes, Some(imm));
        assert_eq!(take(&mut lies.link).unwrap(), Some(vec![7; long]), "what came before it");
        blamed(&lies.outcome(), expected);
    }
}

/// Its lengths are read once each: what the peer writes there afterwards changes nothing.
#[test]
fn a_long_frame_that_changes_after_it_was_taken() {
    let mut lies = lies();
    let mut bytes = vec![0; 16];
    for fill in [1, 2] {
        bytes.extend_from_slice(&1028u32.to_le_bytes());
        bytes.extend_from_slice(&vec![fill; 1028]);
    }
    let imm = (bytes.len() / 8) as u32;
    lies.write(0, &bytes, Some(imm));
    let first = match lies.link.receive().unwrap() {
        Some(Received::Owned(frame)) => frame,
        other => panic!("not given away: {other:?}"),
    };
    bytes[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
    bytes[20..1048].fill(9);
    lies.write(0, &bytes, None);
    assert_eq!(first, vec![1; 1028]);
    assert_eq!(take(&mut lies.link).unwrap(), Some(vec![2; 1028]));
    assert_eq!(take(&mut lies.link).unwrap(), None);
}

#[test]
fn credit_in_a_burst_header_for_what_was_never_sent() {
    let cases = [
        (8, 0, "released position 8"),
        (u64::MAX, 0, "released position 18446744073709551615"),
        (3, 0, "released position 3"),
        (0, 1, "1 bursts released, but only 0"),
        (0, u64::MAX, "byte 8"),
    ];
    for (bytes, bursts, expected) in cases {
        let mut lies = lies();
        let (bytes, imm) = burst(bytes, bursts);
        lies.write(0, &bytes, Some(imm));
        let error = lies.outcome();
        blamed(&error, expected);
        blamed(&error, "burst at position 0");
    }
}

#[test]
fn credit_in_the_cell_for_what_was_never_sent() {
    for (word, which, expected) in [(1 << 30, 0, "credit cell, byte 0"), (9, 1, "byte 8")] {
        let mut lies = lies();
        // Fill the ring, so that the link looks at the cell.
        while put(&mut lies.link, &[1; 3000]) {}
        lies.set_cell(word, which);
        let error = lies.link.reserve(3000).unwrap_err();
        blamed(&error, expected);
        assert!(lies.link.flush().is_err(), "dead");
    }
}

#[test]
fn bursts_beyond_credit_or_over_the_end() {
    // Three bursts of 5000 bytes fit; the fourth starts again while nothing was released.
    let big = 625u32;
    let mut body = vec![0u8; 5000];
    body[16..20].copy_from_slice(&(5000u32 - 20).to_le_bytes());
    let mut over = lies();
    for offset in [0, 5000, 10_000] {
        over.write(offset, &body, Some(big));
    }
    over.write(0, &body, Some(big | 1 << 26));
    blamed(&over.outcome(), "credit ends at 16384");

    let mut end = lies();
    for offset in [0, 5000, 10_000] {
        end.write(offset, &body, Some(big));
    }
    end.immediate(big);
    blamed(&end.outcome(), "runs over the ring's end");
}

#[test]
fn more_bursts_than_receives_for_data() {
    let mut lies = lies();
    let (bytes, imm) = burst(0, 0);
    for number in 0..62u64 {
        lies.write(number * 24, &bytes, Some(imm));
    }
    blamed(&lies.outcome(), "61 receives for data");
}

#[test]
fn bulk_descriptors_that_make_no_sense() {
    let pull = |descriptor: &[u8], len: usize| {
        let mut lies = lies();
        let descriptor = BulkDescriptor::new(descriptor).unwrap();
        let result = lies.link.bulk_pull(1, &descriptor, len);
        match result {
            Err(error) => error,
            Ok(true) => lies.outcome(),
            Ok(false) => panic!("no room"),
        }
    };
    blamed(&pull(&[0; 31], 1), "31 bytes");
    let mut bytes = [0; 32];
    bytes[8..16].copy_from_slice(&5000u64.to_le_bytes());
    blamed(&pull(&bytes, 4999), "5000 bytes; the message is said to have 4999");
    // What a process that ends leaves behind looks the same, so this is not held against the peer.
    let refused = pull(&bytes, 5000);
    assert_eq!(refused.kind(), LinkErrorKind::Closed, "{refused}");
    assert!(refused.to_string().contains("ticket 1: the peer's device refused"), "{refused}");
    bytes[..8].fill(0xFF);
    blamed(&pull(&bytes, 5000), "run over the address space");
    bytes[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    blamed(&pull(&bytes, usize::MAX), "the most this side pulls is 262144");
}

#[test]
fn bulk_releases_of_what_is_not_busy() {
    let release = |change: fn(&mut [u8; 32])| {
        let mut lies = lies();
        lies.link.bulk_reserve(5000).unwrap().unwrap();
        let issued = lies.link.bulk_commit();
        let mut bytes: [u8; 32] = issued.as_bytes().try_into().unwrap();
        change(&mut bytes);
        lies.link.bulk_release(&BulkDescriptor::new(&bytes).unwrap())
    };
    release(|_| ()).unwrap();
    blamed(&release(|b| b[0] ^= 1).unwrap_err(), "stale or made up");
    blamed(&release(|b| b[8] ^= 1).unwrap_err(), "stale or made up");
    blamed(&release(|b| b[24] ^= 1).unwrap_err(), "stale or made up");
    blamed(&release(|b| b[20] = 1).unwrap_err(), "buffer 1");
    blamed(&release(|b| b[20..24].fill(0xFF)).unwrap_err(), "buffer 4294967295");

    let mut lies = lies();
    lies.link.bulk_reserve(5000).unwrap().unwrap();
    let issued = lies.link.bulk_commit();
    lies.link.bulk_release(&issued).unwrap();
    blamed(&lies.link.bulk_release(&issued).unwrap_err(), "not busy");
}

#[test]
fn a_hello_with_any_byte_changed_is_refused_or_harmless() {
    let mut rng = Rng::new(1);
    for at in 0..56 {
        let fabric = Fabric::new(at as u64);
        let (one, two) = fabric.pair(SimConfig::default(), SimConfig::default());
        let prepared =
            RingLink::prepare(one.queue_pair, Some(Box::new(one.liveness)), small_config())
                .unwrap();
        let other = RingLink::prepare(two.queue_pair, Some(Box::new(two.liveness)), small_config())
            .unwrap();
        let mut hello = other.hello();
        hello[at] ^= 1 << rng.below(8);
        match prepared.connect(&hello) {
            Err(error) => blamed(&error, "ring hello, byte"),
            // Wrong addresses and keys are found when they are used.
            Ok(mut link) => {
                assert!(put(&mut link, b"hello"));
                for _ in 0..50 {
                    let _ = link.flush();
                    let _ = take(&mut link);
                    steps(&fabric, 20);
                }
            }
        }
    }
}

/// Random immediates and random ring contents: an error or nothing, never a panic.
#[test]
fn noise() {
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let mut lies = lies();
        let mut dead = false;
        for _ in 0..20 {
            let mut bytes = vec![0; 8 * (1 + rng.below(100)) as usize];
            for word in bytes.chunks_mut(8) {
                let small = rng.chance(500);
                let bits = rng.bits();
                word.copy_from_slice(&(if small { bits & 0x3F } else { bits }).to_le_bytes());
            }
            let imm = match rng.below(4) {
                0 => rng.bits() as u32,
                1 => (rng.below(4) as u32) << 29 | rng.below(1000) as u32,
                _ => bytes.len() as u32 / 8,
            };
            let offset = rng.below(1000) * 8;
            lies.write(offset, &bytes, Some(imm));
            if rng.chance(300) {
                let word = rng.bits() >> rng.below(64);
                if rng.chance(500) {
                    lies.set_cell(word, rng.below(2));
                } else {
                    lies.set_cell_word(word, rng.below(2));
                }
                dead |= lies.link.reserve(4000).is_err();
            }
            let _ = lies.link.flush();
            for _ in 0..4 {
                match take(&mut lies.link) {
                    Ok(_) => {}
                    Err(error) => {
                        assert_ne!(error.kind(), LinkErrorKind::Io, "{error}");
                        dead = true;
                        break;
                    }
                }
            }
            if dead {
                break;
            }
        }
    }
}

impl Lies {
    /// Immediates the link has sent since the last call.
    fn heard(&mut self) -> Vec<u32> {
        steps(&self.fabric, 100);
        let nothing = Completion { what: Completed::Send { id: 0 }, status: Status::Success };
        let mut batch = [nothing; 64];
        let count = self.raw.poll(&mut batch).unwrap();
        let immediates = batch[..count].iter().filter_map(|completion| match completion.what {
            Completed::Receive { imm } => Some(imm),
            Completed::Send { .. } => None,
        });
        immediates.collect()
    }
}

/// The cell may show one word of an older update and one of a newer. What is claimed to be known
/// is what the answer said, not what the cell shows: a claim too high would never be answered.
#[test]
fn a_torn_credit_cell_is_not_claimed_to_be_known() {
    let mut lies = lies();
    let mut cx = Context::from_waker(Waker::noop());
    // Five bursts of 3024 bytes fill the ring; two must be released before 6000 bytes fit.
    while put(&mut lies.link, &[1; 3000]) {
        lies.link.flush().unwrap();
    }
    assert!(lies.link.reserve(6000).unwrap().is_none());
    assert!(lies.link.poll_ready(&mut cx).is_pending());
    assert_eq!(lies.heard(), [378, 378, 378, 378, 378, 0x2400_0000]);

    lies.set_cell(3024, 0);
    lies.set_cell(2, 1);
    lies.immediate(0x4000_0001);
    assert!(lies.link.poll_ready(&mut cx).is_pending(), "one burst is not enough");
    assert_eq!(lies.heard(), [0x2400_0001], "one burst is known for certain, not two");

    lies.set_cell(6048, 0);
    lies.immediate(0x4000_0002);
    assert!(lies.link.poll_ready(&mut cx).is_ready());
    assert!(put(&mut lies.link, &[1; 6000]));
}

/// A sleeper is answered once, at once if it knows less than was released, else at the release.
#[test]
fn a_question_is_answered_once() {
    let mut lies = lies();
    let mut cx = Context::from_waker(Waker::noop());
    let (bytes, imm) = burst(0, 0);
    // Nothing is released yet: no answer.
    lies.immediate(0x2400_0000);
    assert!(lies.link.poll_ready(&mut cx).is_pending());
    assert_eq!(lies.heard(), []);
    lies.write(0, &bytes, Some(imm));
    assert!(take(&mut lies.link).unwrap().is_some());
    assert!(lies.link.poll_ready(&mut cx).is_pending());
    assert_eq!(lies.heard(), [0x4000_0001]);
    // Known already: no answer; known to be less: at once.
    lies.immediate(0x2400_0001);
    assert!(lies.link.poll_ready(&mut cx).is_pending());
    assert_eq!(lies.heard(), []);
    lies.write(24, &bytes, Some(imm));
    assert!(take(&mut lies.link).unwrap().is_some());
    assert_eq!(lies.heard(), [0x4000_0002]);
    lies.immediate(0x2400_0001);
    assert!(lies.link.poll_ready(&mut cx).is_pending());
    // The answer that it has had counts for more than a claim that is older.
    assert_eq!(lies.heard(), []);
}

/// A reader that keeps up returns credit through the cell, unasked, and wakes nobody with it.
#[test]
fn an_eighth_of_the_ring_is_returned_through_the_cell() {
    let mut lies = lies();
    let mut body = vec![0u8; 1200];
    body[16..20].copy_from_slice(&(1200u32 - 20).to_le_bytes());
    let cell = |lies: &Lies| {
        let mut words = [0; 16];
        lies.own_ring.read(RING, &mut words);
        (u64_at(&words, 0) as u32, u64_at(&words, 8) as u32)
    };
    lies.write(0, &body, Some(150));
    assert!(take(&mut lies.link).unwrap().is_some());
    assert_eq!(lies.heard(), []);
    assert_eq!(cell(&lies), (0, 0), "less than an eighth is not worth a request");
    lies.write(1200, &body, Some(150));
    assert!(take(&mut lies.link).unwrap().is_some());
    assert_eq!(lies.heard(), []);
    assert_eq!(cell(&lies), (2400, 2));
}
