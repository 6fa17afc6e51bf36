//! The verbs device on real RDMA devices: transfers, queues, and many connections on one
//! completion queue. Ignored unless asked for; `ibv_support` says what the environment must name.

mod ibv_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ibv_support::{End, NOWHERE, PATIENCE, Pattern, World, first, tells, turn, variable, worker};
use rdma_rpc_transport_rdma::ibv::{Ibv, IbvConfig, IbvQueuePair, IbvRegion};
use rdma_rpc_transport_rdma::sim::Rng;
use rdma_rpc_transport_rdma::verbs::{
    Access, Completed, Local, Op, PostError, QueuePair, Region, RemoteAddr, Status, WorkRequest,
};

const WINDOW: usize = 64;
const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Where each message of the window lies. The first may be 1 MiB long, the rest are shorter.
fn place(slot: usize) -> (usize, usize) {
    match slot {
        0 => (0, MIB),
        1..8 => (MIB + (slot - 1) * 64 * KIB, 64 * KIB),
        _ => (MIB + 7 * 64 * KIB + (slot - 8) * 4 * KIB, 4 * KIB),
    }
}

const RING_BYTES: usize = MIB + 7 * 64 * KIB + (WINDOW - 8) * 4 * KIB;

/// How long a message is: every length occurs at either end of its range.
fn length(number: u64) -> usize {
    let (_, most) = place(number as usize % WINDOW);
    // The longest ones now and then only.
    let most =
        if most == MIB && !(number / WINDOW as u64).is_multiple_of(8) { 64 * KIB } else { most };
    let mut rng = Rng::new(number);
    match rng.below(8) {
        0 => 1,
        1 => most,
        2 => (rng.below(64) + 1) as usize,
        _ => (rng.below(most as u64) + 1) as usize,
    }
}

/// One end of the traffic: sends numbered messages, checks the other's, and says how many it has
/// read by writing a word into a cell of the other.
struct Party {
    end: End,
    pattern: Pattern,
    ring: IbvRegion,
    staging: IbvRegion,
    cell: IbvRegion,
    peer_ring: RemoteAddr,
    peer_cell: RemoteAddr,
    sent: u64,
    done: u64,
    received: u64,
    scratch: Vec<u8>,
}

impl Party {
    fn new(mut qp: IbvQueuePair, pattern: &Pattern) -> Party {
        let ring = qp.register(RING_BYTES, Access::RemoteWrite).unwrap();
        let staging = qp.register(RING_BYTES, Access::Local).unwrap();
        let cell = qp.register(8, Access::RemoteWrite).unwrap();
        qp.post_receives(WINDOW as u32).unwrap();
        let scratch = vec![0; MIB];
        Party {
            end: End::new(qp),
            pattern: pattern.clone(),
            ring,
            staging,
            cell,
            peer_ring: NOWHERE,
            peer_cell: NOWHERE,
            sent: 0,
            done: 0,
            received: 0,
            scratch,
        }
    }

    fn meet(one: &mut Party, two: &mut Party) {
        (one.peer_ring, two.peer_ring) = (two.ring.remote(), one.ring.remote());
        (one.peer_cell, two.peer_cell) = (two.cell.remote(), one.cell.remote());
    }

    /// How many messages the peer has read; old or new, never a mixture.
    fn read_by_peer(&self) -> u64 {
        let mut word = [0; 8];
        self.cell.read(0, &mut word);
        let read = u64::from_le_bytes(word);
        assert!(read <= self.sent, "{read} read of {}: a torn word", self.sent);
        read
    }

    fn send(&mut self) -> bool {
        let number = self.sent;
        let (offset, _) = place(number as usize % WINDOW);
        let len = length(number);
        let bytes = self.pattern.of(number, len);
        self.staging.bytes_mut()[offset..offset + len].copy_from_slice(bytes);
        let from = Local { region: &self.staging, offset, len };
        let to = self.peer_ring.offset(offset as u64).unwrap();
        let imm = number as u32;
        let signaled = number % 7 == 6 || number % WINDOW as u64 == WINDOW as u64 - 1;
        let together = self.end.qp.caps().write_with_imm && !number.is_multiple_of(3);
        let list = if together {
            let op = Op::Write { from: Some(from), to, imm: Some(imm) };
            vec![WorkRequest { id: number, op, signaled }]
        } else {
            let op = Op::Write { from: Some(from), to, imm: None };
            vec![
                WorkRequest { id: number, op, signaled: false },
                WorkRequest { id: number, op: tells(&self.end.qp, imm), signaled },
            ]
        };
        match self.end.qp.post_send(&list) {
            Ok(()) => self.sent += 1,
            Err(PostError::Full) => return false,
            Err(error) => panic!("message {number}: {error:?}"),
        }
        true
    }

    fn arrived(&mut self, imm: u32) {
        let number = self.received;
        assert_eq!(imm, number as u32, "in order");
        let (offset, _) = place(number as usize % WINDOW);
        let len = length(number);
        self.ring.read(offset, &mut self.scratch[..len]);
        assert!(
            self.scratch[..len] == *self.pattern.of(number, len),
            "message {number}: {len} bytes"
        );
        self.received += 1;
        self.end.qp.post_receives(1).unwrap();
    }

    async fn run(mut self, count: u64) -> Party {
        let mut told = 0;
        let mut idle = 0;
        while self.received < count || self.read_by_peer() < count || told < count {
            idle += 1;
            let window = self.read_by_peer() + WINDOW as u64;
            // Staging memory is free once a signalled request behind it has completed.
            while self.sent < count.min(window).min(self.done + WINDOW as u64) && self.send() {
                idle = 0;
            }
            while let Some(completion) = self.end.take().unwrap() {
                idle = 0;
                assert_eq!(completion.status, Status::Success, "{completion:?}");
                match completion.what {
                    Completed::Receive { imm } => self.arrived(imm),
                    Completed::Send { id } if id < u64::MAX => self.done = self.done.max(id + 1),
                    Completed::Send { .. } => {}
                }
            }
            if self.received >= told + WINDOW as u64 / 4 || (self.received == count && told < count)
            {
                let op = Op::WriteWord { word: self.received, to: self.peer_cell };
                match self.end.post(u64::MAX, op) {
                    Ok(()) => told = self.received,
                    Err(PostError::Full) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
            match idle {
                0..100 => tokio::task::yield_now().await,
                100..60_000 => tokio::time::sleep(Duration::from_millis(1)).await,
                _ => panic!(
                    "stall: {} sent, {} done, {} received, {told} told",
                    self.sent, self.done, self.received
                ),
            }
        }
        self
    }
}

fn traffic(config: &IbvConfig, count: u64) {
    let _turn = turn();
    let world = World::new();
    let pattern = Pattern::new();
    let (one, two) = world.local.block_on(async {
        let (one, two) = world.pair(config).await;
        let (mut one, mut two) = (Party::new(one, &pattern), Party::new(two, &pattern));
        Party::meet(&mut one, &mut two);
        let one = world.local.spawn(one.run(count));
        let two = world.peer.spawn(two.run(count));
        (one.await.unwrap(), two.await.unwrap())
    });
    assert_eq!((one.received, two.received), (count, count));
}

#[test]
#[ignore = "needs an RDMA device: scripts/rdma-vm test"]
fn messages_of_every_length_go_both_ways() {
    traffic(&IbvConfig::default(), 20_000);
}

#[test]
#[ignore = "needs an RDMA device: scripts/rdma-vm test"]
fn messages_go_without_inline_room_and_through_a_short_send_queue() {
    let config =
        IbvConfig { inline_bytes: 0, send_depth: 16, receive_depth: 64, ..Default::default() };
    traffic(&config, 2000);
}

#[test]
#[ignore = "needs an RDMA device: scripts/rdma-vm test"]
fn reads_of_every_length_bring_what_is_there() {
    let _turn = turn();
    let world = World::new();
    let pattern = Pattern::new();
    world.local.block_on(async {
        let (one, mut two) = world.pair(&IbvConfig::default()).await;
        let mut one = End::new(one);
        assert!(one.qp.caps().reads_in_flight > 0, "{:?}", one.qp.caps());
        let mut source = two.register(MIB, Access::RemoteRead).unwrap();
        let mut target = one.qp.register(MIB, Access::ReadTarget).unwrap();
        let lengths = [1, 2, 7, 8, 63, 64, 1024, 4095, 4096, 4097, 65_536, 300_001, MIB];
        for (number, len) in lengths.into_iter().enumerate() {
            let bytes = pattern.of(number as u64, len);
            source.bytes_mut()[..len].copy_from_slice(bytes);
            let (into, from) = (first(&target, len), source.remote());
            assert_eq!(one.does(len as u64, Op::Read { into, from }).await, Status::Success);
            assert!(target.bytes()[..len] == *bytes, "{len} bytes");
            target.bytes_mut()[..len].fill(0);
        }
        // As many at once as the queue pair allows, in pieces, answered in order.
        let at_once = u64::from(one.qp.caps().reads_in_flight.min(16));
        source.bytes_mut().copy_from_slice(pattern.of(99, MIB));
        let piece = 16 * KIB;
        for id in 0..at_once {
            let offset = id as usize * piece;
            let into = Local { region: &target, offset, len: piece };
            let from = source.remote().offset(offset as u64).unwrap();
            one.post(id, Op::Read { into, from }).unwrap();
        }
        for id in 0..at_once {
            let completion = one.next().await.unwrap();
            assert_eq!(completion.what, Completed::Send { id });
            assert_eq!(completion.status, Status::Success);
        }
        let len = at_once as usize * piece;
        assert!(target.bytes()[..len] == pattern.of(99, MIB)[..len]);
    });
}

/// Both halves of each word written are equal; a torn one would show two different halves.
#[test]
#[ignore = "needs an RDMA device: scripts/rdma-vm test"]
fn words_written_over_one_another_arrive() {
    let _turn = turn();
    let world = World::new();
    world.local.block_on(async {
        let (one, mut two) = world.pair(&IbvConfig::default()).await;
        let mut one = End::new(one);
        let cell = two.register(64, Access::RemoteWrite).unwrap();
        let to = cell.remote().offset(8).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let reader = std::thread::spawn(move || {
            let (mut looks, mut last) = (0u64, 0);
            while !stopped.load(Ordering::Acquire) {
                let mut word = [0; 8];
                cell.read(8, &mut word);
                let word = u64::from_le_bytes(word);
                // Soft-RoCE copies them like any bytes: half-written ones are seen, and ignored.
                if word >> 32 == word & 0xFFFF_FFFF {
                    assert!(word >= last, "back from {last:#x} to {word:#x}");
                    last = word;
                }
                looks += 1;
            }
            (looks, last)
        });
        const COUNT: u64 = 3000;
        for number in 1..=COUNT {
            let op = Op::WriteWord { word: number << 32 | number, to };
            loop {
                match one.post(number, op) {
                    Ok(()) => break,
                    Err(PostError::Full) => drop(one.next().await.unwrap()),
                    Err(error) => panic!("{error:?}"),
                }
            }
        }
        while one.next().await.unwrap().what != (Completed::Send { id: COUNT }) {}
        stop.store(true, Ordering::Release);
        let (looks, last) = reader.join().expect("never back");
        assert!(looks > 0);
        assert!(last == 0 || last >> 32 <= COUNT);
    });
}

/// Full is full, at exactly the depth that was said; a list goes whole or not at all; numbers
/// come back as they were given.
#[test]
#[ignore = "needs an RDMA device: scripts/rdma-vm test"]
fn a_full_send_queue_says_so_and_recovers() {
    let _turn = turn();
    let world = World::new();
    world.local.block_on(async {
        let config = IbvConfig { send_depth: 10, receive_depth: 8, ..Default::default() };
        let (one, mut two) = world.pair(&config).await;
        let mut one = End::new(one);
        let target = two.register(4096, Access::RemoteWrite).unwrap();
        let source = one.qp.register(4096, Access::Local).unwrap();
        let depth = one.qp.caps().send_depth;
        assert_eq!(depth, 10);
        let write = |id: u64, signaled: bool| WorkRequest {
            id,
            op: Op::Write { from: Some(first(&source, 100)), to: target.remote(), imm: None },
            signaled,
        };
        for round in 0..50u64 {
            let ids: Vec<u64> = (0..10).map(|n| u64::MAX - (round * 977 + n * n)).collect();
            for triple in ids[..9].chunks(3) {
                let list: Vec<_> = triple.iter().map(|id| write(*id, true)).collect();
                one.qp.post_send(&list).unwrap();
            }
            let two_more = [write(1, true), write(2, true)];
            assert!(matches!(one.qp.post_send(&two_more), Err(PostError::Full)), "round {round}");
            one.qp.post_send(&[write(ids[9], true)]).unwrap();
            assert!(matches!(one.qp.post_send(&[write(3, true)]), Err(PostError::Full)));
            for id in &ids {
                let completion = one.next().await.unwrap();
                assert_eq!(completion.what, Completed::Send { id: *id }, "round {round}");
                assert_eq!(completion.status, Status::Success);
            }
            assert!(one.take().unwrap().is_none(), "nothing of the refused lists was posted");
        }
        // Nine unsignalled ones are freed by the signalled tenth alone.
        for _ in 0..9 {
            one.qp.post_send(&[write(7, false)]).unwrap();
        }
        one.qp.post_send(&[write(8, true)]).unwrap();
        assert!(matches!(one.qp.post_send(&[write(9, true)]), Err(PostError::Full)));
        assert_eq!(one.next().await.unwrap().what, Completed::Send { id: 8 });
        for _ in 0..10 {
            one.qp.post_send(&[write(7, true)]).unwrap();
        }
        // Receives: as many as were asked for, and the one that the upgrade used.
        assert!(matches!(two.post_receives(10), Err(PostError::Full)));
        two.post_receives(9).unwrap();
        assert!(matches!(two.post_receives(1), Err(PostError::Full)));
    });
}

/// Answers so many words with the word plus one. (A queue pair alone does not learn that its peer
/// is gone; the bootstrap connection would.)
async fn echo(qp: IbvQueuePair, questions: u64) -> IbvQueuePair {
    let mut end = End::new(qp);
    let (mut answered, mut sent) = (0, 0);
    while sent < questions {
        let completion = end.next().await.unwrap();
        assert_eq!(completion.status, Status::Success);
        match completion.what {
            Completed::Send { .. } => sent += 1,
            Completed::Receive { imm } => {
                end.qp.post_receives(1).unwrap();
                end.tell(answered, imm.wrapping_add(1)).unwrap();
                answered += 1;
            }
        }
    }
    assert_eq!(answered, questions);
    end.qp
}

/// Asks questions that only this connection asks, and checks that its own answers come.
async fn ask(qp: IbvQueuePair, who: u32, questions: u32, asleep: bool) -> IbvQueuePair {
    let mut end = End::new(qp);
    for number in 0..questions {
        let word = who << 16 | number << 1;
        end.tell(u64::from(word), word).unwrap();
        let (mut sent, mut answered) = (false, false);
        while !(sent && answered) {
            let next = if asleep { end.next().await } else { end.spin().await };
            let completion = next.unwrap_or_else(|error| panic!("connection {who}: {error}"));
            assert_eq!(completion.status, Status::Success, "connection {who}");
            match completion.what {
                Completed::Send { id } => {
                    assert_eq!(id, u64::from(word), "connection {who}");
                    sent = true;
                }
                Completed::Receive { imm } => {
                    assert_eq!(imm, word + 1, "connection {who}");
                    end.qp.post_receives(1).unwrap();
                    answered = true;
                }
            }
        }
    }
    end.qp
}

async fn asking_pair(
    world: &World,
    one: &Arc<Ibv>,
    two: &Arc<Ibv>,
) -> (IbvQueuePair, IbvQueuePair) {
    let (mut one, mut two) = world.connect(one, two).await.unwrap();
    one.post_receives(4).unwrap();
    two.post_receives(4).unwrap();
    (one, two)
}

/// 64 connections of one worker, asleep and awake, while others come and go: every completion
/// finds its own connection, and what the dead leave behind finds nobody.
#[test]
#[ignore = "needs an RDMA device: scripts/rdma-vm test"]
fn many_connections_share_completion_queues() {
    let _turn = turn();
    let world = World::new();
    world.local.block_on(async {
        let config = IbvConfig { send_depth: 32, receive_depth: 32, ..Default::default() };
        let (client, server) = (worker(&config), worker(&config));
        let mut asking = Vec::new();
        let mut echoing = Vec::new();
        let netns = variable("RDMA_RPC_TEST_PEER_NETNS").is_some();
        // (Soft-iWARP makes no more than 31 queue pairs of a process here.)
        let connections = if netns { 24 } else { 64 };
        for who in 0..connections {
            let (one, two) = asking_pair(&world, &client, &server).await;
            echoing.push(world.peer.spawn(echo(two, 100)));
            asking.push(world.local.spawn(ask(one, who, 100, who % 8 != 0)));
        }
        let rounds = if netns { 6 } else { 20 };
        // Meanwhile: dropped with requests under way, so that completions come late.
        for round in 0..rounds {
            let (one, two) = asking_pair(&world, &client, &server).await;
            let (mut one, mut two) = (End::new(one), End::new(two));
            for id in 0..4 {
                one.tell(id, round).unwrap();
                two.tell(id, round).unwrap();
            }
            drop((one, two));
        }
        for (asked, echoed) in asking.into_iter().zip(echoing) {
            drop((asked.await.expect("its own answers"), echoed.await.expect("all questions")));
        }
    });
}

/// A worker whose connections fill more than one completion queue, and several workers on one
/// device in one runtime.
#[test]
#[ignore = "needs an RDMA device: scripts/rdma-vm test"]
fn a_device_has_room_for_many_completion_queues() {
    let _turn = turn();
    let world = World::new();
    world.local.block_on(async {
        let config = IbvConfig::default();
        let (client, server) = (worker(&config), worker(&config));
        let mut pairs = Vec::new();
        for _ in 0..12 {
            pairs.push(asking_pair(&world, &client, &server).await);
        }
        for _ in 0..3 {
            pairs.push(asking_pair(&world, &worker(&config), &worker(&config)).await);
        }
        for (who, (one, two)) in pairs.into_iter().enumerate() {
            let echoing = world.peer.spawn(echo(two, 3));
            let asking = world.local.spawn(ask(one, who as u32, 3, true));
            drop((asking.await.unwrap(), echoing.await.unwrap()));
        }
    });
}

/// A sleeper is woken although somebody else takes its completion from the queue, all the time.
#[test]
#[ignore = "needs an RDMA device: scripts/rdma-vm test"]
fn a_sleeper_is_woken_while_another_polls() {
    let _turn = turn();
    let world = World::new();
    world.local.block_on(async {
        let (client, server) = (worker(&IbvConfig::default()), worker(&IbvConfig::default()));
        let (sleeper, far) = asking_pair(&world, &client, &server).await;
        let (poller, _far_poller) = asking_pair(&world, &client, &server).await;
        let stop = Arc::new(AtomicBool::new(false));
        let polls = Arc::new(AtomicU64::new(0));
        let (stopped, counted) = (stop.clone(), polls.clone());
        let polling = std::thread::spawn(move || {
            let mut end = End::new(poller);
            while !stopped.load(Ordering::Acquire) {
                assert_eq!(end.take().unwrap(), None, "not ours");
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        let echoing = world.peer.spawn(echo(far, 500));
        let asked = world.local.spawn(ask(sleeper, 1, 500, true));
        let asked = tokio::time::timeout(PATIENCE, asked).await.expect("never left asleep");
        drop((asked.unwrap(), echoing.await.unwrap()));
        stop.store(true, Ordering::Release);
        polling.join().unwrap();
        assert!(polls.load(Ordering::Relaxed) > 0);
    });
}

/// The runtime that watches a completion queue ends: its connections end too, and do not sleep
/// for ever; new ones get a queue that is watched.
#[test]
#[ignore = "needs an RDMA device: scripts/rdma-vm test"]
fn connections_do_not_outlive_the_runtime_that_wakes_them() {
    let _turn = turn();
    let world = World::new();
    let (client, server) = (worker(&IbvConfig::default()), worker(&IbvConfig::default()));
    let (one, two) = world.local.block_on(asking_pair(&world, &client, &server));
    drop(world);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut ends = [End::new(one), End::new(two)];
    for (number, end) in ends.iter_mut().enumerate() {
        let (_, error) = runtime.block_on(end.drain());
        // On iWARP the first to fail takes the other with it.
        assert!(error.to_string().contains("runtime") || number > 0, "{error}");
    }
    drop(ends);
    let world = World::new();
    world.local.block_on(async {
        let (one, two) = asking_pair(&world, &client, &server).await;
        let echoing = world.peer.spawn(echo(two, 3));
        let asking = world.local.spawn(ask(one, 1, 3, true));
        drop((asking.await.unwrap(), echoing.await.unwrap()));
    });
}
