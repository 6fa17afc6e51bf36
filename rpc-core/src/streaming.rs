//! A stream of messages from the peer.

use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use prost::Message;

use crate::codec::decode;
use crate::driver::Conn;
use crate::driver::body::View;
use crate::driver::cell::{Fetched, Next, SharedCell};
use crate::metadata::MetadataMap;
use crate::session::CANCELLED;
use crate::status::Status;

/// Messages from the peer, in order, ending with the peer's last one or a [`Status`].
///
/// Dropping it on a client cancels the call; on a server it throws away what the client still
/// sends. A reader that stops reading stops its own stream only, after the window
/// (`stream_window_bytes`) is full.
pub struct Streaming<T> {
    conn: Arc<dyn Conn>,
    cell: SharedCell,
    /// Messages that are here already.
    fetched: Fetched,
    path: Arc<str>,
    side: Side,
    /// Taken by the program, and reported to the peer, as positions of the stream.
    taken: u64,
    reported: u64,
    report_bytes: u64,
    over: bool,
    /// Client: the program's messages had not all been sent when this was looked at.
    sends: bool,
    /// `Streaming` gives messages; it holds none.
    message: PhantomData<fn() -> T>,
}

/// Which end reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

impl<T> Streaming<T> {
    pub(crate) fn new(
        conn: Arc<dyn Conn>,
        cell: SharedCell,
        path: impl Into<Arc<str>>,
        side: Side,
    ) -> Streaming<T> {
        // Reporting a quarter of the window at a time keeps the peer going without a frame for
        // every message.
        let report_bytes = conn.window_bytes() / 4;
        Streaming {
            conn,
            cell,
            fetched: Fetched::default(),
            path: path.into(),
            side,
            taken: 0,
            reported: 0,
            report_bytes,
            over: false,
            sends: side == Side::Client,
            message: PhantomData,
        }
    }

    fn report(&mut self) {
        if self.taken > self.reported
            && let Some(id) = self.cell.id()
        {
            self.reported = self.taken;
            self.conn.consumed(id, self.taken);
        }
    }
}

impl<T: Message + Default> Streaming<T> {
    /// The next message; `None` after the last one.
    ///
    /// # Errors
    /// The status the call ended with, if it is not OK; after it, `None`.
    ///
    /// # Cancel safety
    /// Safe: a message is taken only when it is returned.
    pub async fn message(&mut self) -> Result<Option<T>, Status> {
        poll_fn(|cx| self.poll_message(cx)).await.transpose()
    }

    /// The trailers of a call that ended OK; reads past messages that are left. `None` on a
    /// server, whose clients send none.
    ///
    /// # Errors
    /// The status the call ended with, if it is not OK.
    pub async fn trailers(&mut self) -> Result<Option<MetadataMap>, Status> {
        while self.message().await?.is_some() {}
        Ok(match self.side {
            Side::Client => self.cell.take_trailers(),
            Side::Server => None,
        })
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T, Status>>> {
        if self.over {
            return Poll::Ready(None);
        }
        let what = match self.side {
            Side::Client => "response message",
            Side::Server => "request message",
        };
        let decode = |body: View<'_>| decode(body, what, &self.path);
        let next = match self.cell.poll_next(cx, &mut self.fetched, decode) {
            Poll::Ready(next) => next,
            Poll::Pending => {
                // A reader that waits has room for all of its window.
                if self.taken - self.reported >= self.report_bytes / 4 {
                    self.report();
                }
                ready!(self.poll_in_place(cx, what))
            }
        };
        match next {
            Next::Message(message, position) => {
                self.taken = position;
                if self.taken - self.reported >= self.report_bytes {
                    self.report();
                }
                if message.is_err() {
                    self.end();
                }
                Poll::Ready(Some(message))
            }
            Next::End => {
                self.over = true;
                Poll::Ready(None)
            }
            Next::Failed(status) => {
                self.over = true;
                Poll::Ready(Some(Err(status)))
            }
        }
    }

    /// Looks for the next message in place for a while, where that is the way. The mailbox was empty, and
    /// has the reader's waker.
    fn poll_in_place(&mut self, cx: &mut Context<'_>, what: &str) -> Poll<Next<Result<T, Status>>> {
        self.sends = self.sends && self.cell.is_sending();
        if self.side == Side::Server || self.sends {
            return Poll::Pending;
        }
        self.cell.unwatch();
        let helped = self.conn.help(&self.cell);
        let decode = |body: View<'_>| decode(body, what, &self.path);
        let next = self.cell.poll_next(cx, &mut self.fetched, decode);
        if next.is_pending() {
            self.conn.give_way(helped, cx);
        }
        next
    }

    fn end(&mut self) {
        self.let_go();
    }
}

impl<T> Streaming<T> {
    /// Nobody reads on.
    fn let_go(&mut self) {
        self.over = true;
        match self.side {
            Side::Client => {
                self.cell.abandon();
                self.conn.cancel(&self.cell, CANCELLED);
            }
            Side::Server => {
                let last = self.cell.discard().or(self.fetched.last_position());
                if let (Some(id), Some(position)) = (self.cell.id(), last) {
                    self.conn.consumed(id, position);
                }
            }
        }
    }
}

impl<T> Drop for Streaming<T> {
    fn drop(&mut self) {
        if !self.over {
            self.let_go();
        }
    }
}

impl<T: Message + Default> Stream for Streaming<T> {
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_message(cx)
    }
}

impl<T> fmt::Debug for Streaming<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streaming")
            .field("path", &self.path)
            .field("over", &self.over)
            .finish_non_exhaustive()
    }
}
