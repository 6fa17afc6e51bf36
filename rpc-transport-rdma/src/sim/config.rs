//! What a simulated device is like, and what can go wrong.

use super::rng::Rng;

/// Chances are per mille and per step.
#[derive(Debug, Clone, Copy)]
pub struct SimConfig {
    /// Work requests a send queue holds.
    pub send_depth: u32,
    /// Receives a receive queue holds.
    pub receive_depth: u32,
    /// Whether WRITE with immediate exists.
    pub write_with_imm: bool,
    /// READs a queue pair may have in flight.
    pub reads_in_flight: u32,
    /// Whether memory can be lent to the peer's READs.
    pub lends: bool,
    /// Whether the peer's memory can be viewed. The same at both ends.
    pub views: bool,
    /// Chance that a queue pair executes its next request.
    pub execute: u32,
    /// Chance that what arrived next takes effect in memory.
    pub place: u32,
    /// Chance that a request that is done becomes a completion.
    pub complete: u32,
    /// Chance that the next completion can be seen.
    pub show: u32,
    /// Chance of a wake for no reason.
    pub wake_spuriously: u32,
    /// Chance that a post finds the queue full though it is not.
    pub post_full: u32,
    /// Chance that bulk memory is refused.
    pub no_memory: u32,
    /// Steps a request waits for a receive before the queue pair fails.
    pub rnr_limit_steps: u64,
    /// Steps until a request to a dead peer fails.
    pub retry_limit_steps: u64,
    /// Steps from an error to the first flush, at most.
    pub flush_delay_steps: u64,
}

impl Default for SimConfig {
    fn default() -> SimConfig {
        SimConfig {
            send_depth: 64,
            receive_depth: 64,
            write_with_imm: true,
            reads_in_flight: 4,
            lends: true,
            views: false,
            execute: 700,
            place: 700,
            complete: 700,
            show: 700,
            wake_spuriously: 5,
            post_full: 0,
            no_memory: 0,
            rnr_limit_steps: 200,
            retry_limit_steps: 50,
            flush_delay_steps: 40,
        }
    }
}

impl SimConfig {
    /// A device as a seed would have it: depths from the least the ring accepts, some stages slow.
    pub fn random(rng: &mut Rng) -> SimConfig {
        let speeds = [30, 150, 500, 900, 1000];
        let write_with_imm = rng.chance(700);
        let least = if write_with_imm { 4 } else { 5 };
        SimConfig {
            send_depth: least + rng.pick(&[0, 0, 1, 3, 12, 60]),
            receive_depth: rng.pick(&[4, 5, 8, 16, 64]),
            write_with_imm,
            reads_in_flight: rng.pick(&[1, 2, 8]),
            lends: rng.chance(500),
            views: false,
            execute: rng.pick(&speeds),
            place: rng.pick(&speeds),
            complete: rng.pick(&speeds),
            show: rng.pick(&speeds),
            wake_spuriously: rng.pick(&[0, 0, 2, 20]),
            post_full: rng.pick(&[0, 0, 0, 20]),
            no_memory: rng.pick(&[0, 0, 0, 600]),
            rnr_limit_steps: 200,
            retry_limit_steps: 1 + rng.below(100),
            flush_delay_steps: 1 + rng.below(100),
        }
    }
}

/// What can be made to go wrong, on one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The queue pair moves to the error state.
    QueuePairFails,
    /// The next request to execute completes with a device error.
    CompletionError,
    /// The process is killed: its queue pair is gone, its bootstrap connection closes.
    ProcessKilled,
    /// Only the bootstrap connection closes, as the other side sees it.
    BootstrapCloses,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Fault; 4] = [
        Fault::QueuePairFails,
        Fault::CompletionError,
        Fault::ProcessKilled,
        Fault::BootstrapCloses,
    ];
}

/// Rules the users of a device broke, and rare events, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SimStats {
    /// An immediate or SEND arrived with no receive posted.
    pub receiver_not_ready: u64,
    /// The source of a WRITE changed between its execution and its completion.
    pub source_changed: u64,
    /// A region was dropped while a request of a living queue pair named it.
    pub region_dropped_in_use: u64,
    /// Remote accesses refused.
    pub access_refused: u64,
    /// Steps taken.
    pub steps: u64,
    /// READ requests executed.
    pub reads: u64,
}
