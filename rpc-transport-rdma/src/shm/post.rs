//! Posting: a request's local side is checked, and it runs as far as it can or waits its turn.

use std::sync::Arc;

use rustix::io::Errno;

use super::lend::is_lent;
use super::mapping::Mapping;
use super::notify::WAKE_COMPLETIONS;
use super::qp::{Phase, ShmQueuePair};
use super::regions::ShmRegion;
use super::send_queue::{Request, Span};
use super::wire::Step;
use crate::verbs::{Local, Op, PostError, Region, Status, VerbError};

impl ShmQueuePair {
    /// The request with its local side checked.
    #[inline(always)]
    pub(super) fn check<'a>(
        &self,
        index: usize,
        op: &Op<'a, ShmRegion>,
    ) -> Result<Request<&'a Arc<Mapping>>, PostError> {
        let span = |local: &Local<'a, ShmRegion>| {
            let end = local.offset.checked_add(local.len);
            if !local.region.belongs_to(&self.regions) {
                return Err(bad_request(index, "its region belongs to another queue pair"));
            }
            if end.is_none_or(|end| end > local.region.len()) {
                let (offset, len) = (local.offset, local.len);
                let what = format!("{len} bytes at {offset} are outside of {:?}", local.region);
                return Err(bad_request(index, &what));
            }
            Ok(Span { mapping: local.region.mapping(), offset: local.offset, len: local.len })
        };
        Ok(match op {
            Op::Write { from, to, imm } => {
                Request::Write { from: from.as_ref().map(span).transpose()?, to: *to, imm: *imm }
            }
            Op::WriteWord { word, to } => {
                if !to.addr.is_multiple_of(8) {
                    return Err(bad_request(index, "the word's address is not 8-byte aligned"));
                }
                Request::Word { word: *word, to: *to }
            }
            Op::Read { into, from } if is_lent(from.rkey) && !into.region.is_local() => {
                return Err(bad_request(
                    index,
                    "lent memory is READ into memory of this side only",
                ));
            }
            Op::Read { into, from } => Request::Read { into: span(into)?, from: *from },
            Op::Send { word } => Request::Send { word: *word },
        })
    }

    /// Runs or queues one admitted request; whether the peer has a new completion.
    #[inline]
    pub(super) fn submit(
        &mut self,
        id: u64,
        signaled: bool,
        request: &Request<&Arc<Mapping>>,
        budget: &mut usize,
    ) -> bool {
        let position = self.sends.admit();
        if matches!(self.phase, Phase::Failed(_)) {
            self.sends.finish(position, id, signaled, Status::Flushed);
            return false;
        }
        if self.sends.is_waiting() || !matches!(self.phase, Phase::Up) {
            self.sends.wait(position, id, signaled, request, 0);
            return false;
        }
        let mut progress = 0;
        let mut step = self.wire.execute(request, &mut progress, budget);
        if matches!(step, Step::UnknownKey) {
            // Its offer may lie in the socket.
            self.take_messages();
            step = self.wire.execute(request, &mut progress, budget);
        }
        match step {
            Step::Done | Step::Published => {
                self.sends.finish(position, id, signaled, Status::Success);
                matches!(step, Step::Published)
            }
            Step::OutOfBudget => {
                self.sends.wait(position, id, signaled, request, progress);
                false
            }
            other => {
                self.sends.wait(position, id, signaled, request, 0);
                self.hold_front(other);
                false
            }
        }
    }

    /// Runs waiting requests, up to one slice of bytes.
    pub(super) fn advance(&mut self) {
        let mut budget = self.config.slice_bytes;
        let mut published_any = false;
        let mut looked = false;
        while matches!(self.phase, Phase::Up) {
            let Some(front) = self.sends.front() else { break };
            match self.wire.execute(&front.request, &mut front.progress, &mut budget) {
                step @ (Step::Done | Step::Published) => {
                    published_any |= matches!(step, Step::Published);
                    self.blocked = None;
                    self.sends.finish_front(Status::Success);
                }
                Step::OutOfBudget => {
                    self.blocked = None;
                    break;
                }
                Step::UnknownKey if !looked => {
                    // Its offer may lie in the socket.
                    looked = true;
                    self.take_messages();
                }
                other => {
                    self.hold_front(other);
                    break;
                }
            }
        }
        if published_any {
            self.ring_doorbell(WAKE_COMPLETIONS);
        }
    }
}

#[cold]
fn bad_request(index: usize, what: &str) -> PostError {
    PostError::Verb(VerbError {
        verb: "post_send",
        errno: Errno::INVAL.raw_os_error(),
        context: format!("request {index} of the list: {what}"),
    })
}
