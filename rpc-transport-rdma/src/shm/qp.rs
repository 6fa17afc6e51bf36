//! The queue pair: its life, polling, and how it fails.
//!
//! ```text
//!                 own failure: fail(), a violation, receiver not ready, a lying peer
//!        +---------------------------------------------------------------+
//!        |                                                               v
//!       Up --- the peer failed, closed or died --> PeerLost --------> Failed
//!                                                  (what arrived is    (everything outstanding
//!                                                   delivered first)    flushes)
//! ```
//!
//! Requests run in `post_send` as far as they can, and in `poll` from there on:
//! this process does its own copying, there is no engine beside it. Receives are consumed by the
//! peer's entries in our completion ring.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdma_rpc_core::poll_set::{PollSet, Watched};
use rustix::io::Errno;

use super::config::ShmConfig;
use super::control::ControlBlock;
use super::cq_ring::{Consumer, Producer};
use super::cross_read::PeerMemory;
use super::event::Reactor;
use super::failure::{Failure, StateCode};
use super::fdpass::{Hello, Message};
use super::lend::Lendings;
use super::notify::{self, WAKE_COMPLETIONS, WAKE_RECEIVES};
use super::regions::{OwnRegions, PeerRegions, ShmRegion};
use super::send_queue::SendQueue;
use super::watch::Watch;
use super::wire::Wire;
use crate::verbs::{
    Access, Caps, Completed, Completion, Expected, PostError, QueuePair, RemoteAddr, Status,
    VerbError, WorkRequest,
};

/// After this many polls the words that seldom change are looked at even under load.
const ATTEND_POLLS: u32 = 64;

/// What a connection consists of, once both sides have said hello.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) config: ShmConfig,
    pub(super) own: ControlBlock,
    pub(super) own_event: OwnedFd,
    pub(super) peer: ControlBlock,
    pub(super) peer_event: OwnedFd,
    pub(super) peer_hello: Hello,
    /// Whether the peer was told where our mark is.
    pub(super) showed_mark: bool,
    /// The memory of the peer's process, if it showed a mark and this side can read it.
    pub(super) peer_memory: Option<PeerMemory>,
    pub(super) socket: OwnedFd,
    pub(super) peer_name: String,
}

/// Where the queue pair is in its life.
#[derive(Debug)]
pub(super) enum Phase {
    Up,
    /// The peer is gone or failed; what it had sent before is still being delivered.
    PeerLost(Box<Failure>),
    Failed(Box<Failure>),
}

/// Why the oldest request waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// The peer has posted no receive.
    NoReceive,
    /// The peer's description of an rkey is on its way.
    KeyUnderWay,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Blocked {
    pub(super) reason: Reason,
    pub(super) until: Instant,
}

/// A queue pair between two processes on one host.
///
/// In this order in memory: what each call touches comes first, so that it lies in few cache lines.
#[derive(Debug)]
#[repr(C)]
pub struct ShmQueuePair {
    pub(super) phase: Phase,
    /// Whether entries are still taken from our completion ring.
    ring_open: bool,
    pub(super) is_armed: bool,
    /// Which kind of completion `poll` takes first; alternates, so that neither starves.
    receives_first: bool,
    polls: u32,
    pub(super) idle_polls: u32,
    pub(super) own: Arc<ControlBlock>,
    /// What a poll set looks at for us.
    pub(super) watched: Arc<Watched<Watch>>,
    pub(super) consumer: Consumer,
    pub(super) received_messages: u64,
    pub(super) wire: Wire,
    pub(super) sends: SendQueue,
    pub(super) regions: OwnRegions,
    pub(super) blocked: Option<Blocked>,
    // Before the file descriptors it watches, so that it is dropped first.
    pub(super) reactor: Option<Reactor>,

    pub(super) config: ShmConfig,
    pub(super) lendings: Lendings,
    pub(super) announcements: u64,
    pub(super) announced: u64,
    pub(super) socket: Arc<OwnedFd>,
    pub(super) own_event: Arc<OwnedFd>,
    peer_event: OwnedFd,
    pub(super) peer_name: String,
    pub(super) next_probe: Option<Instant>,
}

impl ShmQueuePair {
    pub(super) fn new(parts: Parts) -> ShmQueuePair {
        let Parts { config, own, own_event, peer, peer_event, peer_hello, socket, .. } = parts;
        let seen = parts.peer_memory.as_ref().map(PeerMemory::mark);
        let (own, peer) = (Arc::new(own), Arc::new(peer));
        let mut queue_pair = ShmQueuePair {
            watched: Watched::new(Watch::new(Arc::clone(&own), Arc::clone(&peer))),
            reactor: None,
            consumer: Consumer::new(config.receive_depth),
            ring_open: true,
            wire: Wire {
                peer,
                producer: Producer::new(peer_hello.receive_depth),
                regions: PeerRegions::new(config.max_peer_regions, config.max_peer_bytes),
                peer_memory: parts.peer_memory,
            },
            sends: SendQueue::new(config.send_depth),
            blocked: None,
            regions: OwnRegions::new(peer_hello.max_regions, peer_hello.max_bytes),
            lendings: Lendings::new(parts.showed_mark),
            announcements: 0,
            announced: 0,
            received_messages: 0,
            socket: Arc::new(socket),
            own_event: Arc::new(own_event),
            peer_event,
            peer_name: parts.peer_name,
            phase: Phase::Up,
            is_armed: false,
            receives_first: false,
            polls: 0,
            idle_polls: 0,
            next_probe: None,
            own,
            config,
        };
        if let Some(mark) = seen {
            queue_pair.regions.queue(Message::Seen { mark });
            queue_pair.announce(1);
            queue_pair.send_messages();
        }
        queue_pair
    }

    /// Tells the peer, if it sleeps, about what was published.
    pub(super) fn ring_doorbell(&self, mask: u64) {
        notify::ring(self.wire.peer.armed(), &self.peer_event, mask);
    }

    // --- polling -------------------------------------------------------------------------------

    /// Takes completions of our requests into `into` from `at` on; where that ended.
    fn take_sends(&mut self, into: &mut [Completion], mut at: usize) -> usize {
        while at < into.len() {
            let Some(completion) = self.sends.take_done() else { break };
            into[at] = completion;
            at += 1;
        }
        at
    }

    /// Takes consumed receives into `into` from `at` on; where that ended.
    fn take_receives(&mut self, into: &mut [Completion], mut at: usize) -> usize {
        while at < into.len() && self.ring_open {
            match self.consumer.take(self.own.entries()) {
                Ok(Some(imm)) => {
                    into[at] =
                        Completion { what: Completed::Receive { imm }, status: Status::Success };
                    at += 1;
                }
                Ok(None) => {
                    self.ring_is_empty();
                    break;
                }
                Err(fault) => {
                    self.lose_peer(Failure::misbehaved(fault));
                    self.ring_is_empty();
                    break;
                }
            }
        }
        while at < into.len() && !self.ring_open && self.consumer.flush_one() {
            into[at] = Completion { what: Completed::Receive { imm: 0 }, status: Status::Flushed };
            at += 1;
        }
        at
    }

    /// Our completion ring has nothing more: if the peer is lost, that was its last word.
    fn ring_is_empty(&mut self) {
        if let Phase::PeerLost(failure) = &self.phase {
            let failure = Failure::clone(failure);
            self.enter_failed(failure);
        }
        self.ring_open = !matches!(self.phase, Phase::Failed(_));
    }

    fn take(&mut self, into: &mut [Completion], at: usize) -> usize {
        self.receives_first = !self.receives_first;
        if self.receives_first {
            let at = self.take_receives(into, at);
            self.take_sends(into, at)
        } else {
            let at = self.take_sends(into, at);
            self.take_receives(into, at)
        }
    }

    // --- what `poll_event` asks ----------------------------------------------------------------

    /// Whether a poll would bring something or move something.
    pub(super) fn has_work(&mut self) -> bool {
        if self.sends.has_done() || !matches!(self.phase, Phase::Up) {
            return true;
        }
        if self.consumer.is_ready(self.own.entries()) || self.has_news() {
            return true;
        }
        if self.regions.any_dropped() {
            return true;
        }
        match self.blocked {
            None => self.sends.is_waiting(),
            Some(Blocked { reason: Reason::NoReceive, until }) => {
                // A fault is work as well: the poll reports it.
                self.wire.has_receive().unwrap_or(true) || Instant::now() >= until
            }
            Some(Blocked { reason: Reason::KeyUnderWay, until }) => Instant::now() >= until,
        }
    }

    /// Why the queue pair failed, once nothing is outstanding.
    pub(super) fn ended(&self) -> Option<&VerbError> {
        match &self.phase {
            Phase::Failed(failure)
                if !self.ring_open
                    && !self.sends.has_done()
                    && self.consumer.outstanding() == 0 =>
            {
                Some(&failure.error)
            }
            _ => None,
        }
    }
}

impl QueuePair for ShmQueuePair {
    type Region = ShmRegion;

    fn caps(&self) -> Caps {
        Caps {
            send_depth: self.config.send_depth,
            receive_depth: self.config.receive_depth,
            write_with_imm: true,
            inline_bytes: 0,
            reads_in_flight: self.config.reads_in_flight,
            lends_from_bytes: self.lendings.may_come().then_some(0),
            views: true,
        }
    }

    fn device(&self) -> String {
        format!("shm to {}", self.peer_name)
    }

    fn register(&mut self, len: usize, access: Access) -> Result<ShmRegion, VerbError> {
        if self.regions.any_dropped() {
            let added = self.regions.collect_dropped();
            self.announce(added);
        }
        let region = self.regions.register(len, access)?;
        if !access.is_local() {
            self.announce(1);
            self.send_messages();
        }
        Ok(region)
    }

    fn view(&mut self, of: RemoteAddr, len: usize) -> Result<ShmRegion, VerbError> {
        // The peer offered it before it told of it: it is among the first messages, if it is at all.
        self.take_messages();
        let mapping = self.wire.regions.view(of, len)?;
        Ok(self.regions.view(mapping, len))
    }

    fn lend(&mut self, bytes: &Bytes) -> Option<RemoteAddr> {
        self.lend_bytes(bytes)
    }

    fn take_back(&mut self, lent: RemoteAddr) {
        self.lendings.take_back(lent);
    }

    fn post_send(&mut self, list: &[WorkRequest<'_, ShmRegion>]) -> Result<(), PostError> {
        if matches!(self.phase, Phase::Failed(_)) {
            return Err(PostError::Failed);
        }
        if !self.sends.has_room(list.len()) {
            return Err(PostError::Full);
        }
        if list.len() > 1 {
            for (index, request) in list.iter().enumerate() {
                self.check(index, &request.op)?;
            }
        }
        let mut budget = self.config.slice_bytes;
        let mut published = false;
        for (index, request) in list.iter().enumerate() {
            let checked = self.check(index, &request.op)?;
            published |= self.submit(request.id, request.signaled, &checked, &mut budget);
        }
        if published {
            self.ring_doorbell(WAKE_COMPLETIONS);
        }
        Ok(())
    }

    fn post_receives(&mut self, count: u32) -> Result<(), PostError> {
        if matches!(self.phase, Phase::Failed(_)) {
            return Err(PostError::Failed);
        }
        if !self.consumer.post(self.own.receives_posted(), count) {
            return Err(PostError::Full);
        }
        self.ring_doorbell(WAKE_RECEIVES);
        Ok(())
    }

    fn poll(&mut self, into: &mut [Completion]) -> Result<usize, VerbError> {
        if self.is_armed {
            self.is_armed = false;
            notify::disarm(self.own.armed());
        }
        if self.sends.is_waiting() {
            self.advance();
        }
        let mut taken = self.take(into, 0);
        self.polls = self.polls.wrapping_add(1);
        if taken == 0 || self.polls.is_multiple_of(ATTEND_POLLS) {
            self.attend();
            if taken == 0 && matches!(self.phase, Phase::Up) {
                self.probe();
            }
            if !matches!(self.phase, Phase::Up) {
                taken = self.take(into, taken);
            }
        }
        match self.ended() {
            Some(error) if taken == 0 && !into.is_empty() => Err(error.clone()),
            _ => Ok(taken),
        }
    }

    fn poll_event(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), VerbError>> {
        self.wait_for_event(cx)
    }

    fn was_woken_here(&mut self) -> bool {
        self.was_rung_here()
    }

    #[inline]
    fn may_have_completions(&self) -> bool {
        self.consumer.is_ready(self.own.entries())
            || self.blocked.is_some()
            || self.ended().is_some()
    }

    fn expect(&mut self, next: &Expected<'_, ShmRegion>) {
        let Expected { arrives: (ring, arrives), staged: (staging, staged) } = *next;
        let told = self.wire.next_entry();
        self.watched.source().expect([ring.address(arrives), staging.address(staged), told]);
    }

    fn leave_set(&mut self) {
        self.watched.leave();
    }

    fn poll_event_in(
        &mut self,
        cx: &mut std::task::Context<'_>,
        set: &PollSet,
    ) -> std::task::Poll<Result<(), VerbError>> {
        self.wait_in_set(cx, set)
    }

    fn fail(&mut self) {
        let context = "its owner moved it to the error state";
        self.enter_failed(Failure::new(StateCode::FailedByOwner, Errno::CONNABORTED, context));
    }
}

impl Drop for ShmQueuePair {
    fn drop(&mut self) {
        // First of all: lent memory is freed with the fields, after this (`super::lend`).
        if !matches!(self.phase, Phase::Failed(_)) {
            self.publish_state(StateCode::Closed);
        }
        self.watched.leave();
        // Even if a child process holds a copy of the socket, the peer sees the end now. The
        // error (the peer is gone already) changes nothing.
        let _ = rustix::net::shutdown(self.socket.as_fd(), rustix::net::Shutdown::Both);
    }
}

/// How soon a full socket is tried again while waiting for events.
pub(super) const FULL_SOCKET_RETRY: Duration = Duration::from_millis(5);
