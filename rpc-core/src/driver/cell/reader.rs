//! The call's side of its mailbox: what its reader and its writer wait for.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker, ready};

use super::{Cell, CellState, End, Item, wake};
use crate::driver::body::{Body, View};
use crate::metadata::MetadataMap;
use crate::session::StreamId;
use crate::status::{Code, Status};

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
    pub(crate) fn id(&self) -> Option<StreamId> {
        self.lock().id
    }

    /// Nobody will look into this mailbox again; gives the stream, if it is open.
    pub(crate) fn abandon(&self) -> Option<StreamId> {
        let mut state = self.lock();
        state.abandoned = true;
        state.discarding = true;
        state.answer.clear();
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
        state.answer.clear();
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

    /// Client: whether a look into the mailbox finds something new. What has come along with a
    /// message that is being pulled is no news before it: a long answer begins with its end.
    pub(crate) fn has_news(&self) -> bool {
        let state = self.lock();
        match state.inbox.front() {
            Some(Item::Message { .. } | Item::Several(_)) => true,
            Some(Item::Pulling { .. }) => matches!(state.end, End::Failed(_)),
            None => {
                state.answer.is_some() || state.headers.is_some() || !matches!(state.end, End::Open)
            }
        }
    }

    /// The reader, who has left its waker, looks for itself for now: what it brings in wakes nobody. It
    /// polls again before it waits.
    pub(crate) fn unwatch(&self) {
        self.lock().reader = None;
    }

    /// Client: whether the program has more messages to send on this call. As long as it has, the reader
    /// must not keep its thread to look for itself: whoever makes them may want it, and what comes may
    /// be the answer to the next of them.
    pub(crate) fn is_sending(&self) -> bool {
        self.lock().sending
    }

    pub(crate) fn set_sending(&self, sending: bool) {
        self.lock().sending = sending;
    }

    /// Wakes the reader, if it sleeps, though nothing has come.
    pub(crate) fn rouse_reader(&self) {
        wake(self.lock(), true, false);
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
        state.unpack();
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
        state.unpack();
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

    /// Client: a unary answer, whole. `make` makes something of its message, its headers and its
    /// trailers, which most have none of.
    #[inline]
    pub(crate) fn poll_answer<T>(
        &self,
        cx: &mut Context<'_>,
        make: impl FnOnce(View<'_>, MetadataMap, MetadataMap) -> Result<T, Status>,
    ) -> Poll<Result<T, Status>> {
        let mut state = self.lock();
        let (answer, body);
        let (message, headers, trailers) =
            if state.answer.is_some() && state.inbox.is_empty() && state.headers.is_none() {
                answer = state.answer;
                state.answer.clear();
                drop(state);
                let message = View::Answer(answer.get().unwrap_or_default());
                (message, MetadataMap::new(), MetadataMap::new())
            } else {
                drop(state);
                let (any, headers, trailers) = ready!(self.poll_any_answer(cx))?;
                body = any;
                (body.view(), headers, trailers)
            };
        // Called in one place, so that it becomes a part of this, and what it makes is not moved.
        Poll::Ready(make(message, headers, trailers))
    }

    /// The same for an answer that has more to it, or has not come.
    fn poll_any_answer(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Body, MetadataMap, MetadataMap), Status>> {
        let mut state = self.lock();
        state.unpack();
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
        let headers = headers.take().unwrap_or_default();
        let (Some(Item::Message { body, .. }), None) = (inbox.pop_front(), inbox.front()) else {
            return Poll::Ready(Err(Status::new(
                Code::Internal,
                "the server answered a call that has one response message with none or several",
            )));
        };
        // What is made of it may be a user's code, and runs when the lock is free.
        Poll::Ready(Ok((body, headers, trailers)))
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

fn set_waker(place: &mut Option<Waker>, cx: &mut Context<'_>) {
    match place {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        _ => *place = Some(cx.waker().clone()),
    }
}
