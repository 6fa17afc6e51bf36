//! What the queue pair looks after beside its requests: the peer's state, the socket and its
//! messages, dropped regions. None of it is on the way of a request, and only the socket costs
//! system calls.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::Instant;

use rustix::io::Errno;

use super::failure::Failure;
use super::fdpass::{self, Incoming, Message, Sent};
use super::qp::{Phase, ShmQueuePair};
use crate::verbs::VerbError;

/// After this many polls that found nothing, the clock is read to see whether a probe is due.
const PROBE_POLLS: u32 = 256;
/// Socket messages taken at once; a peer that floods the socket cannot hold us here.
const MESSAGES_AT_ONCE: u32 = 64;

impl ShmQueuePair {
    /// Looks after what seldom changes: dropped regions, offers, the peer's state.
    pub(super) fn attend(&mut self) {
        if self.regions.any_dropped() {
            let added = self.regions.collect_dropped();
            self.announce(added);
        }
        if self.regions.has_unsent() {
            self.send_messages();
        }
        if self.has_news() {
            let announced = self.wire.peer.announced().load(Ordering::Acquire);
            let took_all = self.take_messages();
            if took_all && self.received_messages < announced {
                let received = self.received_messages;
                let lie = format!("it counts {announced} socket messages and sent {received}");
                self.lose_peer(Failure::misbehaved(lie));
            }
            // Acquire: everything the peer published before it failed is seen after this.
            let state = self.wire.peer.state().load(Ordering::Acquire);
            if state != 0 {
                self.lose_peer(Failure::told_by_peer(state));
            }
        }
    }

    /// Whether the peer failed, or has sent messages we have not taken. No system call.
    pub(super) fn has_news(&self) -> bool {
        matches!(self.phase, Phase::Up)
            && (self.wire.peer.state().load(Ordering::Acquire) != 0
                || self.wire.peer.announced().load(Ordering::Acquire) > self.received_messages)
    }

    /// From time to time, looks whether the peer's process is still there.
    pub(super) fn probe(&mut self) {
        self.idle_polls += 1;
        if self.idle_polls < PROBE_POLLS {
            return;
        }
        self.idle_polls = 0;
        let now = Instant::now();
        if self.next_probe.is_some_and(|next| now < next) {
            return;
        }
        if self.next_probe.is_some() {
            self.take_messages();
        }
        self.next_probe = Some(now + self.config.probe_interval);
    }

    /// Counts messages that will be sent, before anybody can learn of what they describe.
    pub(super) fn announce(&mut self, count: u64) {
        self.announcements += count;
        self.own.announcements().store(self.announcements, Ordering::Release);
    }

    pub(super) fn send_messages(&mut self) {
        let (sent, outcome) = self.regions.send(self.socket.as_fd());
        self.announced += sent;
        self.own.announced().store(self.announced, Ordering::Release);
        match outcome {
            Sent::Yes | Sent::Full => {}
            Sent::Closed => self.lose_peer(self.why_closed()),
            Sent::Failed(errno) => self.lose_peer(Failure::verb(socket_error("sendmsg", errno))),
        }
    }

    /// Takes what the socket has; `true` if that was all.
    pub(super) fn take_messages(&mut self) -> bool {
        for _ in 0..MESSAGES_AT_ONCE {
            let failure = match fdpass::receive(self.socket.as_fd()) {
                Incoming::Empty => return true,
                Incoming::Closed => self.why_closed(),
                Incoming::Garbage(what) => Failure::misbehaved(what),
                Incoming::Failed(errno) => Failure::verb(socket_error("recvmsg", errno)),
                Incoming::Message(message, fds) => {
                    self.received_messages += 1;
                    match self.handle(message, fds) {
                        Ok(()) => continue,
                        Err(what) => Failure::misbehaved(what),
                    }
                }
            };
            self.lose_peer(failure);
            return true;
        }
        false
    }

    /// The peer's end of the socket is closed: it said why before, or its process is gone.
    fn why_closed(&self) -> Failure {
        match self.wire.peer.state().load(Ordering::Acquire) {
            0 => Failure::peer_gone(),
            state => Failure::told_by_peer(state),
        }
    }

    fn handle(&mut self, message: Message, mut fds: Vec<OwnedFd>) -> Result<(), String> {
        match message {
            Message::Hello(_) => Err("a second hello".into()),
            Message::Seen { mark } => self.lendings.seen(&mark),
            Message::Revoke { rkey } => self.wire.regions.remove(rkey),
            Message::Offer { rkey, access, len } => {
                let fd = fds.pop().ok_or("an offer without a memfd")?;
                self.wire.regions.add(rkey, access, len, fd)
            }
        }
    }
}

#[cold]
fn socket_error(verb: &'static str, errno: Errno) -> VerbError {
    VerbError {
        verb,
        errno: errno.raw_os_error(),
        context: "the socket that carries the peer's memory offers".into(),
    }
}
