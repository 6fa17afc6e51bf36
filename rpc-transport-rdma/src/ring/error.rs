//! From what a device says to whom to blame.

use rdma_rpc_core::link::LinkError;

use crate::verbs::{PostError, Status, VerbError};

/// The bootstrap connection has ended.
pub(super) fn gone(reason: &std::io::Error) -> LinkError {
    LinkError::closed(format!("the peer's end is gone: {reason}"))
}

/// A verb failed.
pub(super) fn verb_failed(error: &VerbError) -> LinkError {
    LinkError::io(error.to_string())
}

/// A post failed where "full" must not happen: the ring counts slots itself.
pub(super) fn post_failed(what: &str, error: PostError) -> LinkError {
    match error {
        PostError::Full => LinkError::io(format!(
            "posting {what}: the queue is full, though it holds what the device promised"
        )),
        PostError::Failed => {
            LinkError::closed(format!("posting {what}: the queue pair has failed"))
        }
        PostError::Verb(error) => verb_failed(&error),
    }
}

/// A request or receive completed with an error.
pub(super) fn completion_failed(what: &str, status: Status) -> LinkError {
    match status {
        Status::RetryExceeded => {
            LinkError::closed(format!("{what}: the peer's device does not answer (retry exceeded)"))
        }
        Status::Flushed | Status::Success => LinkError::closed(format!(
            "{what}: flushed; the queue pair failed, as it does when the peer's end is gone, and \
             nothing says why"
        )),
        Status::ReceiverNotReady => LinkError::misbehaved(format!(
            "{what}: the peer has fewer receives posted than its hello and credits say \
             (receiver not ready)"
        )),
        // A process that ends gives its memory back before its queue pairs: what was posted to it
        // in between is refused just like a key that was never good.
        Status::RemoteAccess => LinkError::closed(format!(
            "{what}: the peer's device refused the address or key that the peer gave (remote \
             access error): its process has ended, or it gave a wrong one"
        )),
        Status::Other(number) => {
            let name = other_name(number);
            LinkError::io(format!("{what}: the device completed it with status {number} ({name})"))
        }
    }
}

/// What the verbs call a completion status (`enum ibv_wc_status`; InfiniBand Architecture
/// Specification 1.4, section 11.6.2).
fn other_name(status: u32) -> &'static str {
    match status {
        1 => "local length error",
        2 => "local queue pair operation error",
        4 => "local protection error",
        7 => "bad response",
        8 => "local access error",
        11 => "remote operation error: the peer's device could not do it",
        16 => "the peer aborted the operation",
        19 => "fatal error of the device",
        21 => "general error of the device",
        _ => "see enum ibv_wc_status",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdma_rpc_core::link::LinkErrorKind;

    #[test]
    fn blame_goes_where_it_belongs() {
        let kind = |status| completion_failed("request 1", status).kind();
        assert_eq!(kind(Status::RetryExceeded), LinkErrorKind::Closed);
        assert_eq!(kind(Status::Flushed), LinkErrorKind::Closed);
        assert_eq!(kind(Status::ReceiverNotReady), LinkErrorKind::PeerMisbehaved);
        assert_eq!(kind(Status::RemoteAccess), LinkErrorKind::Closed);
        assert_eq!(kind(Status::Other(12)), LinkErrorKind::Io);
    }
}
