//! The ring on real RDMA devices: frames and bulk messages both ways, tiny queues, full rings,
//! peers that go. Ignored unless asked for; `ibv_support` says what the environment must name.

mod ibv_support;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::time::Duration;

use ibv_support::{PATIENCE, Pattern, World, turn, worker};
use rdma_rpc_core::link::{BulkDescriptor, FrameSink, Link, LinkError, LinkErrorKind, Received};
use rdma_rpc_transport_rdma::ibv::{IbvConfig, IbvQueuePair};
use rdma_rpc_transport_rdma::ring::{PoolLimits, RingConfig, RingLink};

type IbvLink = RingLink<IbvQueuePair>;

fn small_ring(receive_depth: u32) -> RingConfig {
    let pool = PoolLimits { max_bytes: 4 << 20, max_idle_bytes: 1 << 20, max_buffers: 8 };
    RingConfig {
        peer: "peer".into(),
        ring_bytes: 16 * 1024,
        receive_depth,
        bulk_threshold_bytes: 4096,
        max_bulk_bytes: 1 << 20,
        send_pool: pool,
        receive_pool: pool,
        read_piece_bytes: 64 * 1024,
        reads_in_flight: 4,
        pulls_in_flight: 4,
        ..RingConfig::default()
    }
}

async fn links(world: &World, device: &IbvConfig, ring: &RingConfig) -> (IbvLink, IbvLink) {
    let (one, two) = world.pair(device).await;
    let one = RingLink::prepare(one, None, ring.clone()).unwrap();
    let two = RingLink::prepare(two, None, ring.clone()).unwrap();
    let (hello_one, hello_two) = (one.hello(), two.hello());
    (one.connect(&hello_two).unwrap(), two.connect(&hello_one).unwrap())
}

const FRAME: u8 = 0;
const BULK: u8 = 1;
const RELEASE: u8 = 2;

/// One end: sends so many messages, checks as many of the other's.
struct Owner {
    link: IbvLink,
    pattern: Pattern,
    count: u64,
    longest: usize,
    bulk_every: u64,
    sent: u64,
    received: u64,
    described: Option<(BulkDescriptor, u64, usize)>,
    to_release: VecDeque<BulkDescriptor>,
    to_pull: VecDeque<(u64, BulkDescriptor, usize)>,
    pulling: Vec<(u64, BulkDescriptor, usize)>,
    released: u64,
}

impl Owner {
    fn new(link: IbvLink, pattern: &Pattern, count: u64, longest: usize, bulk_every: u64) -> Owner {
        Owner {
            link,
            pattern: pattern.clone(),
            count,
            longest,
            bulk_every,
            sent: 0,
            received: 0,
            described: None,
            to_release: VecDeque::new(),
            to_pull: VecDeque::new(),
            pulling: Vec::new(),
            released: 0,
        }
    }

    fn put(&mut self, parts: &[&[u8]]) -> Result<bool, LinkError> {
        let len = parts.iter().map(|part| part.len()).sum();
        let Some(frame) = self.link.reserve(len)? else { return Ok(false) };
        let mut at = 0;
        for part in parts {
            frame[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        self.link.commit();
        Ok(true)
    }

    fn is_bulk(&self, number: u64) -> bool {
        self.bulk_every > 0 && number % self.bulk_every == self.bulk_every - 1
    }

    fn send(&mut self) -> Result<(), LinkError> {
        while let Some(descriptor) = self.to_release.pop_front() {
            if !self.put(&[&[RELEASE], descriptor.as_bytes()])? {
                self.to_release.push_front(descriptor);
                return Ok(());
            }
        }
        while self.sent < self.count {
            let number = self.sent;
            if let Some((descriptor, number, len)) = self.described {
                let head =
                    [&[BULK][..], &number.to_le_bytes(), &(len as u64).to_le_bytes()].concat();
                if !self.put(&[&head, descriptor.as_bytes()])? {
                    return Ok(());
                }
                self.described = None;
                self.sent += 1;
            } else if self.is_bulk(number) {
                let len = 4097 + (number as usize * 7919) % 900_000;
                let Some(buffer) = self.link.bulk_reserve(len)? else { return Ok(()) };
                buffer.copy_from_slice(self.pattern.of(number, len));
                self.described = Some((self.link.bulk_commit(), number, len));
            } else {
                let len = (number as usize * 977) % self.longest;
                let bytes = self.pattern.clone();
                let head = [&[FRAME][..], &number.to_le_bytes()].concat();
                if !self.put(&[&head, bytes.of(number, len)])? {
                    return Ok(());
                }
                self.sent += 1;
            }
        }
        Ok(())
    }

    fn frame(&mut self, frame: &[u8]) -> Result<(), LinkError> {
        let number = |at: usize| u64::from_le_bytes(frame[at..at + 8].try_into().unwrap());
        match frame[0] {
            FRAME => {
                let number = number(1);
                assert!(frame[9..] == *self.pattern.of(number, frame.len() - 9), "frame {number}");
                self.received += 1;
            }
            BULK => {
                let descriptor = BulkDescriptor::new(&frame[17..]).unwrap();
                self.to_pull.push_back((number(1), descriptor, number(9) as usize));
            }
            RELEASE => {
                self.link.bulk_release(&BulkDescriptor::new(&frame[1..]).unwrap())?;
                self.released += 1;
            }
            other => panic!("a frame of kind {other}"),
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<(), LinkError> {
        loop {
            let frame = match self.link.receive()? {
                None => break,
                Some(Received::Frame(frame)) => frame.to_vec(),
                Some(Received::Owned(frame)) => frame.to_vec(),
                Some(Received::Pulled { ticket, message }) => {
                    let at = self.pulling.iter().position(|(t, ..)| *t == ticket).expect("once");
                    let (number, descriptor, len) = self.pulling.swap_remove(at);
                    assert!(message[..] == *self.pattern.of(number, len), "bulk {number}");
                    self.to_release.push_back(descriptor);
                    self.received += 1;
                    continue;
                }
            };
            self.frame(&frame)?;
        }
        while let Some(&(number, descriptor, len)) = self.to_pull.front() {
            if !self.link.bulk_pull(number, &descriptor, len)? {
                break;
            }
            self.pulling.extend(self.to_pull.pop_front());
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        let bulk = self.count.checked_div(self.bulk_every).unwrap_or(0);
        self.sent == self.count
            && self.received == self.count
            && self.released == bulk
            && self.to_release.is_empty()
            && !self.link.has_unsent()
    }

    /// Everything there and back, asleep between.
    async fn run(mut self) -> Result<Owner, LinkError> {
        while !self.is_done() {
            match self.receive() {
                // The peer was done first, and has closed behind the last of its frames.
                Err(error) if error.kind() == LinkErrorKind::Closed && self.is_done() => break,
                received => received?,
            }
            self.send()?;
            self.link.flush()?;
            if !self.is_done() {
                let ready = poll_fn(|cx| self.link.poll_ready(cx));
                let ready = tokio::time::timeout(PATIENCE, ready).await;
                ready.unwrap_or_else(|_| {
                    panic!("stall: {} sent, {} received: {:?}", self.sent, self.received, self.link)
                })?;
            }
        }
        Ok(self)
    }
}

/// Both ends send and receive, then close in order.
fn exchange(device: &IbvConfig, ring: &RingConfig, count: u64, longest: usize, bulk_every: u64) {
    let _turn = turn();
    let world = World::new();
    let pattern = Pattern::new();
    world.local.block_on(async {
        let (one, two) = links(&world, device, ring).await;
        let one = Owner::new(one, &pattern, count, longest, bulk_every);
        let two = Owner::new(two, &pattern, count, longest, bulk_every);
        let one = world.local.spawn(async move {
            let mut owner = one.run().await.unwrap();
            let closed = poll_fn(|cx| owner.link.poll_close(cx)).await;
            (closed, owner)
        });
        let two = world.peer.spawn(async move {
            let mut owner = two.run().await.unwrap();
            // Until the other one closes.
            loop {
                match owner.link.receive() {
                    Ok(None) => {}
                    Ok(Some(more)) => panic!("more than was sent: {more:?}"),
                    Err(error) => return error,
                }
                if let Err(error) = poll_fn(|cx| owner.link.poll_ready(cx)).await {
                    return error;
                }
            }
        });
        let (closed, _owner) = one.await.unwrap();
        closed.expect("closed in order");
        // `_owner` keeps the queue pair until the other end has everything: on iWARP a completed
        // SEND has left, and need not have arrived.
        let end = two.await.unwrap();
        assert_eq!(end.kind(), LinkErrorKind::Closed, "{end}");
        assert!(end.to_string().contains("in order"), "{end}");
    });
}

#[test]
#[ignore = "needs an RDMA device: scripts/rdma-vm test"]
fn frames_of_every_length_go_both_ways() {
    let ring = RingConfig { ring_bytes: 64 << 10, ..small_ring(64) };
    exchange(&IbvConfig::default(), &ring, 5000, 4000, 0);
}

#[test]
#[ignore = "needs an RDMA device: scripts/rdma-vm test"]
fn the_shallowest_queues_are_deep_enough() {
    for (send_depth, receive_depth) in [(5, 4), (6, 5), (9, 4), (16, 8)] {
        let device = IbvConfig { send_depth, receive_depth, ..IbvConfig::default() };
        exchange(&device, &small_ring(receive_depth), 400, 3000, 0);
    }
}

#[test]
#[ignore = "needs an RDMA device: scripts/rdma-vm test"]
fn long_messages_are_pulled_both_ways() {
    exchange(&IbvConfig::default(), &small_ring(32), 300, 2000, 3);
}

#[test]
#[ignore = "needs an RDMA device: scripts/rdma-vm test"]
fn one_read_at_a_time_through_a_short_queue() {
    let device =
        IbvConfig { send_depth: 8, receive_depth: 8, reads_in_flight: 1, ..IbvConfig::default() };
    exchange(&device, &small_ring(8), 60, 2000, 2);
}

/// Both write until nothing goes and neither reads; then both read.
#[test]
#[ignore = "needs an RDMA device: scripts/rdma-vm test"]
fn two_full_rings_come_loose() {
    let _turn = turn();
    let world = World::new();
    let pattern = Pattern::new();
    world.local.block_on(async {
        let (one, two) = links(&world, &IbvConfig::default(), &small_ring(16)).await;
        let mut owners = [one, two].map(|link| Owner::new(link, &pattern, 200, 3000, 0));
        for _ in 0..20 {
            for owner in &mut owners {
                owner.send().unwrap();
                owner.link.flush().unwrap();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(owners.iter().all(|owner| owner.sent < 200), "the rings are full");
        let [one, two] = owners.map(|owner| world.local.spawn(owner.run()));
        assert_eq!(one.await.unwrap().unwrap().received, 200);
        assert_eq!(two.await.unwrap().unwrap().received, 200);
    });
}

/// The other end is dropped in the middle: an error that says so, in time.
#[test]
#[ignore = "needs an RDMA device: scripts/rdma-vm test"]
fn a_peer_that_goes_ends_the_link() {
    let _turn = turn();
    let world = World::new();
    let pattern = Pattern::new();
    world.local.block_on(async {
        let device = IbvConfig { ack_timeout: 12, retry_count: 3, ..IbvConfig::default() };
        let (one, two) = links(&world, &device, &small_ring(16)).await;
        let owner = Owner::new(one, &pattern, 100_000, 2000, 5);
        let running = world.local.spawn(owner.run());
        let other = Owner::new(two, &pattern, 100_000, 2000, 5);
        let other = world.peer.spawn(other.run());
        tokio::time::sleep(Duration::from_millis(500)).await;
        other.abort();
        let end = tokio::time::timeout(PATIENCE, running).await.expect("in time").unwrap();
        let error = end.err().expect("the peer is gone");
        assert_ne!(error.to_string(), "");
        println!("the link ends with: {error}");
    });
}

/// Twenty rings of one worker at a time.
#[test]
#[ignore = "needs an RDMA device: scripts/rdma-vm test"]
fn rings_share_completion_queues() {
    let _turn = turn();
    let world = World::new();
    let pattern = Pattern::new();
    world.local.block_on(async {
        let device = IbvConfig { send_depth: 16, receive_depth: 16, ..IbvConfig::default() };
        let (client, server) = (worker(&device), worker(&device));
        let mut running = Vec::new();
        for _ in 0..20 {
            let (one, two) = world.connect(&client, &server).await.unwrap();
            let one = RingLink::prepare(one, None, small_ring(16)).unwrap();
            let two = RingLink::prepare(two, None, small_ring(16)).unwrap();
            let (hello_one, hello_two) = (one.hello(), two.hello());
            let (one, two) = (one.connect(&hello_two).unwrap(), two.connect(&hello_one).unwrap());
            running.push(world.local.spawn(Owner::new(one, &pattern, 100, 3000, 20).run()));
            running.push(world.peer.spawn(Owner::new(two, &pattern, 100, 3000, 20).run()));
        }
        // Kept until all are done: whoever goes first takes its bulk buffers with it.
        let mut done = Vec::new();
        for owner in running {
            done.push(owner.await.unwrap().unwrap());
        }
        assert!(done.iter().all(|owner| owner.received == 100));
    });
}
