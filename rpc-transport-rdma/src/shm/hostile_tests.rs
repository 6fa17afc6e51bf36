//! A peer that lies, scribbles and floods. It has the real socket, control block and eventfd of
//! the other side, and does with them what no queue pair of ours would.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::config::ShmConfig;
use super::control::{ControlBlock, block_bytes};
use super::cross_read::MARK_BYTES;
use super::fdpass::tests::socket_pair;
use super::fdpass::{self, Hello, Incoming, Message, Sent, TOKEN_BYTES};
use super::mapping::Mapping;
use super::mark;
use super::memfd::{self, OfferedMemfd};
use super::notify;
use super::peer::Peer;
use super::qp::{Parts, ShmQueuePair};
use crate::verbs::{
    Access, Completed, Completion, Local, Op, PostError, QueuePair, Region, RemoteAddr, Status,
    WorkRequest,
};

const DEPTH: u32 = 16;
const NONE: Completion =
    Completion { what: Completed::Receive { imm: 0 }, status: Status::Success };

/// The liar's side of a connection.
pub(super) struct Liar {
    socket: OwnedFd,
    /// The victim's control block.
    victim: ControlBlock,
    victim_event: OwnedFd,
    /// The block the victim takes for its peer's.
    own: ControlBlock,
    messages: u64,
}

fn block() -> (ControlBlock, ControlBlock) {
    let (ours, fd) = Mapping::for_both(block_bytes(DEPTH)).unwrap();
    let offered = OfferedMemfd::check(fd, block_bytes(DEPTH)).unwrap();
    let theirs = Mapping::of_peer(&offered, true).unwrap();
    (ControlBlock::new(ours, DEPTH), ControlBlock::new(theirs, DEPTH))
}

pub(super) fn victim_and_liar() -> (ShmQueuePair, Liar) {
    victim_of_mark_at(mark::own().unwrap().address())
}

/// The liar's mark is where it says, or is not.
pub(super) fn victim_of_mark_at(mark_at: u64) -> (ShmQueuePair, Liar) {
    let config = ShmConfig {
        receive_depth: DEPTH,
        max_peer_regions: 8,
        max_peer_bytes: 1 << 20,
        receiver_not_ready_timeout: Duration::from_millis(100),
        probe_interval: Duration::from_millis(1),
        ..Default::default()
    };
    let (socket, liar_socket) = socket_pair();
    let ((own, victim), (liar_own, peer)) = (block(), block());
    let (own_event, peer_event) = (notify::new_event().unwrap(), notify::new_event().unwrap());
    let victim_event = own_event.try_clone().unwrap();
    let peer_hello = Hello {
        token: [0; TOKEN_BYTES],
        receive_depth: DEPTH,
        max_regions: 4096,
        max_bytes: u64::MAX,
        mark_at,
    };
    let peer_name = "a liar".into();
    let qp = ShmQueuePair::new(Parts {
        config,
        own,
        own_event,
        peer,
        peer_event,
        peer_hello,
        showed_mark: true,
        peer_memory: Peer::this_process().memory(mark_at),
        socket,
        peer_name,
    });
    let liar = Liar { socket: liar_socket, victim, victim_event, own: liar_own, messages: 0 };
    (qp, liar)
}

impl Liar {
    pub(super) fn tell(&mut self, message: Message, fds: &[BorrowedFd<'_>]) {
        assert_eq!(fdpass::send(&self.socket, &message, fds), Sent::Yes);
        self.messages += 1;
        self.own.announcements().store(self.messages, Ordering::Release);
        self.own.announced().store(self.messages, Ordering::Release);
    }

    fn send_raw(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> rustix::io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        rustix::net::sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut control, flags)
    }
}

/// Polls the victim until it reports its end.
pub(super) fn end_of(qp: &mut ShmQueuePair) -> String {
    let give_up = Instant::now() + Duration::from_secs(10);
    let mut into = [NONE; 4];
    loop {
        match qp.poll(&mut into) {
            Err(error) => return error.to_string(),
            Ok(_) => assert!(Instant::now() < give_up, "the lie was not noticed"),
        }
    }
}

fn sealed(len: usize) -> OwnedFd {
    let fd = memfd::create(len).unwrap();
    memfd::seal(&fd).unwrap();
    fd
}

fn key(generation: u32, slot: u32) -> u32 {
    generation << 12 | slot
}

fn offer(rkey: u32, len: u64) -> Message {
    Message::Offer { rkey, access: Access::RemoteWrite, len }
}

#[test]
fn an_honest_offer_works_with_this_setup() {
    let (mut qp, mut liar) = victim_and_liar();
    let fd = sealed(64);
    liar.tell(offer(key(1, 3), 64), &[fd.as_fd()]);
    let to = RemoteAddr { addr: u64::from(key(1, 3)) << 32, rkey: key(1, 3) };
    let request = WorkRequest { id: 1, op: Op::WriteWord { word: 7, to }, signaled: true };
    qp.post_send(&[request]).unwrap();
    let mut into = [NONE; 4];
    assert_eq!(qp.poll(&mut into).unwrap(), 1);
    assert_eq!(into[0].status, Status::Success);
}

#[test]
fn lying_offers_end_the_queue_pair() {
    type Lie = (&'static str, u64, fn() -> OwnedFd);
    let lies: [Lie; 5] = [
        ("truncated", 4096, || memfd::create(4096).unwrap()),
        ("4096 bytes", 5000, || sealed(4096)),
        ("no memfd", 8, || notify::new_event().unwrap()),
        ("it may", (1 << 20) + 1, || sealed(4096)),
        ("of 0 bytes", 0, || sealed(4096)),
    ];
    for (name, len, fd) in lies {
        let (mut qp, mut liar) = victim_and_liar();
        let fd = fd();
        liar.tell(offer(key(1, 0), len), &[fd.as_fd()]);
        let error = end_of(&mut qp);
        assert!(error.contains(name), "{name}: {error}");
        assert!(liar.victim.state().load(Ordering::Acquire) != 0, "the peer is told");
    }
    let (mut qp, mut liar) = victim_and_liar();
    let fd = sealed(64);
    for slot in 0..9 {
        liar.tell(offer(key(1, slot), 64), &[fd.as_fd()]);
    }
    assert!(end_of(&mut qp).contains("impossible rkey"), "the ninth of eight regions");
}

#[test]
fn garbage_on_the_socket_ends_the_queue_pair() {
    let hello = Message::Hello(Hello {
        token: [0; TOKEN_BYTES],
        receive_depth: 1,
        max_regions: 1,
        max_bytes: 1,
        mark_at: 0,
    });
    let (mut qp, mut liar) = victim_and_liar();
    let event = notify::new_event().unwrap();
    liar.tell(hello, &[event.as_fd(), event.as_fd()]);
    assert!(end_of(&mut qp).contains("second hello"));

    let (mut qp, mut liar) = victim_and_liar();
    liar.tell(Message::Revoke { rkey: 9 }, &[]);
    assert!(end_of(&mut qp).contains("had not offered"));

    for bytes in [&[][..], &[9], &[2, 0], &[1; 42], &[0xFF; 60_000]] {
        let (mut qp, liar) = victim_and_liar();
        liar.send_raw(bytes, &[]).unwrap();
        let error = end_of(&mut qp);
        let expected = if bytes.is_empty() { "is gone" } else { "broke the rules" };
        assert!(error.contains(expected), "{} bytes: {error}", bytes.len());
    }
}

/// Descriptors of this process that are the memfd called `name`.
fn descriptors_of(name: &str) -> usize {
    let links = std::fs::read_dir("/proc/self/fd").unwrap();
    let paths = links.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    paths.filter(|path| path.to_string_lossy().contains(name)).count()
}

#[test]
fn a_flood_of_descriptors_leaks_none() {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let fd = rustix::fs::memfd_create("a-flood-of-descriptors", flags).unwrap();
    let name = "a-flood-of-descriptors";
    for count in [1, 2, 3, 253] {
        for bytes in [&[3, 0, 0, 0, 0][..], &[2; 14], &[7]] {
            let (mut qp, liar) = victim_and_liar();
            while liar.send_raw(bytes, &vec![fd.as_fd(); count]).is_ok() {}
            end_of(&mut qp);
            drop((qp, liar));
            // Descriptors still in the socket are closed by the kernel a moment after it.
            assert_eq!(descriptors_of(name), 1, "{count} descriptors with {bytes:?}");
        }
    }
}

#[test]
fn scribbled_control_words_end_the_queue_pair() {
    type Scribble = fn(&Liar);
    let scribbles: [(&str, Scribble); 5] = [
        ("which nobody posts", |liar| liar.victim.entries()[0].store(77, Ordering::Release)),
        ("which nobody posts", |liar| liar.victim.entries()[0].store(u64::MAX, Ordering::Release)),
        ("posted receives", |liar| liar.own.receives_posted().store(u64::MAX, Ordering::Release)),
        ("socket messages", |liar| liar.own.announced().store(u64::MAX, Ordering::Release)),
        ("state word holds 99", |liar| liar.own.state().store(99, Ordering::Release)),
    ];
    for (name, scribble) in scribbles {
        let (mut qp, liar) = victim_and_liar();
        qp.post_receives(4).unwrap();
        scribble(&liar);
        let send = WorkRequest { id: 1, op: Op::Send { word: 1 }, signaled: true };
        qp.post_send(&[send]).unwrap();
        let error = end_of(&mut qp);
        assert!(error.contains(name), "{name}: {error}");
        assert!(matches!(qp.post_receives(1), Err(PostError::Failed)));
    }
}

#[test]
fn scribbling_over_what_we_wrote_confuses_nobody() {
    let (mut qp, liar) = victim_and_liar();
    qp.post_receives(2).unwrap();
    for value in [0, 1, u64::MAX] {
        liar.victim.receives_posted().store(value, Ordering::Release);
        liar.victim.state().store(value, Ordering::Release);
        liar.victim.announcements().store(value, Ordering::Release);
        liar.victim.armed().store(value, Ordering::Release);
        liar.own.armed().store(value, Ordering::Release);
        assert_eq!(qp.poll(&mut [NONE; 4]).unwrap(), 0);
    }
    qp.post_receives(1).unwrap();
    assert_eq!(liar.victim.receives_posted().load(Ordering::Acquire), 3);
}

#[test]
fn an_rkey_that_never_comes_fails_after_the_timeout_and_an_unknown_one_at_once() {
    let to = RemoteAddr { addr: u64::from(key(1, 0)) << 32, rkey: key(1, 0) };
    let request = || WorkRequest { id: 1, op: Op::WriteWord { word: 7, to }, signaled: false };
    let (mut qp, liar) = victim_and_liar();
    liar.own.announcements().store(1, Ordering::Release);
    let start = Instant::now();
    qp.post_send(&[request()]).unwrap();
    let mut into = [NONE; 4];
    while qp.poll(&mut into).unwrap() == 0 {}
    assert_eq!(into[0].status, Status::RetryExceeded);
    assert!(start.elapsed() >= Duration::from_millis(100));

    let (mut qp, _liar) = victim_and_liar();
    qp.post_send(&[request()]).unwrap();
    assert_eq!(qp.poll(&mut into).unwrap(), 1);
    assert_eq!(into[0].status, Status::RemoteAccess);
}

#[test]
fn an_offer_that_comes_late_lets_the_request_go() {
    let (mut qp, mut liar) = victim_and_liar();
    liar.own.announcements().store(1, Ordering::Release);
    let to = RemoteAddr { addr: u64::from(key(1, 0)) << 32, rkey: key(1, 0) };
    let request = WorkRequest { id: 1, op: Op::WriteWord { word: 7, to }, signaled: true };
    qp.post_send(&[request]).unwrap();
    assert_eq!(qp.poll(&mut [NONE; 4]).unwrap(), 0);
    let fd = sealed(8);
    liar.tell(offer(key(1, 0), 8), &[fd.as_fd()]);
    let mut into = [NONE; 4];
    assert_eq!(qp.poll(&mut into).unwrap(), 1);
    assert_eq!(into[0].status, Status::Success);
}

#[tokio::test]
async fn a_wait_notices_garbage_at_once_and_survives_a_storm_of_wake_ups() {
    let (mut qp, liar) = victim_and_liar();
    for _ in 0..100 {
        rustix::io::write(&liar.victim_event, &1_u64.to_ne_bytes()).unwrap();
        let _ = qp.poll_event(&mut Context::from_waker(Waker::noop()));
        assert_eq!(qp.poll(&mut [NONE; 4]).unwrap(), 0);
    }
    liar.send_raw(&[9], &[]).unwrap();
    let error = tokio::time::timeout(Duration::from_secs(5), async {
        loop {
            if let Err(error) = std::future::poll_fn(|cx| qp.poll_event(cx)).await {
                break error;
            }
            if let Err(error) = qp.poll(&mut [NONE; 4]) {
                break error;
            }
        }
    });
    assert!(error.await.expect("noticed").to_string().contains("broke the rules"));
    let polled = qp.poll_event(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(polled, Poll::Ready(Err(_))), "it stays failed");
}

#[test]
fn a_peer_that_takes_no_offers_gives_back_pressure_not_growth() {
    let (mut qp, liar) = victim_and_liar();
    let mut registered = 0;
    let error = loop {
        match qp.register(8, Access::RemoteWrite) {
            Ok(region) => drop(region),
            Err(error) => break error,
        }
        registered += 1;
        assert!(registered < 100_000, "no bound");
    };
    assert_eq!(error.errno, rustix::io::Errno::AGAIN.raw_os_error(), "{error}");
    // Once the peer reads, offers and withdrawals flow again, in order.
    let mut open = std::collections::HashSet::new();
    for _ in 0..registered {
        while let Incoming::Message(message, _) = fdpass::receive(&liar.socket) {
            match message {
                Message::Offer { rkey, .. } => assert!(open.insert(rkey)),
                Message::Revoke { rkey } => assert!(open.remove(&rkey)),
                Message::Seen { .. } => {}
                Message::Hello(_) => panic!("a hello"),
            }
        }
        qp.poll(&mut [NONE; 4]).unwrap();
    }
    assert!(open.is_empty());
    assert_eq!(qp.register(8, Access::RemoteWrite).unwrap().len(), 8);
}

/// A small generator, so that a failing run can be had again by its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    /// Small values, values that look right, and anything.
    fn word(&mut self) -> u64 {
        match self.below(4) {
            0 => self.below(4),
            1 => 1 << 56 | (1 + self.below(20)) << 32 | self.below(9),
            2 => u64::MAX - self.below(4),
            _ => self.0,
        }
    }
}

/// One random lie.
fn lie(liar: &mut Liar, random: &mut Random, memory: &OwnedFd) {
    let word = random.word();
    let entry = random.below(DEPTH.into()) as usize;
    match random.below(13) {
        0 => liar.victim.entries()[entry].store(word, Ordering::Release),
        1 => liar.own.receives_posted().store(word, Ordering::Release),
        2 => liar.own.announced().store(word, Ordering::Release),
        3 => liar.own.announcements().store(word, Ordering::Release),
        4 if random.below(8) == 0 => liar.own.state().store(word, Ordering::Release),
        5 => liar.victim.armed().store(word, Ordering::Release),
        6 => liar.own.armed().store(word, Ordering::Release),
        7 => liar.victim.receives_posted().store(word, Ordering::Release),
        8 => {
            let bytes: Vec<u8> = (0..random.below(50)).map(|_| random.word() as u8).collect();
            let fds = vec![memory.as_fd(); random.below(4) as usize];
            let _ = liar.send_raw(&bytes, &fds);
        }
        9 => {
            let rkey = key(1 + random.below(2) as u32, random.below(9) as u32);
            let _ = fdpass::send(&liar.socket, &offer(rkey, 64), &[memory.as_fd()]);
        }
        10 => {
            let rkey = key(1 + random.below(2) as u32, random.below(9) as u32);
            let _ = fdpass::send(&liar.socket, &Message::Revoke { rkey }, &[]);
        }
        11 => {
            let mark =
                if word.is_multiple_of(2) { mark::own().unwrap().bytes() } else { [0; MARK_BYTES] };
            let _ = fdpass::send(&liar.socket, &Message::Seen { mark }, &[]);
        }
        _ => {
            let receives = liar.own.receives_posted();
            receives.store(receives.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
        }
    }
}

#[test]
fn random_lies_never_panic_and_everything_posted_completes() {
    let seed = std::env::var("SHM_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| u64::from(std::process::id()) << 20 | 1);
    println!("replay with SHM_SEED={seed}");
    let mut random = Random(seed);
    let memory = sealed(64);
    for _ in 0..300 {
        let (mut qp, mut liar) = victim_and_liar();
        let region = qp.register(64, Access::RemoteWrite).unwrap();
        let target = qp.register(64, Access::ReadTarget).unwrap();
        let lent = Bytes::from(vec![1; 64]);
        let (mut posted, mut completed, mut failed) = (0_u64, 0_u64, false);
        let mut into = [NONE; 8];
        for step in 0..200 {
            lie(&mut liar, &mut random, &memory);
            let rkey = key(1, random.below(9) as u32);
            let to = RemoteAddr { addr: u64::from(rkey) << 32 | random.below(70) & !7, rkey };
            if let Some(at) = qp.lend(&lent).filter(|_| random.below(2) == 0) {
                qp.take_back(at);
            }
            let op = match random.below(4) {
                3 => {
                    // Mostly where there is something: else the queue pair ends at once.
                    let there = lent.as_ptr().addr() as u64;
                    let addr = if random.below(4) == 0 { random.word() } else { there };
                    let into = Local { region: &target, offset: 0, len: 64 };
                    Op::Read { into, from: RemoteAddr { addr, rkey: 1 << 31 } }
                }
                0 => Op::WriteWord { word: step, to },
                1 => Op::Send { word: 1 },
                _ => {
                    let from = Some(Local { region: &region, offset: 0, len: 8 });
                    Op::Write { from, to, imm: Some(1) }
                }
            };
            let request = WorkRequest { id: step, op, signaled: true };
            posted += u64::from(qp.post_send(&[request]).is_ok());
            posted += 2 * u64::from(qp.post_receives(2).is_ok());
            match qp.poll(&mut into) {
                Ok(count) => completed += count as u64,
                Err(_) => failed = true,
            }
        }
        qp.fail();
        while !failed {
            match qp.poll(&mut into) {
                Ok(count) => completed += count as u64,
                Err(_) => failed = true,
            }
        }
        assert_eq!(posted, completed, "seed {seed}");
    }
}
