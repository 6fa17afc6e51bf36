//! Bulk messages on their way in. Whatever becomes of their stream, each is answered to the peer
//! exactly once, after the pull or instead of it, because the peer keeps its buffer until then.

use std::collections::VecDeque;

use bytes::Bytes;

use super::cell::SharedCell;
use crate::link::{BulkDescriptor, FrameSink, LinkError};
use crate::session::Session;
use crate::status::Status;

#[derive(Debug)]
struct Pull {
    ticket: u64,
    descriptor: BulkDescriptor,
    len: usize,
    cell: SharedCell,
}

/// The pulls of one connection.
#[derive(Debug, Default)]
pub(super) struct Pulls {
    next_ticket: u64,
    waiting: VecDeque<Pull>,
    under_way: Vec<Pull>,
}

impl Pulls {
    /// A ticket for a message that is to be pulled.
    pub(super) fn ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket
    }

    pub(super) fn push(
        &mut self,
        ticket: u64,
        descriptor: BulkDescriptor,
        len: usize,
        cell: SharedCell,
    ) {
        self.waiting.push_back(Pull { ticket, descriptor, len, cell });
    }

    /// Whether any has not begun.
    pub(super) fn wait(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether none waits and none is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.under_way.is_empty()
    }

    /// Begins one pull, if one can begin; whether anything changed. One at a time, see
    /// `Owner::pull_due`.
    pub(super) fn start<L: FrameSink>(
        &mut self,
        session: &mut Session,
        link: &mut L,
    ) -> Result<bool, LinkError> {
        let mut changed = false;
        while let Some(pull) = self.waiting.front() {
            if !pull.cell.wants_pulls() {
                session.bulk_done(&pull.descriptor);
                self.waiting.pop_front();
            } else if link.bulk_pull(pull.ticket, &pull.descriptor, pull.len)? {
                self.under_way.extend(self.waiting.pop_front());
                return Ok(true);
            } else {
                break;
            }
            changed = true;
        }
        Ok(changed)
    }

    /// A pull has finished.
    pub(super) fn finished(&mut self, session: &mut Session, ticket: u64, message: Bytes) {
        let Some(index) = self.under_way.iter().position(|pull| pull.ticket == ticket) else {
            debug_assert!(false, "the link finished a pull nobody began");
            return;
        };
        let pull = self.under_way.swap_remove(index);
        session.bulk_done(&pull.descriptor);
        pull.cell.pulled(ticket, message);
    }

    /// The connection is over: nothing more is pulled.
    pub(super) fn lose(&mut self, status: &Status) {
        for pull in self.waiting.drain(..).chain(self.under_way.drain(..)) {
            pull.cell.lose_pulls(status);
        }
    }
}
