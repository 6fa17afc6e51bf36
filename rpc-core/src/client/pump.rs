//! Sends a client's stream of messages: as fast as the stream's window lets it, and no longer
//! than somebody wants them.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use futures_core::Stream;
use prost::Message;

use crate::codec::ProstMessage;
use crate::driver::Conn;
use crate::driver::cell::Cell;
use crate::status::Status;

/// Messages sent before others may run.
const MESSAGES_PER_TURN: usize = 128;

/// Sends all messages and then their end. Ends early, and well, when the call is over; an error
/// is one of ours (a message that must not be sent), and the call must end with it.
pub(super) async fn pump<M, S>(
    conn: Arc<dyn Conn>,
    cell: Arc<Cell>,
    messages: S,
    limit_bytes: Option<usize>,
) -> Result<(), Status>
where
    M: Message,
    S: Stream<Item = M> + Send,
{
    let mut messages = pin!(messages);
    poll_fn(|cx| {
        let mut sent = 0;
        let poll = loop {
            if cell.poll_ended(cx).is_ready() {
                break Poll::Ready(Ok(()));
            }
            if sent == MESSAGES_PER_TURN {
                cx.waker().wake_by_ref();
                break Poll::Pending;
            }
            match cell.poll_writable(cx) {
                Poll::Ready(true) => {}
                Poll::Ready(false) => break Poll::Ready(Ok(())),
                Poll::Pending => break Poll::Pending,
            }
            // A cell is writable once its stream is open.
            let Some(id) = cell.id() else { break Poll::Pending };
            let message = match messages.as_mut().poll_next(cx) {
                Poll::Ready(Some(message)) => message,
                Poll::Ready(None) => {
                    conn.end_messages(id);
                    break Poll::Ready(Ok(()));
                }
                Poll::Pending => break Poll::Pending,
            };
            match ProstMessage::new(&message, limit_bytes) {
                Ok(message) => _ = conn.send(id, &cell, &message, false, true),
                Err(status) => break Poll::Ready(Err(status)),
            }
            sent += 1;
        };
        if sent > 0 {
            conn.flush();
        }
        poll
    })
    .await
}
