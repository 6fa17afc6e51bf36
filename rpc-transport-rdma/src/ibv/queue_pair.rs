//! The queue pair the ring stands on.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdma_rpc_core::poll_set::{PollSet, Watched};
use rustix::io::Errno;
use tokio::time::Sleep;

use super::cm::Connection;
use super::cq::BATCH;
use super::error::failed;
use super::events::Listener;
use super::ffi::{self, ibv_send_flags, ibv_wc_status};
use super::lend::Lendings;
use super::mr::IbvRegion;
use super::pd::ProtectionDomain;
use super::raw_qp::{RawQueuePair, read_request, send_request, write_request};
use super::read_order::ReadOrder;
use super::rest::RestAlarm;
use super::seat::{Seat, SeatLook};
use super::send_slots::SendSlots;
use super::wr_id::WrId;
use crate::verbs::{
    Access, Caps, Completion, Local, MAX_LIST, Op, PostError, QueuePair, Region, RemoteAddr,
    VerbError, WorkRequest,
};

/// Bytes of a word that travels outside the ring: a credit, or what iWARP sends for an immediate.
const WORD_BYTES: usize = 8;
/// Bytes of an immediate's stand-in.
pub(super) const IMM_BYTES: usize = 4;
/// Receives posted with one doorbell.
const RECEIVE_CHAIN: usize = 16;
/// Looks at a completion queue that take half a microsecond, by a card's library.
const LOOKS_PER_PASS: u32 = 16;
/// How long a failed queue pair may take to flush. After that it counts as flushed: what the
/// device may still touch is kept until it is destroyed.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// A connected queue pair on a verbs device.
#[derive(Debug)]
pub struct IbvQueuePair {
    // Declared in the order they must go: the connection manager lets go of the queue pair, which
    // is destroyed before anything its requests may name.
    connection: Option<Connection>,
    qp: Option<RawQueuePair>,
    seat: Arc<Seat>,
    /// What a poll set looks at for us.
    watched: Arc<Watched<SeatLook>>,
    pd: Arc<ProtectionDomain>,
    /// Words on their way, one place for each slot of the send queue; only where nothing travels
    /// inline.
    words: Option<IbvRegion>,
    /// What is received where there are no immediates, one place for each receive.
    pub(super) received: Option<IbvRegion>,
    lendings: Lendings,
    pub(super) caps: Caps,
    pub(super) sends: SendSlots,
    /// Completions that wait for a READ's.
    order: ReadOrder<ffi::ibv_wc>,
    pub(super) receives_posted: u64,
    pub(super) receives_completed: u64,
    failing: Option<Instant>,
    failure: Option<VerbError>,
    alarm: Option<Pin<Box<Sleep>>>,
    rest_alarm: RestAlarm,
    /// Our waker may be in the inbox.
    asleep: bool,
    /// iWARP: the connection manager may still be connecting it.
    connecting: bool,
    /// What the memory pool had taken back when it last refused us.
    memory_seen: u64,
}

/// What a queue pair is made of, before it is connected.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) pd: Arc<ProtectionDomain>,
    pub(super) seat: Arc<Seat>,
    pub(super) qp: RawQueuePair,
    pub(super) write_with_imm: bool,
    /// Receives for the ring; the raw queue pair holds one more.
    pub(super) receive_depth: u32,
    pub(super) reads_in_flight: u32,
    pub(super) lends_from_bytes: usize,
}

impl IbvQueuePair {
    /// Takes the parts; the queue pair may still be unconnected.
    pub(super) fn new(parts: Parts) -> Result<IbvQueuePair, VerbError> {
        let Parts {
            pd,
            seat,
            qp,
            write_with_imm,
            receive_depth,
            reads_in_flight,
            lends_from_bytes,
        } = parts;
        let depths = qp.depths();
        let words = if depths.inline_bytes < WORD_BYTES as u32 {
            Some(IbvRegion::new(&pd, depths.send as usize * WORD_BYTES, Access::Local)?)
        } else {
            None
        };
        let received = if write_with_imm {
            None
        } else {
            let len = depths.receive as usize * IMM_BYTES;
            Some(IbvRegion::new(&pd, len, Access::ReadTarget)?)
        };
        let listener: Arc<dyn Listener> = seat.clone();
        pd.device().listen(qp.number(), Arc::downgrade(&listener));
        Ok(IbvQueuePair {
            caps: Caps {
                send_depth: depths.send,
                receive_depth,
                write_with_imm,
                inline_bytes: depths.inline_bytes,
                reads_in_flight,
                lends_from_bytes: Some(lends_from_bytes),
                views: false,
            },
            connection: None,
            qp: Some(qp),
            watched: Watched::new(SeatLook(Arc::clone(&seat))),
            seat,
            pd,
            words,
            received,
            lendings: Lendings::default(),
            sends: SendSlots::new(depths.send),
            order: ReadOrder::default(),
            receives_posted: 0,
            receives_completed: 0,
            failing: None,
            failure: None,
            alarm: None,
            rest_alarm: RestAlarm::default(),
            asleep: false,
            connecting: false,
            memory_seen: 0,
        })
    }

    pub(super) fn raw(&self) -> Option<&RawQueuePair> {
        self.qp.as_ref()
    }

    pub(super) fn set_reads_in_flight(&mut self, reads: u32) {
        self.caps.reads_in_flight = reads;
    }

    /// iWARP: the connection manager begins to connect it.
    pub(super) fn begin_connecting(&mut self) {
        self.connecting = true;
    }

    /// iWARP: the connection manager's part of the connection.
    pub(super) fn set_connection(&mut self, connection: Connection) {
        self.connecting = false;
        self.connection = Some(connection);
    }

    pub(super) fn device_name(&self) -> String {
        self.pd.device().facts().name.clone()
    }

    pub(super) fn fail_because(&mut self, error: Option<VerbError>) {
        if self.failure.is_none() {
            self.failure = error;
        }
        if self.failing.is_some() {
            return;
        }
        self.failing = Some(Instant::now());
        if let Some(qp) = &self.qp
            && let Err(error) = qp.to_error()
        {
            // A device that is gone: nothing will flush, and the timeout ends it.
            tracing::debug!(%error, "a queue pair could not be moved to the error state");
        }
    }

    /// What others have noticed: an event of the device, of the completion queue.
    fn notice_failure(&mut self) {
        if self.failing.is_none()
            && let Some(why) = self.seat.inbox.failure()
        {
            let error = device_says(why);
            self.fail_because(Some(error));
        }
    }

    /// iWARP: that the connection manager says so.
    fn disconnected(&mut self, cx: &mut Context<'_>) -> Option<VerbError> {
        let Poll::Ready(why) = self.connection.as_mut()?.poll_closed(cx) else { return None };
        Some(VerbError {
            verb: "rdma_get_cm_event",
            errno: Errno::CONNRESET.raw_os_error(),
            context: format!("{}: {why}", self.device_name()),
        })
    }

    /// Whether nothing more can complete. A request that was not signalled and succeeded just
    /// before the failure never says so; then the timeout ends the wait.
    fn is_flushed(&self) -> bool {
        let Some(since) = self.failing else { return false };
        let all = self.receives_completed == self.receives_posted && self.sends.is_idle();
        all || since.elapsed() >= FLUSH_TIMEOUT
    }

    fn final_error(&self) -> VerbError {
        self.failure.clone().unwrap_or_else(|| VerbError {
            verb: "ibv_poll_cq",
            errno: Errno::NOTCONN.raw_os_error(),
            context: format!("{}: the queue pair has failed", self.device_name()),
        })
    }

    /// Fills in one work request. The element is where its bytes are; short ones travel inline
    /// from `word`.
    fn prepare(
        &mut self,
        request: &WorkRequest<'_, IbvRegion>,
        element: &mut ffi::ibv_sge,
        word: &mut [u8; WORD_BYTES],
        at: u64,
    ) -> ffi::ibv_send_wr {
        let id = WrId::send(self.seat.inbox.key(), at).raw();
        let mut flags = if request.signaled { ibv_send_flags::IBV_SEND_SIGNALED.0 } else { 0 };
        match request.op {
            Op::Write { from, to, imm } => {
                let has_bytes = from.is_some_and(|from| from.len > 0);
                if let Some(Local { region, offset, len }) = from {
                    *element = region.element(offset, len);
                    if has_bytes && len <= self.caps.inline_bytes as usize {
                        flags |= ibv_send_flags::IBV_SEND_INLINE.0;
                    }
                }
                write_request(id, flags, element, has_bytes, to, imm)
            }
            Op::WriteWord { word: value, to } => {
                *word = value.to_le_bytes();
                flags |= self.lay_word(word, WORD_BYTES, element, at);
                write_request(id, flags, element, true, to, None)
            }
            Op::Read { into, from } => {
                *element = into.region.element(into.offset, into.len);
                read_request(id, flags, element, from)
            }
            Op::Send { word: value } => {
                word[..IMM_BYTES].copy_from_slice(&value.to_le_bytes());
                flags |= self.lay_word(word, IMM_BYTES, element, at);
                send_request(id, flags, element)
            }
        }
    }

    /// Puts a word where the device takes it from; the flags that go with it.
    fn lay_word(
        &mut self,
        word: &[u8; WORD_BYTES],
        len: usize,
        element: &mut ffi::ibv_sge,
        at: u64,
    ) -> u32 {
        match &mut self.words {
            None => {
                *element =
                    ffi::ibv_sge { addr: word.as_ptr().addr() as u64, length: len as u32, lkey: 0 };
                ibv_send_flags::IBV_SEND_INLINE.0
            }
            Some(region) => {
                let place = self.sends.slot(at) * WORD_BYTES;
                region.bytes_mut()[place..place + len].copy_from_slice(&word[..len]);
                *element = region.element(place, len);
                0
            }
        }
    }
}

/// What others have noticed of the device.
fn device_says(why: &str) -> VerbError {
    let errno = Errno::NODEV.raw_os_error();
    VerbError { verb: "ibv_get_async_event", errno, context: why.to_owned() }
}

impl QueuePair for IbvQueuePair {
    type Region = IbvRegion;

    fn caps(&self) -> Caps {
        self.caps
    }

    fn device(&self) -> String {
        self.device_name()
    }

    fn register(&mut self, len: usize, access: Access) -> Result<IbvRegion, VerbError> {
        let registered = IbvRegion::new(&self.pd, len, access);
        if registered.is_err() {
            // After what was taken for this has come back.
            self.memory_seen = self.pd.device().pool().returned();
        }
        registered
    }

    fn wait_for_memory(&mut self, waker: &Waker) -> bool {
        self.pd.device().pool().wait(self.memory_seen, waker)
    }

    fn lend(&mut self, bytes: &Bytes) -> Option<RemoteAddr> {
        let is_enough = self.caps.lends_from_bytes.is_some_and(|least| bytes.len() >= least);
        if is_enough && self.failing.is_none() { self.lendings.lend(&self.pd, bytes) } else { None }
    }

    fn take_back(&mut self, lent: RemoteAddr) {
        self.lendings.take_back(lent);
    }

    fn post_send(&mut self, list: &[WorkRequest<'_, IbvRegion>]) -> Result<(), PostError> {
        if self.failing.is_some() {
            return Err(PostError::Failed);
        }
        assert!(list.len() <= MAX_LIST, "a list of {} work requests", list.len());
        if !self.sends.has_room(list.len()) {
            return Err(PostError::Full);
        }
        let mut elements = [ffi::ibv_sge::default(); MAX_LIST];
        let mut words = [[0; WORD_BYTES]; MAX_LIST];
        let mut chain = [ffi::ibv_send_wr::default(); MAX_LIST];
        for (index, request) in list.iter().enumerate() {
            let at = self.sends.position(index);
            chain[index] = self.prepare(request, &mut elements[index], &mut words[index], at);
        }
        let Some(qp) = &self.qp else { return Err(PostError::Failed) };
        match qp.post_send(&mut chain[..list.len()]) {
            Ok(()) => {
                self.sends.posted(list.iter().map(|request| request.id));
                for (request, raw) in list.iter().zip(&chain) {
                    if request.signaled && matches!(request.op, Op::Read { .. }) {
                        self.order.read_posted(WrId::from_raw(raw.wr_id));
                    }
                }
                Ok(())
            }
            Err((errno, false)) if errno.saturating_abs() == Errno::NOMEM.raw_os_error() => {
                Err(PostError::Full)
            }
            Err((errno, partly)) => {
                let device = self.device_name();
                let how = if partly { "after part of a list was posted" } else { "" };
                let error = failed("ibv_post_send", errno, format!("{device} {how}"));
                self.fail_because(Some(error.clone()));
                Err(PostError::Verb(error))
            }
        }
    }

    fn post_receives(&mut self, count: u32) -> Result<(), PostError> {
        if self.failing.is_some() {
            return Err(PostError::Failed);
        }
        let outstanding = self.receives_posted - self.receives_completed;
        if outstanding + u64::from(count) > u64::from(self.caps.receive_depth) + 1 {
            return Err(PostError::Full);
        }
        let mut left = count as usize;
        while left > 0 {
            let some = left.min(RECEIVE_CHAIN);
            let mut elements = [ffi::ibv_sge::default(); RECEIVE_CHAIN];
            let mut chain = [ffi::ibv_recv_wr::default(); RECEIVE_CHAIN];
            for index in 0..some {
                let number = self.receives_posted + index as u64;
                chain[index].wr_id = WrId::receive(self.seat.inbox.key(), number).raw();
                if let Some(region) = &self.received {
                    elements[index] = region.element(self.receive_place(number), IMM_BYTES);
                    chain[index].sg_list = &raw mut elements[index];
                    chain[index].num_sge = 1;
                }
            }
            let Some(qp) = &self.qp else { return Err(PostError::Failed) };
            if let Err(errno) = qp.post_receive(&mut chain[..some]) {
                let error = failed("ibv_post_recv", errno, self.device_name());
                self.fail_because(Some(error.clone()));
                return Err(PostError::Verb(error));
            }
            self.receives_posted += some as u64;
            left -= some;
        }
        Ok(())
    }

    fn poll(&mut self, into: &mut [Completion]) -> Result<usize, VerbError> {
        if std::mem::take(&mut self.asleep) {
            self.seat.shared.awake(&self.seat.inbox);
        }
        let mut taken = 0;
        let mut batch = [ffi::ibv_wc::default(); BATCH];
        while taken < into.len() {
            if let Some(wc) = self.order.next() {
                into[taken] = self.translate(&wc);
                taken += 1;
                continue;
            }
            let limit = (into.len() - taken).min(BATCH);
            let count = self.seat.shared.poll(&self.seat.inbox, &mut batch[..limit])?;
            for wc in &batch[..count] {
                if self.order.holds(WrId::from_raw(ffi::wc_wr_id(wc)), wc) {
                    if ffi::wc_status(wc) != ibv_wc_status::IBV_WC_SUCCESS {
                        // The READ it waits for is flushed.
                        self.fail_because(None);
                    }
                    continue;
                }
                into[taken] = self.translate(wc);
                taken += 1;
            }
            if count < limit && !self.order.is_ready() {
                break;
            }
        }
        if taken == 0 {
            self.notice_failure();
            if self.is_flushed() {
                return Err(self.final_error());
            }
        }
        Ok(taken)
    }

    fn may_have_completions(&self) -> bool {
        self.asleep
            || self.failing.is_some()
            || self.order.is_ready()
            || self.seat.shared.may_have_completions(&self.seat.inbox)
    }

    fn looks_per_pass(&self) -> u32 {
        LOOKS_PER_PASS
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), VerbError>> {
        self.watched.leave();
        self.rest_alarm.see_to(&self.pd, cx);
        self.notice_failure();
        if self.failing.is_none()
            && let Some(error) = self.disconnected(cx)
        {
            self.fail_because(Some(error));
            return Poll::Ready(Ok(()));
        }
        if let Some(since) = self.failing {
            let at = since + FLUSH_TIMEOUT;
            let alarm = self.alarm.get_or_insert_with(|| {
                Box::pin(tokio::time::sleep_until(tokio::time::Instant::from_std(at)))
            });
            if alarm.as_mut().poll(cx).is_ready() || self.is_flushed() {
                return Poll::Ready(Ok(()));
            }
        }
        if self.order.is_ready() {
            return Poll::Ready(Ok(()));
        }
        match self.seat.shared.sleep(&self.seat.inbox, cx.waker()) {
            Ok(true) => {
                self.asleep = true;
                Poll::Pending
            }
            Ok(false) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    fn failure(&mut self) -> Option<VerbError> {
        if self.failure.is_none() {
            self.failure = match self.seat.inbox.failure() {
                Some(why) => Some(device_says(why)),
                None => self.disconnected(&mut Context::from_waker(Waker::noop())),
            };
        }
        self.failure.clone()
    }

    fn leave_set(&mut self) {
        self.watched.leave();
    }

    fn poll_event_in(
        &mut self,
        cx: &mut Context<'_>,
        set: &PollSet,
    ) -> Poll<Result<(), VerbError>> {
        // The end of the connection is told by the kernel, and a flush has its alarm.
        let ended = self.connection.as_mut().is_some_and(|c| c.peek_closed(cx));
        if ended || self.failing.is_some() {
            return self.poll_event(cx);
        }
        if std::mem::take(&mut self.asleep) {
            self.seat.shared.awake(&self.seat.inbox);
        }
        if !self.seat.inbox.is_idle() {
            return Poll::Ready(Ok(()));
        }
        self.rest_alarm.see_to(&self.pd, cx);
        set.watch(&self.watched, cx.waker());
        Poll::Pending
    }

    fn fail(&mut self) {
        self.fail_because(None);
    }
}

impl Drop for IbvQueuePair {
    fn drop(&mut self) {
        self.watched.leave();
        self.connection = None;
        let (qp, words, received) = (self.qp.take(), self.words.take(), self.received.take());
        let lendings = std::mem::take(&mut self.lendings);
        let (seat, pd) = (Arc::clone(&self.seat), Arc::clone(&self.pd));
        let destroy = move || {
            // Before the seat is given up, so that nothing completes there any more.
            drop(qp);
            // Nothing can touch the memory now.
            drop((words, received, lendings));
            pd.end_registrations();
            drop(seat);
        };
        if !self.connecting {
            return destroy();
        }
        // Soft-iWARP holds a queue pair until the SYN of its connection is answered or given up,
        // which takes minutes, and its destruction waits for that. If there is no thread to wait
        // in, what is moved into it goes here and now.
        let _ = std::thread::Builder::new().name("rdma-rpc-destroy".into()).spawn(destroy);
    }
}
