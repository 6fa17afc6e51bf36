//! Work left for the owner of a connection by calls that found it taken, and calls that wait
//! for a free stream.

use std::task::Waker;
use std::time::{Duration, Instant};

use super::cell::SharedCell;
use super::scout::Outsider;
use crate::metadata::MetadataMap;
use crate::parts::Parts;
use crate::session::{Batch, Encode, NewStream, StreamId};
use crate::status::Status;

/// A request to open a stream that owns what it needs.
#[derive(Debug)]
pub(super) struct OwnedOpen {
    pub(super) cell: SharedCell,
    pub(super) path: &'static str,
    pub(super) metadata: MetadataMap,
    pub(super) timeout: Option<(Duration, Instant)>,
    pub(super) message: Option<Parts>,
    pub(super) end: bool,
    pub(super) max_message_bytes: usize,
    pub(super) outsider: Option<Outsider>,
}

impl OwnedOpen {
    pub(super) fn new(
        cell: &SharedCell,
        request: &NewStream<'_>,
        outsider: Option<Outsider>,
    ) -> OwnedOpen {
        OwnedOpen {
            cell: SharedCell::clone(cell),
            path: request.path,
            metadata: request.metadata.clone(),
            timeout: request.timeout,
            message: request.message.map(|message| message.to_parts()),
            end: request.end,
            max_message_bytes: request.max_message_bytes,
            outsider,
        }
    }

    pub(super) fn borrow(&self) -> NewStream<'_> {
        NewStream {
            path: self.path,
            metadata: &self.metadata,
            timeout: self.timeout,
            message: self.message.as_ref().map(|message| message as &dyn Encode),
            end: self.end,
            max_message_bytes: self.max_message_bytes,
        }
    }
}

/// Something a call wants done, in the order it asked.
#[derive(Debug)]
pub(super) enum Job {
    /// Wake the driver, which found the connection taken for long, unless a caller polls.
    Wake(Waker),
    /// A caller polls in place, as soon as the driver lets it.
    Help,
    /// It stops.
    EndHelp,
    Open(OwnedOpen),
    /// Server: what happens to the stream shall be put into this mailbox.
    Attach {
        id: StreamId,
        cell: SharedCell,
    },
    Send {
        id: StreamId,
        cell: SharedCell,
        message: Parts,
        end: bool,
    },
    SendBatch {
        id: StreamId,
        cell: SharedCell,
        batch: Batch,
    },
    EndMessages {
        id: StreamId,
    },
    Headers {
        id: StreamId,
        metadata: MetadataMap,
    },
    Respond {
        id: StreamId,
        metadata: MetadataMap,
        trailers: MetadataMap,
        message: Parts,
    },
    Finish {
        id: StreamId,
        status: Result<MetadataMap, Status>,
    },
    Consumed {
        id: StreamId,
        position: u64,
    },
    Cancel {
        cell: SharedCell,
        code: u16,
    },
    GoAway {
        reason: String,
    },
    /// Nothing but what follows every job: what was committed leaves.
    Flush,
}
