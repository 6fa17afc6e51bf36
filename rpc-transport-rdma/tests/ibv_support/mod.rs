//! Two ends on real RDMA devices in one process.
//!
//! The devices come from the environment:
//!
//! ```text
//! RDMA_RPC_TEST_LOCAL, RDMA_RPC_TEST_PEER              addresses of two devices that reach each other
//! RDMA_RPC_TEST_LOCAL_NETNS, RDMA_RPC_TEST_PEER_NETNS  files of the network namespaces they are in
//!                                                      (siw; left out: this process's)
//! ```
//!
//! A network namespace belongs to a thread, so each end has a runtime whose threads are in its own.

#![allow(dead_code, unreachable_pub)] // each test file uses a part

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use rdma_rpc_core::upgrade::Exchange;
use rdma_rpc_transport_rdma::ibv::{Ibv, IbvConfig, IbvQueuePair, IbvRegion};
use rdma_rpc_transport_rdma::verbs::{
    Completed, Completion, Local, Op, PostError, QueuePair, RemoteAddr, Status, VerbError,
    WorkRequest,
};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

#[path = "../line/mod.rs"]
mod line;
pub use line::line;

/// Longer than any step of any test takes on an emulated processor.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// An address nobody looks at.
pub const NOWHERE: RemoteAddr = RemoteAddr { addr: 0, rkey: 0 };

const NONE: Completion =
    Completion { what: Completed::Receive { imm: 0 }, status: Status::Success };

/// Tests count this process's descriptors, limit its memory and change a device's permissions, so
/// they take turns.
pub fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A variable of the environment.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// One end: a device's address, and a runtime whose threads are where it is.
pub struct Site {
    pub ip: IpAddr,
    runtime: Option<Runtime>,
}

impl Site {
    fn named(name: &str) -> Site {
        let ip = variable(name)
            .unwrap_or_else(|| panic!("set {name} to the address of an RDMA device"))
            .parse()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let netns = variable(&format!("{name}_NETNS"));
        let build = move || {
            if let Some(path) = netns {
                let file = std::fs::File::open(&path)
                    .unwrap_or_else(|error| panic!("cannot open {path}: {error}"));
                use std::os::fd::AsFd;
                let kind = Some(rustix::thread::LinkNameSpaceType::Network);
                rustix::thread::move_into_link_name_space(file.as_fd(), kind)
                    .unwrap_or_else(|error| panic!("cannot enter {path}: {error}"));
            }
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .expect("a runtime")
        };
        let runtime = std::thread::spawn(build).join().expect("a thread in the namespace");
        Site { ip, runtime: Some(runtime) }
    }

    /// Runs a task at this end.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.runtime.as_ref().expect("until drop").spawn(future)
    }

    /// Waits for a future on the calling thread, with this end's reactor.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        let bounded = async { tokio::time::timeout(4 * PATIENCE, future).await };
        self.runtime.as_ref().expect("until drop").block_on(bounded).expect("the test hangs")
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

/// Both ends.
pub struct World {
    pub local: Site,
    pub peer: Site,
}

impl World {
    pub fn new() -> World {
        let local = Site::named("RDMA_RPC_TEST_LOCAL");
        World { local, peer: Site::named("RDMA_RPC_TEST_PEER") }
    }

    /// Connects a queue pair of one worker to one of another.
    ///
    /// # Errors
    /// What either end said, the client's first.
    pub async fn connect(
        &self,
        client: &Arc<Ibv>,
        server: &Arc<Ibv>,
    ) -> Result<(IbvQueuePair, IbvQueuePair), String> {
        let (mut to_server, mut to_client) = line();
        let (local, peer) = (self.local.ip, self.peer.ip);
        let (client, server) = (client.clone(), server.clone());
        let dialing = self.local.spawn(async move {
            let offer = client.offer(Some(local)).await?;
            to_server.send(&offer.body()).await.map_err(|error| error.to_string())?;
            let answer = to_server.receive().await.map_err(|error| error.to_string())?;
            let choice = offer.chosen(&answer)?;
            let upgraded = client.upgrade_client(&mut to_server, &choice).await;
            upgraded.map(|upgraded| (upgraded, to_server)).map_err(|error| error.to_string())
        });
        let accepting = self.peer.spawn(async move {
            let offer = to_client.receive().await.map_err(|error| error.to_string())?;
            let choice = server.choose(&offer, Some(peer)).await?;
            to_client.send(&choice.body()).await.map_err(|error| error.to_string())?;
            let upgraded = server.upgrade_server(&mut to_client, &choice).await;
            upgraded.map(|upgraded| (upgraded, to_client)).map_err(|error| error.to_string())
        });
        // Who is done keeps its end of the line until the other one is too, as sockets are kept: on iWARP the
        // server's last message may still be on its way, and the end of the line would say that it gave up.
        let (dialed, accepted) = (dialing.await, accepting.await);
        match (dialed.expect("no panic"), accepted.expect("no panic")) {
            (Ok((one, _)), Ok((two, _))) => Ok((one, two)),
            (Err(one), Err(two)) => Err(format!("{one}; the server: {two}")),
            (Err(one), Ok(_)) => Err(one),
            (Ok(_), Err(two)) => Err(format!("the server: {two}")),
        }
    }

    /// A connected pair on workers of its own.
    pub async fn pair(&self, config: &IbvConfig) -> (IbvQueuePair, IbvQueuePair) {
        let (one, two) = (worker(config), worker(config));
        self.connect(&one, &two).await.expect("two devices that reach each other")
    }
}

/// A worker with this configuration.
pub fn worker(config: &IbvConfig) -> Arc<Ibv> {
    Arc::new(Ibv::new(config.clone()))
}

/// A queue pair with the completions that were taken and not yet looked at.
pub struct End {
    pub qp: IbvQueuePair,
    waiting: VecDeque<Completion>,
}

impl End {
    pub fn new(qp: IbvQueuePair) -> End {
        End { qp, waiting: VecDeque::new() }
    }

    /// A completion that is there now.
    pub fn take(&mut self) -> Result<Option<Completion>, VerbError> {
        if self.waiting.is_empty() {
            let mut batch = [NONE; 8];
            let count = self.qp.poll(&mut batch)?;
            self.waiting.extend(&batch[..count]);
        }
        Ok(self.waiting.pop_front())
    }

    /// The next completion, asleep until it comes.
    pub async fn next(&mut self) -> Result<Completion, VerbError> {
        let next = poll_fn(|cx| {
            loop {
                match self.take() {
                    Ok(None) => {}
                    Ok(Some(completion)) => return Poll::Ready(Ok(completion)),
                    Err(error) => return Poll::Ready(Err(error)),
                }
                match self.qp.poll_event(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(result) => result?,
                }
            }
        });
        tokio::time::timeout(PATIENCE, next).await.expect("a completion in time")
    }

    /// The next completion, awake.
    pub async fn spin(&mut self) -> Result<Completion, VerbError> {
        let begin = std::time::Instant::now();
        loop {
            if let Some(completion) = self.take()? {
                return Ok(completion);
            }
            assert!(begin.elapsed() < PATIENCE, "a completion in time");
            tokio::task::yield_now().await;
        }
    }

    /// The word that the peer tells next; completions of sends before it are passed over.
    pub async fn told(&mut self) -> Result<u32, VerbError> {
        loop {
            let completion = self.next().await?;
            match completion.what {
                Completed::Receive { imm } if completion.status == Status::Success => {
                    return Ok(imm);
                }
                _ => assert_eq!(completion.status, Status::Success, "{completion:?}"),
            }
        }
    }

    /// Everything until the queue pair ends, with the error it ends by.
    pub async fn drain(&mut self) -> (Vec<Completion>, VerbError) {
        let mut all = Vec::new();
        loop {
            match self.next().await {
                Ok(completion) => all.push(completion),
                Err(error) => return (all, error),
            }
        }
    }

    /// Posts one signalled request.
    pub fn post(&mut self, id: u64, op: Op<'_, IbvRegion>) -> Result<(), PostError> {
        self.qp.post_send(&[WorkRequest { id, op, signaled: true }])
    }

    /// Tells the peer a word: by an immediate, or by what stands for one.
    pub fn tell(&mut self, id: u64, word: u32) -> Result<(), PostError> {
        let op = tells(&self.qp, word);
        self.post(id, op)
    }

    /// Posts one signalled request and waits for its completion.
    pub async fn does(&mut self, id: u64, op: Op<'_, IbvRegion>) -> Status {
        self.post(id, op).unwrap();
        loop {
            let completion = self.next().await.unwrap();
            if completion.what == (Completed::Send { id }) {
                return completion.status;
            }
        }
    }
}

/// What tells a word to the peer.
pub fn tells<'a>(qp: &IbvQueuePair, word: u32) -> Op<'a, IbvRegion> {
    if qp.caps().write_with_imm {
        Op::Write { from: None, to: NOWHERE, imm: Some(word) }
    } else {
        Op::Send { word }
    }
}

/// The whole of a region, as far as `len`.
pub fn first(region: &IbvRegion, len: usize) -> Local<'_, IbvRegion> {
    Local { region, offset: 0, len }
}

/// What a message holds: a stretch of random bytes that begins elsewhere for every number.
#[derive(Clone)]
pub struct Pattern {
    bytes: Arc<Vec<u8>>,
}

impl Pattern {
    pub const LONGEST: usize = 1 << 20;

    pub fn new() -> Pattern {
        let mut rng = rdma_rpc_transport_rdma::sim::Rng::new(77);
        let words = (0..2 * Pattern::LONGEST / 8).flat_map(|_| rng.bits().to_le_bytes());
        Pattern { bytes: Arc::new(words.collect()) }
    }

    pub fn of(&self, number: u64, len: usize) -> &[u8] {
        let at = (number.wrapping_mul(0x9E37_79B9) % Pattern::LONGEST as u64) as usize;
        &self.bytes[at..at + len]
    }
}

/// Open descriptors of this process.
pub fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Waits until `holds`, which something elsewhere brings about.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = std::time::Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE / 4, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
