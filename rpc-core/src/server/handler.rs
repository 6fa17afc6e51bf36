//! A handler's future: polled once where its request was decoded; only one that is not ready
//! becomes a task.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::driver::cell::SharedCell;

/// Runs calls of one method on one connection, one after the other.
pub(super) trait Runner: Any + Send {
    /// Polls the call's handler.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Drops what is left of a handler that panicked as it was polled, and answers for it.
    fn clean_up(&mut self);
}

/// What a finished handler leaves for the next one of the same method: memory, at least.
pub(super) type HandlerSlot = Box<dyn Runner>;

/// The slot as the runner it is; `None` if a handler of another kind has left it.
#[inline]
pub(super) fn reuse<R: Runner>(slot: Option<HandlerSlot>) -> Option<Box<R>> {
    (slot? as Box<dyn Any>).downcast().ok()
}

/// A call that is being handled.
pub struct Handler {
    runner: HandlerSlot,
    /// The call's mailbox, if it has one.
    cell: Option<SharedCell>,
}

impl Handler {
    pub(super) fn new(
        slot: Option<HandlerSlot>,
        cell: Option<SharedCell>,
        future: impl Future<Output = ()> + Send + 'static,
    ) -> Handler {
        let runner = match reuse::<Plain<_>>(slot) {
            Some(mut runner) => {
                runner.future.set(Some(future));
                runner
            }
            None => Box::new(Plain { future: Box::pin(Some(future)) }),
        };
        Handler { runner, cell }
    }

    /// The handler of a call that has no mailbox.
    #[inline]
    pub(super) fn of(runner: HandlerSlot) -> Handler {
        Handler { runner, cell: None }
    }

    /// Polls the handler; a panic in it ends the call and is `Ready`.
    #[inline]
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match catch_unwind(AssertUnwindSafe(|| self.runner.poll(cx))) {
            Ok(poll) => poll,
            Err(_) => {
                self.runner.clean_up();
                Poll::Ready(())
            }
        }
    }

    pub(super) fn into_slot(self) -> HandlerSlot {
        self.runner
    }

    /// For a handler that was not ready. `attach` makes a mailbox for a call that has none.
    pub(super) fn into_task(mut self, attach: impl FnOnce() -> SharedCell) -> HandlerTask {
        let cell = self.cell.take().unwrap_or_else(attach);
        HandlerTask { handler: self, cell }
    }
}

impl fmt::Debug for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handler").finish_non_exhaustive()
    }
}

/// Runs a future, whose own parts answer if it panics.
struct Plain<F> {
    future: Pin<Box<Option<F>>>,
}

impl<F: Future<Output = ()> + Send + 'static> Runner for Plain<F> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(future) = self.future.as_mut().as_pin_mut() else { return Poll::Ready(()) };
        let poll = future.poll(cx);
        if poll.is_ready() {
            self.future.set(None);
        }
        poll
    }

    fn clean_up(&mut self) {
        self.future.set(None);
    }
}

/// A handler that was not ready: runs until it is, or until nobody wants its answer.
pub(super) struct HandlerTask {
    handler: Handler,
    cell: SharedCell,
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
