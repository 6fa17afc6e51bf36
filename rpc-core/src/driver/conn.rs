//! What calls see of a connection.

use std::sync::Arc;
use std::task::{Context, Waker};

use super::cell::{Cell, SharedCell};
use crate::link::LinkInfo;
use crate::metadata::MetadataMap;
use crate::patience::let_others_run;
use crate::session::{Batch, Encode, NewStream, StreamId};
use crate::status::Status;

/// A request to open a stream, as the call layer makes it.
pub(crate) type OpenRequest<'a> = NewStream<'a>;

/// A call that has begun.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) cell: SharedCell,
    pub(crate) watch: Watch,
}

/// Who looks for a call's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Watch {
    /// Nobody yet, and it may be over already, or wait for the connection or for a stream.
    Nobody,
    /// Its stream is open, and its caller had better poll in place.
    Caller,
    /// Its stream is open, and the caller's waker is in the cell.
    Waker,
    /// It may be open, and its caller had better poll for all, once those have begun that are to be
    /// open with it.
    Scout,
}

/// What became of a caller's wish to move the connection along in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Helped {
    /// That is left to the driver.
    No,
    /// It has polled for a while. Who still has to wait says so by [`Conn::end_help`].
    Looked,
    /// It has polled for all, and something has come for some; or it goes round: it goes on once those have run,
    /// or have looked elsewhere.
    Scouted,
    /// It polls next time: first others have a turn on its thread ([`let_others_run`]).
    OthersTurn,
}

impl dyn Conn {
    /// What a caller whose look brought nothing for it does before it waits.
    pub(crate) fn give_way(&self, helped: Helped, cx: &mut Context<'_>) {
        match helped {
            Helped::No => {}
            Helped::Looked => self.end_help(),
            Helped::Scouted => cx.waker().wake_by_ref(),
            Helped::OthersTurn => let_others_run(cx),
        }
    }
}

/// A connection whose link type is forgotten: what calls see. Every method does its work at once
/// or leaves it to the connection's present owner; none blocks.
pub(crate) trait Conn: Send + Sync + 'static {
    /// Opens a stream; the result is in the cell. `waker`: who is to wait for it.
    fn open(&self, request: &OpenRequest<'_>, waker: Option<&Waker>) -> Begun;

    /// Sends one message; call only while the cell is writable. With `hold` it need not leave
    /// before the next [`Conn::let_leave`]. `true`: it is still writable; `false`: ask it.
    fn send(
        &self,
        id: StreamId,
        cell: &SharedCell,
        message: &dyn Encode,
        end: bool,
        hold: bool,
    ) -> bool;

    /// Sends several messages, as [`Conn::send`] with `hold`.
    fn send_batch(&self, id: StreamId, cell: &SharedCell, batch: &Batch) -> bool;

    /// Client: no more messages.
    fn end_messages(&self, id: StreamId);

    /// Server: initial metadata.
    fn headers(&self, id: StreamId, metadata: MetadataMap);

    /// Server: a whole unary answer, with its metadata and its trailers.
    fn respond(
        &self,
        id: StreamId,
        metadata: MetadataMap,
        trailers: MetadataMap,
        message: &dyn Encode,
    );

    /// Server: the end of the call.
    fn finish(&self, id: StreamId, end: Result<MetadataMap, Status>);

    /// The reader took everything up to a position.
    fn consumed(&self, id: StreamId, position: u64);

    /// Client: the call is given up.
    fn cancel(&self, cell: &SharedCell, code: u16);

    /// What was held leaves: now, or with what other calls send before the driver looks next.
    fn let_leave(&self);

    /// Server: a mailbox for a call that came without one, because its request was whole.
    fn attach(&self, id: StreamId) -> SharedCell;

    /// Moves the connection along in place, where its mode is to poll and nobody else's call is on
    /// it: for a client whose call waits for something to come into `cell`.
    fn help(&self, cell: &Cell) -> Helped;

    /// Moves the connection along in place for all of its calls, where these are of other threads than the
    /// runtime's: for a client whose call waits for something to come into `cell`.
    fn scout(&self, cell: &Cell) -> Helped;

    /// What [`Conn::help`] brought is not what the call waits for: the driver goes on, which may
    /// have left the link to the caller.
    fn end_help(&self);

    /// Server: accept no more calls; end when those that are open have ended.
    fn go_away(&self, reason: &str);

    /// How far a reader's sender may run ahead, in bytes.
    fn window_bytes(&self) -> u64;

    /// The longest message accepted where nothing else is said, in bytes.
    fn max_message_bytes(&self) -> usize;

    /// What the connection is made of.
    fn info(&self) -> &Arc<LinkInfo>;

    /// Whether no new call can be made on it.
    fn is_closed(&self) -> bool;
}
