//! The first message each way over a new queue pair: it proves that packets get through, while both
//! ends still have their socket.

use std::future::poll_fn;
use std::task::Poll;

use crate::verbs::{
    Completed, Completion, Op, PostError, QueuePair, RemoteAddr, Status, WorkRequest,
};

/// What the first message over RDMA carries.
const PROBE: u32 = 0x6F62_7270;
/// What keeps packets of RoCE v2 from arriving where TCP gets through.
pub(super) const NO_PACKET_ADVICE: &str =
    "is UDP port 4791 open between them, and the GID of the right network?";

/// Sends a message each way over the new queue pair. Whoever connected goes first: on iWARP the
/// other one must not (RFC 5044, section 7.1).
pub(super) async fn probe<Q: QueuePair>(queue_pair: &mut Q, first: bool) -> Result<(), String> {
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
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.to_string())),
            }
        }
    })
    .await
}

fn probe_failed(what: Completed, status: Status) -> String {
    match (what, status) {
        (_, Status::RetryExceeded) => format!(
            "no packet of the RDMA devices gets through (retry exceeded): {NO_PACKET_ADVICE}"
        ),
        (what, status) => format!("the first message over RDMA failed: {what:?}, {status:?}"),
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
