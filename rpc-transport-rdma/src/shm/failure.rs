//! Why a queue pair failed: what the peer is told in one word, and what people are told.

use rustix::io::Errno;

use crate::verbs::VerbError;

/// What a failed queue pair writes into its state word. 0 stands for a queue pair that is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StateCode {
    /// Dropped by its owner.
    Closed,
    /// Moved to the error state by its owner.
    FailedByOwner,
    /// A request broke the rules of the other side's memory.
    RemoteAccess,
    /// The other side posted no receive, or did not describe an rkey, in time.
    ReceiverNotReady,
    /// The other side broke the rules of the device.
    PeerMisbehaved,
    /// The other side is gone, or a system call failed.
    Lost,
}

impl StateCode {
    const ALL: [StateCode; 6] = [
        StateCode::Closed,
        StateCode::FailedByOwner,
        StateCode::RemoteAccess,
        StateCode::ReceiverNotReady,
        StateCode::PeerMisbehaved,
        StateCode::Lost,
    ];

    /// The number in the state word; never 0.
    pub(super) fn number(self) -> u64 {
        match self {
            StateCode::Closed => 1,
            StateCode::FailedByOwner => 2,
            StateCode::RemoteAccess => 3,
            StateCode::ReceiverNotReady => 4,
            StateCode::PeerMisbehaved => 5,
            StateCode::Lost => 6,
        }
    }

    /// What this side makes of the peer's state word, which is not 0.
    fn of_peer(word: u64) -> (Errno, String) {
        let known = StateCode::ALL.into_iter().find(|code| code.number() == word);
        let (errno, what) = match known {
            Some(StateCode::Closed) => (Errno::CONNRESET, "the peer closed its queue pair"),
            Some(StateCode::FailedByOwner) => {
                (Errno::CONNABORTED, "the peer moved its queue pair to the error state")
            }
            Some(StateCode::RemoteAccess) => {
                (Errno::ACCESS, "a request of the peer's was outside our registered memory")
            }
            Some(StateCode::ReceiverNotReady) => (
                Errno::TIMEDOUT,
                "the peer waited too long for us to post a receive or to describe an rkey",
            ),
            Some(StateCode::PeerMisbehaved) => {
                (Errno::PROTO, "the peer says that we broke the rules of the device")
            }
            Some(StateCode::Lost) => (Errno::CONNRESET, "the peer lost its connection to us"),
            None => {
                return (
                    Errno::PROTO,
                    format!("the peer's state word holds {word}, which is none"),
                );
            }
        };
        (errno, what.into())
    }
}

/// Why a queue pair failed.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    /// What the peer is told.
    pub(super) code: StateCode,
    /// What our owner is told.
    pub(super) error: VerbError,
}

impl Failure {
    /// A failure noticed on this side.
    pub(super) fn new(code: StateCode, errno: Errno, context: impl Into<String>) -> Failure {
        let error = VerbError {
            verb: "shm queue pair",
            errno: errno.raw_os_error(),
            context: context.into(),
        };
        Failure { code, error }
    }

    /// The peer broke the rules.
    pub(super) fn misbehaved(what: impl std::fmt::Display) -> Failure {
        let context = format!("the peer broke the rules of the device: {what}");
        Failure::new(StateCode::PeerMisbehaved, Errno::PROTO, context)
    }

    /// The peer's end of the socket is closed.
    pub(super) fn peer_gone() -> Failure {
        Failure::new(StateCode::Lost, Errno::CONNRESET, "the peer's process is gone")
    }

    /// The peer's queue pair says that it failed.
    pub(super) fn told_by_peer(word: u64) -> Failure {
        let (errno, context) = StateCode::of_peer(word);
        Failure::new(StateCode::Lost, errno, context)
    }

    /// A verb of ours failed.
    pub(super) fn verb(error: VerbError) -> Failure {
        Failure { code: StateCode::Lost, error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_own_number_and_unknown_ones_are_named() {
        for (index, code) in StateCode::ALL.into_iter().enumerate() {
            assert_eq!(code.number(), index as u64 + 1);
        }
        let failure = Failure::told_by_peer(0xDEAD);
        assert!(failure.error.context.contains("57005"), "{}", failure.error);
    }
}
