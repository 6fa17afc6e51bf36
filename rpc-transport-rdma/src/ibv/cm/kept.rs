//! Devices that librdmacm keeps open.
//!
//! The library opens a device when an id is bound to it, and closes it when it happens to notice
//! that the device is gone, which is when an id is bound to a device it does not know: for most
//! programs never. On drivers that report no removal the kernel would wait for that (see
//! [`removal`]). So the files are taken from the library: once the device is being
//! removed and no id of ours is left on it, their descriptors are made to name `/dev/null`. The
//! library finds that out only when it closes them, and does not mind.
//!
//! Whatever may open or close devices inside the library happens under [`lock`], so that the
//! descriptors are still those of the device when they are changed.
#![allow(unsafe_code)]

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{Mode, OFlags, fstat, open};
use rustix::io::{Errno, dup2};

use super::super::device::entry_of;
use super::super::ffi;
use super::super::removal::{self, Holder};

static LIBRARY: Mutex<Vec<Arc<Kept>>> = Mutex::new(Vec::new());

/// Held while librdmacm may open or close devices.
pub(super) fn lock() -> Library {
    Library(LIBRARY.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The contexts librdmacm has open, as far as we have met them.
#[derive(Debug)]
pub(super) struct Library(MutexGuard<'static, Vec<Arc<Kept>>>);

/// A context that librdmacm has opened.
#[derive(Debug)]
pub(super) struct Kept {
    command_fd: RawFd,
    event_fd: RawFd,
    /// Device and inode of the command file, by which it is known again.
    file: (u64, u64),
    released: AtomicBool,
}

impl Library {
    /// The context of an id that has just been bound. For as long as somebody holds what is given
    /// the context is not taken from the library.
    ///
    /// # Safety
    /// `context` is open in the library.
    pub(super) unsafe fn met(&mut self, context: *mut ffi::ibv_context) -> Option<Arc<Kept>> {
        // SAFETY: the context is open, and so are its files.
        let (command_fd, event_fd) = unsafe { ((*context).cmd_fd, (*context).async_fd) };
        let file = identity(command_fd)?;
        self.0.retain(|kept| !kept.released.load(Ordering::Acquire));
        let known = self.0.iter().find(|kept| kept.command_fd == command_fd && kept.file == file);
        if let Some(known) = known {
            return Some(known.clone());
        }
        // SAFETY: as the caller promises.
        let entry = unsafe { entry_of(context) }?;
        let released = AtomicBool::new(false);
        let kept = Arc::new(Kept { command_fd, event_fd, file, released });
        self.0.push(kept.clone());
        removal::watch(entry, Box::new(Watch(kept.clone())));
        Some(kept)
    }
}

/// Besides those of ids, so many references to a context are held: in the list, and by the watch.
const OURS: usize = 2;

struct Watch(Arc<Kept>);

impl Holder for Watch {
    fn holds(&self) -> bool {
        !self.0.released.load(Ordering::Acquire)
    }

    fn let_go(&self) {
        let library = lock();
        let in_use = Arc::strong_count(&self.0) > OURS;
        if in_use || !self.holds() {
            return;
        }
        // Otherwise the library has closed it itself.
        if identity(self.0.command_fd) == Some(self.0.file)
            && let Err(errno) = self.0.release()
        {
            tracing::warn!(%errno, "a removed RDMA device cannot be closed");
            return;
        }
        self.0.released.store(true, Ordering::Release);
        drop(library);
    }
}

impl Kept {
    /// Closes the files, but not the descriptors.
    fn release(&self) -> Result<(), Errno> {
        let nothing = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        for fd in [self.event_fd, self.command_fd] {
            // SAFETY: open, because the command file is the one that was met and the library
            // closes both at once, under the lock that is held; it stays the library's.
            let mut owned = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(fd) });
            dup2(nothing.as_fd(), &mut owned)?;
        }
        Ok(())
    }
}

fn identity(fd: RawFd) -> Option<(u64, u64)> {
    // SAFETY: only asked what it is; a number that is not open is an error.
    let stat = fstat(unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) }).ok()?;
    Some((stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn released_files_are_closed_but_their_numbers_stay() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let (command_fd, event_fd) = (theirs.as_raw_fd(), theirs.as_raw_fd());
        let file = identity(command_fd).unwrap();
        let kept = Kept { command_fd, event_fd, file, released: AtomicBool::new(false) };
        kept.release().unwrap();
        let mut byte = [0];
        let end = std::io::Read::read(&mut &ours, &mut byte).unwrap();
        assert_eq!(end, 0, "the other end sees that it was closed");
        let other = identity(command_fd).unwrap();
        assert_ne!(other, file, "the number names another file now");
        drop(theirs);
    }
}
