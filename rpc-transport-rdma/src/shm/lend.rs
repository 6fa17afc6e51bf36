//! Memory of the program lent to the peer's READs, where it lies.
//!
//! The lender gives out the plain address and a key that says "not a region": its top bit is set,
//! which no region's is. The peer's device reads there by [`super::cross_read`]. Only a peer that
//! has proved that it can is lent anything: each hello tells the address of its sender's mark, and
//! whoever can read it sends back what it found, so that the lender has the proof and not a claim.
//! A lender that hears nothing, or the wrong bytes, lends nothing, and no connection fails for it.
//!
//! # Right or not at all
//!
//! A READ must not succeed with bytes of memory that the lender has freed and used again. The
//! lender keeps every `Bytes` until the peer is done with it ([`Lendings::take_back`]) or until its
//! queue pair has failed or is dropped. Then, in this order, on either side:
//!
//! ```text
//!   lender                                     reader
//!   state = why it failed                      copy the bytes         (process_vm_readv)
//!   fence                                      fence
//!   free the memory; somebody writes to it     state still 0?  no: the READ does not succeed
//! ```
//!
//! If the copy holds a byte written after the memory was freed, it was read after that write, which
//! comes after the fence on the left; the load on the right comes after the copy, and so finds the
//! state. That needs three things: [`ShmQueuePair`]'s `enter_failed` frees after `publish_state`;
//! its `Drop` publishes before anything else, and fields are dropped after `Drop`; `publish_state`
//! ends with a fence. A lender that is killed frees nothing: its memory goes as a whole, and either
//! a copy found it whole or it finds no process. (Where the kernel is out of memory and takes a dying
//! process's pages early, reading them is an error: such an address space gets no new pages.) A peer
//! that overwrites our state word, which it can, deceives itself.
//!
//! A process that lends must not be forked and go on in the child.

use std::sync::atomic::{Ordering, fence};

use bytes::Bytes;

use super::cross_read::{MARK_BYTES, Unread};
use super::failure::Failure;
use super::mapping::Mapping;
use super::mark;
use super::qp::{Phase, ShmQueuePair};
use super::wire::{Over, Step, Wire};
use crate::verbs::RemoteAddr;

/// Set in the keys of lent memory, and of nothing else.
const LENT: u32 = 1 << 31;
/// Lendings at once; beyond that, messages are copied.
const MAX_LENDINGS: usize = 1 << 16;

const _: () = assert!(super::regions::MAX_RKEY < LENT);

/// Whether a key is that of lent memory.
#[inline]
pub(super) fn is_lent(rkey: u32) -> bool {
    rkey & LENT != 0
}

/// Whether the peer reads our memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    /// It was not told where our mark is.
    NotAsked,
    /// It has sent nothing; perhaps it cannot.
    Silent,
    /// It sent something else than our mark.
    Wrong,
    /// It sent our mark.
    Proved,
}

/// What this side has lent.
#[derive(Debug)]
pub(super) struct Lendings {
    reader: Reader,
    /// By the lower bits of the key.
    lent: Vec<Option<Bytes>>,
    free: Vec<u32>,
}

impl Lendings {
    /// `asked`: whether the peer was told where our mark is.
    pub(super) fn new(asked: bool) -> Lendings {
        let reader = if asked { Reader::Silent } else { Reader::NotAsked };
        Lendings { reader, lent: Vec::new(), free: Vec::new() }
    }

    /// What the peer says it found at our mark. An error breaks the rules.
    pub(super) fn seen(&mut self, found: &[u8; MARK_BYTES]) -> Result<(), String> {
        match self.reader {
            Reader::NotAsked => return Err("it saw a mark it was not told of".into()),
            Reader::Wrong | Reader::Proved => return Err("it saw our mark a second time".into()),
            Reader::Silent => {}
        }
        self.reader = if mark::own().is_some_and(|mark| mark.bytes() == *found) {
            tracing::debug!("shm: the peer reads our memory: long messages may be lent");
            Reader::Proved
        } else {
            tracing::debug!("shm: the peer reads the memory of another process: nothing is lent");
            Reader::Wrong
        };
        Ok(())
    }

    /// Whether anything may be lent, if not yet.
    pub(super) fn may_come(&self) -> bool {
        matches!(self.reader, Reader::Silent | Reader::Proved)
    }

    fn lend(&mut self, bytes: &Bytes) -> Option<RemoteAddr> {
        if self.reader != Reader::Proved || bytes.is_empty() {
            return None;
        }
        let place = match self.free.pop() {
            Some(place) => place,
            None if self.lent.len() == MAX_LENDINGS => return None,
            None => {
                self.lent.push(None);
                self.lent.len() as u32 - 1
            }
        };
        self.lent[place as usize] = Some(bytes.clone());
        Some(RemoteAddr { addr: bytes.as_ptr().addr() as u64, rkey: LENT | place })
    }

    /// The peer is done with a lending.
    pub(super) fn take_back(&mut self, lent: RemoteAddr) {
        let place = lent.rkey & !LENT;
        // None of it is left once the queue pair has failed.
        let Some(kept) = self.lent.get_mut(place as usize).filter(|_| is_lent(lent.rkey)) else {
            return;
        };
        if kept.take().is_some() {
            self.free.push(place);
        }
    }

    /// Frees everything. Only after the peer can find out that no READ may succeed any more.
    pub(super) fn end(&mut self) {
        *self = Lendings::new(false);
    }
}

impl Wire {
    /// Moves a READ of lent memory on; `None` if all is well.
    pub(super) fn read_lent(
        &self,
        from: RemoteAddr,
        target: &Mapping,
        offset: usize,
        len: usize,
    ) -> Option<Step> {
        let Some(memory) = &self.peer_memory else {
            return Some(Over::violation("it is lent memory, which this side cannot read"));
        };
        let read = memory.read(from.addr, target, offset, len);
        // Acquire: pairs with the lender's fence between its state and what it does to the memory.
        fence(Ordering::Acquire);
        let state = self.peer.state().load(Ordering::Acquire);
        if state != 0 {
            return Some(Over::lost(Failure::told_by_peer(state)));
        }
        match read {
            Ok(()) => None,
            Err(Unread::Gone) => Some(Over::lost(Failure::peer_gone())),
            Err(Unread::Refused(errno)) => {
                let at = from.addr;
                let what = format!("READ of {len} bytes at {at:#x} of its process: {errno}");
                Some(Over::violation(what))
            }
        }
    }
}

impl ShmQueuePair {
    /// [`crate::verbs::QueuePair::lend`].
    pub(super) fn lend_bytes(&mut self, bytes: &Bytes) -> Option<RemoteAddr> {
        // Its proof may lie in the socket.
        if self.lendings.reader == Reader::Silent && self.has_news() {
            self.take_messages();
        }
        if matches!(self.phase, Phase::Up) { self.lendings.lend(bytes) } else { None }
    }
}
