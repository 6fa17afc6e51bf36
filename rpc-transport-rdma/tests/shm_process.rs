//! Two processes: this test binary starts itself again as the other end. Traffic, and deaths at
//! random moments that must be noticed at once and leave nothing behind.
//!
//! The tests count this process's descriptors and mappings, so they take turns.

use std::future::poll_fn;
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdma_rpc_transport_rdma::shm::{
    ShmConfig, ShmError, ShmListener, ShmQueuePair, ShmRegion, ShmTicket,
};
use rdma_rpc_transport_rdma::verbs::{
    Access, Completed, Completion, Local, Op, QueuePair, Region, RemoteAddr, Status, VerbError,
    WorkRequest,
};
use tokio::process::{Child, Command};

const TICKET: &str = "SHM_TEST_TICKET";
const ROLE: &str = "SHM_TEST_ROLE";
const SLOT_BYTES: usize = 1024;
const SLOTS: u32 = 64;
const BULK_BYTES: usize = 32 << 20;
const NONE: Completion =
    Completion { what: Completed::Receive { imm: 0 }, status: Status::Success };

static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn config() -> ShmConfig {
    ShmConfig { receive_depth: SLOTS, slice_bytes: 64 << 10, ..Default::default() }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Descriptors and shared mappings of this process.
fn holdings() -> (usize, usize) {
    let fds = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    (fds, maps.lines().filter(|line| line.contains("rdma-rpc")).count())
}

/// Starts this binary again as the other end of `ticket`.
fn start_child(role: &str, ticket: &ShmTicket) -> Child {
    child_command(role, ticket).spawn().unwrap()
}

fn child_command(role: &str, ticket: &ShmTicket) -> Command {
    let hex: String = ticket.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "the_other_process", "--nocapture"])
        .env(ROLE, role)
        .env(TICKET, hex)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Not a test of its own: what the processes started by the other tests do.
#[test]
fn the_other_process() {
    let Ok(role) = std::env::var(ROLE) else {
        println!("skipped: this is the entry point of the processes that other tests start");
        return;
    };
    let hex = std::env::var(TICKET).unwrap();
    let bytes: Vec<u8> = (0..ShmTicket::BYTES)
        .map(|i| u8::from_str_radix(&hex[2 * i..][..2], 16).unwrap())
        .collect();
    let ticket = ShmTicket::from_bytes(bytes.try_into().unwrap());
    runtime().block_on(async {
        let qp = ShmQueuePair::connect(&ticket, &config()).await.unwrap();
        let mut end = End::new(qp).await.unwrap();
        match role.as_str() {
            "traffic" => {
                end.traffic(TRAFFIC).await.unwrap();
                // The peer closes first, so that it gets the last completions.
                while end.wait().await.is_ok() {}
            }
            "endless" => {
                end.traffic(u32::MAX).await.unwrap();
            }
            "idle" => while end.wait().await.is_ok() {},
            other => panic!("role {other}"),
        }
    });
}

const TRAFFIC: u32 = 100_000;

/// One end of the traffic.
struct End {
    qp: ShmQueuePair,
    ring: ShmRegion,
    staging: ShmRegion,
    /// Memory for the peer to read.
    bulk: ShmRegion,
    peer_ring: RemoteAddr,
    peer_bulk: RemoteAddr,
    words: Vec<u32>,
    sent: u32,
    done: u32,
    received: u32,
    reads_done: u32,
}

impl End {
    /// Sets the memory up and exchanges addresses by SENDs.
    async fn new(mut qp: ShmQueuePair) -> Result<End, VerbError> {
        qp.post_receives(SLOTS).unwrap();
        let ring = qp.register(SLOTS as usize * SLOT_BYTES, Access::RemoteWrite)?;
        let staging = qp.register(SLOTS as usize * SLOT_BYTES, Access::Local)?;
        let mut bulk = qp.register(BULK_BYTES, Access::RemoteRead)?;
        for chunk in bulk.bytes_mut().chunks_mut(4096) {
            chunk.fill(0xB5);
        }
        let nowhere = RemoteAddr { addr: 0, rkey: 0 };
        let mut end = End {
            qp,
            ring,
            staging,
            bulk,
            peer_ring: nowhere,
            peer_bulk: nowhere,
            words: Vec::new(),
            sent: 0,
            done: 0,
            received: 0,
            reads_done: 0,
        };
        for at in [end.ring.remote(), end.bulk.remote()] {
            for word in [at.addr as u32, (at.addr >> 32) as u32, at.rkey] {
                let request = WorkRequest { id: 0, op: Op::Send { word }, signaled: false };
                end.qp.post_send(&[request]).unwrap();
            }
        }
        while end.words.len() < 6 {
            end.step().await?;
        }
        let at =
            |w: &[u32]| RemoteAddr { addr: u64::from(w[1]) << 32 | u64::from(w[0]), rkey: w[2] };
        (end.peer_ring, end.peer_bulk) = (at(&end.words[..3]), at(&end.words[3..]));
        Ok(end)
    }

    async fn wait(&mut self) -> Result<(), VerbError> {
        poll_fn(|cx| self.qp.poll_event(cx)).await?;
        self.take().map(|_| ())
    }

    /// Polls, and waits if there is nothing.
    async fn step(&mut self) -> Result<(), VerbError> {
        if !self.take()? {
            poll_fn(|cx| self.qp.poll_event(cx)).await?;
        }
        Ok(())
    }

    fn take(&mut self) -> Result<bool, VerbError> {
        let mut into = [NONE; 16];
        let count = self.qp.poll(&mut into)?;
        for done in into[..count].iter().filter(|done| done.status == Status::Success) {
            match done.what {
                Completed::Send { id: u64::MAX } => self.reads_done += 1,
                Completed::Send { id } => self.done = id as u32 + 1,
                Completed::Receive { imm } if self.words.len() < 6 => {
                    self.words.push(imm);
                    let _ = self.qp.post_receives(1);
                }
                Completed::Receive { imm } => {
                    assert_eq!(imm, self.received, "order");
                    let mut seen = [0; SLOT_BYTES];
                    self.ring.read((imm % SLOTS) as usize * SLOT_BYTES, &mut seen);
                    assert!(seen == payload(imm), "content of message {imm}");
                    self.received += 1;
                    let _ = self.qp.post_receives(1);
                }
            }
        }
        Ok(count > 0)
    }

    fn send(&mut self) -> bool {
        let index = self.sent;
        if index - self.done >= SLOTS {
            return false;
        }
        let offset = (index % SLOTS) as usize * SLOT_BYTES;
        self.staging.bytes_mut()[offset..offset + SLOT_BYTES].copy_from_slice(&payload(index));
        let from = Some(Local { region: &self.staging, offset, len: SLOT_BYTES });
        let to = self.peer_ring.offset(offset as u64).unwrap();
        let op = Op::Write { from, to, imm: Some(index) };
        let request = WorkRequest { id: u64::from(index), op, signaled: true };
        let posted = self.qp.post_send(&[request]).is_ok();
        self.sent += u32::from(posted);
        posted
    }

    async fn traffic(&mut self, count: u32) -> Result<(), VerbError> {
        while self.received < count || self.done < count {
            while self.sent < count && self.send() {}
            self.step().await?;
        }
        Ok(())
    }
}

fn payload(index: u32) -> [u8; SLOT_BYTES] {
    let mut bytes = [0; SLOT_BYTES];
    for (word, chunk) in bytes.chunks_exact_mut(4).enumerate() {
        chunk.copy_from_slice(
            &index.wrapping_mul(2_654_435_761).wrapping_add(word as u32).to_le_bytes(),
        );
    }
    bytes
}

/// Connects to a new child.
async fn connect(role: &str) -> (Child, ShmQueuePair) {
    let listener = ShmListener::bind().unwrap();
    let child = start_child(role, listener.ticket());
    (child, listener.accept(&config()).await.unwrap())
}

#[test]
fn a_hundred_thousand_messages_each_way() {
    let _turn = turn();
    runtime().block_on(async {
        let (mut child, qp) = connect("traffic").await;
        let mut end = End::new(qp).await.unwrap();
        assert!(end.qp.device().starts_with("shm to pid "), "{}", end.qp.device());
        end.traffic(TRAFFIC).await.unwrap();
        drop(end);
        assert!(child.wait().await.unwrap().success());
    });
}

#[test]
fn a_killed_peer_is_noticed_at_once_and_leaves_nothing() {
    let _turn = turn();
    let runtime = runtime();
    // The first child makes tokio set up what it keeps for ever.
    runtime.block_on(async { connect("idle").await.0.kill().await.unwrap() });
    let before = holdings();
    let seed = u64::from(std::process::id());
    for round in 0..40_u64 {
        let micros = (seed + round).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
        let delay = Duration::from_micros(micros % 25_000);
        let role = if round % 4 == 3 { "idle" } else { "endless" };
        runtime.block_on(kill_at(role, delay, round));
        assert_eq!(holdings(), before, "round {round}: (descriptors, mappings) after and before");
    }
}

/// Lets the child run for `delay` after the addresses are exchanged, and kills it.
async fn kill_at(role: &str, delay: Duration, round: u64) {
    let (mut child, qp) = connect(role).await;
    let mut end = End::new(qp).await.unwrap();
    let bulk = end.qp.register(BULK_BYTES, Access::Local).unwrap();
    let alive = async {
        // A READ may be under way when the child dies.
        if round.is_multiple_of(2) {
            let into = Local { region: &bulk, offset: 0, len: BULK_BYTES };
            let op = Op::Read { into, from: end.peer_bulk };
            end.qp.post_send(&[WorkRequest { id: u64::MAX, op, signaled: true }]).unwrap();
        }
        end.traffic(u32::MAX).await
    };
    let early = tokio::time::timeout(delay, alive).await;
    assert!(early.is_err(), "round {round}: {early:?} before the kill");
    child.start_kill().unwrap();
    let killed = Instant::now();
    let error = loop {
        while end.sent < u32::MAX && end.send() {}
        if let Err(error) = end.step().await {
            break error;
        }
        assert!(killed.elapsed() < Duration::from_secs(10), "round {round}: not noticed");
    };
    let noticed = killed.elapsed();
    assert!(noticed < Duration::from_secs(2), "round {round}: noticed after {noticed:?}");
    assert!(error.to_string().contains("is gone"), "round {round}: {error}");
    child.wait().await.unwrap();
    if end.reads_done > 0 {
        assert!(bulk.bytes().iter().all(|&byte| byte == 0xB5), "round {round}: the READ's bytes");
    }
}

#[test]
fn a_polling_owner_notices_a_killed_peer_too() {
    let _turn = turn();
    runtime().block_on(async {
        let (mut child, qp) = connect("idle").await;
        let mut end = End::new(qp).await.unwrap();
        child.kill().await.unwrap();
        let killed = Instant::now();
        while end.take().is_ok() {
            assert!(killed.elapsed() < Duration::from_secs(5), "not noticed");
        }
        assert!(killed.elapsed() < Duration::from_secs(1), "{:?}", killed.elapsed());
    });
}

#[test]
fn a_child_killed_while_connecting_leaves_nothing() {
    let _turn = turn();
    let runtime = runtime();
    runtime.block_on(async { connect("idle").await.0.kill().await.unwrap() });
    let before = holdings();
    for round in 0..20_u64 {
        runtime.block_on(async {
            let listener = ShmListener::bind().unwrap();
            let mut child = start_child("endless", listener.ticket());
            let config = config();
            let accept = listener.accept(&config);
            let delay = Duration::from_micros(500 * round);
            let accepted = tokio::select! {
                accepted = accept => accepted.ok(),
                () = tokio::time::sleep(delay) => None,
            };
            child.kill().await.unwrap();
            drop(accepted);
        });
        assert_eq!(holdings(), before, "round {round}: (descriptors, mappings) after and before");
    }
}

#[test]
fn another_user_is_refused_unless_listed() {
    const NOBODY: u32 = 65534;
    let _turn = turn();
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can start a process of another user");
        return;
    }
    runtime().block_on(async {
        for listed in [false, true] {
            let allowed_uids = if listed { vec![NOBODY] } else { Vec::new() };
            let config = ShmConfig { allowed_uids, ..config() };
            let listener = ShmListener::bind().unwrap();
            let mut command = child_command("idle", listener.ticket());
            let Ok(mut child) = command.uid(NOBODY).stderr(Stdio::null()).spawn() else {
                println!("skipped: another user cannot run {:?}", command.as_std().get_program());
                return;
            };
            let accepted = tokio::time::timeout(Duration::from_secs(10), listener.accept(&config));
            match accepted.await.expect("an answer") {
                Ok(_) => assert!(listed, "nobody was let in"),
                Err(ShmError::PeerUser { uid, .. }) => assert!(!listed && uid == NOBODY),
                Err(error) => panic!("{error}"),
            }
            child.kill().await.unwrap();
        }
    });
}
