//! Who is at the other end of the socket: whether it is allowed, and whether its memory can be read.

use std::io;
use std::os::fd::OwnedFd;

use rustix::process::Pid;

use super::config::ShmConfig;
use super::cross_read::PeerMemory;
use super::error::ShmError;

/// The process at the other end.
#[derive(Debug)]
pub(super) struct Peer {
    /// For people.
    pub(super) name: String,
    uid: u32,
    /// As this process's pid namespace numbers it; `None` if it is not seen from here.
    pid: Option<Pid>,
}

impl Peer {
    /// Asks the kernel, and refuses users who are not allowed.
    ///
    /// The kernel noted the process that connected for the one end and the one that listens for
    /// the other, and translates its id into the namespace of whoever asks. An id the peer sent
    /// could be a number of another namespace, or a lie.
    pub(super) fn check(socket: &OwnedFd, config: &ShmConfig) -> Result<Peer, ShmError> {
        let failed =
            |error: io::Error| ShmError::io("getsockopt(SO_PEERCRED)", &error, "who the peer is");
        // tokio's accessor, not rustix's: a peer in another pid namespace has pid 0, which
        // rustix's type cannot hold.
        let copy = std::os::unix::net::UnixStream::from(socket.try_clone().map_err(failed)?);
        let stream = tokio::net::UnixStream::from_std(copy).map_err(failed)?;
        let peer = stream.peer_cred().map_err(failed)?;
        let (uid, own) = (peer.uid(), own_uid());
        if !uid_allowed(uid, own, &config.allowed_uids) {
            return Err(ShmError::PeerUser { uid, own });
        }
        let pid = peer.pid().filter(|&pid| pid > 0).and_then(Pid::from_raw);
        let name = match pid {
            Some(pid) => format!("pid {pid}"),
            None => format!("a process of uid {uid}"),
        };
        Ok(Peer { name, uid, pid })
    }

    /// This process itself, at both ends.
    pub(super) fn this_process() -> Peer {
        let pid = Some(rustix::process::getpid());
        Peer { name: "this process".into(), uid: own_uid(), pid }
    }

    /// The peer's memory, if it shows a mark and can be read. Nothing fails if not.
    pub(super) fn memory(&self, mark_at: u64) -> Option<PeerMemory> {
        let why = match self.pid {
            _ if mark_at == 0 => "it does not want that".to_owned(),
            // Root, or whoever may trace others, would read for the peer what the peer may not.
            _ if self.uid != own_uid() => "it belongs to another user".to_owned(),
            None => "it is in a pid namespace that is not seen from here".to_owned(),
            Some(pid) => match PeerMemory::discover(pid, mark_at) {
                Ok(memory) => return Some(memory),
                Err(errno) => format!("process_vm_readv: {errno}"),
            },
        };
        tracing::debug!(peer = %self.name, why, "shm: the peer's memory cannot be read directly");
        None
    }
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Whether a process of user `peer` may share memory with one of user `own`.
fn uid_allowed(peer: u32, own: u32, allowed: &[u32]) -> bool {
    peer == own || peer == 0 || allowed.contains(&peer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::mark;

    #[test]
    fn the_same_user_root_and_listed_users_are_allowed() {
        assert!(uid_allowed(1000, 1000, &[]));
        assert!(uid_allowed(0, 1000, &[]));
        assert!(uid_allowed(1001, 1000, &[7, 1001]));
        assert!(!uid_allowed(1001, 1000, &[7]));
        assert!(!uid_allowed(1000, 0, &[]), "root does not share with just anybody");
    }

    #[test]
    fn memory_is_read_of_one_user_and_a_process_that_is_seen_alone() {
        let mark = mark::own().unwrap();
        let peer = Peer::this_process;
        assert_eq!(peer().memory(mark.address()).unwrap().mark(), mark.bytes());
        assert!(peer().memory(0).is_none(), "no mark is shown");
        assert!(peer().memory(4096).is_none(), "nothing is there");
        assert!(peer().memory(u64::MAX).is_none(), "nothing can be there");
        let other = Peer { uid: own_uid() + 1, ..peer() };
        assert!(other.memory(mark.address()).is_none(), "another user");
        assert!(Peer { pid: None, ..peer() }.memory(mark.address()).is_none(), "not seen");
        let nobody = Peer { pid: Pid::from_raw(i32::MAX), ..peer() };
        assert!(nobody.memory(mark.address()).is_none(), "no process");
    }
}
