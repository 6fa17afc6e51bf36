//! Noticing that a device is being removed.
//!
//! Some drivers cut a program off from a device that is unplugged or unbound, and report it by an
//! asynchronous event. Others (Soft-RoCE, Soft-iWARP) report nothing: the kernel takes the
//! device's entry out of sysfs, and then waits until the last program has closed it, while the
//! device goes on working for those. `rdma link delete` or `rmmod` would wait for as long as a
//! connection lives. So a thread looks whether the entries of the devices in use are still there,
//! and tells those who use one that is not to let go. Nothing of it is on the way of a call.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How often the entries are looked at: how long a removal may go unnoticed.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A device's entry in sysfs. Its number tells a device from its successor of the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    path: PathBuf,
    inode: u64,
}

impl Entry {
    /// The entry at this path; `None` if there is none, and nothing can be watched.
    pub(super) fn at(path: impl Into<PathBuf>) -> Option<Entry> {
        let path = path.into();
        let inode = fs::metadata(&path).ok()?.ino();
        Some(Entry { path, inode })
    }

    /// Whether the device is gone, or is waiting for us to close it. What cannot be read for
    /// another reason than its absence is taken to be there.
    fn is_removed(&self) -> bool {
        match fs::metadata(&self.path) {
            Ok(found) => found.ino() != self.inode,
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        }
    }
}

/// What somebody wants to know of an entry.
pub(super) trait Holder: Send + Sync {
    /// Whether anybody still holds the device; if not, it is not watched any more.
    fn holds(&self) -> bool;

    /// The device is being removed: let go of it. Called again and again until nobody holds it.
    fn let_go(&self);
}

/// Who holds what.
type Watched = Vec<(Entry, Box<dyn Holder>)>;

static WATCHED: Mutex<Watched> = Mutex::new(Vec::new());
/// Somebody has come while the thread was asleep for want of work.
static CAME: Condvar = Condvar::new();
static THREAD: Mutex<bool> = Mutex::new(false);

/// Tells `holder` when the device of `entry` is removed, for as long as it holds it. If no thread
/// can be started the removal waits as it would without.
pub(super) fn watch(entry: Entry, holder: Box<dyn Holder>) {
    WATCHED.lock().unwrap_or_else(PoisonError::into_inner).push((entry, holder));
    CAME.notify_one();
    let mut started = THREAD.lock().unwrap_or_else(PoisonError::into_inner);
    if !*started {
        let thread =
            std::thread::Builder::new().name("rdma-rpc-devices".into()).spawn(look_for_ever);
        match thread {
            Ok(_) => *started = true,
            Err(error) => tracing::warn!(%error, "removal of RDMA devices goes unnoticed"),
        }
    }
}

fn look_for_ever() {
    loop {
        let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
        while watched.is_empty() {
            watched = CAME.wait(watched).unwrap_or_else(PoisonError::into_inner);
        }
        // Letting go may run others' destructors: not under the lock.
        let mut taken = std::mem::take(&mut *watched);
        drop(watched);
        taken.retain(|(entry, holder)| {
            if entry.is_removed() {
                holder.let_go();
            }
            holder.holds()
        });
        let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
        watched.append(&mut taken);
        drop(watched);
        std::thread::sleep(LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Instant;

    use super::*;

    struct Counting(Arc<AtomicU32>);

    impl Holder for Counting {
        fn holds(&self) -> bool {
            self.0.load(Ordering::SeqCst) < 2
        }

        fn let_go(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_removed_entry_is_told_until_nobody_holds_it() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("uverbs0");
        assert_eq!(Entry::at(&place), None);
        fs::create_dir(&place).unwrap();
        let told = Arc::new(AtomicU32::new(0));
        watch(Entry::at(&place).unwrap(), Box::new(Counting(told.clone())));
        std::thread::sleep(2 * LOOK_EVERY);
        assert_eq!(told.load(Ordering::SeqCst), 0, "it is still there");
        fs::remove_dir(&place).unwrap();
        let begin = Instant::now();
        while told.load(Ordering::SeqCst) < 2 {
            assert!(begin.elapsed() < 20 * LOOK_EVERY, "not told");
            std::thread::sleep(LOOK_EVERY / 10);
        }
        std::thread::sleep(3 * LOOK_EVERY);
        assert_eq!(told.load(Ordering::SeqCst), 2, "nobody holds it any more");
    }

    #[test]
    fn a_successor_of_the_same_name_is_another_device() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        fs::create_dir(&one).unwrap();
        fs::create_dir(&other).unwrap();
        let entry = Entry::at(&one).unwrap();
        fs::rename(&other, &one).unwrap();
        assert!(entry.is_removed());
    }
}
