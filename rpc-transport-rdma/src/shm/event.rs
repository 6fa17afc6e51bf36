//! Waiting without polling: the queue pair's file descriptors in tokio's reactor.
//!
//! They are registered at the first wait, so a queue pair that is only polled never touches the
//! reactor. The order is arm, look again, and only then sleep (see [`super::notify`]). tokio
//! reports edges, so a descriptor that was ready is drained, and asked again until it is pending
//! with our waker; only then does the wait return `Pending`.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use rdma_rpc_core::standing::StandingWaker;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Sleep;

use super::notify::{self, WAKE_COMPLETIONS, WAKE_RECEIVES};
use super::qp::{FULL_SOCKET_RETRY, Reason, ShmQueuePair};
use crate::verbs::VerbError;

/// The file descriptors in the reactor, and the timer for what must not wait for ever.
///
/// In this order in memory: what each call touches comes first, so that it lies in few cache lines.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Reactor {
    socket_waker: StandingWaker,

    event: AsyncFd<Arc<OwnedFd>>,
    socket: AsyncFd<Arc<OwnedFd>>,
    timer: Option<Pin<Box<Sleep>>>,
    /// What the last wake-up said of where it came from.
    rung_by: Option<u64>,
}

impl Reactor {
    fn new(event: &Arc<OwnedFd>, socket: &Arc<OwnedFd>) -> Result<Reactor, VerbError> {
        let failed = |errno: i32, why: String| VerbError {
            verb: "epoll_ctl",
            errno,
            context: format!("waiting for events of a queue pair: {why}"),
        };
        if let Err(error) = tokio::runtime::Handle::try_current() {
            return Err(failed(rustix::io::Errno::INVAL.raw_os_error(), error.to_string()));
        }
        let register = |fd: &Arc<OwnedFd>| {
            watch(Arc::clone(fd)).map_err(|error| {
                let errno = error.raw_os_error().unwrap_or(0);
                failed(errno, "ENOSPC: raise fs.epoll.max_user_watches".into())
            })
        };
        Ok(Reactor {
            event: register(event)?,
            socket: register(socket)?,
            socket_waker: StandingWaker::default(),
            timer: None,
            rung_by: None,
        })
    }

    /// Whether the peer has rung; if not, the waker is kept.
    fn poll_rung(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), VerbError>> {
        loop {
            let mut ready = match self.event.poll_read_ready(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(reactor_gone(&error))),
                Poll::Ready(Ok(ready)) => ready,
            };
            // One read takes every wake-up that came; a later one is a new edge.
            let rung = notify::drain(&**ready.get_inner());
            ready.clear_ready();
            if rung.is_some() {
                self.rung_by = rung;
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Whether the socket had nothing when it was asked last, and will tell the task of `waker`.
    #[inline]
    pub(super) fn is_socket_quiet(&self, waker: &Waker) -> bool {
        self.socket_waker.holds(waker)
    }

    /// Whether `deadline` has come; if not, the waker is kept until then.
    fn poll_deadline(&mut self, deadline: Option<Instant>, cx: &mut Context<'_>) -> bool {
        let Some(deadline) = deadline else {
            self.timer = None;
            return false;
        };
        let deadline = deadline.into();
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx).is_ready()
    }
}

/// Has tokio tell when `fd` becomes readable. Needs a tokio runtime with I/O enabled.
#[allow(
    deprecated,
    reason = "the successor is unsafe because a descriptor might be closed while watched; ours \
              are owned (`OwnedFd`, `Arc<OwnedFd>`), and it would raise the least tokio to 1.54"
)]
pub(super) fn watch<T: AsFd + AsRawFd>(fd: T) -> std::io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}

fn reactor_gone(error: &std::io::Error) -> VerbError {
    VerbError {
        verb: "epoll_wait",
        errno: error.raw_os_error().unwrap_or(0),
        context: format!("the tokio runtime that watches this queue pair is gone: {error}"),
    }
}

impl ShmQueuePair {
    /// [`crate::verbs::QueuePair::poll_event`].
    pub(super) fn wait_for_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), VerbError>> {
        if let Some(error) = self.ended() {
            return Poll::Ready(Err(error.clone()));
        }
        self.watched.leave();
        if self.has_work() {
            return Poll::Ready(Ok(()));
        }
        if self.regions.has_unsent() {
            self.send_messages();
        }
        let mut reactor = self.take_reactor()?;
        let polled = self.sleep(&mut reactor, cx);
        self.reactor = Some(reactor);
        polled
    }

    /// [`crate::verbs::QueuePair::was_woken_here`].
    pub(super) fn was_rung_here(&mut self) -> bool {
        let rung_by = self.reactor.as_mut().and_then(|reactor| reactor.rung_by.take());
        rung_by == Some(notify::this_cpu())
    }

    /// To be put back. The file descriptors are registered at the first wait.
    pub(super) fn take_reactor(&mut self) -> Result<Reactor, VerbError> {
        match self.reactor.take() {
            Some(reactor) => Ok(reactor),
            None => Reactor::new(&self.own_event, &self.socket),
        }
    }

    fn sleep(
        &mut self,
        reactor: &mut Reactor,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), VerbError>> {
        let waits_for_receive =
            self.blocked.is_some_and(|blocked| blocked.reason == Reason::NoReceive);
        let wants = WAKE_COMPLETIONS | if waits_for_receive { WAKE_RECEIVES } else { 0 };
        notify::arm(self.own.armed(), wants);
        self.is_armed = true;
        if self.has_work() {
            return Poll::Ready(Ok(()));
        }
        // Whatever is ready below may have disarmed us; the owner polls, and comes back to arm.
        if let Poll::Ready(rung) = reactor.poll_rung(cx) {
            return Poll::Ready(rung);
        }
        if let Poll::Ready(taken) = self.poll_socket(reactor, cx) {
            return Poll::Ready(taken);
        }
        let retry = self.regions.has_unsent().then(|| Instant::now() + FULL_SOCKET_RETRY);
        let give_up = self.blocked.map(|blocked| blocked.until);
        let deadline = retry.into_iter().chain(give_up).min();
        if reactor.poll_deadline(deadline, cx) {
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }

    /// Takes socket messages until there are none; `Ready` if any came, or the peer is gone.
    pub(super) fn poll_socket(
        &mut self,
        reactor: &mut Reactor,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), VerbError>> {
        let Reactor { socket, socket_waker, .. } = reactor;
        match socket_waker.poll(cx, |cx| socket.poll_read_ready(cx)) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Err(reactor_gone(&error))),
            Poll::Ready(Ok(mut ready)) => {
                // Not cleared while messages are left: the next wait finds it ready again.
                if self.take_messages() {
                    ready.clear_ready();
                }
                Poll::Ready(Ok(()))
            }
        }
    }
}
