//! A handler's future: polled once where its request was decoded; only one that is not ready
//! becomes a task.

use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio_util::sync::ReusableBoxFuture;

use crate::driver::cell::Cell;

/// Memory a finished handler leaves for the next one of the same method.
pub(super) type HandlerSlot = ReusableBoxFuture<'static, ()>;

/// A call that is being handled.
pub struct Handler {
    future: HandlerSlot,
    /// The call's mailbox, if it has one.
    cell: Option<Arc<Cell>>,
}

impl Handler {
    #[inline]
    pub(super) fn new(
        slot: Option<HandlerSlot>,
        cell: Option<Arc<Cell>>,
        future: impl Future<Output = ()> + Send + 'static,
    ) -> Handler {
        let future = match slot {
            Some(mut slot) => {
                slot.set(future);
                slot
            }
            None => ReusableBoxFuture::new(future),
        };
        Handler { future, cell }
    }

    /// Polls the handler; a panic in it ends the call (its reply sees to that) and is `Ready`.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match catch_unwind(AssertUnwindSafe(|| self.future.poll(cx))) {
            Ok(poll) => poll,
            Err(_) => {
                // Drops what is left of the future, and with it the reply.
                self.future.set(std::future::ready(()));
                Poll::Ready(())
            }
        }
    }

    pub(super) fn into_slot(self) -> HandlerSlot {
        self.future
    }

    /// For a handler that was not ready. `attach` makes a mailbox for a call that has none.
    pub(super) fn into_task(mut self, attach: impl FnOnce() -> Arc<Cell>) -> HandlerTask {
        let cell = self.cell.take().unwrap_or_else(attach);
        HandlerTask { handler: self, cell }
    }
}

impl fmt::Debug for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handler").finish_non_exhaustive()
    }
}

/// A handler that was not ready: runs until it is, or until nobody wants its answer.
pub(super) struct HandlerTask {
    handler: Handler,
    cell: Arc<Cell>,
}

impl Future for HandlerTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.cell.poll_failed(cx).is_ready() {
            return Poll::Ready(());
        }
        self.handler.poll(cx)
    }
}
