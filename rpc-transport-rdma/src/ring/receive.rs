//! Receiving: completions, and what they say has arrived.

use std::task::{Context, Poll, Waker};

use rdma_rpc_core::link::LinkError;

use super::bulk_pull::Finished;
use super::error::{completion_failed, gone, verb_failed};
use super::immediate::{Immediate, claimed_count};
use super::link::RingLink;
use super::send_queue::Kind;
use crate::verbs::{Completed, Completion, PostError, QueuePair, Status};

/// Completions taken at a time.
const BATCH: usize = 8;
const NO_COMPLETION: Completion =
    Completion { what: Completed::Send { id: 0 }, status: Status::Success };

impl<Q: QueuePair> RingLink<Q> {
    /// Takes every completion there is and does what can be done without the owner. Depends on
    /// no room to send: a blocked writer still drains.
    pub(super) fn progress(&mut self) -> Result<(), LinkError> {
        loop {
            let mut batch = [NO_COMPLETION; BATCH];
            let count = match self.queue_pair.poll(&mut batch) {
                Ok(count) => count,
                Err(error) => {
                    let error = self.why_failed().unwrap_or_else(|| verb_failed(&error));
                    return Err(self.end(error));
                }
            };
            // A batch is never cut short: what was taken from the queue is nowhere else.
            for completion in &batch[..count] {
                let handled = self.completed(*completion);
                self.ending(handled)?;
            }
            if count < BATCH {
                break;
            }
        }
        self.receiver.drained = true;
        self.post_reads();
        self.return_credit(false)
    }

    fn completed(&mut self, completion: Completion) -> Result<(), LinkError> {
        match (completion.what, completion.status) {
            (Completed::Send { id }, Status::Success) => match self.sender.queue.completed(id)? {
                Kind::Plain => {}
                Kind::Close => self.ending.close_done = true,
                Kind::Read { pull } => self.read_done(pull),
            },
            (Completed::Send { id }, status) => {
                let what = match self.sender.queue.kind(id) {
                    Kind::Read { pull } => format!(
                        "request {id}, READ of the bulk message with ticket {}",
                        self.pulls.ticket(pull).unwrap_or_default()
                    ),
                    Kind::Plain | Kind::Close => format!("request {id}"),
                };
                self.fail(completion_failed(&what, status), status == Status::Flushed);
            }
            (Completed::Receive { imm }, status) => {
                let left = self.receiver.receives_posted.checked_sub(1).ok_or_else(|| {
                    LinkError::io("the device completed more receives than were posted")
                })?;
                self.receiver.receives_posted = left;
                if status == Status::Success {
                    self.immediate(imm)?;
                } else {
                    self.fail(completion_failed("receive", status), status == Status::Flushed);
                }
            }
        }
        Ok(())
    }

    /// The queue pair has failed. The first reason stays, but for a flush, which is only an echo.
    pub(super) fn fail(&mut self, reason: LinkError, flush: bool) {
        if self.ending.failed.is_none() || (self.ending.failed_by_flush && !flush) {
            self.ending.failed = Some(reason);
            self.ending.failed_by_flush = flush;
        }
        // Makes sure that everything flushes, whatever it was that failed.
        self.queue_pair.fail();
    }

    fn read_done(&mut self, pull: usize) {
        if let Some(complete) = self.pulls.piece_done(pull) {
            let message = self.pull_pool.lend(complete.region, complete.len);
            self.receiver.finished.push_back(Finished { ticket: complete.ticket, message });
        }
    }

    fn immediate(&mut self, word: u32) -> Result<(), LinkError> {
        let immediate = Immediate::decode(word)?;
        if self.ending.peer_closed {
            return Err(LinkError::misbehaved(format!(
                "immediate {word:#010x} came after the peer's close"
            )));
        }
        match immediate {
            Immediate::Data { len_bytes, skip } => {
                let burst = self.receiver.credits.arrive(len_bytes, skip)?;
                self.receiver.arrived.push_back(burst);
                return Ok(());
            }
            Immediate::Wanted { claim } => {
                if self.receiver.wanted.is_some() {
                    return Err(LinkError::misbehaved(
                        "the peer asked for credit again before it was answered",
                    ));
                }
                let most = self.receiver.credits.consumed_bursts();
                let known = claim.map_or(0, |low| claimed_count(low, most));
                // An answer that the peer has had counts, if it could not say what it knows.
                self.receiver.wanted = Some(known.max(self.receiver.answered_bursts));
            }
            Immediate::Answer { bursts } => self.answered(bursts)?,
            Immediate::Close => self.ending.peer_closed = true,
        }
        self.receiver.receives_due += 1;
        self.receiver.credit_due = true;
        Ok(())
    }

    fn answered(&mut self, bursts: u32) -> Result<(), LinkError> {
        if !std::mem::take(&mut self.sender.asked) {
            return Err(LinkError::misbehaved("the peer answered a question that was not asked"));
        }
        self.look_at_cell()?;
        let bursts = claimed_count(bursts, self.sender.credits.sent_bursts());
        self.sender.credits.confirm(bursts);
        Ok(())
    }

    /// Posts the receives that were consumed and dealt with; what was copied out with them may
    /// then be told to the peer.
    pub(super) fn post_receives_due(&mut self) {
        let due = self.receiver.receives_due;
        if due == 0 {
            return;
        }
        match self.queue_pair.post_receives(due as u32) {
            Ok(()) => {
                self.receiver.receives_due = 0;
                self.receiver.receives_posted += due;
                self.receiver.credits.receives_posted();
            }
            Err(PostError::Full) => self.device_full = true,
            Err(PostError::Failed) => {}
            Err(PostError::Verb(error)) => self.fail(verb_failed(&error), false),
        }
    }

    /// Whether `receive` has something to give without asking the device.
    pub(super) fn has_received(&self) -> bool {
        let receiver = &self.receiver;
        receiver.cursor < receiver.burst_bytes
            || !receiver.arrived.is_empty()
            || !receiver.finished.is_empty()
    }

    /// Why nothing will come any more, if that is so and everything has been delivered.
    pub(super) fn end_of_stream(&mut self) -> Option<LinkError> {
        if self.has_received() {
            return None;
        }
        if self.ending.peer_closed && (self.pulls.is_idle() || self.ending.failed.is_some()) {
            return Some(LinkError::closed("the peer closed the connection in order"));
        }
        // Receives complete in order: once the last has come back, nothing that arrived before
        // the failure can still be on its way to us.
        self.ending.failed.as_ref()?;
        if self.receiver.receives_posted > 0 {
            return None;
        }
        self.why_failed()
    }

    /// Why the queue pair has failed; `None` if only the device can say.
    fn why_failed(&mut self) -> Option<LinkError> {
        if self.ending.failed.is_some() && !self.ending.failed_by_flush {
            return self.ending.failed.clone();
        }
        self.behind_the_flush().or_else(|| self.ending.failed.clone())
    }

    /// What made the queue pair flush, if the device or the bootstrap connection knows. The flush
    /// is often seen first.
    fn behind_the_flush(&mut self) -> Option<LinkError> {
        if let Some(error) = self.queue_pair.failure() {
            return Some(LinkError::closed(error.to_string()));
        }
        if self.ending.liveness_closed {
            return self.ending.failed.clone();
        }
        // The link is over: nobody needs to be woken.
        let mut cx = Context::from_waker(Waker::noop());
        match self.liveness.as_mut()?.poll_closed(&mut cx) {
            Poll::Ready(reason) => Some(gone(&reason)),
            Poll::Pending => None,
        }
    }
}
