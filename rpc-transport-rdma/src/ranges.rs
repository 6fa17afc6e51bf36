//! Ranges of addresses, to tell whose memory some bytes lie in.

use std::collections::BTreeMap;

/// Ranges that do not overlap.
#[derive(Debug, Default)]
pub(crate) struct Ranges {
    /// Their lengths in bytes, by where they begin.
    lengths: BTreeMap<usize, usize>,
}

impl Ranges {
    pub(crate) const fn new() -> Ranges {
        Ranges { lengths: BTreeMap::new() }
    }

    pub(crate) fn insert(&mut self, start: usize, len: usize) {
        self.lengths.insert(start, len);
    }

    pub(crate) fn remove(&mut self, start: usize) {
        self.lengths.remove(&start);
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.lengths.len()
    }

    /// Whether bytes begin in one of them. One allocation does not go beyond the range it begins in.
    pub(crate) fn hold(&self, bytes: &[u8]) -> bool {
        let start = bytes.as_ptr().addr();
        let before = self.lengths.range(..=start).next_back();
        before.is_some_and(|(first, len)| start - first < *len)
    }
}
