//! What a completion's status means.

use super::ffi::ibv_wc_status;
use crate::verbs::Status;

/// A status by whom it blames.
pub(super) fn status_of(status: ibv_wc_status::Type) -> Status {
    match status {
        ibv_wc_status::IBV_WC_SUCCESS => Status::Success,
        ibv_wc_status::IBV_WC_WR_FLUSH_ERR => Status::Flushed,
        ibv_wc_status::IBV_WC_RNR_RETRY_EXC_ERR => Status::ReceiverNotReady,
        ibv_wc_status::IBV_WC_REM_ACCESS_ERR | ibv_wc_status::IBV_WC_REM_INV_REQ_ERR => {
            Status::RemoteAccess
        }
        ibv_wc_status::IBV_WC_RETRY_EXC_ERR | ibv_wc_status::IBV_WC_RESP_TIMEOUT_ERR => {
            Status::RetryExceeded
        }
        other => Status::Other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_blame_the_right_end() {
        use ibv_wc_status as wc;
        assert_eq!(status_of(wc::IBV_WC_SUCCESS), Status::Success);
        assert_eq!(status_of(wc::IBV_WC_WR_FLUSH_ERR), Status::Flushed);
        assert_eq!(status_of(wc::IBV_WC_RETRY_EXC_ERR), Status::RetryExceeded);
        assert_eq!(status_of(wc::IBV_WC_RNR_RETRY_EXC_ERR), Status::ReceiverNotReady);
        assert_eq!(status_of(wc::IBV_WC_REM_ACCESS_ERR), Status::RemoteAccess);
        assert_eq!(status_of(4711), Status::Other(4711));
    }
}
