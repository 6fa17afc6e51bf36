//! This process's mark: unguessable bytes at one address, by which whoever reads our memory knows
//! that it is ours ([`super::cross_read`]).
//!
//! One mark serves all connections of the process. It is never given back, so reading it races with
//! nothing. A child made by `fork` has zeroes there instead: it inherits our memory as it was then,
//! and must not be taken for us, even if it comes by our process id after our death.

use std::sync::OnceLock;

use super::cross_read::MARK_BYTES;
use super::mapping::{Mapping, OwnedMapping};

/// The mark of this process.
#[derive(Debug)]
pub(super) struct Mark {
    memory: OwnedMapping,
    bytes: [u8; MARK_BYTES],
}

impl Mark {
    fn new() -> Result<Mark, String> {
        let mut bytes = [0; MARK_BYTES];
        getrandom::fill(&mut bytes).map_err(|error| error.to_string())?;
        let memory = Mapping::private_wiped_on_fork(MARK_BYTES).map_err(|e| e.to_string())?;
        let mut memory = OwnedMapping::new(memory);
        memory.bytes_mut().copy_from_slice(&bytes);
        Ok(Mark { memory, bytes })
    }

    /// Where it is; never 0.
    pub(super) fn address(&self) -> u64 {
        self.memory.mapping().at(0, MARK_BYTES).addr() as u64
    }

    /// What a process that reads our memory finds there.
    pub(super) fn bytes(&self) -> [u8; MARK_BYTES] {
        self.bytes
    }
}

/// The mark of this process; `None` where it cannot have one.
pub(super) fn own() -> Option<&'static Mark> {
    static MARK: OnceLock<Option<Mark>> = OnceLock::new();
    let made = || Mark::new().inspect_err(|why| tracing::debug!(why, "shm: no direct reads"));
    MARK.get_or_init(|| made().ok()).as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_there_unguessable_and_no_child_inherits_it() {
        let (mark, other) = (own().unwrap(), Mark::new().unwrap());
        assert_ne!(mark.bytes(), other.bytes());
        assert_eq!(*mark.memory.bytes(), mark.bytes());
        // What the kernel says of the mapping; "wf" is MADV_WIPEONFORK.
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let holds_the_mark = |line: &str| {
            let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
            let address = |text| u64::from_str_radix(text, 16).ok();
            let range = range.and_then(|(start, end)| Some(address(start)?..address(end)?));
            range.is_some_and(|range| range.contains(&mark.address()))
        };
        let flags = maps.lines().skip_while(|line| !holds_the_mark(line));
        let flags = flags.skip(1).find(|line| line.starts_with("VmFlags:")).unwrap();
        assert!(flags.split_whitespace().any(|flag| flag == "wf"), "{flags}");
    }
}
