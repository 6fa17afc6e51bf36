//! The fabric: every queue pair, and one step of time.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use super::config::{Fault, SimConfig, SimStats};
use super::memory::Memory;
use super::queue_pair::{SimLiveness, SimQueuePair};
use super::rng::Rng;
use crate::verbs::{Access, Completion, RemoteAddr, Status};

/// A registered region, as remote accesses see it.
pub(super) struct Registered {
    pub(super) base: u64,
    pub(super) len: usize,
    pub(super) access: Access,
    pub(super) memory: Arc<Memory>,
}

/// A posted request, with the memory it names.
pub(super) enum Action {
    Write { from: Option<(Arc<Memory>, usize, usize)>, to: RemoteAddr, imm: Option<u32> },
    Word { word: u64, to: RemoteAddr },
    Read { into: (Arc<Memory>, usize, usize), from: RemoteAddr },
    Send { word: u32 },
}

pub(super) struct Request {
    pub(super) id: u64,
    pub(super) signaled: bool,
    pub(super) action: Action,
}

/// A request that has left, until it completes.
pub(super) struct InFlight {
    pub(super) id: u64,
    pub(super) signaled: bool,
    pub(super) token: u64,
    pub(super) done: Option<Status>,
    pub(super) is_read: bool,
    /// What a WRITE has read of our memory: it must stay as it is until the completion.
    pub(super) source: Option<(Arc<Memory>, usize, Vec<u8>)>,
    /// Where a READ lands.
    pub(super) target: Option<(Arc<Memory>, usize)>,
}

/// Something on the wire, in order.
pub(super) enum Inbound {
    Write {
        token: u64,
        to: RemoteAddr,
        bytes: Vec<u8>,
        acknowledge: bool,
    },
    /// A WRITE whose access was checked and acknowledged, but whose bytes are not all there.
    Placing {
        memory: Arc<Memory>,
        offset: usize,
        bytes: Vec<u8>,
    },
    Notify {
        token: u64,
        word: u32,
        waited_steps: u64,
    },
    Read {
        token: u64,
        from: RemoteAddr,
        len: usize,
    },
}

/// A READ's data on its way back.
pub(super) struct Response {
    pub(super) token: u64,
    pub(super) bytes: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum QpState {
    Ready,
    /// Failed; flushes begin at this step.
    Error {
        flush_at: u64,
    },
    Destroyed,
}

/// A completion and the send-queue slots it frees when it is taken.
pub(super) struct Entry {
    pub(super) completion: Completion,
    pub(super) frees: u32,
}

pub(super) struct Qp {
    pub(super) config: SimConfig,
    pub(super) peer: usize,
    pub(super) state: QpState,
    pub(super) queue: VecDeque<Request>,
    pub(super) flight: VecDeque<InFlight>,
    pub(super) inbound: VecDeque<Inbound>,
    pub(super) responses: VecDeque<Response>,
    pub(super) slots_used: u32,
    /// Unsignalled requests done since the last completion.
    pub(super) slots_pending: u32,
    pub(super) receives: u32,
    /// Send and receive completions: in order within each, in any order between them.
    pub(super) cq: [VecDeque<Entry>; 2],
    /// How many of each can be seen.
    pub(super) visible: [usize; 2],
    pub(super) waker: Option<Waker>,
    pub(super) regions: HashMap<u32, Registered>,
    pub(super) liveness_closed: bool,
    pub(super) liveness_waker: Option<Waker>,
    pub(super) error_next: bool,
    pub(super) dead_peer_steps: u64,
}

/// Index of send completions in `cq`.
pub(super) const SENDS: usize = 0;
/// Index of receive completions in `cq`.
pub(super) const RECEIVES: usize = 1;

pub(super) struct State {
    pub(super) rng: Rng,
    pub(super) now: u64,
    pub(super) next_token: u64,
    pub(super) qps: Vec<Qp>,
    pub(super) stats: SimStats,
    /// Liveness closings to come: when, and whose.
    pub(super) closings: Vec<(u64, usize)>,
    /// Wakers to wake once the lock is released.
    pub(super) to_wake: Vec<Waker>,
}

/// The fabric, as queue pairs and regions hold it.
pub(super) struct Shared {
    state: Mutex<State>,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `act`, then wakes those it has given something to, without the lock.
    pub(super) fn act<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let (out, wakers) = {
            let mut state = self.lock();
            let out = act(&mut state);
            (out, std::mem::take(&mut state.to_wake))
        };
        for waker in wakers {
            waker.wake();
        }
        out
    }

    pub(super) fn deregister(&self, owner: usize, rkey: u32, memory: &Arc<Memory>) {
        let mut state = self.lock();
        let qp = &mut state.qps[owner];
        qp.regions.remove(&rkey);
        let names = |action: &Action| match action {
            Action::Write { from: Some((m, ..)), .. } => Arc::ptr_eq(m, memory),
            Action::Read { into: (m, ..), .. } => Arc::ptr_eq(m, memory),
            _ => false,
        };
        let queued = qp.queue.iter().any(|r| names(&r.action));
        let source = |f: &InFlight| f.source.as_ref().is_some_and(|(m, ..)| Arc::ptr_eq(m, memory));
        let target = |f: &InFlight| f.target.as_ref().is_some_and(|(m, _)| Arc::ptr_eq(m, memory));
        let flying = qp.flight.iter().any(|f| source(f) || target(f));
        if qp.state != QpState::Destroyed && (queued || flying) {
            state.stats.region_dropped_in_use += 1;
        }
    }
}

/// Simulated devices and the wire between them. Nothing happens but in [`Fabric::step`].
pub struct Fabric {
    shared: Arc<Shared>,
}

impl fmt::Debug for Fabric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.lock();
        f.debug_struct("Fabric")
            .field("now", &state.now)
            .field("queue_pairs", &state.qps.len())
            .field("stats", &state.stats)
            .finish()
    }
}

/// One end of a simulated connection.
#[derive(Debug)]
pub struct SimEnd {
    /// Its queue pair, connected to the other end's.
    pub queue_pair: SimQueuePair,
    /// Its bootstrap connection.
    pub liveness: SimLiveness,
}

impl Fabric {
    /// An empty fabric; everything that happens in it follows from the seed and the calls.
    pub fn new(seed: u64) -> Fabric {
        let state = State {
            rng: Rng::new(seed),
            now: 0,
            next_token: 0,
            qps: Vec::new(),
            stats: SimStats::default(),
            closings: Vec::new(),
            to_wake: Vec::new(),
        };
        Fabric { shared: Arc::new(Shared { state: Mutex::new(state) }) }
    }

    /// Two connected ends. The first call's ends are sides 0 and 1, the next call's 2 and 3, ...
    pub fn pair(&self, first: SimConfig, second: SimConfig) -> (SimEnd, SimEnd) {
        let mut state = self.shared.lock();
        let base = state.qps.len();
        state.qps.push(Qp::new(first, base + 1));
        state.qps.push(Qp::new(second, base));
        drop(state);
        let end = |index| SimEnd {
            queue_pair: SimQueuePair::new(self.shared.clone(), index),
            liveness: SimLiveness::new(self.shared.clone(), index),
        };
        (end(base), end(base + 1))
    }

    /// Lets time pass once: each queue pair, in random order, does some of what it could do.
    pub fn step(&self) {
        self.shared.act(State::step);
    }

    /// Makes something go wrong on a side.
    pub fn inject(&self, fault: Fault, side: usize) {
        self.shared.act(|state| state.inject(fault, side));
    }

    /// Whether nothing more would happen in any step.
    pub fn is_idle(&self) -> bool {
        self.shared.lock().is_idle()
    }

    /// What was counted so far.
    pub fn stats(&self) -> SimStats {
        self.shared.lock().stats
    }
}

impl Qp {
    fn new(config: SimConfig, peer: usize) -> Qp {
        Qp {
            config,
            peer,
            state: QpState::Ready,
            queue: VecDeque::new(),
            flight: VecDeque::new(),
            inbound: VecDeque::new(),
            responses: VecDeque::new(),
            slots_used: 0,
            slots_pending: 0,
            receives: 0,
            cq: [VecDeque::new(), VecDeque::new()],
            visible: [0, 0],
            waker: None,
            regions: HashMap::new(),
            liveness_closed: false,
            liveness_waker: None,
            error_next: false,
            dead_peer_steps: 0,
        }
    }

    /// Finds the memory behind a remote address, if this access is allowed.
    pub(super) fn resolve(
        &self,
        at: RemoteAddr,
        len: usize,
        access: Access,
    ) -> Option<(Arc<Memory>, usize)> {
        let region = self.regions.get(&at.rkey)?;
        let offset = at.addr.checked_sub(region.base)?;
        let end = offset.checked_add(len as u64)?;
        (region.access == access && end <= region.len as u64)
            .then(|| (region.memory.clone(), offset as usize))
    }

    fn is_idle(&self) -> bool {
        let hidden = (0..2).any(|i| self.visible[i] < self.cq[i].len());
        let flushes = matches!(self.state, QpState::Error { .. })
            && (self.receives > 0 || !self.queue.is_empty() || !self.flight.is_empty());
        let working = self.state == QpState::Ready
            && (!self.queue.is_empty() || !self.flight.is_empty() || !self.responses.is_empty());
        let arriving = !self.inbound.is_empty() && self.state == QpState::Ready;
        !(hidden || flushes || working || arriving)
    }
}

impl State {
    pub(super) fn is_idle(&self) -> bool {
        self.closings.is_empty() && self.qps.iter().all(Qp::is_idle)
    }
}
