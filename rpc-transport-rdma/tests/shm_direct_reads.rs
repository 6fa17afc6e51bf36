//! Two processes that read each other's memory directly: this test binary starts itself again as
//! the other end.

use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdma_rpc_transport_rdma::shm::{ShmConfig, ShmListener, ShmQueuePair, ShmTicket};
use rdma_rpc_transport_rdma::verbs::{
    Access, Completed, Completion, Local, Op, QueuePair, Region, RemoteAddr, Status, VerbError,
    WorkRequest,
};
use tokio::process::{Child, Command};

const TICKET: &str = "SHM_DIRECT_TICKET";
const DIRECT: &str = "SHM_DIRECT_READS";
const LEN: usize = 8 << 20;
const NONE: Completion =
    Completion { what: Completed::Receive { imm: 0 }, status: Status::Success };
/// What an end says instead of a key if it lends nothing.
const NOTHING: u32 = 0;
/// Has the child run another program.
const BECOME_ANOTHER: u32 = 77;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Whether the kernel lets processes of one user read each other whatever their kinship.
fn kernel_allows() -> bool {
    let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope");
    let allows =
        scope.map_or(true, |scope| scope.trim() == "0") || rustix::process::geteuid().is_root();
    if !allows {
        println!("skipped: Yama's ptrace_scope forbids it");
    }
    allows
}

fn pattern(seed: u32) -> Bytes {
    (0..LEN as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) ^ seed) as u8)
        .collect::<Vec<u8>>()
        .into()
}

struct End {
    qp: ShmQueuePair,
    words: Vec<u32>,
    reads: Vec<Status>,
}

impl End {
    fn new(mut qp: ShmQueuePair) -> End {
        qp.post_receives(64).unwrap();
        End { qp, words: Vec::new(), reads: Vec::new() }
    }

    fn step(&mut self) -> Result<(), VerbError> {
        let mut into = [NONE; 8];
        let count = self.qp.poll(&mut into)?;
        for done in &into[..count] {
            match done.what {
                Completed::Receive { imm } if done.status == Status::Success => {
                    self.words.push(imm);
                }
                Completed::Send { id: 1 } => self.reads.push(done.status),
                _ => {}
            }
        }
        if count == 0 {
            std::thread::sleep(Duration::from_micros(50));
        }
        Ok(())
    }

    fn say(&mut self, words: &[u32]) {
        for &word in words {
            let request = WorkRequest { id: 0, op: Op::Send { word }, signaled: false };
            self.qp.post_send(&[request]).unwrap();
        }
    }

    fn hear(&mut self, count: usize) -> Vec<u32> {
        let give_up = Instant::now() + Duration::from_secs(20);
        while self.words.len() < count {
            assert!(Instant::now() < give_up, "the other end says nothing");
            self.step().unwrap();
        }
        self.words.drain(..count).collect()
    }

    /// Lends, if the other end can read within a moment, and says where.
    fn lend(&mut self, bytes: &Bytes) -> Option<RemoteAddr> {
        let give_up = Instant::now() + Duration::from_millis(500);
        let lent = loop {
            match self.qp.lend(bytes) {
                None if Instant::now() < give_up => self.step().unwrap(),
                lent => break lent,
            }
        };
        let at = lent.unwrap_or(RemoteAddr { addr: 0, rkey: NOTHING });
        self.say(&[at.addr as u32, (at.addr >> 32) as u32, at.rkey]);
        lent
    }

    fn hear_address(&mut self) -> RemoteAddr {
        let words = self.hear(3);
        RemoteAddr { addr: u64::from(words[1]) << 32 | u64::from(words[0]), rkey: words[2] }
    }

    /// READs all of it; whether that succeeded, with the right bytes.
    fn read(&mut self, from: RemoteAddr, expected: &Bytes) -> Status {
        let target = self.qp.register(LEN, Access::ReadTarget).unwrap();
        let into = Local { region: &target, offset: 0, len: LEN };
        let request = WorkRequest { id: 1, op: Op::Read { into, from }, signaled: true };
        self.qp.post_send(&[request]).unwrap();
        let give_up = Instant::now() + Duration::from_secs(20);
        loop {
            assert!(Instant::now() < give_up, "the READ does not end");
            if let Some(status) = self.reads.pop() {
                let same = target.bytes() == &expected[..];
                assert!(status != Status::Success || same, "wrong bytes called good");
                return status;
            }
            self.step().unwrap();
        }
    }
}

fn config(direct_reads: bool) -> ShmConfig {
    ShmConfig { direct_reads, ..Default::default() }
}

fn start_child(ticket: &ShmTicket, direct: bool) -> Child {
    let hex: String = ticket.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_other_process", "--nocapture"])
        .env(TICKET, hex)
        .env(DIRECT, direct.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// Not a test of its own: lends, reads what it is lent, says how that ended, and waits for the end.
#[test]
fn the_other_process() {
    let Ok(hex) = std::env::var(TICKET) else {
        println!("skipped: this is the entry point of the processes that other tests start");
        return;
    };
    let bytes: Vec<u8> = (0..ShmTicket::BYTES)
        .map(|i| u8::from_str_radix(&hex[2 * i..][..2], 16).unwrap())
        .collect();
    let ticket = ShmTicket::from_bytes(bytes.try_into().unwrap());
    let config = config(std::env::var(DIRECT).as_deref() == Ok("true"));
    let runtime = runtime();
    let connected = runtime.block_on(ShmQueuePair::connect(&ticket, &config));
    let mut end = End::new(connected.unwrap());
    let bytes = pattern(2);
    end.lend(&bytes);
    drop(bytes);
    let from = end.hear_address();
    if from.rkey != NOTHING {
        let good = end.read(from, &pattern(1)) == Status::Success;
        end.say(&[u32::from(good)]);
    }
    while end.step().is_ok() {
        if end.words.pop() == Some(BECOME_ANOTHER) {
            panic!("{}", std::process::Command::new("sleep").arg("60").exec());
        }
    }
}

fn connect(runtime: &tokio::runtime::Runtime, ours: bool, theirs: bool) -> (Child, End) {
    let listener = ShmListener::bind().unwrap();
    let (child, qp) = runtime.block_on(async {
        let child = start_child(listener.ticket(), theirs);
        (child, listener.accept(&config(ours)).await.unwrap())
    });
    (child, End::new(qp))
}

#[test]
fn each_process_reads_what_the_other_lends() {
    if !kernel_allows() {
        return;
    }
    let runtime = runtime();
    let (mut child, mut end) = connect(&runtime, true, true);
    let bytes = pattern(1);
    let lent = end.lend(&bytes).expect("the child reads our memory");
    let from = end.hear_address();
    assert_ne!(from.rkey, NOTHING, "we read the child's memory");
    assert_eq!(end.read(from, &pattern(2)), Status::Success);
    assert_eq!(end.hear(1), [1], "the child's READ");
    assert!(!bytes.is_unique());
    end.qp.take_back(lent);
    assert!(bytes.is_unique());
    drop(end);
    assert!(runtime.block_on(child.wait()).unwrap().success());
}

#[test]
fn one_end_without_direct_reads_is_enough() {
    let runtime = runtime();
    for (ours, theirs) in [(true, false), (false, true)] {
        let (mut child, mut end) = connect(&runtime, ours, theirs);
        assert_eq!(end.lend(&pattern(1)), None);
        assert_eq!(end.hear_address().rkey, NOTHING);
        drop(end);
        assert!(runtime.block_on(child.wait()).unwrap().success());
    }
}

#[test]
fn what_a_killed_process_lent_is_not_read() {
    if !kernel_allows() {
        return;
    }
    let runtime = runtime();
    for reaped in [true, false] {
        let (mut child, mut end) = connect(&runtime, true, true);
        let from = end.hear_address();
        assert_ne!(from.rkey, NOTHING, "we read the child's memory");
        assert_eq!(end.read(from, &pattern(2)), Status::Success);
        child.start_kill().unwrap();
        if reaped {
            runtime.block_on(child.wait()).unwrap();
        } else {
            // A zombie: it has its id, and no memory.
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(end.read(from, &pattern(2)), Status::Flushed);
        let error = loop {
            if let Err(error) = end.step() {
                break error.to_string();
            }
        };
        assert!(error.contains("is gone"), "{error}");
    }
}

/// The process id is the same, the addresses may be in use, and it is still not the peer.
#[test]
fn a_process_that_runs_another_program_is_not_read() {
    if !kernel_allows() {
        return;
    }
    let runtime = runtime();
    let (mut child, mut end) = connect(&runtime, true, true);
    let from = end.hear_address();
    end.say(&[0, 0, NOTHING, BECOME_ANOTHER]);
    let name = format!("/proc/{}/comm", child.id().unwrap());
    let give_up = Instant::now() + Duration::from_secs(20);
    while std::fs::read_to_string(&name).unwrap().trim() != "sleep" {
        assert!(Instant::now() < give_up, "the child runs on");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(end.read(from, &pattern(2)), Status::Flushed);
    runtime.block_on(child.kill()).unwrap();
}

#[test]
fn a_process_killed_at_any_moment_is_read_right_or_not_at_all() {
    if !kernel_allows() {
        return;
    }
    let runtime = runtime();
    let (mut good, expected) = (0, pattern(2));
    for round in 0..15_u64 {
        let (mut child, mut end) = connect(&runtime, true, true);
        let from = end.hear_address();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_micros(round * 1500));
                child.start_kill().unwrap();
            });
            // `read` compares what succeeded.
            while end.read(from, &expected) == Status::Success {
                good += 1;
            }
        });
    }
    println!("{good} READs succeeded");
}
