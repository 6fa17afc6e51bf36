//! Sends a client's stream of messages: as fast as the stream's window lets it, and no longer
//! than somebody wants them.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use prost::Message;

use crate::driver::Conn;
use crate::driver::cell::SharedCell;
use crate::outbox::{Outbox, Sent};
use crate::status::Status;

/// Sends all messages and then their end. Ends early, and well, when the call is over; an error
/// is one of ours (a message that must not be sent), and the call must end with it.
pub(super) async fn pump<M, S>(
    conn: Arc<dyn Conn>,
    cell: SharedCell,
    messages: S,
    limit_bytes: Option<usize>,
) -> Result<(), Status>
where
    M: Message,
    S: Stream<Item = M> + Send,
{
    let mut messages = pin!(messages);
    let mut outbox = Outbox::new(limit_bytes);
    poll_fn(|cx| {
        if cell.poll_ended(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let next = |cx: &mut Context<'_>| messages.as_mut().poll_next(cx).map(|next| next.map(Ok));
        Poll::Ready(match ready!(outbox.poll_send(cx, &*conn, &cell, next)) {
            Sent::All => {
                if let Some(id) = cell.id() {
                    conn.end_messages(id);
                }
                cell.set_sending(false);
                Ok(())
            }
            Sent::Unwanted => Ok(()),
            Sent::Failed(status) => Err(status),
        })
    })
    .await
}
