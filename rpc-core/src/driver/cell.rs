//! What a connection and the two halves of one call share: a small mailbox.
//!
//! The connection's owner puts in what arrives; the call takes it out. The lock is held for a
//! few instructions and covers one call only. A cell belongs to one call at a time; cells of
//! finished calls are used again, so that a call need not allocate.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;

use super::body::{Around, Body, View};
use crate::metadata::MetadataMap;
use crate::session::{Messages, StreamId};
use crate::status::{Code, Status};

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
    inbox: VecDeque<Item>,
    headers: Option<MetadataMap>,
    end: End,
    /// The stream, once it is open.
    id: Option<StreamId>,
    /// The call does not want anything any more.
    abandoned: bool,
    /// The reader throws messages away: report them as consumed at once.
    discarding: bool,
    /// A message was taken by the connection but the next must wait.
    write_blocked: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// Whoever wants to hear of the end without reading.
    canceller: Option<Waker>,
}

impl CellState {
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

/// One call's mailbox.
#[derive(Debug, Default)]
pub(crate) struct Cell {
    state: Mutex<CellState>,
}

/// The answer to a call with one response message.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    pub(crate) headers: MetadataMap,
    pub(crate) message: T,
    pub(crate) trailers: MetadataMap,
}

/// Messages a reader has fetched from the mailbox and not yet looked at.
#[derive(Debug, Default)]
pub(crate) struct Fetched {
    items: VecDeque<Item>,
}

impl Fetched {
    /// The stream's position after the last of them.
    pub(crate) fn last_position(&self) -> Option<u64> {
        self.items.back().map(Item::position)
    }
}

/// What the reader of a call finds.
#[derive(Debug)]
pub(crate) enum Next<T> {
    /// A message, and the stream's position after it.
    Message(T, u64),
    /// No more messages.
    End,
    /// The call has failed.
    Failed(Status),
}

impl Cell {
    fn lock(&self) -> MutexGuard<'_, CellState> {
        // No code that can panic runs under this lock; if it did, the state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a used cell new, keeping its memory; it is the stream's from now on.
    pub(crate) fn renew(&mut self, id: StreamId) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        state.inbox.clear();
        state.headers = None;
        state.end = End::Open;
        state.id = Some(id);
        state.abandoned = false;
        state.discarding = false;
        state.write_blocked = false;
        state.reader = None;
        state.writer = None;
        state.canceller = None;
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
        Cell { state: Mutex::new(CellState { end: End::Failed(status), ..CellState::default() }) }
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

    // ---- the call's side ----

    pub(crate) fn id(&self) -> Option<StreamId> {
        self.lock().id
    }

    /// Nobody will look into this mailbox again; gives the stream, if it is open.
    pub(crate) fn abandon(&self) -> Option<StreamId> {
        let mut state = self.lock();
        state.abandoned = true;
        state.discarding = true;
        state.inbox.clear();
        state.reader = None;
        let id = state.id;
        // The sending half may run in a task of its own.
        wake(state, false, true);
        id
    }

    /// The reader wants no more messages; gives the position up to which they are thrown away.
    pub(crate) fn discard(&self) -> Option<u64> {
        let mut state = self.lock();
        state.discarding = true;
        let last = state.inbox.iter().map(Item::position).max();
        state.inbox.clear();
        last
    }

    /// Ready when a handler's work is no longer wanted: cancelled, expired, connection lost.
    pub(crate) fn poll_failed(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if matches!(state.end, End::Failed(_)) {
            return Poll::Ready(());
        }
        set_waker(&mut state.canceller, cx);
        Poll::Pending
    }

    /// Client: ready when the server has ended the call or nobody wants it: no more messages
    /// need be sent.
    pub(crate) fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.abandoned || !matches!(state.end, End::Open) {
            return Poll::Ready(());
        }
        set_waker(&mut state.canceller, cx);
        Poll::Pending
    }

    /// Client: whether a look into the mailbox finds something new.
    pub(crate) fn has_news(&self) -> bool {
        let state = self.lock();
        matches!(state.inbox.front(), Some(Item::Message { .. } | Item::Several(_)))
            || state.headers.is_some()
            || !matches!(state.end, End::Open)
    }

    /// How the call has failed, if it has.
    pub(crate) fn failure(&self) -> Option<Status> {
        match &self.lock().end {
            End::Failed(status) => Some(status.clone()),
            _ => None,
        }
    }

    /// Whether the peer's side of the call is over, whatever is still unread.
    pub(crate) fn has_ended(&self) -> bool {
        !matches!(self.lock().end, End::Open)
    }

    /// Whether the call has failed already.
    pub(crate) fn has_failed(&self) -> bool {
        matches!(self.lock().end, End::Failed(_))
    }

    /// The next message, or the end. Messages that have come are fetched all at once, and decoded
    /// where they then lie.
    pub(crate) fn poll_next<T>(
        &self,
        cx: &mut Context<'_>,
        fetched: &mut Fetched,
        decode: impl FnOnce(View<'_>) -> T,
    ) -> Poll<Next<T>> {
        if fetched.items.is_empty()
            && let Some(other) = ready!(self.poll_fetch(cx, fetched))
        {
            return Poll::Ready(other);
        }
        let (next, more) = match fetched.items.front_mut() {
            Some(Item::Message { body, position }) => {
                (Next::Message(decode(body.view()), *position), false)
            }
            Some(Item::Several(messages)) => {
                let Some((bytes, position)) = messages.first() else {
                    unreachable!("what has been taken whole is not kept")
                };
                let next = Next::Message(decode(View::Short(bytes)), position);
                (next, messages.pop())
            }
            Some(Item::Pulling { .. }) | None => unreachable!("only messages are fetched"),
        };
        if !more {
            fetched.items.pop_front();
        }
        Poll::Ready(next)
    }

    /// Moves the messages up to the first that is still being pulled. `Some`: there is none, and
    /// none will come.
    fn poll_fetch<T>(&self, cx: &mut Context<'_>, fetched: &mut Fetched) -> Poll<Option<Next<T>>> {
        let mut state = self.lock();
        match state.inbox.front() {
            Some(Item::Message { .. } | Item::Several(_)) => {
                match state.first_pull() {
                    None => std::mem::swap(&mut state.inbox, &mut fetched.items),
                    Some(first) => fetched.items.extend(state.inbox.drain(..first)),
                }
                return Poll::Ready(None);
            }
            Some(Item::Pulling { .. }) => {}
            None => match &state.end {
                End::Open => {}
                End::Ok(_) => return Poll::Ready(Some(Next::End)),
                End::Failed(status) => return Poll::Ready(Some(Next::Failed(status.clone()))),
            },
        }
        set_waker(&mut state.reader, cx);
        Poll::Pending
    }

    /// Client: initial metadata, once it is known (at the latest with the first message or the
    /// end of the call). A call that failed before gives its status.
    pub(crate) fn poll_headers(&self, cx: &mut Context<'_>) -> Poll<Result<MetadataMap, Status>> {
        let mut state = self.lock();
        if let Some(headers) = state.headers.take() {
            return Poll::Ready(Ok(headers));
        }
        match &state.end {
            End::Failed(status) if state.inbox.is_empty() => {
                return Poll::Ready(Err(status.clone()));
            }
            End::Open if state.inbox.is_empty() => {}
            _ => return Poll::Ready(Ok(MetadataMap::new())),
        }
        set_waker(&mut state.reader, cx);
        Poll::Pending
    }

    /// Client: a unary answer, whole. The message is decoded where it lies: nobody else wants the
    /// mailbox of a call that has ended.
    pub(crate) fn poll_answer<T>(
        &self,
        cx: &mut Context<'_>,
        decode: impl FnOnce(View<'_>) -> Result<T, Status>,
    ) -> Poll<Result<Answer<T>, Status>> {
        let mut state = self.lock();
        let CellState { inbox, end, headers, reader, .. } = &mut *state;
        let pulling = inbox.iter().any(|item| matches!(item, Item::Pulling { .. }));
        let trailers = match end {
            End::Failed(status) => return Poll::Ready(Err(status.clone())),
            End::Ok(trailers) if !pulling => std::mem::take(trailers),
            End::Ok(_) | End::Open => {
                set_waker(reader, cx);
                return Poll::Pending;
            }
        };
        let (Some(Item::Message { body, .. }), 1) = (inbox.front(), inbox.len()) else {
            return Poll::Ready(Err(Status::new(
                Code::Internal,
                "the server answered a call that has one response message with none or several",
            )));
        };
        let message = decode(body.view());
        inbox.clear();
        let headers = headers.take().unwrap_or_default();
        Poll::Ready(message.map(|message| Answer { headers, message, trailers }))
    }

    /// Trailers of a call that ended OK.
    pub(crate) fn take_trailers(&self) -> Option<MetadataMap> {
        match &mut self.lock().end {
            End::Ok(trailers) => Some(std::mem::take(trailers)),
            _ => None,
        }
    }

    /// Ready when a message may be sent; `false` when the call is over.
    pub(crate) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut state = self.lock();
        if state.abandoned || matches!(state.end, End::Failed(_)) {
            return Poll::Ready(false);
        }
        if !state.write_blocked {
            return Poll::Ready(true);
        }
        set_waker(&mut state.writer, cx);
        Poll::Pending
    }
}

/// Wakes after the lock is gone: what a waker runs is not ours.
fn wake(mut state: MutexGuard<'_, CellState>, reader: bool, writer: bool) {
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

fn set_waker(place: &mut Option<Waker>, cx: &mut Context<'_>) {
    match place {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        _ => *place = Some(cx.waker().clone()),
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::session::Payload;

    fn body(byte: u8) -> Body {
        Body::new(Payload::Borrowed(&[byte]))
    }

    /// The first bytes of what is in the mailbox, up to where the reader waits or the end.
    fn read(cell: &Cell) -> (Vec<u8>, Option<Code>) {
        let (mut read, mut fetched) = (Vec::new(), Fetched::default());
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            let first = |view: View<'_>| match view {
                View::Short(bytes) => bytes[0],
                View::Shared(bytes) => bytes[0],
                View::Split(parts) => parts.head[0],
            };
            match cell.poll_next(&mut cx, &mut fetched, first) {
                Poll::Ready(Next::Message(first, _)) => read.push(first),
                Poll::Ready(Next::End) => return (read, Some(Code::Ok)),
                Poll::Ready(Next::Failed(status)) => return (read, Some(status.code())),
                Poll::Pending => return (read, None),
            }
        }
    }

    fn one_pull_of_three() -> Cell {
        let cell = Cell::default();
        cell.put_message(body(1), 1);
        assert!(cell.put_pulling(7, 2, Around::new(&[], &[])));
        cell.put_message(body(3), 3);
        cell
    }

    #[test]
    fn the_servers_status_comes_after_what_is_still_being_pulled() {
        let cell = one_pull_of_three();
        cell.put_status(Status::aborted("at the end"));
        assert_eq!(read(&cell), (vec![1], None));
        assert!(cell.wants_pulls());
        cell.pulled(7, Bytes::from_static(&[2]));
        assert_eq!(read(&cell), (vec![2, 3], Some(Code::Aborted)));
    }

    #[test]
    fn a_failure_on_this_side_leaves_no_gap_in_the_messages() {
        let cell = one_pull_of_three();
        cell.put_end(End::Failed(Status::deadline_exceeded("too late")));
        assert!(!cell.wants_pulls());
        assert_eq!(read(&cell), (vec![1], Some(Code::DeadlineExceeded)));
    }

    #[test]
    fn a_lost_connection_ends_a_call_whose_stream_had_ended_well() {
        let lost = Status::unavailable("gone");
        let cell = one_pull_of_three();
        cell.put_end(End::Ok(MetadataMap::new()));
        cell.lose_pulls(&lost);
        assert_eq!(read(&cell), (vec![1], Some(Code::Unavailable)));
        let whole = Cell::default();
        whole.put_message(body(1), 1);
        whole.put_end(End::Ok(MetadataMap::new()));
        whole.lose_pulls(&lost);
        assert_eq!(read(&whole), (vec![1], Some(Code::Ok)));
    }
}
