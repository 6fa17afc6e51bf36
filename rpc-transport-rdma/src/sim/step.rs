//! What a queue pair does in a step: the rules of the wire.

use std::task::Waker;

use super::config::Fault;
use super::fabric::{Action, Entry, InFlight, Inbound, QpState, RECEIVES, Response, SENDS, State};
use crate::verbs::{Access, Completed, Completion, Status};

impl State {
    pub(super) fn step(&mut self) {
        self.now += 1;
        self.stats.steps += 1;
        let count = self.qps.len();
        let first = self.rng.below(count as u64) as usize;
        for index in (0..count).map(|i| (first + i) % count) {
            let config = self.qps[index].config;
            while self.rng.chance(config.execute) && self.execute(index) {}
            while self.rng.chance(config.place) && self.place(index) {}
            while self.rng.chance(config.place) && self.respond(index) {}
            self.give_up_on_dead_peer(index);
            while self.rng.chance(config.complete) && self.complete(index) {}
            self.flush(index);
            for which in [SENDS, RECEIVES] {
                while self.rng.chance(config.show) && self.show(index, which) {}
            }
            if self.rng.chance(config.wake_spuriously) {
                self.wake(index);
            }
        }
        let now = self.now;
        let due: Vec<usize> =
            self.closings.iter().filter(|(at, _)| *at <= now).map(|(_, side)| *side).collect();
        self.closings.retain(|(at, _)| *at > now);
        for side in due {
            self.qps[side].liveness_closed = true;
            let waker = self.qps[side].liveness_waker.take();
            self.to_wake.extend(waker);
        }
    }

    /// The next request leaves.
    fn execute(&mut self, index: usize) -> bool {
        let qp = &mut self.qps[index];
        if qp.state != QpState::Ready {
            return false;
        }
        let is_read =
            |request: &super::fabric::Request| matches!(request.action, Action::Read { .. });
        let reading = qp.flight.iter().filter(|f| f.is_read && f.done.is_none()).count();
        if qp.queue.front().is_some_and(is_read) && reading as u32 >= qp.config.reads_in_flight {
            return false;
        }
        let Some(request) = qp.queue.pop_front() else { return false };
        self.next_token += 1;
        let token = self.next_token;
        let mut flight = InFlight {
            id: request.id,
            signaled: request.signaled,
            token,
            done: None,
            is_read: false,
            source: None,
            target: None,
        };
        let peer = qp.peer;
        let broken = std::mem::take(&mut qp.error_next);
        let mut wire = Vec::new();
        match request.action {
            Action::Write { from, to, imm } => {
                if let Some((memory, offset, len)) = from {
                    let bytes = memory.copy(offset, len);
                    flight.source = Some((memory, offset, bytes.clone()));
                    wire.push(Inbound::Write { token, to, bytes, acknowledge: imm.is_none() });
                } else if imm.is_none() {
                    flight.done = Some(Status::Success);
                }
                wire.extend(imm.map(|word| Inbound::Notify { token, word, waited_steps: 0 }));
            }
            Action::Word { word, to } => {
                let bytes = word.to_le_bytes().to_vec();
                wire.push(Inbound::Write { token, to, bytes, acknowledge: true });
            }
            Action::Read { into: (memory, offset, len), from } => {
                self.stats.reads += 1;
                flight.is_read = true;
                flight.target = Some((memory, offset));
                wire.push(Inbound::Read { token, from, len });
            }
            Action::Send { word } => wire.push(Inbound::Notify { token, word, waited_steps: 0 }),
        }
        self.qps[index].flight.push_back(flight);
        if broken {
            self.fail(index, Some((token, Status::Other(77))));
            return false;
        }
        self.qps[peer].inbound.extend(wire);
        true
    }

    /// What arrived next takes effect.
    fn place(&mut self, index: usize) -> bool {
        if self.qps[index].state != QpState::Ready {
            return false;
        }
        let source = self.qps[index].peer;
        let Some(inbound) = self.qps[index].inbound.pop_front() else { return false };
        match inbound {
            Inbound::Write { token, to, bytes, acknowledge } => {
                let Some((memory, offset)) =
                    self.qps[index].resolve(to, bytes.len(), Access::RemoteWrite)
                else {
                    self.refuse(index, token);
                    return false;
                };
                if acknowledge {
                    self.done(source, token, Status::Success);
                }
                // The bytes of a WRITE may land in any order, and after its completion was seen
                // by the one who wrote; a word may be torn anywhere.
                let half = match bytes.len() {
                    len @ ..=8 => self.rng.below(len.max(1) as u64) as usize,
                    len => len / 2,
                };
                memory.write(offset + half, &bytes[half..]);
                if half > 0 {
                    let bytes = bytes[..half].to_vec();
                    self.qps[index].inbound.push_front(Inbound::Placing { memory, offset, bytes });
                }
            }
            Inbound::Placing { memory, offset, bytes } => memory.write(offset, &bytes),
            Inbound::Notify { token, word, waited_steps } => {
                return self.notify(index, token, word, waited_steps);
            }
            Inbound::Read { token, from, len } => {
                match self.qps[index].resolve(from, len, Access::RemoteRead) {
                    Some((memory, offset)) => {
                        let bytes = memory.copy(offset, len);
                        self.qps[source].responses.push_back(Response { token, bytes });
                    }
                    None => self.refuse(index, token),
                }
            }
        }
        true
    }

    /// An immediate or SEND consumes a receive, or waits for one.
    fn notify(&mut self, index: usize, token: u64, word: u32, waited_steps: u64) -> bool {
        let source = self.qps[index].peer;
        let qp = &mut self.qps[index];
        if qp.receives == 0 {
            if waited_steps == 0 {
                self.stats.receiver_not_ready += 1;
            }
            if waited_steps >= qp.config.rnr_limit_steps {
                self.fail(source, Some((token, Status::ReceiverNotReady)));
            } else {
                let waited_steps = waited_steps + 1;
                qp.inbound.push_front(Inbound::Notify { token, word, waited_steps });
            }
            return false;
        }
        qp.receives -= 1;
        let what = Completed::Receive { imm: word };
        let completion = Completion { what, status: Status::Success };
        qp.cq[RECEIVES].push_back(Entry { completion, frees: 0 });
        self.done(source, token, Status::Success);
        true
    }

    /// A READ's data lands.
    fn respond(&mut self, index: usize) -> bool {
        let qp = &mut self.qps[index];
        let Some(response) = qp.responses.pop_front() else { return false };
        let flight = qp.flight.iter_mut().find(|f| f.token == response.token);
        if let Some(flight) = flight
            && let Some((memory, offset)) = &flight.target
        {
            // Also when the queue pair has failed meanwhile: until its flush completion is
            // there, a device may write.
            memory.write(*offset, &response.bytes);
            flight.done.get_or_insert(Status::Success);
        }
        true
    }

    fn done(&mut self, source: usize, token: u64, status: Status) {
        if let Some(flight) = self.qps[source].flight.iter_mut().find(|f| f.token == token) {
            flight.done.get_or_insert(status);
        }
    }

    /// A remote access broke the rules: both queue pairs fail, no memory changes.
    fn refuse(&mut self, index: usize, token: u64) {
        self.stats.access_refused += 1;
        let source = self.qps[index].peer;
        self.fail(source, Some((token, Status::RemoteAccess)));
        self.fail(index, None);
    }

    fn give_up_on_dead_peer(&mut self, index: usize) {
        let peer_dead = self.qps[self.qps[index].peer].state != QpState::Ready;
        let qp = &mut self.qps[index];
        let waits = qp.flight.iter().find(|f| f.done.is_none()).map(|f| f.token);
        if qp.state != QpState::Ready || !peer_dead {
            return;
        }
        if let Some(token) = waits {
            qp.dead_peer_steps += 1;
            if qp.dead_peer_steps > qp.config.retry_limit_steps {
                self.fail(index, Some((token, Status::RetryExceeded)));
            }
        }
    }

    /// The oldest request in flight, if it is done, becomes a completion.
    fn complete(&mut self, index: usize) -> bool {
        let qp = &mut self.qps[index];
        let Some(status) = qp.flight.front().and_then(|f| f.done) else { return false };
        let Some(flight) = qp.flight.pop_front() else { return false };
        if let Some((memory, offset, bytes)) = &flight.source
            && !memory.still(*offset, bytes)
        {
            self.stats.source_changed += 1;
        }
        qp.slots_pending += 1;
        if flight.signaled || status != Status::Success {
            let completion = Completion { what: Completed::Send { id: flight.id }, status };
            let frees = std::mem::take(&mut qp.slots_pending);
            qp.cq[SENDS].push_back(Entry { completion, frees });
        }
        true
    }

    /// Moves a queue pair to the error state, because of a request or for another reason.
    pub(super) fn fail(&mut self, index: usize, cause: Option<(u64, Status)>) {
        let delay = self.rng.below(self.qps[index].config.flush_delay_steps.max(1));
        let qp = &mut self.qps[index];
        if qp.state != QpState::Ready {
            return;
        }
        if let Some((token, status)) = cause
            && let Some(at) = qp.flight.iter().position(|f| f.token == token)
        {
            qp.flight[at].done = Some(status);
            // Nothing after a failed request succeeds.
            qp.flight.iter_mut().skip(at + 1).for_each(|f| f.done = Some(Status::Flushed));
        }
        qp.state = QpState::Error { flush_at: self.now + delay };
        self.lose_tail(index);
    }

    /// What a failing queue pair had sent last may or may not still arrive.
    fn lose_tail(&mut self, index: usize) {
        let peer = self.qps[index].peer;
        let inbound = &mut self.qps[peer].inbound;
        // Bytes that were acknowledged do arrive.
        let kept = usize::from(matches!(inbound.front(), Some(Inbound::Placing { .. })));
        if self.rng.chance(500) && inbound.len() > kept {
            let len = kept + self.rng.below((inbound.len() - kept) as u64) as usize;
            inbound.truncate(len);
        }
    }

    /// Flushes what is outstanding, late.
    fn flush(&mut self, index: usize) {
        let now = self.now;
        let qp = &mut self.qps[index];
        let QpState::Error { flush_at } = qp.state else { return };
        if now < flush_at {
            return;
        }
        qp.inbound.clear();
        qp.responses.clear();
        let unfinished = qp.flight.iter().position(|f| f.done.is_none());
        for flight in qp.flight.iter_mut().skip(unfinished.unwrap_or(usize::MAX)) {
            flight.done = Some(Status::Flushed);
        }
        while let Some(request) = qp.queue.pop_front() {
            qp.flight.push_back(InFlight {
                id: request.id,
                signaled: true,
                token: 0,
                done: Some(Status::Flushed),
                is_read: false,
                source: None,
                target: None,
            });
        }
        let what = Completed::Receive { imm: 0 };
        let completion = Completion { what, status: Status::Flushed };
        for _ in 0..std::mem::take(&mut qp.receives) {
            qp.cq[RECEIVES].push_back(Entry { completion, frees: 0 });
        }
    }

    /// The next completion can be seen.
    fn show(&mut self, index: usize, which: usize) -> bool {
        let qp = &mut self.qps[index];
        if qp.visible[which] == qp.cq[which].len() {
            return false;
        }
        qp.visible[which] += 1;
        self.wake(index);
        true
    }

    fn wake(&mut self, index: usize) {
        let waker: Option<Waker> = self.qps[index].waker.take();
        self.to_wake.extend(waker);
    }

    pub(super) fn poll(&mut self, index: usize, into: &mut [Completion]) -> usize {
        let mut taken = 0;
        while taken < into.len() {
            let qp = &mut self.qps[index];
            let mut which = if self.rng.chance(500) { SENDS } else { RECEIVES };
            if qp.visible[which] == 0 {
                which = 1 - which;
            }
            if qp.visible[which] == 0 {
                break;
            }
            let Some(entry) = qp.cq[which].pop_front() else { break };
            qp.visible[which] -= 1;
            qp.slots_used -= entry.frees;
            into[taken] = entry.completion;
            taken += 1;
        }
        taken
    }

    pub(super) fn destroy(&mut self, index: usize) {
        let qp = &mut self.qps[index];
        qp.state = QpState::Destroyed;
        qp.queue.clear();
        qp.flight.clear();
        qp.inbound.clear();
        qp.responses.clear();
        qp.cq = Default::default();
        qp.visible = [0, 0];
        qp.waker = None;
        self.lose_tail(index);
    }

    /// The peer of `index` sees its bootstrap connection close, a little later.
    pub(super) fn close_liveness_of_peer(&mut self, index: usize) {
        let at = self.now + 1 + self.rng.below(30);
        let peer = self.qps[index].peer;
        self.closings.push((at, peer));
    }

    pub(super) fn inject(&mut self, fault: Fault, side: usize) {
        match fault {
            Fault::QueuePairFails => self.fail(side, None),
            Fault::CompletionError => self.qps[side].error_next = true,
            Fault::ProcessKilled => {
                self.destroy(side);
                self.close_liveness_of_peer(side);
            }
            Fault::BootstrapCloses => self.close_liveness_of_peer(side),
        }
    }
}
