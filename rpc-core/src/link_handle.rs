//! What a request knows of its link, handed on from one request of a thread to the next.
//!
//! Handlers own their requests, so each has a share of its connection's [`LinkInfo`]. To count them in and
//! out is two locked instructions a call; a thread's last share, kept for its next request, is forty
//! plain ones.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

use crate::link::LinkInfo;

thread_local! {
    /// Of the last request that was dropped on this thread.
    static LAST: Cell<Option<Arc<LinkInfo>>> = const { Cell::new(None) };
}

/// A share of a [`LinkInfo`], or nothing.
#[derive(Clone, Default)]
pub(crate) struct LinkHandle(Option<Arc<LinkInfo>>);

impl LinkHandle {
    #[inline]
    pub(crate) fn of(info: &Arc<LinkInfo>) -> LinkHandle {
        // A thread that ends has none left.
        let last = LAST.try_with(Cell::take).ok().flatten();
        let share = last.filter(|last| Arc::ptr_eq(last, info));
        LinkHandle(Some(share.unwrap_or_else(|| Arc::clone(info))))
    }

    pub(crate) fn get(&self) -> Option<&LinkInfo> {
        self.0.as_deref()
    }
}

impl Drop for LinkHandle {
    #[inline]
    fn drop(&mut self) {
        if let Some(share) = self.0.take() {
            let _ = LAST.try_with(|last| last.set(Some(share)));
        }
    }
}

impl fmt::Debug for LinkHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_keeps_the_last_share_for_its_next_request() {
        let [one, two] = ["a", "b"].map(|peer| Arc::new(LinkInfo::new("tcp", "", peer)));
        let count = |info: &Arc<LinkInfo>| Arc::strong_count(info) - 1;
        let (first, second) = (LinkHandle::of(&one), LinkHandle::of(&one));
        assert_eq!(count(&one), 2);
        drop(first);
        assert_eq!(count(&one), 2, "it is kept");
        let third = LinkHandle::of(&one);
        assert_eq!((count(&one), third.get().unwrap().peer.as_str()), (2, "a"));
        drop((second, third));
        assert_eq!(count(&one), 1, "one of them is");
        let other = LinkHandle::of(&two);
        assert_eq!((count(&one), count(&two), other.get().unwrap().peer.as_str()), (0, 1, "b"));
        std::thread::spawn(move || drop(other)).join().unwrap();
        assert_eq!(count(&two), 0, "a thread that has ended keeps nothing");
        assert!(LinkHandle::default().get().is_none());
    }
}
