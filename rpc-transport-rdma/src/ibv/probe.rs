//! The first message each way over a new queue pair: it proves that packets get through, while both
//! ends still have their socket.

use std::fmt;
use std::future::poll_fn;
use std::task::Poll;

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
/// What keeps packets of RoCE v2 from arriving where TCP gets through.
pub(super) const NO_PACKET_ADVICE: &str =
    "is UDP port 4791 open between them, and the GID of the right network?";

/// Sends a message each way over the new queue pair. Whoever connected goes first: on iWARP the
/// other one must not (RFC 5044, section 7.1).
pub(super) async fn probe<Q: QueuePair>(
    queue_pair: &mut Q,
    first: bool,
) -> Result<(), UpgradeError> {
    if first {
        post_probe(queue_pair)?;
    }
    let (mut sent, mut received, mut posted) = (false, false, first);
    poll_fn(|cx| {
        loop {
            let mut batch =
                [Completion { what: Completed::Send { id: 0 }, status: Status::Success }; 2];
            let count = queue_pair.poll(&mut batch).map_err(|error| error.to_string())?;
            for completion in &batch[..count] {
                match (completion.what, completion.status) {
                    (Completed::Send { .. }, Status::Success) => sent = true,
                    (Completed::Receive { imm: PROBE }, Status::Success) => received = true,
                    (what, status) => {
                        return Poll::Ready(Err(probe_failed(what, status)));
                    }
                }
            }
            if received && !posted {
                posted = true;
                post_probe(queue_pair)?;
            }
            if sent && received {
                return Poll::Ready(Ok(()));
            }
            match queue_pair.poll_event(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.to_string().into())),
            }
        }
    })
    .await
}

fn probe_failed(what: Completed, status: Status) -> UpgradeError {
    let flushed = status == Status::Flushed;
    let what = match (what, status) {
        (_, Status::RetryExceeded) => format!(
            "no packet of the RDMA devices gets through (retry exceeded): {NO_PACKET_ADVICE}"
        ),
        (what, status) => format!("the first message over RDMA failed: {what:?}, {status:?}"),
    };
    UpgradeError { what, flushed }
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
