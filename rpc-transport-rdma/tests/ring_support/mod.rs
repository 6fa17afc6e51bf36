//! Two ring links over the simulator, each driven by an owner that is polled only when it was
//! woken, so that a lost wake-up shows as a stall.

#![allow(dead_code, unreachable_pub)] // each test file uses a part

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use rdma_rpc_core::link::{BulkDescriptor, FrameSink, Link, LinkError, Received};
use rdma_rpc_transport_rdma::ring::{PoolLimits, RingConfig, RingLink, RingUsage};
use rdma_rpc_transport_rdma::sim::{Fabric, Rng, SimConfig, SimEnd, SimQueuePair};

/// A link over the simulator.
pub type SimLink = RingLink<SimQueuePair>;

/// Counts wakes.
#[derive(Debug, Default)]
pub struct Alarm {
    wakes: AtomicU64,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wakes.fetch_add(1, Ordering::Relaxed);
    }
}

impl Alarm {
    /// Whether it was woken since it was last asked.
    pub fn take(&self) -> bool {
        self.wakes.swap(0, Ordering::Relaxed) > 0
    }
}

/// A configuration for small rings.
pub fn small_config() -> RingConfig {
    let pool = PoolLimits { max_bytes: 1 << 20, max_idle_bytes: 1 << 19, max_buffers: 8 };
    RingConfig {
        transport: "rdma",
        peer: "peer".into(),
        ring_bytes: 16 * 1024,
        receive_depth: 64,
        bulk_threshold_bytes: 4096,
        cached_frames_bytes: 0,
        long_frame_bytes: 1024,
        max_bulk_bytes: 256 * 1024,
        send_pool: pool,
        receive_pool: pool,
        read_piece_bytes: 16 * 1024,
        reads_in_flight: 4,
        pulls_in_flight: 4,
    }
}

/// Joins two ends. `first_connects`: which end hears the other's hello first is up to the caller.
pub fn join(one: SimEnd, two: SimEnd, configs: [RingConfig; 2]) -> [SimLink; 2] {
    let [first, second] = configs;
    let one = RingLink::prepare(one.queue_pair, Some(Box::new(one.liveness)), first).unwrap();
    let two = RingLink::prepare(two.queue_pair, Some(Box::new(two.liveness)), second).unwrap();
    let (hello_one, hello_two) = (one.hello(), two.hello());
    [one.connect(&hello_two).unwrap(), two.connect(&hello_one).unwrap()]
}

/// Two joined links on default devices.
pub fn linked(seed: u64) -> (Fabric, [SimLink; 2]) {
    linked_on(seed, SimConfig::default(), small_config())
}

/// Two joined links on given devices.
pub fn linked_on(seed: u64, device: SimConfig, config: RingConfig) -> (Fabric, [SimLink; 2]) {
    let fabric = Fabric::new(seed);
    let (one, two) = fabric.pair(device, device);
    let links = join(one, two, [config.clone(), config]);
    (fabric, links)
}

/// Runs the fabric for so many steps.
pub fn steps(fabric: &Fabric, count: usize) {
    for _ in 0..count {
        fabric.step();
    }
}

/// A device without chance: everything that can happen in a step does.
pub fn calm() -> SimConfig {
    SimConfig {
        execute: 999,
        place: 999,
        complete: 999,
        show: 999,
        wake_spuriously: 0,
        ..SimConfig::default()
    }
}

/// A frame that its number and length determine.
pub fn numbered(number: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fill(&mut bytes, 0, number);
    bytes
}

/// Moves everything that can move, until nothing does; the frames each side got.
pub fn settle(fabric: &Fabric, links: &mut [SimLink; 2]) -> [Vec<Vec<u8>>; 2] {
    let mut got = [Vec::new(), Vec::new()];
    for _ in 0..20 {
        for (link, got) in links.iter_mut().zip(&mut got) {
            link.flush().unwrap();
            while let Some(frame) = take(link).unwrap() {
                got.push(frame);
            }
        }
        steps(fabric, 10);
    }
    got
}

/// Nothing that the device counts as a mistake of its user.
pub fn assert_no_rule_broken(fabric: &Fabric) {
    let stats = fabric.stats();
    assert_eq!(stats.receiver_not_ready, 0);
    assert_eq!(stats.source_changed, 0);
    assert_eq!(stats.region_dropped_in_use, 0);
    assert_eq!(stats.access_refused, 0);
}

/// Puts a frame into a link; `false` if there is no room.
pub fn put(link: &mut SimLink, bytes: &[u8]) -> bool {
    match link.reserve(bytes.len()).unwrap() {
        None => false,
        Some(frame) => {
            frame.copy_from_slice(bytes);
            link.commit();
            true
        }
    }
}

/// Takes a frame out of a link.
pub fn take(link: &mut SimLink) -> Result<Option<Vec<u8>>, LinkError> {
    Ok(match link.receive()? {
        None => None,
        Some(Received::Frame(frame)) => Some(frame.to_vec()),
        Some(Received::Owned(frame)) => Some(frame.to_vec()),
        Some(other) => panic!("not a frame: {other:?}"),
    })
}

/// The bytes of a message, from its number and its sender.
pub fn fill(bytes: &mut [u8], sender: u64, number: u64) {
    let mut rng = Rng::new(sender << 32 | number);
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&rng.bits().to_le_bytes()[..chunk.len()]);
    }
}

fn check(bytes: &[u8], sender: u64, number: u64, what: &str) {
    let mut expected = vec![0; bytes.len()];
    fill(&mut expected, sender, number);
    if let Some(at) = (0..bytes.len()).find(|&i| bytes[i] != expected[i]) {
        panic!(
            "{what} {number} of side {sender}: byte {at} of {} is {:#x}, not {:#x}",
            bytes.len(),
            bytes[at],
            expected[at]
        );
    }
}

/// What an owner sends next.
#[derive(Debug, Clone, Copy)]
pub enum Message {
    /// A frame with so many random bytes.
    Frame(usize),
    /// A bulk message of so many bytes.
    Bulk(usize),
}

const FRAME: u8 = 0;
const BULK: u8 = 1;
const DONE: u8 = 2;

/// Owner of one end: sends a list of messages, checks the other's, pulls and releases.
pub struct Owner {
    pub side: u64,
    pub link: Option<SimLink>,
    pub alarm: Arc<Alarm>,
    waker: Waker,
    to_send: VecDeque<Message>,
    sent: u64,
    /// A bulk message whose descriptor has found no room yet.
    described: Option<(BulkDescriptor, usize)>,
    /// Descriptors to give back to the peer.
    to_release: VecDeque<BulkDescriptor>,
    /// Bulk messages the peer has described and that wait to be pulled.
    to_pull: VecDeque<(u64, BulkDescriptor, usize)>,
    pulling: Vec<(u64, BulkDescriptor, usize)>,
    held: Vec<Bytes>,
    pub received: u64,
    pub to_receive: u64,
    next_frame: u64,
    nap_until: u64,
    /// Chance per mille to read no more and to nap.
    slow: u32,
    /// Runs at every step and never calls `poll_ready`.
    busy: bool,
    pub closing: bool,
    pub ended: Option<Result<(), LinkError>>,
    /// What the link held when it ended.
    pub last_usage: Option<RingUsage>,
    rng: Rng,
}

impl Owner {
    pub fn new(
        side: u64,
        link: SimLink,
        to_send: Vec<Message>,
        to_receive: usize,
        seed: u64,
    ) -> Owner {
        let alarm = Arc::new(Alarm::default());
        let mut rng = Rng::new(seed ^ (side + 1) << 40);
        let slow = rng.pick(&[0, 0, 50, 300, 700]);
        Owner {
            side,
            link: Some(link),
            waker: Waker::from(alarm.clone()),
            alarm,
            to_send: to_send.into(),
            sent: 0,
            described: None,
            to_release: VecDeque::new(),
            to_pull: VecDeque::new(),
            pulling: Vec::new(),
            held: Vec::new(),
            received: 0,
            to_receive: to_receive as u64,
            next_frame: 0,
            nap_until: 1,
            slow,
            busy: rng.chance(200),
            closing: false,
            ended: None,
            last_usage: None,
            rng,
        }
    }

    /// Whether the owner would run at this step.
    pub fn is_due(&mut self, now: u64) -> bool {
        if self.link.is_none() || now < self.nap_until {
            return false;
        }
        // A nap ends by itself; otherwise only a wake counts, unless the owner spins.
        let napped = std::mem::take(&mut self.nap_until) != 0;
        let woken = self.alarm.take();
        napped || woken || self.spins()
    }

    /// Uses `poll_ready` from now on: only that looks at the bootstrap connection.
    pub fn stop_spinning(&mut self) {
        self.busy = false;
        self.nap_until = 1;
    }

    fn spins(&self) -> bool {
        self.busy && !self.closing
    }

    /// Whether it will run without being woken.
    pub fn naps(&self) -> bool {
        self.link.is_some() && self.nap_until != 0
    }

    /// Everything sent, received, pulled and released.
    pub fn is_satisfied(&self) -> bool {
        let usage = self.link.as_ref().map(SimLink::usage);
        self.to_send.is_empty()
            && self.described.is_none()
            && self.to_release.is_empty()
            && self.received == self.to_receive
            && usage.is_none_or(|u| u.bulk_buffers_busy == 0)
            && self.link.as_ref().is_none_or(|link| !link.has_unsent())
    }

    /// Begins the orderly close at the next turn.
    pub fn close(&mut self) {
        self.closing = true;
        self.nap_until = 1;
    }

    fn nap(&mut self, now: u64, most: u64) {
        self.nap_until = now + 1 + self.rng.below(most);
    }

    /// One turn: all there is to do, until the link says "wait".
    pub fn turn(&mut self, now: u64) {
        let Some(mut link) = self.link.take() else { return };
        match self.run(&mut link, now) {
            Ok(false) => self.link = Some(link),
            Ok(true) => {
                self.held.clear();
                self.last_usage = Some(link.usage());
                self.ended = Some(Ok(()));
            }
            Err(error) => {
                // A dead link stays dead.
                assert!(link.reserve(1).is_err(), "alive after {error}");
                self.held.clear();
                self.last_usage = Some(link.usage());
                self.ended = Some(Err(error));
            }
        }
    }

    fn run(&mut self, link: &mut SimLink, now: u64) -> Result<bool, LinkError> {
        let waker = self.waker.clone();
        let mut cx = Context::from_waker(&waker);
        for _ in 0..64 {
            if self.closing {
                return match link.poll_close(&mut cx) {
                    Poll::Pending => Ok(false),
                    Poll::Ready(result) => result.map(|()| true),
                };
            }
            if self.rng.chance(200) {
                self.held.clear();
            }
            if self.receive(link, now)? || self.send(link, now)? {
                return Ok(false); // napping
            }
            if self.spins() || link.poll_ready(&mut cx)?.is_pending() {
                return Ok(false);
            }
        }
        self.nap(now, 1);
        Ok(false)
    }

    fn receive(&mut self, link: &mut SimLink, now: u64) -> Result<bool, LinkError> {
        loop {
            if self.rng.chance(self.slow) {
                self.nap(now, 60);
                return Ok(true);
            }
            match link.receive()? {
                None => break,
                Some(Received::Frame(frame)) => {
                    let frame = frame.to_vec();
                    self.frame(link, &frame)?;
                }
                Some(Received::Owned(frame)) => self.frame(link, &frame)?,
                Some(Received::Pulled { ticket, message }) => self.pulled(ticket, message),
            }
            while let Some(&(ticket, descriptor, len)) = self.to_pull.front() {
                if !link.bulk_pull(ticket, &descriptor, len)? {
                    break;
                }
                self.pulling.extend(self.to_pull.pop_front());
            }
        }
        while let Some(&(ticket, descriptor, len)) = self.to_pull.front() {
            if !link.bulk_pull(ticket, &descriptor, len)? {
                // Held messages take up the pool: they must go for the pull to begin.
                self.held.clear();
                break;
            }
            self.pulling.extend(self.to_pull.pop_front());
        }
        Ok(false)
    }

    fn frame(&mut self, link: &mut SimLink, frame: &[u8]) -> Result<(), LinkError> {
        let number = u64::from_le_bytes(frame[1..9].try_into().unwrap());
        match frame[0] {
            FRAME => {
                assert_eq!(number, self.next_frame, "order of frames to side {}", self.side);
                check(&frame[9..], 1 - self.side, number, "frame");
                self.next_frame += 1;
                self.received += 1;
            }
            BULK => {
                assert_eq!(number, self.next_frame, "order of frames to side {}", self.side);
                self.next_frame += 1;
                let len = u64::from_le_bytes(frame[9..17].try_into().unwrap()) as usize;
                let descriptor = BulkDescriptor::new(&frame[17..]).unwrap();
                self.to_pull.push_back((number, descriptor, len));
            }
            DONE => link.bulk_release(&BulkDescriptor::new(&frame[9..]).unwrap())?,
            other => panic!("frame of kind {other}"),
        }
        Ok(())
    }

    fn pulled(&mut self, ticket: u64, message: Bytes) {
        let at = self.pulling.iter().position(|(t, ..)| *t == ticket).expect("pulled once");
        let (_, descriptor, len) = self.pulling.swap_remove(at);
        assert_eq!(message.len(), len);
        check(&message, 1 - self.side, ticket, "bulk message");
        self.held.push(message);
        self.to_release.push_back(descriptor);
        self.received += 1;
    }

    fn send(&mut self, link: &mut SimLink, now: u64) -> Result<bool, LinkError> {
        loop {
            if self.rng.chance(100) {
                link.flush()?;
            }
            if self.rng.chance(10) {
                link.flush()?;
                self.nap(now, 40);
                return Ok(true);
            }
            if !self.send_one(link)? {
                break;
            }
        }
        link.flush()?;
        Ok(false)
    }

    /// `false`: nothing to send, or no room.
    fn send_one(&mut self, link: &mut SimLink) -> Result<bool, LinkError> {
        if let Some(descriptor) = self.to_release.front() {
            let mut frame = vec![DONE; 9];
            frame.extend_from_slice(descriptor.as_bytes());
            if !put_or(link, &frame)? {
                return Ok(false);
            }
            self.to_release.pop_front();
            return Ok(true);
        }
        if let Some((descriptor, len)) = self.described {
            let mut frame = vec![BULK];
            frame.extend_from_slice(&self.sent.to_le_bytes());
            frame.extend_from_slice(&(len as u64).to_le_bytes());
            frame.extend_from_slice(descriptor.as_bytes());
            if !put_or(link, &frame)? {
                return Ok(false);
            }
            self.described = None;
            self.sent += 1;
            return Ok(true);
        }
        match self.to_send.front() {
            None => Ok(false),
            Some(&Message::Frame(len)) => {
                let len = len.min(link.limits().max_frame_bytes - 9);
                let Some(frame) = link.reserve(9 + len)? else { return Ok(false) };
                frame[0] = FRAME;
                frame[1..9].copy_from_slice(&self.sent.to_le_bytes());
                fill(&mut frame[9..], self.side, self.sent);
                link.commit();
                self.to_send.pop_front();
                self.sent += 1;
                Ok(true)
            }
            Some(&Message::Bulk(len)) => {
                let len = len.min(link.limits().max_bulk_bytes);
                // Every other one from where it lies, if that can be.
                let lends =
                    link.limits().lend_threshold_bytes.is_some() && self.sent.is_multiple_of(2);
                let lent = if lends {
                    let mut message = vec![0; len];
                    fill(&mut message, self.side, self.sent);
                    link.bulk_lend(&message.into())?
                } else {
                    None
                };
                let descriptor = if let Some(lent) = lent {
                    lent
                } else {
                    let Some(buffer) = link.bulk_reserve(len)? else { return Ok(false) };
                    fill(buffer, self.side, self.sent);
                    link.bulk_commit()
                };
                self.described = Some((descriptor, len));
                self.to_send.pop_front();
                Ok(true)
            }
        }
    }
}

fn put_or(link: &mut SimLink, frame: &[u8]) -> Result<bool, LinkError> {
    let Some(room) = link.reserve(frame.len())? else { return Ok(false) };
    room.copy_from_slice(frame);
    link.commit();
    Ok(true)
}

/// Runs both owners until `until`, and panics when nothing can happen any more before that.
pub fn drive(
    fabric: &Fabric,
    owners: &mut [Owner; 2],
    now: &mut u64,
    until: impl Fn(&[Owner; 2]) -> bool,
) {
    const MOST_STEPS: u64 = 3_000_000;
    let mut quiet_rounds = 0;
    while !until(owners) {
        *now += 1;
        let mut woken = false;
        for owner in owners.iter_mut() {
            if owner.is_due(*now) {
                owner.turn(*now);
                woken |= !owner.spins();
            }
        }
        // Nobody was woken, nothing is on its way, and those who spin or nap find nothing to do.
        if woken || !fabric.is_idle() || until(owners) {
            quiet_rounds = 0;
        } else if !owners.iter().any(Owner::naps) {
            quiet_rounds += 1;
        }
        assert!(quiet_rounds < 200, "stall: {}", describe(fabric, owners));
        fabric.step();
        assert!(*now < MOST_STEPS, "no end after {MOST_STEPS} steps: {}", describe(fabric, owners));
    }
}

fn describe(fabric: &Fabric, owners: &[Owner; 2]) -> String {
    let mut text = format!("{fabric:?}");
    for owner in owners {
        text += &format!(
            "\n side {}: sent {}, left {}, received {} of {}, closing {}, ended {:?}\n  {:?}",
            owner.side,
            owner.sent,
            owner.to_send.len(),
            owner.received,
            owner.to_receive,
            owner.closing,
            owner.ended,
            owner.link
        );
    }
    text
}
