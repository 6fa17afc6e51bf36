//! Sending: bursts, credit, control immediates, READs. Nothing here waits; what finds no slot or
//! no credit stays where it is.

use rdma_rpc_core::link::LinkError;

use super::bulk_send::Described;
use super::cell;
use super::credits::Position;
use super::error::verb_failed;
use super::immediate::{CLAIM_WINDOW, Immediate, claim_of};
use super::layout::{BURST_HEADER_BYTES, read_header, write_header};
use super::link::RingLink;
use super::send_queue::Kind;
use super::staging::Burst;
use crate::verbs::{Local, Op, PostError, QueuePair, Region, RemoteAddr, WorkRequest};

/// Where a WRITE of nothing goes.
const NOWHERE: RemoteAddr = RemoteAddr { addr: 0, rkey: 0 };

/// A request without memory: an immediate alone, by WRITE or by SEND.
fn immediate_op<'a, R>(immediate: Immediate, write_with_imm: bool) -> Op<'a, R> {
    let word = immediate.encode();
    if write_with_imm {
        Op::Write { from: None, to: NOWHERE, imm: Some(word) }
    } else {
        Op::Send { word }
    }
}

impl<Q: QueuePair> RingLink<Q> {
    /// Whether the front burst could be posted now.
    pub(super) fn can_post_burst(&self) -> bool {
        self.sender.credits.may_send_burst()
            && self.sender.queue.has_data_room(self.sender.burst_requests())
    }

    /// Posts bursts while there are slots and receives of the peer.
    pub(super) fn post_bursts(&mut self) -> Result<(), LinkError> {
        while let Some(burst) = self.sender.staging.front() {
            let over = self.ending.failed.is_some() || self.ending.close_posted;
            if over || !self.can_post_burst() || !self.post_burst(burst)? {
                break;
            }
        }
        Ok(())
    }

    fn post_burst(&mut self, burst: Burst) -> Result<bool, LinkError> {
        let sender = &mut self.sender;
        let offset = sender.staging.offset(burst.start);
        let len = burst.len_bytes() as usize;
        // Every burst carries the credit of the other direction.
        let header = &mut sender.region.bytes_mut()[offset..][..BURST_HEADER_BYTES as usize];
        write_header(self.receiver.credits.returned(), header);
        let sender = &self.sender;
        let word = Immediate::Data { len_bytes: burst.len_bytes(), skip: burst.skip };
        let op = match sender.ring {
            // The peer finds it where it is.
            None => {
                sender.region.publish();
                immediate_op(word, sender.write_with_imm)
            }
            Some(ring) => {
                let Some(to) = ring.offset(offset as u64) else {
                    return Err(LinkError::misbehaved("ring address overflows"));
                };
                let from = Some(Local { region: &sender.region, offset, len });
                Op::Write { from, to, imm: sender.write_with_imm.then(|| word.encode()) }
            }
        };
        let (requests, end) = (sender.burst_requests(), sender.device_reads_until(&burst));
        let signaled = sender.queue.must_signal(requests, end);
        let id = sender.queue.next_id(0);
        let posted = if requests == 1 {
            self.queue_pair.post_send(&[WorkRequest { id, op, signaled }])
        } else {
            self.queue_pair.post_send(&[
                WorkRequest { id, op, signaled: false },
                WorkRequest { id: id + 1, op: Op::Send { word: word.encode() }, signaled },
            ])
        };
        if !self.posted(posted, requests, end, signaled, Kind::Plain) {
            return Ok(false);
        }
        self.sender.credits.sent_burst(burst.end);
        self.sender.staging.pop_front();
        self.receiver.credits.mark_told();
        self.read_was_last = false;
        self.foresee();
        Ok(true)
    }

    /// Books what a post has come to. `false`: nothing was posted, try again later.
    fn posted(
        &mut self,
        posted: Result<(), PostError>,
        requests: u64,
        staging_end: u64,
        signaled: bool,
        what: Kind,
    ) -> bool {
        match posted {
            Ok(()) => {
                self.sender.queue.posted(requests, staging_end, signaled, what);
                true
            }
            Err(PostError::Full) => {
                self.device_full = true;
                false
            }
            // The reason comes with the completions that flush.
            Err(PostError::Failed) => false,
            Err(PostError::Verb(error)) => {
                self.fail(verb_failed(&error), false);
                false
            }
        }
    }

    /// Posts `op` alone, from the slots kept for control.
    fn post_control(&mut self, immediate: Immediate, what: Kind) -> bool {
        if !self.sender.queue.has_control_room(1) {
            return false;
        }
        let end = self.sender.queue.staging_posted();
        let signaled = what == Kind::Close || self.sender.queue.must_signal(1, end);
        let id = self.sender.queue.next_id(0);
        let op = immediate_op(immediate, self.sender.write_with_imm);
        let posted = self.queue_pair.post_send(&[WorkRequest { id, op, signaled }]);
        self.posted(posted, 1, end, signaled, what)
    }

    /// Tells the peer that we sleep for want of credit, unless it knows already.
    pub(super) fn ask_for_credit(&mut self) {
        if self.sender.asked || self.ending.failed.is_some() || self.ending.close_posted {
            return;
        }
        // The answer needs a receive.
        self.post_receives_due();
        let claim = self.sender.credits.claim(CLAIM_WINDOW).map(claim_of);
        self.sender.asked = self.post_control(Immediate::Wanted { claim }, Kind::Plain);
    }

    /// Tells the peer that nothing follows.
    pub(super) fn post_close(&mut self) {
        self.ending.close_posted = self.post_control(Immediate::Close, Kind::Close);
    }

    /// Tells the peer what was released, as far as there is reason to: an answer it waits for, or
    /// an eighth of the ring. `resting`: the owner has nothing more to do for now.
    #[inline]
    pub(super) fn return_credit(&mut self, resting: bool) -> Result<(), LinkError> {
        if self.receiver.credit_due { self.return_credit_due(resting) } else { Ok(()) }
    }

    fn return_credit_due(&mut self, resting: bool) -> Result<(), LinkError> {
        if self.ending.failed.is_some() || self.ending.close_posted {
            return Ok(());
        }
        let receiver = &self.receiver;
        if receiver.receives_due >= receiver.receive_batch || receiver.credits.eighth_unreturned() {
            self.post_receives_due();
        }
        let receiver = &self.receiver;
        let credits = &receiver.credits;
        // An eighth that is not told never stops anybody: seven eighths hold the longest burst. So
        // an owner that polls all the time, and never asks, cannot be stuck either.
        let no_burst_soon = resting || self.sender.staging.is_empty() || !self.can_post_burst();
        if let Some(known) = receiver.wanted {
            // One answer for many bursts, as long as there are more to copy out.
            let worth_it = resting || receiver.arrived.is_empty() || credits.untold_eighths(2);
            if credits.consumed_bursts() > known && worth_it {
                self.post_receives_due();
                self.post_credit(true);
            }
        } else if credits.untold_eighths(4) || (credits.untold_eighths(1) && no_burst_soon) {
            self.post_receives_due();
            self.post_credit(false);
        }
        self.receiver.look_at_credit();
        Ok(())
    }

    /// Writes the credit cell of the peer, and the immediate that answers it.
    fn post_credit(&mut self, answer: bool) {
        let requests = if answer { 3 } else { 2 };
        let queue = &self.sender.queue;
        if !queue.has_control_room(requests) {
            return;
        }
        let Position { bytes, bursts } = self.receiver.credits.returned();
        let at = self.sender.peer_cell;
        // Checked with the hello: the cell's last byte has an address.
        let Some(second) = at.offset(8) else { return };
        let end = queue.staging_posted();
        let signaled = queue.must_signal(requests, end);
        let id = queue.next_id(0);
        let reply = Immediate::Answer { bursts: claim_of(bursts) };
        let reply: Op<'_, Q::Region> = immediate_op(reply, self.sender.write_with_imm);
        let list = [
            WorkRequest {
                id,
                op: Op::WriteWord { word: cell::encode(bytes), to: at },
                signaled: false,
            },
            WorkRequest {
                id: id + 1,
                op: Op::WriteWord { word: cell::encode(bursts), to: second },
                signaled: signaled && !answer,
            },
            WorkRequest { id: id + 2, op: reply, signaled },
        ];
        let posted = self.queue_pair.post_send(&list[..requests as usize]);
        if self.posted(posted, requests, end, signaled, Kind::Plain) {
            self.receiver.credits.mark_told();
            if answer {
                self.receiver.wanted = None;
                self.receiver.answered_bursts = bursts;
            }
        }
    }

    /// Looks at what the peer has written into our credit cell.
    pub(super) fn look_at_cell(&mut self) -> Result<(), LinkError> {
        let mut words = [0; BURST_HEADER_BYTES as usize];
        self.sender.cell.read(0, &mut words);
        let (said, known) = (read_header(&words), self.sender.credits.released());
        let said = Position {
            bytes: cell::decode(said.bytes, known.bytes).unwrap_or(known.bytes),
            bursts: cell::decode(said.bursts, known.bursts).unwrap_or(known.bursts),
        };
        let learnt = self.sender.credits.learn(said, "credit cell");
        self.ending(learnt)
    }

    /// Begins a pull, if there is a buffer for it.
    pub(super) fn begin_pull(
        &mut self,
        ticket: u64,
        described: Described,
        len: usize,
    ) -> Result<bool, LinkError> {
        if len == 0 {
            let message = bytes::Bytes::new();
            self.receiver.finished.push_back(super::bulk_pull::Finished { ticket, message });
            return Ok(true);
        }
        if self.ending.failed.is_some() {
            return Ok(false); // and nothing to wait for but the end
        }
        self.receiver.want_pull = Some(len);
        if !self.pulls.has_room() {
            return Ok(false);
        }
        let region = match self.pull_pool.take(&mut self.queue_pair, len) {
            Ok(Some(region)) => region,
            Ok(None) => return Ok(false),
            Err(error) if error.is_out_of_memory() => {
                self.starve(&error);
                return Ok(false);
            }
            Err(error) => return Err(verb_failed(&error)),
        };
        self.receiver.want_pull = None;
        self.pulls.begin(ticket, described.at, len, region);
        self.post_reads();
        Ok(true)
    }

    /// Posts READs while slots and the bound on READs allow.
    #[inline]
    pub(super) fn post_reads(&mut self) {
        if !self.pulls.is_idle() {
            self.post_some_reads();
        }
    }

    fn post_some_reads(&mut self) {
        while self.ending.failed.is_none() && !self.ending.closing {
            let requests = self.sender.burst_requests();
            let queue = &self.sender.queue;
            // Where a slot is all there is, READs and bursts take turns.
            let data_is_next = self.read_was_last
                && self.sender.flush_blocked
                && self.sender.credits.may_send_burst()
                && !queue.has_data_room(requests + 1);
            if data_is_next || !queue.has_data_room(1) {
                return;
            }
            let Some(piece) = self.pulls.next_piece() else { return };
            let (id, end) = (queue.next_id(0), queue.staging_posted());
            let into = Local { region: piece.region, offset: piece.offset, len: piece.len };
            let op = Op::Read { into, from: piece.from };
            let what = Kind::Read { pull: piece.pull };
            let posted = self.queue_pair.post_send(&[WorkRequest { id, op, signaled: true }]);
            if !self.posted(posted, 1, end, true, what) {
                return;
            }
            self.pulls.piece_posted();
            self.read_was_last = true;
        }
    }
}
