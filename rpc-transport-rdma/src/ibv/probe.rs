//! The first message each way over a new queue pair: it proves that packets get through, while both
//! ends still have their socket.

use std::fmt;
use std::future::{Future, poll_fn};
use std::task::Poll;
use std::time::Duration;

use crate::verbs::{
    Completed, Completion, Op, PostError, QueuePair, RemoteAddr, Status, WorkRequest,
};

/// Why a connection does not move to RDMA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpgradeError {
    what: String,
    flushed: bool,
}

impl UpgradeError {
    /// Whether the queue pair was given up between two ends that had both set it up: the other end may
    /// have changed its mind, and Soft-iWARP has lost a connection so now and then when many were made
    /// under load. Nothing is known to be wrong, so another attempt is worth it.
    pub fn was_flushed(&self) -> bool {
        self.flushed
    }
}

impl From<String> for UpgradeError {
    fn from(what: String) -> UpgradeError {
        UpgradeError { what, flushed: false }
    }
}

impl From<&str> for UpgradeError {
    fn from(what: &str) -> UpgradeError {
        what.to_owned().into()
    }
}

impl fmt::Display for UpgradeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for UpgradeError {}

/// What the first message over RDMA carries.
const PROBE: u32 = 0x6F62_7270;

/// What is known of a network before a packet has gone through it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected {
    /// How long the device may take to say that a message of ours has arrived, if that can be said.
    pub(super) limit: Option<Duration>,
    /// What to ask where TCP gets through and RDMA does not.
    pub(super) advice: &'static str,
}

/// Sends a message each way over the new queue pair. Whoever connected goes first: on iWARP the
/// other one must not (RFC 5044, section 7.1).
///
/// How long the other end takes to send its own says nothing about the network: it may have other
/// work, and is waited for until `gave_up` is done and tells why there will be none.
pub(super) async fn probe<Q: QueuePair>(
    queue_pair: &mut Q,
    first: bool,
    expected: Expected,
    gave_up: impl Future<Output = String>,
) -> Result<(), UpgradeError> {
    let mut probe = Probe { queue_pair, expected, sent: false, received: false };
    if first {
        probe.send().await?;
    }
    tokio::select! {
        biased;
        received = probe.until(|probe| probe.received) => received?,
        why = gave_up => return Err(why.into()),
    }
    if !first {
        // Not listening any more: the other end, which has all it needs, may go on by now.
        probe.send().await?;
    }
    Ok(())
}

struct Probe<'a, Q> {
    queue_pair: &'a mut Q,
    expected: Expected,
    sent: bool,
    received: bool,
}

impl<Q: QueuePair> Probe<'_, Q> {
    async fn send(&mut self) -> Result<(), UpgradeError> {
        post_probe(self.queue_pair)?;
        let Expected { limit, advice } = self.expected;
        let sent = self.until(|probe| probe.sent);
        let Some(limit) = limit else { return sent.await };
        tokio::time::timeout(limit, sent).await.unwrap_or_else(|_| {
            let what = "the first message over RDMA did not arrive";
            Err(format!("{what} in {limit:?}: {advice}").into())
        })
    }

    /// Takes completions until `done`.
    async fn until(&mut self, done: impl Fn(&Self) -> bool) -> Result<(), UpgradeError> {
        poll_fn(|cx| {
            while !done(self) {
                let mut batch =
                    [Completion { what: Completed::Send { id: 0 }, status: Status::Success }; 2];
                let count = self.queue_pair.poll(&mut batch).map_err(|error| error.to_string())?;
                for completion in &batch[..count] {
                    match (completion.what, completion.status) {
                        (Completed::Send { .. }, Status::Success) => self.sent = true,
                        (Completed::Receive { imm: PROBE }, Status::Success) => {
                            self.received = true;
                        }
                        (what, status) => return Poll::Ready(Err(self.failed(what, status))),
                    }
                }
                if done(self) {
                    break;
                }
                match self.queue_pair.poll_event(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error.to_string().into())),
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    fn failed(&self, what: Completed, status: Status) -> UpgradeError {
        let what = match (what, status) {
            (_, Status::RetryExceeded) => format!(
                "no packet of the RDMA devices gets through (retry exceeded): {}",
                self.expected.advice
            ),
            (what, status) => format!("the first message over RDMA failed: {what:?}, {status:?}"),
        };
        UpgradeError { what, flushed: status == Status::Flushed }
    }
}

fn post_probe<Q: QueuePair>(queue_pair: &mut Q) -> Result<(), String> {
    let nowhere = RemoteAddr { addr: 0, rkey: 0 };
    let op = if queue_pair.caps().write_with_imm {
        Op::Write { from: None, to: nowhere, imm: Some(PROBE) }
    } else {
        Op::Send { word: PROBE }
    };
    let posted = queue_pair.post_send(&[WorkRequest { id: 0, op, signaled: true }]);
    posted.map_err(|error| match error {
        PostError::Verb(error) => error.to_string(),
        PostError::Full | PostError::Failed => format!("the first message over RDMA: {error:?}"),
    })
}
