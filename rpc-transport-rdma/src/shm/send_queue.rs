//! The send queue: which requests hold slots, which still wait, which are done.
//!
//! ```text
//!   retired            executed             posted
//!      |  done, or done  |  waiting: for a    |  room up to
//!      |  unsignalled    |  receive, or a     |  retired + depth
//!      v                 v  slice at a time   v
//! -----+-----------------+--------------------+------------------> position
//! ```
//!
//! As on a NIC, a slot is free again when the completion of it or of a later request has been
//! taken: an owner that never signals fills the queue.

use std::borrow::Borrow;
use std::collections::VecDeque;
use std::sync::Arc;

use super::mapping::Mapping;
use crate::fifo;
use crate::verbs::{Completed, Completion, RemoteAddr, Status};

/// A stretch of local memory. `M` is a borrowed or an own `Arc<Mapping>`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span<M> {
    pub(super) mapping: M,
    pub(super) offset: usize,
    pub(super) len: usize,
}

/// What a request does, after its local side has been checked.
#[derive(Debug, Clone, Copy)]
pub(super) enum Request<M> {
    Write { from: Option<Span<M>>, to: RemoteAddr, imm: Option<u32> },
    Word { word: u64, to: RemoteAddr },
    Read { into: Span<M>, from: RemoteAddr },
    Send { word: u32 },
}

impl<M: Borrow<Arc<Mapping>>> Span<M> {
    fn owned(&self) -> Span<Arc<Mapping>> {
        let mapping = Arc::clone(self.mapping.borrow());
        Span { mapping, offset: self.offset, len: self.len }
    }
}

impl<M: Borrow<Arc<Mapping>>> Request<M> {
    /// The request, holding its memory: whatever its owner drops, the memory stays until the
    /// request is done.
    pub(super) fn owned(&self) -> Request<Arc<Mapping>> {
        match self {
            Request::Write { from, to, imm } => {
                Request::Write { from: from.as_ref().map(Span::owned), to: *to, imm: *imm }
            }
            Request::Word { word, to } => Request::Word { word: *word, to: *to },
            Request::Read { into, from } => Request::Read { into: into.owned(), from: *from },
            Request::Send { word } => Request::Send { word: *word },
        }
    }
}

/// A request that waits, or is under way.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) id: u64,
    pub(super) signaled: bool,
    pub(super) request: Request<Arc<Mapping>>,
    /// Bytes copied so far.
    pub(super) progress: usize,
    position: u64,
}

#[derive(Debug)]
struct Done {
    position: u64,
    id: u64,
    status: Status,
}

/// The send queue of one queue pair.
#[derive(Debug)]
pub(super) struct SendQueue {
    depth: u64,
    posted: u64,
    retired: u64,
    waiting: VecDeque<Waiting>,
    done: VecDeque<Done>,
}

impl SendQueue {
    /// A queue of `depth` slots.
    pub(super) fn new(depth: u32) -> SendQueue {
        SendQueue {
            depth: depth.into(),
            posted: 0,
            retired: 0,
            waiting: VecDeque::new(),
            done: VecDeque::with_capacity(depth.min(64) as usize),
        }
    }

    /// Whether `count` more requests fit.
    pub(super) fn has_room(&self, count: usize) -> bool {
        self.posted - self.retired + count as u64 <= self.depth
    }

    /// Takes a slot; its position.
    pub(super) fn admit(&mut self) -> u64 {
        self.posted += 1;
        self.posted - 1
    }

    /// Queues an admitted request behind the others.
    pub(super) fn wait<M: Borrow<Arc<Mapping>>>(
        &mut self,
        position: u64,
        id: u64,
        signaled: bool,
        request: &Request<M>,
        progress: usize,
    ) {
        self.waiting.push_back(Waiting {
            id,
            signaled,
            request: request.owned(),
            progress,
            position,
        });
    }

    /// Whether requests wait.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The oldest waiting request.
    pub(super) fn front(&mut self) -> Option<&mut Waiting> {
        self.waiting.front_mut()
    }

    /// The oldest waiting request has ended.
    pub(super) fn finish_front(&mut self, status: Status) {
        if let Some(ended) = self.waiting.pop_front() {
            self.finish(ended.position, ended.id, ended.signaled, status);
        }
    }

    /// An admitted request has ended.
    pub(super) fn finish(&mut self, position: u64, id: u64, signaled: bool, status: Status) {
        if signaled || status != Status::Success {
            self.done.push_back(Done { position, id, status });
        }
    }

    /// Everything that waits ends as flushed.
    pub(super) fn flush(&mut self) {
        while self.is_waiting() {
            self.finish_front(Status::Flushed);
        }
    }

    /// Whether completions are to be taken.
    pub(super) fn has_done(&self) -> bool {
        !self.done.is_empty()
    }

    /// The oldest completion; taking it frees the slots up to it.
    pub(super) fn take_done(&mut self) -> Option<Completion> {
        let done = fifo::pop_front(&mut self.done)?;
        self.retired = done.position + 1;
        Some(Completion { what: Completed::Send { id: done.id }, status: done.status })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEND: Request<Arc<Mapping>> = Request::Send { word: 0 };

    fn id(completion: Option<Completion>) -> Option<(u64, Status)> {
        completion.map(|completion| match completion.what {
            Completed::Send { id } => (id, completion.status),
            Completed::Receive { .. } => panic!("not a send"),
        })
    }

    #[test]
    fn only_a_taken_completion_frees_slots_and_all_before_it() {
        let mut queue = SendQueue::new(3);
        for request in 0..3 {
            assert!(queue.has_room(1));
            let position = queue.admit();
            queue.finish(position, request, request == 1, Status::Success);
        }
        assert!(!queue.has_room(1));
        assert_eq!(id(queue.take_done()), Some((1, Status::Success)));
        assert!(queue.has_room(2) && !queue.has_room(3));
        assert_eq!(id(queue.take_done()), None);
    }

    #[test]
    fn a_flush_completes_unsignalled_requests_too_in_order() {
        let mut queue = SendQueue::new(8);
        for request in 0..4 {
            let position = queue.admit();
            queue.wait(position, request, false, &SEND, 0);
        }
        queue.finish_front(Status::ReceiverNotReady);
        queue.flush();
        assert_eq!(id(queue.take_done()), Some((0, Status::ReceiverNotReady)));
        for request in 1..4 {
            assert_eq!(id(queue.take_done()), Some((request, Status::Flushed)));
        }
        assert!(queue.has_room(8));
    }
}
