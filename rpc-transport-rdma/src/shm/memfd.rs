//! Memory files: made and sealed here, or offered by the peer and checked before use.
//!
//! A file that can shrink is a trap: whoever touches a page past the new end dies of SIGBUS. So
//! ours carry the seals that forbid it before the peer gets them, and a file of the peer's is
//! mapped only if it carries them too, is ordinary memory (a huge-page file can run out of pages
//! under a mapping, with the same SIGBUS), and is long enough.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;

use crate::verbs::VerbError;

/// `TMPFS_MAGIC` of linux/magic.h: what holds memfds of ordinary pages.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// What every shared file of the device carries.
fn required_seals() -> SealFlags {
    SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL
}

/// A new, zeroed, unsealed memory file of `len` bytes.
pub(super) fn create(len: usize) -> Result<OwnedFd, VerbError> {
    let name = "rdma-rpc";
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = match rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        // Before Linux 6.3 the flag is unknown.
        Err(Errno::INVAL) => rustix::fs::memfd_create(name, flags),
        other => other,
    };
    let fd = fd.map_err(|errno| VerbError {
        verb: "memfd_create",
        errno: errno.raw_os_error(),
        context: format!(
            "making {len} bytes of shared memory; EMFILE: raise RLIMIT_NOFILE (ulimit -n); ENFILE: \
             raise fs.file-max; EPERM or EACCES: vm.memfd_noexec or a security policy forbids memfds"
        ),
    })?;
    rustix::fs::ftruncate(&fd, len as u64).map_err(|errno| VerbError {
        verb: "ftruncate",
        errno: errno.raw_os_error(),
        context: format!("sizing shared memory to {len} bytes; EFBIG: RLIMIT_FSIZE is below that"),
    })?;
    Ok(fd)
}

/// Seals a file for good: its size is fixed.
pub(super) fn seal(fd: &OwnedFd) -> Result<(), VerbError> {
    add_seals(fd, required_seals())
}

/// Seals a file for good: its size is fixed, and no writer can be added to those mapped now.
pub(super) fn seal_against_writers(fd: &OwnedFd) -> Result<(), VerbError> {
    add_seals(fd, required_seals() | SealFlags::FUTURE_WRITE)
}

fn add_seals(fd: &OwnedFd, seals: SealFlags) -> Result<(), VerbError> {
    rustix::fs::fcntl_add_seals(fd, seals).map_err(|errno| VerbError {
        verb: "fcntl(F_ADD_SEALS)",
        errno: errno.raw_os_error(),
        context: format!("sealing shared memory with {seals:?}; EINVAL: this needs Linux 5.1"),
    })
}

/// A memory file of the peer's that is safe to map.
#[derive(Debug)]
pub(super) struct OfferedMemfd {
    fd: OwnedFd,
    len: usize,
}

impl OfferedMemfd {
    /// Checks that the first `len` bytes of `fd` are there and will stay.
    pub(super) fn check(fd: OwnedFd, len: usize) -> Result<OfferedMemfd, String> {
        // Only memfds answer; any other file gives EINVAL.
        let seals = rustix::fs::fcntl_get_seals(&fd)
            .map_err(|errno| format!("offered a file that is no memfd ({errno})"))?;
        if !seals.contains(required_seals()) {
            let missing = required_seals() - seals;
            return Err(format!(
                "offered a memfd without {missing:?}: it could be truncated under us"
            ));
        }
        let file_system = rustix::fs::fstatfs(&fd)
            .map_err(|errno| format!("offered a memfd that cannot be examined ({errno})"))?;
        #[allow(clippy::unnecessary_cast, reason = "the field's type differs between targets")]
        if file_system.f_type as i64 != TMPFS_MAGIC {
            return Err(format!(
                "offered a memfd on file system {:#x}: huge pages can run out under us",
                file_system.f_type
            ));
        }
        // Looked at after the seals: from here on it cannot shrink.
        let size = rustix::fs::fstat(&fd)
            .map_err(|errno| format!("offered a memfd that cannot be examined ({errno})"))?
            .st_size;
        if len == 0 || usize::try_from(size).unwrap_or(0) < len {
            return Err(format!("offered a memfd of {size} bytes as memory of {len} bytes"));
        }
        Ok(OfferedMemfd { fd, len })
    }

    /// The file.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Bytes that may be mapped.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_file_passes_and_cannot_be_truncated() {
        let fd = create(10_000).unwrap();
        seal(&fd).unwrap();
        assert_eq!(rustix::fs::ftruncate(&fd, 0), Err(Errno::PERM));
        assert_eq!(OfferedMemfd::check(fd, 10_000).unwrap().len(), 10_000);
    }

    #[test]
    fn unsealed_short_and_foreign_files_are_refused() {
        let unsealed = create(4096).unwrap();
        assert!(OfferedMemfd::check(unsealed, 4096).unwrap_err().contains("SHRINK"));

        let half_sealed = create(4096).unwrap();
        rustix::fs::fcntl_add_seals(&half_sealed, SealFlags::SHRINK | SealFlags::GROW).unwrap();
        assert!(OfferedMemfd::check(half_sealed, 4096).unwrap_err().contains("SEAL"));

        let short = create(4096).unwrap();
        seal(&short).unwrap();
        assert!(OfferedMemfd::check(short, 4097).unwrap_err().contains("4096 bytes"));

        let empty = create(0).unwrap();
        seal(&empty).unwrap();
        assert!(OfferedMemfd::check(empty, 0).is_err());

        let foreign = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        assert!(OfferedMemfd::check(foreign, 8).unwrap_err().contains("no memfd"));
    }

    #[test]
    fn huge_page_files_are_refused() {
        let flags = MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
        let Ok(fd) = rustix::fs::memfd_create("huge", flags) else {
            println!("skipped: this kernel has no huge-page memfds");
            return;
        };
        rustix::fs::ftruncate(&fd, 2 << 20).unwrap();
        seal(&fd).unwrap();
        assert!(OfferedMemfd::check(fd, 4096).unwrap_err().contains("huge pages"));
    }
}
