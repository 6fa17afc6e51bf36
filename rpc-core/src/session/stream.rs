//! One stream's bookkeeping: positions, not counts.
//!
//! Both directions count bytes from the stream's start (a message costs its length plus
//! [`MESSAGE_OVERHEAD_BYTES`](crate::wire::MESSAGE_OVERHEAD_BYTES)). A sender may begin a frame
//! while its position is below the limit the receiver has stated; so it overshoots by one frame
//! or one bulk message at most. Positions only grow, so an update that comes late or twice does
//! no harm.

use super::batch::Batch;
use crate::parts::Parts;
use crate::wire::MESSAGE_OVERHEAD_BYTES;

/// Where a stream is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum State {
    /// The slot is free.
    #[default]
    Idle,
    /// The stream is open.
    Open,
    /// Over for this side, but its slot is taken still. Client: we gave up, and the server has
    /// not yet had its last word. Server: our last word waits for room.
    Draining,
}

/// A stream's slot.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone, PartialEq))]
pub(super) struct Stream {
    pub(super) state: State,
    /// Tells a slot's tenants apart, on this side only.
    pub(super) generation: u32,

    pub(super) send_position: u64,
    pub(super) send_limit: u64,
    /// The last message has been sent or queued.
    pub(super) send_closed: bool,
    /// Client: initial metadata has come, or can come no more. Server: the same of sending it.
    pub(super) headers_over: bool,
    /// Client: REQUEST has been handed to the link; as the how-manieth.
    pub(super) request_number: u64,
    /// What could not go at once.
    pub(super) queue: Option<Box<SendQueue>>,
    /// The slot is in the session's list of streams to serve.
    pub(super) listed: bool,
    /// Someone waits to hear that the queue is empty.
    pub(super) wants_writable: bool,

    pub(super) receive_position: u64,
    /// What the reader has taken.
    pub(super) consumed: u64,
    /// What the sender gets credit for: at least `consumed`.
    pub(super) credited: u64,
    /// The metadata the peer sent, which is held until the stream is over.
    pub(super) metadata_bytes: u64,
    /// The limit last stated to the sender.
    pub(super) advertised: u64,
    pub(super) receive_closed: bool,
    pub(super) window_queued: bool,
    pub(super) max_message_bytes: usize,
    pub(super) partial: Option<Box<Partial>>,
}

/// A message of which some pieces have come.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, PartialEq))]
pub(super) struct Partial {
    pub(super) total: usize,
    pub(super) bytes: Vec<u8>,
    /// The stream's position before it.
    pub(super) start: u64,
}

/// What waits for room or window, in this order.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone, PartialEq))]
pub(super) struct SendQueue {
    /// A whole frame: REQUEST or HEADERS.
    pub(super) head: Option<Box<[u8]>>,
    /// A message.
    pub(super) message: Option<PendingMessage>,
    /// A whole frame: the end of messages (client) or TRAILERS (server).
    pub(super) finish: Option<Box<[u8]>>,
}

impl SendQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.head.is_none() && self.message.is_none() && self.finish.is_none()
    }
}

/// A message that is going out piece by piece, or a batch of them.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, PartialEq))]
pub(super) struct PendingMessage {
    pub(super) body: PendingBody,
    pub(super) end: bool,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone, PartialEq))]
pub(super) enum PendingBody {
    /// A message, of which so many bytes have gone.
    One { parts: Parts, sent: usize },
    /// Several, which go together.
    Batch(Batch),
}

impl PendingMessage {
    pub(super) fn one(parts: Parts, end: bool) -> PendingMessage {
        PendingMessage { body: PendingBody::One { parts, sent: 0 }, end }
    }
}

impl Stream {
    pub(super) fn has_queue(&self) -> bool {
        self.queue.as_ref().is_some_and(|queue| !queue.is_empty())
    }

    /// Whether the head of the queue may go now.
    pub(super) fn can_serve(&self) -> bool {
        match &self.queue {
            None => false,
            Some(queue) if queue.head.is_some() => true,
            Some(queue) if queue.message.is_some() => self.send_position < self.send_limit,
            Some(queue) => queue.finish.is_some(),
        }
    }

    /// Whether part of the message at the head of the queue has gone.
    pub(super) fn is_amid_message(&self) -> bool {
        let message = self.queue.as_ref().and_then(|queue| queue.message.as_ref());
        message.is_some_and(
            |message| matches!(message.body, PendingBody::One { sent, .. } if sent > 0),
        )
    }

    pub(super) fn queue_mut(&mut self) -> &mut SendQueue {
        self.queue.get_or_insert_default()
    }

    /// Makes the slot a new stream's.
    #[inline]
    pub(super) fn begin(&mut self, send_limit: u64, advertised: u64, max_message_bytes: usize) {
        // Its last tenant's queue and pieces went with it. The list of streams to serve may still
        // name the slot for that one: `listed` stays.
        debug_assert!(self.queue.is_none() && self.partial.is_none());
        self.state = State::Open;
        self.send_position = 0;
        self.send_limit = send_limit;
        self.send_closed = false;
        self.headers_over = false;
        self.request_number = 0;
        self.wants_writable = false;
        self.receive_position = 0;
        self.consumed = 0;
        self.credited = 0;
        self.metadata_bytes = 0;
        self.advertised = advertised;
        self.receive_closed = false;
        self.window_queued = false;
        self.max_message_bytes = max_message_bytes;
    }

    /// Bytes held for the reader.
    pub(super) fn held(&self) -> u64 {
        self.receive_position - self.consumed + self.metadata_bytes
    }

    /// Credits what the reader took, and all of a message it is waiting for once its first piece
    /// is here: a message longer than the window must be able to arrive, without a stop for each
    /// piece, but only for a reader that keeps up. A reader need not report every message it
    /// takes, so it keeps up while what it has not reported is at most half a window.
    ///
    /// The limit stated for it is the message's end, or a window beyond the pieces that are here:
    /// once it has come, its sender is no more than a window ahead of its last piece.
    pub(super) fn credit(&mut self, window_bytes: u64) {
        self.credited = self.credited.max(self.consumed);
        if let Some(partial) = &self.partial
            && self.consumed + window_bytes / 2 >= partial.start
        {
            let end = partial.start + MESSAGE_OVERHEAD_BYTES + partial.total as u64;
            let enough = end.saturating_sub(window_bytes).max(self.receive_position);
            self.credited = self.credited.max(enough);
        }
    }
}
