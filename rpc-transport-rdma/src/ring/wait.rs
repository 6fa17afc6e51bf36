//! Sleeping and waking: drain, arm, drain again, and leave nobody waiting for us.

use std::task::{Context, Poll};

use rdma_rpc_core::link::{Link, LinkError, LinkErrorKind};
use rdma_rpc_core::poll_set::PollSet;

use super::error::{gone, verb_failed};
use super::link::RingLink;
use crate::verbs::{Expected, QueuePair, Region};

/// How often the device may say "look again" before the owner gets a turn.
const MAX_ROUNDS: usize = 8;

/// Of the place of the next burst, what is fetched as soon as a look finds news, and once it turns out that more
/// has come than a short call or answer.
pub(super) const SHORT_ANSWER_BYTES: usize = 128;
pub(super) const ANSWERS_BYTES: usize = 512;

impl<Q: QueuePair> RingLink<Q> {
    /// Whether the peer must release something before we can go on.
    fn blocked_on_credit(&self) -> bool {
        let sender = &self.sender;
        let room = sender
            .want_room
            .is_some_and(|len| !sender.staging.has_room(len, sender.credits.writable_until()));
        room || (sender.flush_blocked && !sender.credits.may_send_burst())
    }

    /// Whether the owner has something to do; forgets the wishes that can be granted.
    fn take_ready(&mut self) -> bool {
        let mut ready = self.has_received();
        let sender = &mut self.sender;
        let limit = sender.fill_limit();
        if sender.want_room.is_some_and(|len| sender.staging.has_room(len, limit)) {
            sender.want_room = None;
            ready = true;
        }
        let starved = self.starved;
        if !starved && sender.want_bulk.is_some_and(|len| self.bulk_out.has_room(len)) {
            sender.want_bulk = None;
            ready = true;
        }
        let pull = self.receiver.want_pull;
        let has_room = |len| {
            let reusable = self.pull_pool.has_idle(len);
            self.pulls.has_room() && (reusable || (!starved && self.pull_pool.has_room(len)))
        };
        if pull.is_some_and(has_room) {
            self.receiver.want_pull = None;
            ready = true;
        }
        let alive = self.ending.failed.is_none();
        ready || (alive && self.sender.flush_blocked && self.can_post_burst())
    }

    /// Whether nothing is wished for, held up or under way: then only the device and the peer's end
    /// can have news.
    #[inline]
    fn is_calm(&self) -> bool {
        let waits = self.sender.flush_blocked
            || self.receiver.credit_due
            || self.starved
            || self.device_full
            || !self.pulls.is_idle();
        !waits && !self.holds_news()
    }

    /// The part of sleeping that `wait_ready` and `wait_closed` share: asks for credit, gives
    /// credit, arms or joins the set that polls. `Ready`: look again.
    fn prepare_sleep(
        &mut self,
        cx: &mut Context<'_>,
        set: Option<&PollSet>,
    ) -> Poll<Result<(), LinkError>> {
        if self.receiver.want_pull.is_some() {
            self.pull_pool.wake_on_return(cx.waker());
            let len = self.receiver.want_pull.unwrap_or_default();
            let room =
                self.pull_pool.has_idle(len) || (!self.starved && self.pull_pool.has_room(len));
            if self.pulls.has_room() && room {
                return Poll::Ready(Ok(()));
            }
        }
        if self.starved && !self.queue_pair.wait_for_memory(cx.waker()) {
            self.starved = false;
            return Poll::Ready(Ok(()));
        }
        let slept = self.sleep_on_device(cx, set);
        if slept.is_pending() && std::mem::take(&mut self.device_full) {
            // Nothing of ours may be outstanding that would wake us: try again next turn.
            cx.waker().wake_by_ref();
        }
        slept
    }

    /// Waits for the device and for the peer's end. `Ready`: look again.
    fn sleep_on_device(
        &mut self,
        cx: &mut Context<'_>,
        set: Option<&PollSet>,
    ) -> Poll<Result<(), LinkError>> {
        self.waits_in_set = set.is_some();
        let event = match set {
            None => self.queue_pair.poll_event(cx),
            Some(set) => {
                self.expect();
                self.queue_pair.poll_event_in(cx, set)
            }
        };
        match event {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
            Poll::Ready(Err(error)) => {
                return Poll::Ready(Err(self.end(verb_failed(&error))));
            }
        }
        if !self.ending.liveness_closed
            && let Some(liveness) = &mut self.liveness
            && let Poll::Ready(reason) = self.liveness_waker.poll(cx, |cx| liveness.poll_closed(cx))
        {
            self.ending.liveness_closed = true;
            self.fail(gone(&reason), false);
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }

    /// Tells what will be touched next, where others are looked at before that.
    fn expect(&mut self) {
        let (receiver, sender) = (&self.receiver, &self.sender);
        let staged = sender.staging.ahead(sender.fill_limit()).offset;
        self.queue_pair.expect(&Expected {
            arrives: (&receiver.ring, receiver.credits.next_offset()),
            staged: (&sender.region, staged),
        });
    }

    /// Fetches the place of the next burst, so much of it. Once when the last one has left, and again when
    /// something has come: the peer's processor, which reads one burst, fetches on its own what lies behind it.
    #[inline]
    pub(super) fn fetch_ahead(&self, most_bytes: usize) {
        let sender = &self.sender;
        let ahead = sender.staging.ahead(sender.fill_limit());
        sender.region.will_write(ahead.offset, ahead.len_bytes.min(most_bytes));
    }

    /// A burst has left. While the peer is at it there is time to fetch the place of the next one,
    /// unless many others have their turns until then.
    pub(super) fn foresee(&mut self) {
        if self.waits_in_set {
            return self.expect();
        }
        self.fetch_ahead(usize::MAX);
    }

    pub(super) fn wait_ready(
        &mut self,
        cx: &mut Context<'_>,
        set: Option<&PollSet>,
    ) -> Poll<Result<(), LinkError>> {
        // What a call leaves behind, as a rule.
        let calm = self.is_calm() && !self.queue_pair.may_have_completions();
        if calm && self.sleep_on_device(cx, set)?.is_pending() {
            return Poll::Pending;
        }
        for round in 0..MAX_ROUNDS {
            self.check_over()?;
            // What the look misses, the device says as it is asked to wake us.
            if round > 0 || !self.pulls.is_idle() || self.queue_pair.may_have_completions() {
                self.progress()?;
            }
            if self.sender.want_room.is_some() || self.sender.flush_blocked {
                self.look_at_cell()?;
            }
            self.return_credit(true)?;
            if self.take_ready() {
                return Poll::Ready(Ok(()));
            }
            if let Some(error) = self.end_of_stream() {
                return Poll::Ready(Err(self.end(error)));
            }
            if self.blocked_on_credit() {
                self.ask_for_credit();
            }
            if self.prepare_sleep(cx, set)?.is_pending() {
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn wait_closed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        self.ending.closing = true;
        self.sender.want_room = None;
        self.sender.want_bulk = None;
        self.receiver.want_pull = None;
        for _ in 0..MAX_ROUNDS {
            match self.close_step(cx) {
                Poll::Ready(Ok(false)) => {}
                Poll::Ready(Ok(true)) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) => return Poll::Ready(self.closed_with(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// `Ready`: whether the link is closed; if not, there is more to look at.
    fn close_step(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, LinkError>> {
        self.check_over()?;
        self.progress()?;
        self.discard_received()?;
        // A WRITE completes once the peer's device has it. On iWARP a SEND completes once TCP has
        // it, and giving up the queue pair may reset that connection: the peer goes first there.
        if self.ending.close_done && self.sender.write_with_imm {
            return Poll::Ready(Ok(true));
        }
        if self.ending.peer_closed {
            let gone = LinkError::closed("the peer closed the connection in order");
            return Poll::Ready(Err(gone));
        }
        // Not before everything has flushed: the peer's close may be among what has arrived.
        if let Some(error) = self.end_of_stream() {
            return Poll::Ready(Err(error));
        }
        self.look_at_cell()?;
        self.post_bursts()?;
        self.sender.flush_blocked = self.has_unsent();
        if !self.has_unsent() && !self.ending.close_posted {
            self.post_close();
        }
        self.return_credit(true)?;
        if self.blocked_on_credit() {
            self.ask_for_credit();
        }
        self.prepare_sleep(cx, None).map_ok(|()| false)
    }

    /// Nobody receives any more. What arrives is dropped, so that two ends that close at once do
    /// not wait for each other's credit.
    fn discard_received(&mut self) -> Result<(), LinkError> {
        self.receiver.finished.clear();
        self.discard_burst();
        while self.copy_out_burst()? {
            self.discard_burst();
        }
        Ok(())
    }

    /// The peer is gone while we close: that is in order if all of ours was on its way.
    fn closed_with(&mut self, error: LinkError) -> Result<(), LinkError> {
        let sent = self.ending.close_posted || (self.ending.peer_closed && !self.has_unsent());
        if sent && error.kind() == LinkErrorKind::Closed { Ok(()) } else { Err(self.end(error)) }
    }
}
