//! One call on one connection, and how its answer is awaited.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use prost::Message;
use tokio::time::Sleep;

use super::connection::Held;
use crate::codec::decode_into;
use crate::driver::body::View;
use crate::driver::cell::{Cell, SharedCell};
use crate::driver::{Begun, Conn, Helped, OpenRequest, Watch, now};
use crate::metadata::MetadataMap;
use crate::request::Request;
use crate::response::Response;
use crate::service::MethodDescriptor;
use crate::session::{CANCELLED, Encode};
use crate::status::{Code, RequestSeen, Status};
use crate::streaming::{Side, Streaming};

/// When a call must end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline(Option<Instant>);

impl Deadline {
    /// The clock is read only for calls that have a deadline.
    pub(super) fn of<T>(request: &Request<T>) -> Deadline {
        if request.timeout().is_none() && request.deadline().is_none() {
            return Deadline(None);
        }
        Deadline(request.call_deadline(now()))
    }

    pub(super) fn at(self) -> Option<Instant> {
        self.0
    }

    fn timeout(self) -> Option<(Duration, Instant)> {
        self.0.map(|at| (at.saturating_duration_since(now()), at))
    }
}

/// What a call is opened with.
pub(super) struct Opening<'a> {
    pub(super) method: &'static MethodDescriptor,
    pub(super) metadata: &'a MetadataMap,
    pub(super) deadline: Deadline,
    /// The only message; calls that stream theirs have none yet.
    pub(super) message: Option<&'a dyn Encode>,
    pub(super) max_message_bytes: Option<usize>,
}

/// A call under way. Dropped before its end, it is cancelled at the server.
pub(super) struct Call<'a> {
    connection: Held<'a>,
    cell: SharedCell,
    watch: Watch,
    /// Its messages come from a stream that was not over when this was looked at.
    sends: bool,
    /// A call that still waits for a stream keeps its own deadline; the session keeps those of
    /// open streams.
    alarm: Option<Pin<Box<Sleep>>>,
    over: bool,
}

impl<'c> Call<'c> {
    /// `waker`: of the task that waits for the answer right after this, if it does.
    #[inline]
    pub(super) fn open(
        connection: Held<'c>,
        opening: &Opening<'_>,
        waker: Option<&Waker>,
    ) -> Call<'c> {
        let conn = connection.conn();
        let request = OpenRequest {
            path: opening.method.path,
            metadata: opening.metadata,
            timeout: opening.deadline.timeout(),
            message: opening.message,
            end: opening.message.is_some(),
            max_message_bytes: opening
                .max_message_bytes
                .unwrap_or_else(|| conn.max_message_bytes()),
        };
        let Begun { cell, watch } = conn.open(&request, waker);
        let sends = opening.message.is_none();
        if sends {
            cell.set_sending(true);
        }
        let alarm = match opening.deadline.at() {
            Some(at) if watch != Watch::Waker && cell.id().is_none() => {
                Some(Box::pin(tokio::time::sleep_until(at.into())))
            }
            _ => None,
        };
        Call { connection, cell, watch, sends, alarm, over: false }
    }

    pub(super) fn conn(&self) -> &Arc<dyn Conn> {
        self.connection.conn()
    }

    pub(super) fn cell(&self) -> &SharedCell {
        &self.cell
    }

    /// The whole answer of a call with one response message.
    #[inline]
    pub(super) fn poll_response<M: Message + Default>(
        &mut self,
        cx: &mut Context<'_>,
        path: &'static str,
    ) -> Poll<Result<Response<M>, Status>> {
        let make = |message: View<'_>, headers: MetadataMap, trailers: MetadataMap| {
            // Decoded where it stays.
            let mut response = Response::new(M::default());
            decode_into(response.get_mut(), message, "response", path)?;
            if !headers.is_empty() {
                *response.metadata_mut() = headers;
            }
            if !trailers.is_empty() {
                *response.trailers_mut() = trailers;
            }
            Ok(response)
        };
        let polled = self.poll_wait(cx, true, |cell, cx| cell.poll_answer(cx, make));
        if let Poll::Ready(result) = &polled {
            // A failure found on this side leaves the stream open.
            self.over = result.is_ok() || self.cell.has_ended();
        }
        polled
    }

    /// The answer of a call with many response messages, once its initial metadata is known.
    pub(super) async fn streaming<T>(
        mut self,
        path: &'static str,
    ) -> Result<(MetadataMap, Streaming<T>), Status> {
        let headers = poll_fn(|cx| self.poll_wait(cx, false, Cell::poll_headers)).await?;
        self.over = true;
        let (conn, cell) = (Arc::clone(self.conn()), SharedCell::clone(&self.cell));
        Ok((headers, Streaming::new(conn, cell, path, Side::Client)))
    }

    /// Waits for what `poll` finds in the mailbox: in place for a while, where that is the way, and
    /// no longer than until the deadline. `scouts`: for others too, where that is the way.
    #[inline]
    fn poll_wait<T>(
        &mut self,
        cx: &mut Context<'_>,
        scouts: bool,
        mut poll: impl FnMut(&Cell, &mut Context<'_>) -> Poll<Result<T, Status>>,
    ) -> Poll<Result<T, Status>> {
        // Right after the call was opened nothing can have come.
        let first = std::mem::replace(&mut self.watch, Watch::Nobody);
        if first == Watch::Waker {
            return Poll::Pending;
        }
        if matches!(first, Watch::Nobody | Watch::Scout) {
            let polled = poll(&self.cell, cx);
            if polled.is_ready() {
                return polled;
            }
        }
        if first == Watch::Scout {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let helped = self.look(first, scouts);
        match poll(&self.cell, cx) {
            Poll::Pending => self.poll_sleep(cx, helped).map(Err),
            ready => ready,
        }
    }

    /// Looks for what it waits for in place, if that is the way.
    fn look(&mut self, first: Watch, scouts: bool) -> Helped {
        self.sends = self.sends && self.cell.is_sending();
        if self.sends {
            return Helped::No;
        }
        if first == Watch::Nobody {
            self.cell.unwatch();
        }
        match self.conn().help(&self.cell) {
            Helped::No if scouts => self.conn().scout(&self.cell),
            helped => helped,
        }
    }

    /// Nothing has come. `Ready`: and nothing will, before the deadline.
    fn poll_sleep(&mut self, cx: &mut Context<'_>, helped: Helped) -> Poll<Status> {
        self.conn().give_way(helped, cx);
        if let Some(sleep) = &mut self.alarm
            && sleep.as_mut().poll(cx).is_ready()
        {
            self.alarm = None;
            if self.cell.id().is_none() {
                return Poll::Ready(expired("waiting for a free stream"));
            }
        }
        Poll::Pending
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.cell.abandon();
            self.conn().cancel(&self.cell, CANCELLED);
        }
    }
}

/// A response with the metadata that came before it.
pub(super) fn response<T>(metadata: MetadataMap, message: T) -> Response<T> {
    let mut response = Response::new(message);
    *response.metadata_mut() = metadata;
    response
}

/// A call that ended before its request left.
pub(super) fn expired(doing: &str) -> Status {
    Status::deadline_exceeded(format!("the call's deadline passed while {doing}"))
        .with_request_seen(RequestSeen::NeverSent)
}

/// Whether a call that failed so may be made again without asking.
pub(super) fn may_retry(status: &Status) -> bool {
    status.request_seen() == RequestSeen::NeverSent && status.code() == Code::Unavailable
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;
    use std::sync::atomic::Ordering;

    use bytes::Bytes;
    use futures_core::Stream;

    use super::*;
    use crate::client::ClientConnection;
    use crate::crowd::Crowd;
    use crate::driver::help_tests::Pair;
    use crate::driver::tests::Woken;
    use crate::driver::{Connection, Progress, ProgressMode};
    use crate::memory::{MemoryConfig, pair};
    use crate::service::{Idempotency, MethodKind};
    use crate::session::{Role, SessionConfig};

    fn opening<'a>(message: Option<&'a dyn Encode>) -> Opening<'a> {
        static NONE: LazyLock<MetadataMap> = LazyLock::new(MetadataMap::new);
        let deadline = Deadline(None);
        Opening { method: &METHOD, metadata: &NONE, deadline, message, max_message_bytes: None }
    }

    static METHOD: MethodDescriptor = MethodDescriptor {
        name: "b",
        path: "/a/b",
        kind: MethodKind::Unary,
        idempotency: Idempotency::Unknown,
    };

    /// What a caller brings in itself, it sees. Woken for it, it would be run once more, and before everybody
    /// else on its thread.
    #[tokio::test]
    async fn a_caller_that_polls_in_place_is_not_woken_by_itself() {
        let mut pair = Pair::new(0);
        let held = ClientConnection::new(Arc::clone(&pair.client) as Arc<dyn Conn>, "a test");
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        let mut call = Call::open(Held::Lent(&held), &opening(Some(&Bytes::new())), Some(&waker));
        assert!(call.poll_response::<()>(&mut cx, METHOD.path).is_pending(), "the turn of others");
        pair.answer(&Bytes::new());
        assert!(call.poll_response::<()>(&mut cx, METHOD.path).is_ready());
        assert_eq!(woken.0.load(Ordering::Relaxed), 0, "the runtime would have, later");
    }

    /// Whoever makes its messages may want the thread.
    #[tokio::test]
    async fn a_caller_leaves_the_link_to_the_driver_as_long_as_it_has_more_to_send() {
        let mut looks = Arc::default();
        let pair = Pair::rigged(&Crowd::new(1, false), |link| looks = link.count_looks());
        let held = ClientConnection::new(Arc::clone(&pair.client) as Arc<dyn Conn>, "a test");
        let mut cx = Context::from_waker(Waker::noop());
        let mut call = Call::open(Held::Lent(&held), &opening(None), None);
        let cell = SharedCell::clone(call.cell());
        let mut stream = Streaming::<()>::new(
            Arc::clone(&pair.client) as Arc<dyn Conn>,
            SharedCell::clone(&cell),
            METHOD.path,
            Side::Client,
        );
        for _ in 0..3 {
            assert!(call.poll_response::<()>(&mut cx, METHOD.path).is_pending());
            assert!(Pin::new(&mut stream).poll_next(&mut cx).is_pending());
        }
        assert_eq!(looks.load(Ordering::Relaxed), 0);
        cell.set_sending(false);
        let _ = call.poll_response::<()>(&mut cx, METHOD.path);
        assert!(call.poll_response::<()>(&mut cx, METHOD.path).is_pending());
        let by_call = looks.load(Ordering::Relaxed);
        assert!(by_call > 0);
        // Who has looked in vain does not, the next times.
        for _ in 0..8 {
            assert!(Pin::new(&mut stream).poll_next(&mut cx).is_pending());
        }
        assert!(looks.load(Ordering::Relaxed) > by_call);
    }

    /// Its caller polls for others, or by itself, and no driver may look meanwhile.
    #[tokio::test(start_paused = true)]
    async fn a_call_whose_connection_was_taken_when_it_began_keeps_its_own_deadline() {
        let (link, _far) = pair(MemoryConfig::default());
        let busy = Progress { mode: ProgressMode::Busy, ..Progress::default() };
        let (role, config) = (Role::Client, SessionConfig::default());
        let connection = Arc::new(Connection::new(role, config, busy, link, now()));
        connection.joins(&Crowd::new(1, true));
        let held = ClientConnection::new(Arc::clone(&connection) as Arc<dyn Conn>, "a test");
        let message = Bytes::from_static(b"abc");
        let deadline = Deadline(Some(now() + Duration::from_millis(5)));
        let opening = Opening { deadline, ..opening(Some(&message)) };
        let open = || Call::open(Held::Lent(&held), &opening, Some(Waker::noop()));
        let taken = connection.while_taken(open);
        assert_eq!(taken.watch, Watch::Scout);
        assert!(taken.alarm.is_some());
        assert!(open().alarm.is_none(), "the session keeps that of an open stream");
    }
}
