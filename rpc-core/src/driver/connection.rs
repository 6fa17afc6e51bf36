//! One connection, shared by all its calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;
use std::time::Instant;

use crossbeam_queue::SegQueue;
use spin::mutex::{SpinMutex, SpinMutexGuard};

use super::cell::{Cell, SharedCell};
use super::conn::{Begun, Conn, Helped, OpenRequest, Watch};
use super::counts::{Counts, Poller};
use super::job::{Job, OwnedOpen};
use super::owner::{Failure, Owner};
use super::progress::Progress;
use crate::crowd::Crowd;
use crate::link::{Link, LinkError, LinkInfo};
use crate::metadata::MetadataMap;
use crate::patience::Patience;
use crate::session::{Batch, Encode, Role, Session, SessionConfig, StreamId};
use crate::status::Status;

/// So many bytes of a message count as one more frame that waits for a flush.
const BYTES_OF_A_FRAME: usize = 4096;

thread_local! {
    /// The connection whose handlers this thread is running in place, by address; 0: none.
    static CORKED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// A session and a link with their lock and their queue of jobs.
///
/// In this order in memory: what each call touches comes first, so that it lies in few cache lines.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Connection<L> {
    /// Somebody has left a job since the owner last looked.
    left: AtomicBool,
    /// The connection is over or takes no new calls.
    closed: AtomicBool,
    /// The link is one that can be looked at in place.
    in_place: bool,
    role: Role,
    pub(super) counts: Counts,
    progress: Progress,
    info: Arc<LinkInfo>,
    max_message_bytes: usize,
    window_bytes: u64,
    owner: SpinMutex<Owner<L>>,

    jobs: SegQueue<Job>,
}

impl<L: Link> Connection<L> {
    pub(crate) fn new(
        role: Role,
        config: SessionConfig,
        progress: Progress,
        link: L,
        now: Instant,
    ) -> Connection<L> {
        let session = Session::new(role, config, link.limits(), now);
        Connection {
            info: Arc::new(link.info()),
            role,
            window_bytes: session.window_bytes(),
            max_message_bytes: config.max_message_bytes,
            in_place: link.is_looked_at_in_place(),
            owner: SpinMutex::new(Owner::new(session, link, progress.polls())),
            jobs: SegQueue::new(),
            left: AtomicBool::new(false),
            progress,
            closed: AtomicBool::new(false),
            counts: Counts::default(),
        }
    }

    pub(super) fn role(&self) -> Role {
        self.role
    }

    pub(super) fn progress(&self) -> Progress {
        self.progress
    }

    /// Whether the driver finds news by looking again at once.
    pub(super) fn is_looked_at_in_place(&self) -> bool {
        self.in_place
    }

    /// Whether a caller that waits had better look for its answer itself: where others wait on the
    /// same threads, the drivers and the set poll for all of us.
    pub(super) fn may_help(&self) -> bool {
        self.progress.polls() && self.counts.is_for(Poller::OnlyCaller) && !self.is_crowded()
    }

    /// The same of a caller that polls for all, if it is one of those who may.
    pub(super) fn may_scout(&self) -> bool {
        self.counts.is_for(Poller::Scout) && self.outsider().is_some() && !self.is_crowded()
    }

    pub(super) fn crowd(&self) -> Option<&Crowd> {
        self.counts.crowd()
    }

    pub(super) fn patience(&self) -> Option<&Patience> {
        self.crowd().map(|crowd| &crowd.patience)
    }

    /// The driver runs among these.
    pub(crate) fn joins(&self, crowd: &Arc<Crowd>) {
        self.counts.joins(crowd);
    }

    pub(super) fn is_crowded(&self) -> bool {
        self.counts.is_crowded()
    }

    /// The lock, if it is free. Whoever has it may use the link, which disarms it: that is noted
    /// here, once for all, and made good by [`Connection::let_go`].
    fn try_lock(&self) -> Option<SpinMutexGuard<'_, Owner<L>>> {
        // A panic under the lock (a user's `Message` may panic while it encodes) leaves a
        // half-written frame that was not committed; everything else is whole.
        let mut owner = self.owner.try_lock()?;
        owner.armed = false;
        Some(owner)
    }

    /// Runs `act` as the owner if nobody else is, after the jobs that were left before.
    pub(super) fn with_owner<R>(&self, act: impl FnOnce(&mut Owner<L>) -> R) -> Option<R> {
        let mut owner = self.try_lock()?;
        if self.run_jobs(&mut owner) {
            owner.settle_or_fail();
        }
        let result = act(&mut owner);
        self.let_go(owner);
        Some(result)
    }

    /// Does something while somebody has the connection.
    #[cfg(test)]
    pub(crate) fn while_taken<R>(&self, act: impl FnOnce() -> R) -> R {
        self.with_owner(|_| act()).expect("nobody else has it")
    }

    /// Whether somebody has left something for the owner; to the owner, whether there is anything that
    /// this thread has left before it became that.
    pub(super) fn has_jobs(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }

    /// Whether there were any.
    fn run_jobs(&self, owner: &mut Owner<L>) -> bool {
        // The queue has cache lines of its own.
        self.has_jobs() && self.run_left(owner)
    }

    /// The same where the mark says so. It is taken back by an owner only, before he looks: what
    /// somebody has left is behind the mark until it has been run.
    #[cold]
    fn run_left(&self, owner: &mut Owner<L>) -> bool {
        let again = Again(&self.left);
        self.left.swap(false, Ordering::AcqRel);
        let mut any = false;
        while let Some(job) = self.jobs.pop() {
            owner.run_job(job);
            any = true;
        }
        std::mem::forget(again);
        any
    }

    /// Lets the lock go, and looks after jobs that were left in the meantime.
    fn let_go<'a>(&'a self, mut owner: SpinMutexGuard<'a, Owner<L>>) {
        loop {
            if owner.dead.is_some() || owner.calls.going_away {
                self.closed.store(true, Ordering::Release);
            }
            if self.role == Role::Client {
                owner.see_to_scout();
                self.counts.note(&owner);
            }
            owner.look_after_sleeper(|| self.is_crowded());
            drop(owner);
            // Whoever leaves a job swaps the mark before it tries the lock; we change it, to what it is,
            // after the lock is free. Changes of one word have an order: one of the two sees the other. If
            // it has a new owner already, that one's look is yet to come, because the mark stays.
            if !self.left.fetch_or(false, Ordering::AcqRel) {
                return;
            }
            match self.try_lock() {
                None => return,
                Some(again) => owner = again,
            }
            self.run_jobs(&mut owner);
            owner.settle_or_fail();
        }
    }

    /// Whether what was just committed may wait for the next flush: more of it is on its way on
    /// this thread, or calls are open whose answers the driver waits for while it is awake, so
    /// that it flushes soon. Where a flush costs little and the peer need not be woken for it, half of
    /// these calls leave at a time: if all did, this end would wait for the peer and then the peer for
    /// it. A call alone on its connection waits only where others are about to follow it, whose answers came
    /// with that of its caller's last.
    fn may_wait(&self, owner: &mut Owner<L>, hold: bool) -> bool {
        let gather = match owner.session.open_streams() as u32 {
            _ if hold || CORKED.get() == self.address() => owner.flush_frames,
            _ if owner.followers > 0 => owner.flush_frames.min(owner.followers),
            0 | 1 => 0,
            _ if owner.asleep && !(self.progress.polls() && owner.is_woken_for_burst()) => 0,
            open if owner.flushes_early && self.progress.polls() => {
                owner.flush_frames.min(open / 2)
            }
            _ => owner.flush_frames,
        };
        owner.unflushed < gather
    }

    /// The same of what a stream has sent. Where somebody feeds it bit by bit, each bit would leave by itself: the
    /// first since the driver looked does, and what follows leaves when the driver, which is awake, looks again.
    fn may_wait_in_stream(&self, owner: &mut Owner<L>) -> bool {
        let first = !std::mem::replace(&mut owner.streamed, true);
        if first || owner.asleep || owner.napper.is_some() {
            return self.may_wait(owner, false);
        }
        owner.unflushed < owner.flush_frames
    }

    /// Does `act` now, or leaves `job` for the present owner; `what` is for the one that runs.
    #[inline]
    fn act_or_leave<T>(
        &self,
        hold: bool,
        message_bytes: usize,
        mut what: T,
        act: impl FnOnce(&mut Owner<L>, &mut T) -> Result<(), LinkError>,
        job: impl FnOnce(T) -> Job,
    ) {
        let _rescue = Rescue(self);
        let Some(mut owner) = self.try_lock() else { return self.leave(job(what)) };
        self.run_jobs(&mut owner);
        if owner.dead.is_none() {
            if let Err(error) = act(&mut owner, &mut what) {
                owner.fail(Failure::Link(error));
            }
            owner.unflushed += frames_of(message_bytes);
            if !self.may_wait(&mut owner, hold) {
                owner.settle_or_fail();
            }
        } else {
            // It can have died of the jobs just now, and what was asked for still has to end.
            owner.run_job(job(what));
        }
        self.let_go(owner);
    }

    pub(super) fn leave(&self, job: Job) {
        self.jobs.push(job);
        self.left.swap(true, Ordering::AcqRel);
        if let Some(mut owner) = self.try_lock() {
            self.run_jobs(&mut owner);
            owner.settle_or_fail();
            self.let_go(owner);
        }
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// What this thread sends on this connection while `act` runs leaves in one burst at the end.
    pub(super) fn corked<R>(&self, act: impl FnOnce() -> R) -> R {
        struct Uncork;
        impl Drop for Uncork {
            /// After a panic too: another connection may come to lie at this address.
            fn drop(&mut self) {
                CORKED.set(0);
            }
        }
        let uncork = Uncork;
        CORKED.set(self.address());
        let result = act();
        drop(uncork);
        self.flush();
        result
    }

    /// Sends what has been committed.
    pub(super) fn flush(&self) {
        self.settle_if(|_| true);
    }

    fn settle_if(&self, settles: impl FnOnce(&mut Owner<L>) -> bool) {
        let act = |owner: &mut Owner<L>| {
            if settles(owner) {
                owner.settle_or_fail();
            }
        };
        if self.with_owner(act).is_none() {
            // Its owner may be past its last flush, on its way to sleep.
            self.leave(Job::Flush);
        }
    }
}

/// How many frames a message counts for. A long one is reason enough to flush: the peer is to begin with
/// it while the next is made.
fn frames_of(message_bytes: usize) -> u32 {
    1 + (message_bytes / BYTES_OF_A_FRAME) as u32
}

/// Dropped by a panic, as of a waker that a job wakes: the next owner has to look for the other jobs.
struct Again<'a>(&'a AtomicBool);

impl Drop for Again<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// A message's own code may panic while its call owns the connection. The lock goes with the panic,
/// but jobs that others left meanwhile still want their owner. Declare it before the lock.
struct Rescue<'a, L: Link>(&'a Connection<L>);

impl<L: Link> Drop for Rescue<'_, L> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.with_owner(Owner::settle_or_fail);
        }
    }
}

impl<L: Link> Conn for Connection<L> {
    fn open(&self, request: &OpenRequest<'_>, waker: Option<&Waker>) -> Begun {
        let _rescue = Rescue(self);
        if let Some(mut owner) = self.try_lock() {
            self.run_jobs(&mut owner);
            // The same question as in `help`.
            let polls = self.progress.polls();
            let first = owner.session.open_streams() == 0 && owner.followers == 0;
            let alone = polls && first && !self.is_crowded();
            if polls && !alone {
                self.patience().inspect(|patience| patience.saw_two());
            }
            let left = waker.filter(|_| !alone);
            let (cell, is_open) = owner.open(request, left, waker.and_then(|_| self.outsider()));
            let watch = match (is_open, left, waker) {
                (true, Some(_), _) if owner.scouting.appoints(|| self.scouting_may_pay()) => {
                    Watch::Scout
                }
                (true, Some(_), _) => Watch::Waker,
                (true, None, Some(_)) => Watch::Caller,
                _ => Watch::Nobody,
            };
            let bytes = request.message.map_or(0, Encode::encoded_len);
            owner.unflushed += frames_of(bytes);
            if !self.may_wait(&mut owner, false) {
                owner.settle_or_fail();
            }
            self.let_go(owner);
            return Begun { cell, watch };
        }
        let cell = SharedCell::default();
        cell.block_writer();
        let outsider = waker.and_then(|_| self.outsider());
        self.leave(Job::Open(OwnedOpen::new(&cell, request, outsider)));
        Begun { cell, watch: if outsider.is_some() { Watch::Scout } else { Watch::Nobody } }
    }

    fn send(
        &self,
        id: StreamId,
        cell: &SharedCell,
        message: &dyn Encode,
        end: bool,
        hold: bool,
    ) -> bool {
        let mut writable = false;
        self.act_or_leave(
            hold,
            message.encoded_len(),
            (),
            |owner, ()| owner.send(id, cell, message, end).map(|sent| writable = sent),
            |()| {
                cell.block_writer();
                Job::Send { id, cell: SharedCell::clone(cell), message: message.to_parts(), end }
            },
        );
        writable
    }

    fn send_batch(&self, id: StreamId, cell: &SharedCell, batch: &Batch) -> bool {
        let mut writable = false;
        self.act_or_leave(
            true,
            batch.len_bytes(),
            (),
            |owner, ()| owner.send_batch(id, cell, batch).map(|sent| writable = sent),
            |()| {
                cell.block_writer();
                Job::SendBatch { id, cell: SharedCell::clone(cell), batch: batch.clone() }
            },
        );
        writable
    }

    fn end_messages(&self, id: StreamId) {
        let act = |owner: &mut Owner<L>, (): &mut ()| owner.end_messages(id);
        self.act_or_leave(false, 0, (), act, |()| Job::EndMessages { id });
    }

    fn headers(&self, id: StreamId, metadata: MetadataMap) {
        let act = |owner: &mut Owner<L>, metadata: &mut MetadataMap| owner.headers(id, metadata);
        self.act_or_leave(false, 0, metadata, act, |metadata| Job::Headers { id, metadata });
    }

    fn respond(
        &self,
        id: StreamId,
        metadata: MetadataMap,
        trailers: MetadataMap,
        message: &dyn Encode,
    ) {
        self.act_or_leave(
            false,
            message.encoded_len(),
            (metadata, trailers),
            |owner, (metadata, trailers)| owner.respond(id, metadata, trailers, message),
            |(metadata, trailers)| Job::Respond {
                id,
                metadata,
                trailers,
                message: message.to_parts(),
            },
        );
    }

    fn finish(&self, id: StreamId, end: Result<MetadataMap, Status>) {
        let act = |owner: &mut Owner<L>, end: &mut Result<_, _>| {
            owner.finish(id, std::mem::replace(end, Ok(MetadataMap::new())))
        };
        self.act_or_leave(false, 0, end, act, |status| Job::Finish { id, status });
    }

    fn consumed(&self, id: StreamId, position: u64) {
        let act = |owner: &mut Owner<L>, (): &mut ()| {
            owner.session.consumed(id, position);
            Ok(())
        };
        self.act_or_leave(false, 0, (), act, |()| Job::Consumed { id, position });
    }

    fn cancel(&self, cell: &SharedCell, code: u16) {
        let act = |owner: &mut Owner<L>, (): &mut ()| {
            owner.cancel(cell, code);
            Ok(())
        };
        self.act_or_leave(false, 0, (), act, |()| Job::Cancel {
            cell: SharedCell::clone(cell),
            code,
        });
    }

    fn let_leave(&self) {
        self.settle_if(|owner| !self.may_wait_in_stream(owner));
    }

    fn attach(&self, id: StreamId) -> SharedCell {
        let cell = SharedCell::default();
        cell.set_id(id);
        if self.with_owner(|owner| owner.attach(id, &cell)).is_none() {
            self.leave(Job::Attach { id, cell: SharedCell::clone(&cell) });
        }
        cell
    }

    fn help(&self, cell: &Cell) -> Helped {
        self.help_in_place(cell)
    }

    fn scout(&self, cell: &Cell) -> Helped {
        self.scout_in_place(cell)
    }

    fn end_help(&self) {
        if self.with_owner(Owner::end_help).is_none() {
            self.leave(Job::EndHelp);
        }
    }

    fn go_away(&self, reason: &str) {
        self.leave(Job::GoAway { reason: reason.to_owned() });
    }

    fn window_bytes(&self) -> u64 {
        self.window_bytes
    }

    fn max_message_bytes(&self) -> usize {
        self.max_message_bytes
    }

    fn info(&self) -> &Arc<LinkInfo> {
        &self.info
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}
