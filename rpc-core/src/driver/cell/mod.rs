//! What a connection and the two halves of one call share: a small mailbox.
//!
//! The connection's owner puts in what arrives; the call takes it out. The lock is held for a
//! few instructions and covers one call only. A cell belongs to one call at a time; cells of
//! finished calls are used again, so that a call need not allocate.

use std::collections::VecDeque;
use std::task::Waker;

use bytes::Bytes;
use spin::mutex::SpinMutexGuard;

use super::body::{Around, Body, Short};
use crate::brief::Brief;
use crate::metadata::MetadataMap;
use crate::session::{Messages, Payload, StreamId};
use crate::status::Status;

mod reader;
#[cfg(test)]
mod tests;

pub(crate) use reader::{Fetched, Next};

/// What a mailbox may hold that is kept for another call: items of room, and bytes of one message.
const SPARE_ITEMS: usize = 64;
const SPARE_BYTES: usize = 4096;

/// Something in the mailbox, in the order the peer sent it.
#[derive(Debug)]
enum Item {
    Message {
        body: Body,
        position: u64,
    },
    /// Several that came together: at least one is left.
    Several(Messages),
    /// A bulk message that is being pulled.
    Pulling {
        ticket: u64,
        position: u64,
        around: Around,
    },
}

impl Item {
    fn position(&self) -> u64 {
        match self {
            Item::Message { position, .. } | Item::Pulling { position, .. } => *position,
            Item::Several(messages) => messages.end(),
        }
    }

    fn is_short(&self) -> bool {
        matches!(self, Item::Message { body, .. } if body.len() <= SPARE_BYTES)
    }
}

/// How the peer's side of the call ended.
#[derive(Debug, Default)]
pub(crate) enum End {
    /// It has not.
    #[default]
    Open,
    /// No more messages; on a client, status OK with these trailers.
    Ok(MetadataMap),
    /// Not OK. On a server: cancelled, or the connection is gone.
    Failed(Status),
}

#[derive(Debug, Default)]
pub(crate) struct CellState {
    /// A whole answer without metadata, most calls' only message. Whoever reads anything but
    /// answers finds it in the inbox ([`CellState::unpack`]).
    answer: Short,
    inbox: VecDeque<Item>,
    headers: Option<MetadataMap>,
    end: End,
    /// The stream, once it is open.
    id: Option<StreamId>,
    /// The call does not want anything any more.
    abandoned: bool,
    /// The reader throws messages away: report them as consumed at once.
    discarding: bool,
    /// Client: more messages of the call are to come from the program.
    sending: bool,
    /// A message was taken by the connection but the next must wait.
    write_blocked: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// Whoever wants to hear of the end without reading.
    canceller: Option<Waker>,
}

impl CellState {
    /// Puts a short answer where all other messages are.
    #[inline]
    fn unpack(&mut self) {
        if let Some(answer) = self.answer.get() {
            let body = Body::new(Payload::Borrowed(answer));
            self.inbox.push_back(Item::Message { body, position: 0 });
            self.answer.clear();
        }
    }

    /// Drops the first message that is still being pulled and all that follow it, which would be
    /// out of order without it. Whether there was one.
    fn cut_at_pull(&mut self) -> bool {
        let first = self.first_pull();
        self.inbox.truncate(first.unwrap_or(self.inbox.len()));
        first.is_some()
    }

    fn first_pull(&self) -> Option<usize> {
        self.inbox.iter().position(|item| matches!(item, Item::Pulling { .. }))
    }
}

/// A mailbox as its call and its connection hold it. No weak references, as the standard library's has: so
/// whether there is another holder is a look, not a locked instruction.
pub(crate) type SharedCell = triomphe::Arc<Cell>;

/// One call's mailbox.
#[derive(Debug, Default)]
pub(crate) struct Cell {
    state: Brief<CellState>,
}

impl Cell {
    fn lock(&self) -> SpinMutexGuard<'_, CellState> {
        self.state.lock()
    }

    /// Makes a used cell new, keeping its memory; it is the stream's from now on.
    pub(super) fn renew(&mut self, id: StreamId, reader: Option<Waker>) {
        let state = self.state.get_mut();
        state.answer.clear();
        if !state.inbox.is_empty() {
            state.inbox.clear();
        }
        state.headers = None;
        state.end = End::Open;
        state.id = Some(id);
        state.abandoned = false;
        state.discarding = false;
        state.sending = false;
        state.write_blocked = false;
        state.reader = reader;
        state.writer = None;
        state.canceller = None;
    }

    /// A new mailbox, of this stream.
    pub(super) fn new(id: StreamId, reader: Option<Waker>) -> Cell {
        let state = CellState { id: Some(id), reader, ..CellState::default() };
        Cell { state: Brief::new(state) }
    }

    /// Whether little is lost by keeping this mailbox until another call needs one. What is in it
    /// stays as long, and the session no longer counts it: a response that its caller is about to
    /// take is short, and messages that nobody will read go with the mailbox.
    pub(super) fn is_worth_keeping(&self) -> bool {
        let state = self.lock();
        let ended_bare = match &state.end {
            End::Open => true,
            End::Ok(trailers) => trailers.is_empty(),
            End::Failed(_) => false,
        };
        let short = state.inbox.len() <= 1 && state.inbox.iter().all(Item::is_short);
        ended_bare && short && state.headers.is_none() && state.inbox.capacity() <= SPARE_ITEMS
    }

    /// The mailbox of a call that has failed already.
    pub(crate) fn failed(status: Status) -> Cell {
        Cell { state: Brief::new(CellState { end: End::Failed(status), ..CellState::default() }) }
    }

    // ---- the connection's side ----

    pub(crate) fn set_id(&self, id: StreamId) {
        self.lock().id = Some(id);
    }

    pub(crate) fn put_message(&self, body: Body, position: u64) -> bool {
        self.put(Item::Message { body, position })
    }

    /// The same for several messages.
    pub(crate) fn put_messages(&self, messages: Messages) -> bool {
        self.put(Item::Several(messages))
    }

    fn put(&self, item: Item) -> bool {
        let mut state = self.lock();
        if state.discarding {
            return false;
        }
        state.inbox.push_back(item);
        wake(state, true, false);
        true
    }

    /// A place in the order for a message that is being pulled. `false`: nobody wants it.
    pub(crate) fn put_pulling(&self, ticket: u64, position: u64, around: Around) -> bool {
        let mut state = self.lock();
        if state.discarding || state.abandoned {
            return false;
        }
        state.inbox.push_back(Item::Pulling { ticket, position, around });
        true
    }

    pub(crate) fn pulled(&self, ticket: u64, message: Bytes) {
        let mut state = self.lock();
        for item in state.inbox.iter_mut() {
            if let Item::Pulling { ticket: theirs, position, around } = item
                && *theirs == ticket
            {
                let (body, position) = (around.complete(message), *position);
                *item = Item::Message { body, position };
                wake(state, true, false);
                return;
            }
        }
    }

    pub(crate) fn put_headers(&self, headers: MetadataMap) {
        let mut state = self.lock();
        state.headers = Some(headers);
        wake(state, true, false);
    }

    /// The peer's side of the call is over. Only the first word counts, but a server's call whose
    /// client has sent everything can still be cancelled.
    pub(crate) fn put_end(&self, end: End) {
        let mut state = self.lock();
        let counts = match (&state.end, &end) {
            (End::Open, _) | (End::Ok(_), End::Failed(_)) => true,
            (End::Ok(_) | End::Failed(_), _) => false,
        };
        if counts {
            if let End::Failed(_) = end {
                // A failure is not held back by pulls that may never finish.
                state.cut_at_pull();
            }
            state.end = end;
            return wake(state, true, true);
        }
        wake(state, false, true);
    }

    /// Client: the server ended the call with this status, after everything in the mailbox: what
    /// is still being pulled arrives before it.
    pub(crate) fn put_status(&self, status: Status) {
        let mut state = self.lock();
        if let End::Open = state.end {
            state.end = End::Failed(status);
            return wake(state, true, true);
        }
        wake(state, false, true);
    }

    /// The connection is over, and with it the pulls: what they would have brought, and all that
    /// follows it, will not come. The stream itself may have ended before.
    pub(crate) fn lose_pulls(&self, status: &Status) {
        let mut state = self.lock();
        if !state.cut_at_pull() {
            return;
        }
        if !matches!(state.end, End::Failed(_)) {
            state.end = End::Failed(status.clone());
        }
        wake(state, true, true);
    }

    /// A whole unary response that is nothing but a message of at most
    /// [`INLINE_BYTES`](super::body::INLINE_BYTES). Whether to keep the mailbox.
    #[inline]
    pub(super) fn put_answer(&self, message: &[u8]) -> bool {
        let mut state = self.lock();
        state.answer.set(message);
        state.end = End::Ok(MetadataMap::new());
        let keep = state.inbox.is_empty() && state.inbox.capacity() <= SPARE_ITEMS;
        wake(state, true, true);
        keep
    }

    /// A whole unary response, under one lock. Gives what [`Cell::is_worth_keeping`] would.
    pub(crate) fn put_response(
        &self,
        headers: MetadataMap,
        body: Body,
        trailers: MetadataMap,
    ) -> bool {
        let bare = headers.is_empty() && trailers.is_empty();
        let short = bare && body.len() <= SPARE_BYTES;
        let mut state = self.lock();
        if !headers.is_empty() {
            state.headers = Some(headers);
        }
        let first = state.inbox.is_empty();
        state.inbox.push_back(Item::Message { body, position: 0 });
        state.end = End::Ok(trailers);
        let keep = short && first && state.inbox.capacity() <= SPARE_ITEMS;
        wake(state, true, true);
        keep
    }

    /// The next message may be sent.
    pub(crate) fn put_writable(&self) {
        let mut state = self.lock();
        state.write_blocked = false;
        wake(state, false, true);
    }

    pub(crate) fn block_writer(&self) {
        self.lock().write_blocked = true;
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.lock().abandoned
    }

    /// Whether anybody will read a message that is being pulled.
    pub(crate) fn wants_pulls(&self) -> bool {
        let state = self.lock();
        !state.discarding && state.inbox.iter().any(|item| matches!(item, Item::Pulling { .. }))
    }
}

/// Wakes after the lock is gone: what a waker runs is not ours.
#[inline]
fn wake(mut state: SpinMutexGuard<'_, CellState>, reader: bool, writer: bool) {
    let reader = if reader { state.reader.take() } else { None };
    let writer = if writer { state.writer.take() } else { None };
    let over = state.abandoned || !matches!(state.end, End::Open);
    let canceller = if over { state.canceller.take() } else { None };
    drop(state);
    if let Some(waker) = reader {
        waker.wake();
    }
    if let Some(waker) = writer {
        waker.wake();
    }
    if let Some(waker) = canceller {
        waker.wake();
    }
}
