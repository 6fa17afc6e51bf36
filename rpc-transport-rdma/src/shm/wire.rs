//! Doing a request: the copy into or out of the peer's memory, and the entry in its completion
//! ring.

use std::borrow::Borrow;
use std::sync::Arc;

use super::control::ControlBlock;
use super::cq_ring::{EntryKind, Producer, RingFault, entry_address};
use super::cross_read::PeerMemory;
use super::failure::Failure;
use super::lend;
use super::mapping::Mapping;
use super::regions::{AccessError, PeerRegions};
use super::send_queue::{Request, Span};
use crate::verbs::{Access, RemoteAddr};

/// How far a request got.
#[derive(Debug)]
pub(super) enum Step {
    /// It is done.
    Done,
    /// It is done, and the peer has a new completion.
    Published,
    /// This call's share of bytes is used up.
    OutOfBudget,
    /// The peer has no receive posted.
    NoReceive,
    /// The rkey names nothing mapped here yet.
    UnknownKey,
    /// It will not be done. The only step with more to it, so that all fit two registers: by way
    /// of memory it would wait for the stores before it, into cache lines the peer has.
    Over(Box<Over>),
}

const _: () = assert!(size_of::<Step>() <= 16);

/// Why a request will not be done.
#[derive(Debug)]
pub(super) enum Over {
    /// The peer's memory rules forbid it.
    Violation(String),
    /// The peer failed, or is gone.
    PeerLost(Failure),
    /// The peer scribbled over shared words.
    Fault(RingFault),
}

impl Over {
    #[cold]
    pub(super) fn violation(what: impl Into<String>) -> Step {
        Step::Over(Box::new(Over::Violation(what.into())))
    }

    #[cold]
    pub(super) fn lost(failure: Failure) -> Step {
        Step::Over(Box::new(Over::PeerLost(failure)))
    }

    #[cold]
    fn fault(fault: RingFault) -> Step {
        Step::Over(Box::new(Over::Fault(fault)))
    }
}

impl From<AccessError> for Step {
    fn from(error: AccessError) -> Step {
        match error {
            AccessError::UnknownKey => Step::UnknownKey,
            AccessError::Violation(broken) => Over::violation(broken.0),
        }
    }
}

/// The way to the peer: its control block, its completion ring, its regions.
///
/// In this order in memory: what each call touches comes first, so that it lies in few cache lines.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Wire {
    pub(super) peer: Arc<ControlBlock>,
    pub(super) producer: Producer,
    pub(super) regions: PeerRegions,

    /// The memory of the peer's process, if this side can read it.
    pub(super) peer_memory: Option<PeerMemory>,
}

impl Wire {
    /// Where the peer will be told of it, as a hint.
    pub(super) fn next_entry(&self) -> usize {
        entry_address(self.peer.entries(), self.producer.position())
    }

    /// Whether the peer has a receive posted.
    pub(super) fn has_receive(&mut self) -> Result<bool, RingFault> {
        self.producer.has_receive(self.peer.receives_posted())
    }

    /// Moves a request on by at most `budget` bytes. What is checked is checked before a byte
    /// moves, so a request that breaks the rules changes no memory. (Of lent memory only the
    /// kernel knows, on the way; what a READ that fails has brought by then, nobody looks at.)
    #[inline]
    pub(super) fn execute<M: Borrow<Arc<Mapping>>>(
        &mut self,
        request: &Request<M>,
        progress: &mut usize,
        budget: &mut usize,
    ) -> Step {
        match request {
            Request::Write { from, to, imm } => {
                self.write(from.as_ref(), *to, *imm, progress, budget)
            }
            Request::Send { word } => self.publish(EntryKind::Send, *word),
            Request::Word { word, to } => {
                let len = size_of::<u64>();
                match self.regions.resolve(*to, len, Access::RemoteWrite) {
                    Err(error) => error.into(),
                    Ok((mapping, offset)) => {
                        // Release: after every WRITE before it.
                        let word = word.to_le();
                        mapping.word(offset).store(word, std::sync::atomic::Ordering::Release);
                        Step::Done
                    }
                }
            }
            Request::Read { into, from } if lend::is_lent(from.rkey) => {
                let (start, count) = next_slice(into.len, progress, budget);
                let Some(from) = from.offset(start as u64) else {
                    return Over::violation("the address is beyond all memory");
                };
                let target: &Mapping = into.mapping.borrow();
                match self.read_lent(from, target, into.offset + start, count) {
                    Some(ended) => ended,
                    None if *progress == into.len => Step::Done,
                    None => Step::OutOfBudget,
                }
            }
            Request::Read { into, from } => {
                match self.regions.resolve(*from, into.len, Access::RemoteRead) {
                    Err(error) => error.into(),
                    Ok((mapping, offset)) => {
                        let (start, count) = next_slice(into.len, progress, budget);
                        let target: &Mapping = into.mapping.borrow();
                        target.copy_from(into.offset + start, mapping, offset + start, count);
                        if *progress == into.len { Step::Done } else { Step::OutOfBudget }
                    }
                }
            }
        }
    }

    #[inline]
    fn write<M: Borrow<Arc<Mapping>>>(
        &mut self,
        from: Option<&Span<M>>,
        to: RemoteAddr,
        imm: Option<u32>,
        progress: &mut usize,
        budget: &mut usize,
    ) -> Step {
        if let Some(span) = from.filter(|span| span.len > 0) {
            let (mapping, offset) = match self.regions.resolve(to, span.len, Access::RemoteWrite) {
                Ok(found) => found,
                Err(error) => return error.into(),
            };
            // The receive is looked for before the bytes move, so that waiting for it costs no
            // second copy.
            if imm.is_some() && *progress == 0 {
                match self.producer.has_receive(self.peer.receives_posted()) {
                    Ok(true) => {}
                    Ok(false) => return Step::NoReceive,
                    Err(fault) => return Over::fault(fault),
                }
            }
            let (start, count) = next_slice(span.len, progress, budget);
            mapping.copy_from(offset + start, span.mapping.borrow(), span.offset + start, count);
            if *progress < span.len {
                return Step::OutOfBudget;
            }
        }
        match imm {
            None => Step::Done,
            Some(imm) => self.publish(EntryKind::Immediate, imm),
        }
    }

    #[inline]
    fn publish(&mut self, kind: EntryKind, imm: u32) -> Step {
        match self.has_receive() {
            Ok(true) => {
                self.producer.publish(self.peer.entries(), kind, imm);
                Step::Published
            }
            Ok(false) => Step::NoReceive,
            Err(fault) => Over::fault(fault),
        }
    }
}

/// Where the next slice starts and how long it is; moves both counters on.
fn next_slice(len: usize, progress: &mut usize, budget: &mut usize) -> (usize, usize) {
    let start = *progress;
    let count = (len - start).min(*budget);
    *progress += count;
    *budget -= count;
    (start, count)
}
