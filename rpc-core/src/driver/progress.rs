//! How hard a connection tries to learn of news soon.

use std::time::Duration;

/// How a connection waits for news.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ProgressMode {
    /// Polls without end: the shortest latency, and a core for it.
    Busy,
    /// Polls for a while after the last news, then sleeps until woken.
    #[default]
    Adaptive,
    /// Sleeps until woken: the least CPU.
    Event,
}

/// How a connection waits for news, with its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The mode.
    pub mode: ProgressMode,
    /// Adaptive: how long to poll after the last news.
    pub spin: Duration,
}

impl Default for Progress {
    fn default() -> Progress {
        Progress { mode: ProgressMode::Adaptive, spin: Duration::from_micros(50) }
    }
}

impl Progress {
    /// Sleeps until woken.
    pub const EVENT: Progress = Progress { mode: ProgressMode::Event, spin: Duration::ZERO };

    /// Whether whoever waits looks for news before it sleeps.
    pub(crate) fn polls(&self) -> bool {
        self.mode != ProgressMode::Event
    }
}
