//! The verbs device against peers that lie, do not listen, or are gone. Ignored unless asked for;
//! `ibv_support` says what the environment must name.

mod ibv_support;

use std::time::{Duration, Instant};

use ibv_support::{End, NOWHERE, PATIENCE, World, first, tells, turn, worker};
use rdma_rpc_transport_rdma::ibv::{IbvConfig, IbvQueuePair, IbvRegion};
use rdma_rpc_transport_rdma::verbs::{
    Access, Completed, Completion, Op, PostError, QueuePair, Region, RemoteAddr, Status, VerbError,
    WorkRequest,
};

/// Within which a failure must be known: retries, the flush, and an emulated processor.
const BOUND: Duration = Duration::from_secs(8);

const SECRET: u8 = 0x5A;

const BYTES: usize = 4096;

/// Memory of a liar, of the victim it is connected to, and of a connection that has nothing to do
/// with them but shares their workers and devices.
struct Memory {
    /// The victim's ring, as the liar was told.
    ring: IbvRegion,
    /// The victim's message waiting to be read.
    message: IbvRegion,
    /// The victim's memory that no peer was told of.
    private: IbvRegion,
    /// The ring of the second of the others.
    other_ring: IbvRegion,
    /// The liar's own.
    source: IbvRegion,
    target: IbvRegion,
}

impl Memory {
    fn write(&self, to: RemoteAddr, len: usize) -> Op<'_, IbvRegion> {
        Op::Write { from: Some(first(&self.source, len)), to, imm: None }
    }

    fn read(&self, from: RemoteAddr, len: usize) -> Op<'_, IbvRegion> {
        Op::Read { into: first(&self.target, len), from }
    }
}

struct Scene {
    liar: End,
    victim: End,
    other: [End; 2],
    memory: Memory,
}

impl Scene {
    async fn new(world: &World) -> Scene {
        let config = IbvConfig::default();
        let (here, there) = (worker(&config), worker(&config));
        let (liar, victim) = world.connect(&here, &there).await.unwrap();
        let (one, two) = world.connect(&here, &there).await.unwrap();
        let (mut liar, mut victim) = (End::new(liar), End::new(victim));
        let mut other = [End::new(one), End::new(two)];
        for end in [&mut liar, &mut victim].into_iter().chain(&mut other) {
            end.qp.post_receives(8).unwrap();
        }
        let filled = |end: &mut End, access| {
            let mut region = end.qp.register(BYTES, access).unwrap();
            region.bytes_mut().fill(SECRET);
            region
        };
        let memory = Memory {
            ring: victim.qp.register(BYTES, Access::RemoteWrite).unwrap(),
            message: filled(&mut victim, Access::RemoteRead),
            private: filled(&mut victim, Access::Local),
            other_ring: other[1].qp.register(BYTES, Access::RemoteWrite).unwrap(),
            source: filled(&mut liar, Access::Local),
            target: liar.qp.register(2 * BYTES, Access::ReadTarget).unwrap(),
        };
        Scene { liar, victim, other, memory }
    }

    /// Nobody's memory has changed, the liar has learnt nothing, and the others still talk.
    async fn is_unharmed(&mut self, what: &str) {
        self.others_are_unharmed(what).await;
        let read = &self.memory.target;
        assert!(read.bytes().iter().all(|byte| *byte == 0), "{what}: the liar has read");
    }

    async fn others_are_unharmed(&mut self, what: &str) {
        let mut bytes = vec![1; BYTES];
        let memory = &self.memory;
        memory.ring.read(0, &mut bytes);
        assert!(bytes.iter().all(|byte| *byte == 0), "{what}: the victim's ring");
        memory.other_ring.read(0, &mut bytes);
        assert!(bytes.iter().all(|byte| *byte == 0), "{what}: another connection's ring");
        for region in [&memory.message, &memory.private] {
            let untouched = region.bytes().iter().all(|byte| *byte == SECRET);
            assert!(untouched, "{what}: the victim's memory");
        }
        let [one, two] = &mut self.other;
        for word in 1..4 {
            one.tell(u64::from(word), word).unwrap();
            assert_eq!(two.told().await.unwrap(), word, "{what}");
            two.tell(u64::from(word), word + 100).unwrap();
            assert_eq!(one.told().await.unwrap(), word + 100, "{what}");
            for end in [&mut *one, &mut *two] {
                end.qp.post_receives(1).unwrap();
            }
        }
    }
}

/// The end of a queue pair, in time: all its completions, and the error.
async fn end_of(what: &str, end: &mut End) -> (Vec<Completion>, VerbError) {
    let begin = Instant::now();
    let result = end.drain().await;
    assert!(begin.elapsed() < BOUND, "{what}: only after {:?}", begin.elapsed());
    assert!(matches!(end.tell(9, 9), Err(PostError::Failed)), "{what}");
    assert!(matches!(end.qp.post_receives(1), Err(PostError::Failed)), "{what}");
    result
}

/// What a lie is: a request, made of the memory.
type Lie = for<'a> fn(&'a Memory) -> Op<'a, IbvRegion>;

const LIES: [(&str, Lie); 10] = [
    ("a WRITE one byte beyond the ring", |m| m.write(m.ring.remote().offset(1).unwrap(), BYTES)),
    ("a WRITE before the ring", |m| {
        let ring = m.ring.remote();
        m.write(RemoteAddr { addr: ring.addr - 8, rkey: ring.rkey }, 16)
    }),
    ("a WRITE far from the ring", |m| m.write(m.ring.remote().offset(1 << 40).unwrap(), 8)),
    ("a WRITE at the end of memory", |m| {
        m.write(RemoteAddr { addr: u64::MAX - 3, rkey: m.ring.remote().rkey }, 8)
    }),
    ("a WRITE with another connection's key", |m| m.write(m.other_ring.remote(), 64)),
    ("a WRITE to another connection's memory with the own key", |m| {
        let rkey = m.ring.remote().rkey;
        m.write(RemoteAddr { addr: m.other_ring.remote().addr, rkey }, 64)
    }),
    ("a WRITE to a message that may only be read", |m| m.write(m.message.remote(), 64)),
    ("a WRITE to memory that is nobody's business", |m| m.write(m.private.remote(), 64)),
    ("a READ of a ring that may only be written", |m| m.read(m.ring.remote(), 64)),
    ("a READ of memory that is nobody's business", |m| m.read(m.private.remote(), 64)),
];

/// Each lie kills the liar's own connection, at both ends, and nothing else.
#[test]
#[ignore = "needs an RDMA device: scripts/rdma-vm test"]
fn lies_about_memory_kill_the_liar_alone() {
    let _turn = turn();
    let world = World::new();
    world.local.block_on(async {
        for (what, lie) in LIES {
            println!("{what}");
            let mut scene = Scene::new(&world).await;
            let op = lie(&scene.memory);
            scene.liar.qp.post_send(&[WorkRequest { id: 1, op, signaled: true }]).unwrap();
            let is_read = matches!(op, Op::Read { .. });
            if is_read && !scene.liar.qp.caps().write_with_imm {
                // Soft-iWARP (Linux 6.1) does not check the right to READ, only whose memory it is:
                // what a liar gets is of its own connection. README says so.
                tokio::time::sleep(Duration::from_secs(1)).await;
                scene.others_are_unharmed(what).await;
                continue;
            }
            let (completions, error) = end_of(what, &mut scene.liar).await;
            let refused = completions.iter().find(|c| c.what == (Completed::Send { id: 1 }));
            if scene.liar.qp.caps().write_with_imm {
                let refused = refused.unwrap_or_else(|| panic!("{what}: {completions:?}"));
                assert_eq!(refused.status, Status::RemoteAccess, "{what}");
                assert!(error.to_string().contains("RemoteAccess"), "{what}: {error}");
            }
            // (On iWARP a WRITE completes when it is sent; the connection ends by a TERMINATE.)
            let (received, _) = end_of(what, &mut scene.victim).await;
            assert_eq!(received.len(), 8, "{what}: every receive comes back: {received:?}");
            assert!(received.iter().all(|c| c.status != Status::Success), "{what}: {received:?}");
            scene.is_unharmed(what).await;
        }
    });
}

/// What no ring sends: a SEND where immediates are, too long a one where SENDs are. The receiver
/// gives the connection up and says why.
#[test]
#[ignore = "needs an RDMA device: scripts/rdma-vm test"]
fn garbage_in_the_receive_queue_ends_the_connection() {
    let _turn = turn();
    let world = World::new();
    world.local.block_on(async {
        let mut scene = Scene::new(&world).await;
        if scene.liar.qp.caps().write_with_imm {
            // A SEND of four bytes finds receives that have no memory.
            scene.liar.post(1, Op::Send { word: 7 }).unwrap();
            let (_, error) = end_of("SEND", &mut scene.victim).await;
            assert!(!error.context.is_empty(), "{error}");
            end_of("SEND, the sender", &mut scene.liar).await;
            scene.is_unharmed("SEND").await;
        } else {
            println!("skipped: this device's queue pairs send four bytes, and cannot send others");
        }
    });
}

/// Words without receives: the sender is told in bounded time, and whose fault it is.
#[test]
#[ignore = "needs an RDMA device: scripts/rdma-vm test"]
fn a_receiver_that_posts_nothing_is_named() {
    let _turn = turn();
    let world = World::new();
    world.local.block_on(async {
        let (one, two) = world.pair(&IbvConfig::default()).await;
        let mut one = End::new(one);
        one.tell(1, 1).unwrap();
        let (completions, error) = end_of("receiver not ready", &mut one).await;
        if one.qp.caps().write_with_imm {
            let failed =
                Completion { what: Completed::Send { id: 1 }, status: Status::ReceiverNotReady };
            assert_eq!(completions, [failed]);
            assert!(error.to_string().contains("ReceiverNotReady"), "{error}");
        } else {
            // iWARP has no such answer: the receiver ends the connection.
            assert!(!error.to_string().is_empty());
        }
        drop(two);
    });
}

/// Posts long writes until the queue is full.
fn fill(end: &mut End, source: &IbvRegion, to: RemoteAddr) -> u64 {
    let mut posted = 0;
    loop {
        let op = Op::Write { from: Some(first(source, source.len())), to, imm: None };
        match end.post(posted, op) {
            Ok(()) => posted += 1,
            Err(PostError::Full) => return posted,
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// Every request comes back once, in order; after the first that did not succeed, none does.
fn in_order(completions: &[Completion], posted: u64) {
    let sends: Vec<_> =
        completions.iter().filter(|c| matches!(c.what, Completed::Send { .. })).collect();
    assert_eq!(sends.len() as u64, posted, "{completions:?}");
    let mut failed = false;
    for (id, completion) in sends.into_iter().enumerate() {
        assert_eq!(completion.what, Completed::Send { id: id as u64 });
        failed |= completion.status != Status::Success;
        assert_eq!(failed, completion.status != Status::Success, "{completions:?}");
    }
}

/// The peer's queue pair is destroyed in the middle of a transfer. The device says so when its
/// retries are used up, or (Soft-RoCE forgets to, at times) the owner fails the queue pair, as the
/// ring does when the bootstrap connection closes. Either way whatever was posted comes back.
#[test]
#[ignore = "needs an RDMA device: scripts/rdma-vm test"]
fn a_peer_that_goes_in_the_middle_flushes_everything() {
    let _turn = turn();
    let world = World::new();
    world.local.block_on(async {
        let config =
            IbvConfig { send_depth: 32, ack_timeout: 12, retry_count: 3, ..Default::default() };
        let (one, mut two) = world.pair(&config).await;
        let mut one = End::new(one);
        one.qp.post_receives(16).unwrap();
        let source = one.qp.register(256 << 10, Access::Local).unwrap();
        let ring = two.register(256 << 10, Access::RemoteWrite).unwrap();
        let posted = fill(&mut one, &source, ring.remote());
        drop((two, ring));
        let mut completions = Vec::new();
        let mut told = true;
        while told && completions.iter().all(|c: &Completion| c.status == Status::Success) {
            let next = tokio::time::timeout(Duration::from_secs(3), one.next()).await;
            told = next.is_ok();
            completions.extend(next.map(|completion| completion.expect("nothing has ended yet")));
        }
        if !told {
            println!("the device does not notice; failed by hand");
            one.qp.fail();
        }
        let (rest, error) = end_of("a peer that goes", &mut one).await;
        completions.extend(rest);
        in_order(&completions, posted);
        let receives = completions.iter().filter(|c| matches!(c.what, Completed::Receive { .. }));
        assert_eq!(receives.count(), 16);
        let text = error.to_string();
        if !told {
            assert!(text.contains("failed"), "{text}");
        } else if one.qp.caps().write_with_imm {
            assert!(text.contains("RetryExceeded") || text.contains("RemoteAccess"), "{text}");
        } else {
            assert!(text.contains("connection manager") || text.contains("failed"), "{text}");
        }
    });
}

/// `fail`: everything comes back flushed, whoever sleeps is woken, and the end comes in time.
#[test]
#[ignore = "needs an RDMA device: scripts/rdma-vm test"]
fn a_queue_pair_that_is_failed_flushes_and_ends() {
    let _turn = turn();
    let world = World::new();
    world.local.block_on(async {
        for busy in [true, false] {
            let (one, mut two) = world.pair(&IbvConfig::default()).await;
            let mut one = End::new(one);
            one.qp.post_receives(32).unwrap();
            let source = one.qp.register(256 << 10, Access::Local).unwrap();
            let ring = two.register(256 << 10, Access::RemoteWrite).unwrap();
            let posted = if busy { fill(&mut one, &source, ring.remote()) } else { 0 };
            one.qp.fail();
            let begin = Instant::now();
            let (completions, error) = end_of("failed", &mut one).await;
            in_order(&completions, posted);
            let flushed = |c: &&Completion| {
                matches!(c.what, Completed::Receive { .. }) && c.status == Status::Flushed
            };
            assert_eq!(completions.iter().filter(flushed).count(), 32, "{completions:?}");
            // Soft-iWARP lets the request that it is at end with an error of its own.
            assert!(error.to_string().contains("failed"), "{error}");
            println!("busy {busy}: ended after {:?}", begin.elapsed());
            // It stays dead, awake and asleep.
            assert!(one.take().is_err());
            assert!(one.next().await.is_err());
        }
    });
}

/// One task sleeps on a queue pair; the completions that end it come from elsewhere.
#[test]
#[ignore = "needs an RDMA device: scripts/rdma-vm test"]
fn a_sleeper_learns_that_its_queue_pair_has_failed() {
    let _turn = turn();
    let world = World::new();
    world.local.block_on(async {
        let mut scene = Scene::new(&world).await;
        let Memory { ring, .. } = &scene.memory;
        let beyond = ring.remote().offset(1 << 30).unwrap();
        let mut victim = scene.victim;
        let asleep = world.peer.spawn(async move {
            let begin = Instant::now();
            let (completions, error) = victim.drain().await;
            (completions.len(), error.to_string(), begin.elapsed())
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        let op = scene.memory.write(beyond, 8);
        scene.liar.qp.post_send(&[WorkRequest { id: 1, op, signaled: true }]).unwrap();
        let woken = tokio::time::timeout(PATIENCE, asleep).await.expect("woken").unwrap();
        let (receives, error, after) = woken;
        assert_eq!(receives, 8);
        assert!(!error.is_empty());
        assert!(after < BOUND + Duration::from_millis(300), "{after:?}: {error}");
    });
}

/// What `tells` gives must suit the device, or the other tests would test nothing.
#[test]
#[ignore = "needs an RDMA device: scripts/rdma-vm test"]
fn a_device_without_immediates_says_so() {
    let _turn = turn();
    let world = World::new();
    world.local.block_on(async {
        let (one, two) = world.pair(&IbvConfig::default()).await;
        let is_send = |qp: &IbvQueuePair| matches!(tells(qp, 1), Op::Send { .. });
        assert_eq!(is_send(&one), !one.caps().write_with_imm);
        assert_eq!(one.caps().write_with_imm, two.caps().write_with_imm);
        if is_send(&one) {
            println!("{}: no immediates", one.device());
        } else {
            let mut one = one;
            let op = Op::Write { from: None, to: NOWHERE, imm: Some(1) };
            one.post_send(&[WorkRequest { id: 1, op, signaled: false }]).unwrap();
        }
    });
}
