//! The handlers of a unary method whose requests come whole, one after the other.
//!
//! What they have in common goes from one to the next, so that a call neither allocates nor counts
//! the sharers of anything: the memory of the method's future, what answers, the service itself.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use prost::Message;

use super::call::Site;
use super::handler::{HandlerSlot, Runner, reuse};
use super::reply::Reply;
use crate::response::Response;
use crate::service::MessageLimits;
use crate::session::StreamId;
use crate::status::Status;

/// What a unary method's future gives: the answer, and the service it had.
pub type Answered<S, Res> = (Result<Response<Res>, Status>, Arc<S>);

/// Runs the calls.
pub(super) struct UnaryRunner<S, Fut> {
    pub(super) reply: Reply,
    /// While no call has it.
    service: Option<Arc<S>>,
    answer: Pin<Box<Option<Fut>>>,
}

impl<S, Res, Fut> UnaryRunner<S, Fut>
where
    S: Send + Sync + 'static,
    Res: Message + 'static,
    Fut: Future<Output = Answered<S, Res>> + Send + 'static,
{
    /// The runner of a call, which from now on is answered, whatever happens: the last call's, or
    /// a new one.
    #[inline]
    pub(super) fn begin(
        slot: Option<HandlerSlot>,
        site: &Arc<Site>,
        id: StreamId,
        limits: MessageLimits,
    ) -> Box<UnaryRunner<S, Fut>> {
        match reuse::<UnaryRunner<S, Fut>>(slot) {
            Some(mut runner) => {
                runner.reply.renew(id, limits);
                runner
            }
            None => {
                let reply = Reply::new(Arc::clone(site), id, limits);
                Box::new(UnaryRunner { reply, service: None, answer: Box::pin(None) })
            }
        }
    }

    /// Gives it the method's future.
    #[inline]
    pub(super) fn run(&mut self, service: &Arc<S>, method: impl FnOnce(Arc<S>) -> Fut) {
        let service = self.service.take().unwrap_or_else(|| Arc::clone(service));
        self.answer.set(Some(method(service)));
    }
}

impl<S, Res, Fut> Runner for UnaryRunner<S, Fut>
where
    S: Send + Sync + 'static,
    Res: Message + 'static,
    Fut: Future<Output = Answered<S, Res>> + Send + 'static,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Without one the request could not be decoded, which has been answered.
        let Some(answer) = self.answer.as_mut().as_pin_mut() else { return Poll::Ready(()) };
        let mut polled = answer.poll(cx);
        // By reference: the answer need not be moved.
        let Poll::Ready((ref mut answer, service)) = polled else { return Poll::Pending };
        self.answer.set(None);
        self.service = Some(service);
        self.reply.unary(answer);
        Poll::Ready(())
    }

    fn clean_up(&mut self) {
        self.answer.set(None);
        self.reply.panicked();
    }
}
