//! What happens when the oldest request cannot go on, and how the queue pair fails.

use std::sync::atomic::{Ordering, fence};
use std::time::Instant;

use rustix::io::Errno;

use super::failure::{Failure, StateCode};
use super::notify::{WAKE_COMPLETIONS, WAKE_RECEIVES};
use super::qp::{Blocked, Phase, Reason, ShmQueuePair};
use super::wire::{Over, Step};
use crate::verbs::Status;

impl ShmQueuePair {
    /// The oldest request cannot run now, or not at all.
    #[cold]
    pub(super) fn hold_front(&mut self, step: Step) {
        let reason = match step {
            Step::Done | Step::Published | Step::OutOfBudget => return,
            Step::NoReceive => Reason::NoReceive,
            Step::UnknownKey => {
                // Acquire: pairs with the peer's count, made before it told anybody the rkey.
                // The messages were taken before the second look, so if none is under way there
                // is no such key.
                if self.received_messages >= self.wire.peer.announcements().load(Ordering::Acquire)
                {
                    return self.refuse_front("the rkey names no region of the peer");
                }
                Reason::KeyUnderWay
            }
            Step::Over(over) => match *over {
                Over::Violation(what) => return self.refuse_front(&what),
                Over::PeerLost(failure) => return self.lose_peer(failure),
                Over::Fault(fault) => return self.lose_peer(Failure::misbehaved(fault)),
            },
        };
        self.block(reason);
    }

    fn block(&mut self, reason: Reason) {
        match self.blocked {
            Some(blocked) if blocked.reason == reason => {
                if Instant::now() >= blocked.until {
                    self.give_up(reason);
                }
            }
            _ => {
                let until = Instant::now() + self.config.receiver_not_ready_timeout;
                self.blocked = Some(Blocked { reason, until });
            }
        }
    }

    fn give_up(&mut self, reason: Reason) {
        let waited = self.config.receiver_not_ready_timeout;
        let (status, context) = match reason {
            Reason::NoReceive => (
                Status::ReceiverNotReady,
                format!("the peer posted no receive in {waited:?}; it is stuck or stopped"),
            ),
            Reason::KeyUnderWay => (
                Status::RetryExceeded,
                format!("the peer's description of an rkey did not come in {waited:?}"),
            ),
        };
        self.sends.finish_front(status);
        self.enter_failed(Failure::new(StateCode::ReceiverNotReady, Errno::TIMEDOUT, context));
    }

    fn refuse_front(&mut self, what: &str) {
        self.sends.finish_front(Status::RemoteAccess);
        let context = format!("a request was outside the peer's registered memory: {what}");
        self.enter_failed(Failure::new(StateCode::RemoteAccess, Errno::ACCESS, context));
    }

    /// The peer is gone, failed or lies: what it sent before is delivered, then everything fails.
    #[cold]
    pub(super) fn lose_peer(&mut self, failure: Failure) {
        if matches!(self.phase, Phase::Up) {
            tracing::debug!(peer = %self.peer_name, error = %failure.error, "shm: peer lost");
            self.phase = Phase::PeerLost(Box::new(failure));
            self.blocked = None;
        }
    }

    /// Everything outstanding flushes, and the peer learns why.
    #[cold]
    pub(super) fn enter_failed(&mut self, failure: Failure) {
        if matches!(self.phase, Phase::Failed(_)) {
            return;
        }
        self.publish_state(failure.code);
        self.phase = Phase::Failed(Box::new(failure));
        self.blocked = None;
        self.sends.flush();
        // After the state, not before: see `super::lend`.
        self.lendings.end();
    }

    /// Tells the peer that this queue pair is not well. Memory lent to it may be freed after this.
    pub(super) fn publish_state(&self, code: StateCode) {
        self.own.state().store(code.number(), Ordering::Release);
        // The state is there before anything this process does to memory from here on.
        fence(Ordering::SeqCst);
        self.ring_doorbell(WAKE_COMPLETIONS | WAKE_RECEIVES);
    }
}
