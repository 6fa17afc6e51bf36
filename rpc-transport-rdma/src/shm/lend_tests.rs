//! Lending between two queue pairs, the moments at which a READ must not succeed, and peers that
//! lie about marks.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::config::ShmConfig;
use super::fdpass::Message;
use super::hostile_tests::{end_of, victim_and_liar, victim_of_mark_at};
use super::lend::Lendings;
use super::mapping::{Mapping, OwnedMapping};
use super::mark;
use super::qp::ShmQueuePair;
use super::regions::ShmRegion;
use crate::verbs::{
    Access, Completed, Completion, Local, Op, PostError, QueuePair, Region, RemoteAddr, Status,
    WorkRequest,
};

const LEN: usize = 256 << 10;
/// What freed memory is overwritten with.
const FREED: u8 = 0xEE;
const NONE: Completion =
    Completion { what: Completed::Receive { imm: 0 }, status: Status::Success };

fn pair() -> (ShmQueuePair, ShmQueuePair) {
    ShmQueuePair::pair(&ShmConfig::default()).unwrap()
}

fn pattern(len: usize) -> Bytes {
    (0..len).map(|i| (i % 251) as u8).collect::<Vec<u8>>().into()
}

fn post_read(
    qp: &mut ShmQueuePair,
    target: &ShmRegion,
    offset: usize,
    len: usize,
    from: RemoteAddr,
) -> Result<(), PostError> {
    let into = Local { region: target, offset, len };
    qp.post_send(&[WorkRequest { id: 7, op: Op::Read { into, from }, signaled: true }])
}

/// Polls until the READ has ended.
fn end_of_read(qp: &mut ShmQueuePair) -> Status {
    let give_up = Instant::now() + Duration::from_secs(20);
    let mut into = [NONE];
    loop {
        assert!(Instant::now() < give_up, "the READ does not end");
        if qp.poll(&mut into).unwrap() == 1 && into[0].what == (Completed::Send { id: 7 }) {
            return into[0].status;
        }
    }
}

#[test]
fn what_is_lent_is_read_whole_and_in_pieces() {
    let (mut lender, mut reader) = pair();
    // Longer than what one poll copies, and at no round address.
    let bytes = pattern(3 << 20).slice(1..);
    let mut target = reader.register(3 << 20, Access::ReadTarget).unwrap();
    let lent = lender.lend(&bytes).expect("one process reads itself");
    post_read(&mut reader, &target, 1, bytes.len(), lent).unwrap();
    assert_eq!(end_of_read(&mut reader), Status::Success);
    assert!(target.bytes()[1..] == bytes[..] && target.bytes()[0] == 0);

    target.bytes_mut().fill(0);
    for (offset, len) in [(0, 1), (4095, 2), (100_000, 1 << 20), (bytes.len() - 3, 3)] {
        post_read(&mut reader, &target, 5, len, lent.offset(offset as u64).unwrap()).unwrap();
        assert_eq!(end_of_read(&mut reader), Status::Success);
        assert!(target.bytes()[5..5 + len] == bytes[offset..offset + len], "{len} at {offset}");
    }
    post_read(&mut reader, &target, 0, 0, lent).unwrap();
    assert_eq!(end_of_read(&mut reader), Status::Success, "no bytes at all");
}

#[test]
fn bytes_are_kept_from_lending_to_taking_back_each_by_itself() {
    let (mut lender, _reader) = pair();
    let bytes = pattern(LEN);
    let kept = |bytes: &Bytes| !bytes.is_unique();
    let (first, second) = (lender.lend(&bytes).unwrap(), lender.lend(&bytes).unwrap());
    assert_eq!(first.addr, second.addr);
    assert_ne!(first, second, "two lendings of the same bytes are told apart");
    lender.take_back(first);
    assert!(kept(&bytes), "the second lending goes on");
    lender.take_back(first);
    assert!(kept(&bytes), "taken back twice is no other lending");
    lender.take_back(RemoteAddr { addr: 0, rkey: 4096 });
    lender.take_back(RemoteAddr { addr: 0, rkey: u32::MAX });
    assert!(kept(&bytes));
    lender.take_back(second);
    assert!(!kept(&bytes));
    assert!(lender.lend(&Bytes::new()).is_none());
    for end in [|lender: &mut ShmQueuePair| lender.fail(), |_: &mut ShmQueuePair| {}] {
        let (mut lender, _reader) = pair();
        let lent = lender.lend(&bytes).unwrap();
        assert!(kept(&bytes));
        end(&mut lender);
        lender.take_back(lent);
        drop(lender);
        assert!(!kept(&bytes));
    }
}

#[test]
fn nothing_is_lent_if_either_end_wants_no_direct_reads() {
    let config = |direct_reads| ShmConfig { direct_reads, ..Default::default() };
    for (ours, theirs) in [(true, false), (false, true), (false, false)] {
        let (mut a, mut b) = ShmQueuePair::pair_of(&config(ours), &config(theirs)).unwrap();
        for _ in 0..10 {
            assert!(a.lend(&pattern(LEN)).is_none() && b.lend(&pattern(LEN)).is_none());
            assert_eq!((a.poll(&mut [NONE]).unwrap(), b.poll(&mut [NONE]).unwrap()), (0, 0));
        }
        // A peer that lends all the same gets nowhere.
        let from = RemoteAddr { addr: 4096, rkey: 1 << 31 };
        let target = a.register(100, Access::ReadTarget).unwrap();
        post_read(&mut a, &target, 0, 100, from).unwrap();
        let status = end_of_read(&mut a);
        assert_eq!(status, Status::RemoteAccess, "{ours} {theirs}");
    }
    let (mut a, mut b) = ShmQueuePair::pair_of(&config(true), &config(true)).unwrap();
    assert!(a.lend(&pattern(LEN)).is_some() && b.lend(&pattern(LEN)).is_some());
}

#[test]
fn an_address_where_nothing_is_fails_this_connection_and_says_so() {
    let ((mut lender, mut reader), (mut other_lender, mut other_reader)) = (pair(), pair());
    let bytes = pattern(LEN);
    let lent = lender.lend(&bytes).unwrap();
    let target = reader.register(LEN, Access::ReadTarget).unwrap();
    post_read(&mut reader, &target, 0, LEN, RemoteAddr { addr: 4096, ..lent }).unwrap();
    assert_eq!(end_of_read(&mut reader), Status::RemoteAccess);
    let error = end_of(&mut reader);
    assert!(error.contains("0x1000") && error.contains("address"), "{error}");
    assert!(end_of(&mut lender).contains("outside our registered memory"));
    assert!(lender.lend(&bytes).is_none(), "a failed queue pair lends nothing");

    let lent = other_lender.lend(&bytes).unwrap();
    let target = other_reader.register(LEN, Access::ReadTarget).unwrap();
    post_read(&mut other_reader, &target, 0, LEN, lent).unwrap();
    assert_eq!(end_of_read(&mut other_reader), Status::Success);

    let (mut lender, mut reader) = pair();
    let target = reader.register(LEN, Access::ReadTarget).unwrap();
    let beyond = lender.lend(&bytes).map(|lent| RemoteAddr { addr: u64::MAX - 10, ..lent });
    post_read(&mut reader, &target, 0, LEN, beyond.unwrap()).unwrap();
    assert_eq!(end_of_read(&mut reader), Status::RemoteAccess);
}

#[test]
fn lent_memory_is_read_into_local_memory_inside_its_bounds_only() {
    let (mut lender, mut reader) = pair();
    let lent = lender.lend(&pattern(LEN)).unwrap();
    for access in [Access::RemoteRead, Access::RemoteWrite] {
        let target = reader.register(LEN, access).unwrap();
        let refused = post_read(&mut reader, &target, 0, LEN, lent);
        assert!(matches!(refused, Err(PostError::Verb(_))), "{access:?}");
    }
    let target = reader.register(LEN, Access::ReadTarget).unwrap();
    assert!(matches!(post_read(&mut reader, &target, 1, LEN, lent), Err(PostError::Verb(_))));
    // Lent memory is no region: it can only be READ.
    let from = Some(Local { region: &target, offset: 0, len: 8 });
    let op = Op::Write { from, to: lent, imm: None };
    reader.post_send(&[WorkRequest { id: 7, op, signaled: true }]).unwrap();
    assert_eq!(end_of_read(&mut reader), Status::RemoteAccess);
}

/// Memory that is overwritten when it is freed, and calls back at that moment.
struct Doomed {
    bytes: Vec<u8>,
    when_freed: Box<dyn FnMut() + Send>,
}

impl AsRef<[u8]> for Doomed {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Doomed {
    fn drop(&mut self) {
        self.bytes.fill(FREED);
        (self.when_freed)();
    }
}

/// At the very moment the lender frees, the peer can see that it must not believe what it reads.
#[test]
fn a_read_of_memory_that_is_just_being_freed_does_not_succeed() {
    type End = fn(ShmQueuePair);
    let ends: [(&str, End); 3] = [
        ("failed", |mut lender| lender.fail()),
        ("dropped", drop),
        ("failed by a request", |mut lender| {
            let to = RemoteAddr { addr: 0, rkey: 5 };
            let op = Op::WriteWord { word: 1, to };
            lender.post_send(&[WorkRequest { id: 1, op, signaled: false }]).unwrap();
        }),
    ];
    for (name, end) in ends {
        let (mut lender, mut reader) = pair();
        let target = reader.register(LEN, Access::ReadTarget).unwrap();
        let reader = Arc::new(Mutex::new((reader, target)));
        let (shared, freed) = (Arc::clone(&reader), Arc::new(AtomicBool::new(false)));
        let (seen, at) = (Arc::clone(&freed), Arc::new(Mutex::new(None)));
        let from = Arc::clone(&at);
        let when_freed = move || {
            let (reader, target) = &mut *shared.lock().unwrap();
            post_read(reader, target, 0, LEN, from.lock().unwrap().unwrap()).unwrap();
            // The bytes may be there: what counts is that nobody is told that they are good.
            assert_eq!(end_of_read(reader), Status::Flushed, "{name}");
            seen.store(true, Ordering::SeqCst);
        };
        let when_freed = Box::new(when_freed);
        let bytes = Bytes::from_owner(Doomed { bytes: vec![1; LEN], when_freed });
        *at.lock().unwrap() = Some(lender.lend(&bytes).unwrap());
        drop(bytes);
        end(lender);
        assert!(freed.load(Ordering::SeqCst), "{name}: the lending ended with the queue pair");
    }
}

#[test]
fn a_read_under_way_when_the_lender_goes_does_not_succeed() {
    let config = ShmConfig { slice_bytes: 4096, ..Default::default() };
    for fail in [true, false] {
        let (mut lender, mut reader) = ShmQueuePair::pair(&config).unwrap();
        let target = reader.register(LEN, Access::ReadTarget).unwrap();
        let bytes = Doomed { bytes: vec![1; LEN], when_freed: Box::new(|| {}) };
        let lent = lender.lend(&Bytes::from_owner(bytes)).unwrap();
        post_read(&mut reader, &target, 0, LEN, lent).unwrap();
        assert_eq!(reader.poll(&mut [NONE]).unwrap(), 0, "two of 64 slices are there");
        if fail {
            lender.fail();
        } else {
            drop(lender);
        }
        assert_eq!(end_of_read(&mut reader), Status::Flushed);
        let error = end_of(&mut reader);
        let expected = if fail { "to the error state" } else { "closed its queue pair" };
        assert!(error.contains(expected), "{error}");
    }
}

/// Lenders that go at any moment, while readers read without looking: what is said to be good is.
#[test]
fn no_read_that_races_with_the_end_of_its_lender_brings_wrong_bytes() {
    const ROUNDS: u32 = 400;
    let (mut good, mut flushed) = (0, 0);
    for round in 0..ROUNDS {
        let (mut lender, mut reader) = pair();
        let target = reader.register(LEN, Access::ReadTarget).unwrap();
        let doomed = Doomed { bytes: vec![1; LEN], when_freed: Box::new(|| {}) };
        let lent = lender.lend(&Bytes::from_owner(doomed)).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                std::thread::sleep(Duration::from_micros(u64::from(round % 40) * 5));
                drop(lender);
            });
            while post_read(&mut reader, &target, 0, LEN, lent).is_ok() {
                match end_of_read(&mut reader) {
                    Status::Success => {
                        assert!(target.bytes().iter().all(|&b| b == 1), "round {round}");
                        good += 1;
                    }
                    status => {
                        assert_eq!(status, Status::Flushed, "round {round}");
                        flushed += 1;
                        break;
                    }
                }
            }
        });
    }
    println!("{good} READs succeeded, {flushed} did not");
    assert_eq!(flushed, ROUNDS);
}

fn read_lent(qp: &mut ShmQueuePair, bytes: &[u8]) -> Status {
    let target = qp.register(bytes.len(), Access::ReadTarget).unwrap();
    let from = RemoteAddr { addr: bytes.as_ptr().addr() as u64, rkey: 1 << 31 };
    post_read(qp, &target, 0, bytes.len(), from).unwrap();
    let status = end_of_read(qp);
    assert!(status != Status::Success || target.bytes() == bytes);
    status
}

#[test]
fn a_peer_that_did_not_read_our_mark_is_lent_nothing_and_works_on() {
    let bytes = Bytes::from(vec![7; 100]);
    let mark = mark::own().unwrap().bytes();
    let mut wrong = mark;
    wrong[15] ^= 0x80;
    for (told, is_lent) in [(None, false), (Some(wrong), false), (Some(mark), true)] {
        let (mut qp, mut liar) = victim_and_liar();
        if let Some(mark) = told {
            liar.tell(Message::Seen { mark }, &[]);
        }
        assert_eq!(qp.lend(&bytes).is_some(), is_lent, "{told:02x?}");
        assert_eq!(qp.poll(&mut [NONE; 4]).unwrap(), 0);
        assert_eq!(qp.lend(&bytes).is_some(), is_lent, "{told:02x?}");
        // Whoever guessed wrong may not guess on.
        liar.tell(Message::Seen { mark }, &[]);
        if told.is_some() {
            assert!(end_of(&mut qp).contains("a second time"));
            assert!(qp.lend(&bytes).is_none());
        }
    }
    assert!(Lendings::new(false).seen(&mark).unwrap_err().contains("not told of"));
}

#[test]
fn a_peer_that_lies_about_its_mark_or_changes_it_is_not_read() {
    let bytes = [9; 5000];
    for nowhere in [0, 1, 4096, u64::MAX] {
        let (mut qp, _liar) = victim_of_mark_at(nowhere);
        assert_eq!(qp.poll(&mut [NONE]).unwrap(), 0, "the connection is good without");
        assert_eq!(read_lent(&mut qp, &bytes), Status::RemoteAccess);
    }
    let mut page = OwnedMapping::new(Mapping::private(64).unwrap());
    let (mut qp, _liar) = victim_of_mark_at(page.mapping().at(0, 64).addr() as u64);
    assert_eq!(read_lent(&mut qp, &bytes), Status::Success);
    page.bytes_mut()[0] = 1;
    assert_eq!(read_lent(&mut qp, &bytes), Status::Flushed);
    assert!(end_of(&mut qp).contains("the peer's process is gone"));
}
