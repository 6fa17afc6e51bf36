//! The limits of a queue pair. Every one has a number here.

use std::time::Duration;

use super::cq_ring::MAX_CAPACITY;
use super::error::ShmError;
use super::regions::MAX_REGIONS;

/// How a shared-memory queue pair is sized and bounded.
#[derive(Debug, Clone)]
pub struct ShmConfig {
    /// Work requests the send queue holds, at most 65,536.
    pub send_depth: u32,
    /// Receives the receive queue holds: a power of two, at most 65,536. Each costs 8 bytes of
    /// shared memory.
    pub receive_depth: u32,
    /// READs told to the ring as the most in flight. They run one after the other.
    pub reads_in_flight: u32,
    /// Bytes one `post_send` or `poll` copies at most before it returns; the rest follows in
    /// later polls. At least 4096.
    pub slice_bytes: usize,
    /// How long a request waits for the peer to post a receive, or for the peer's description of
    /// an rkey that is on its way, before the queue pair fails.
    pub receiver_not_ready_timeout: Duration,
    /// Regions of the peer that may be mapped here at once, at most 4096. A peer is told this
    /// when it connects; one that offers more breaks the rules and the queue pair fails.
    pub max_peer_regions: u32,
    /// Bytes of the peer's memory that may be mapped here at once. As for `max_peer_regions`.
    pub max_peer_bytes: u64,
    /// User ids the peer may run as, besides our own and root.
    pub allowed_uids: Vec<u32>,
    /// How long an accepted socket may take to say hello. Strangers who find the socket's name
    /// cost the rightful peer at most this each.
    pub hello_timeout: Duration,
    /// A queue pair that is polled and finds nothing looks this often whether the peer's process
    /// is still there: one system call each time. A killed peer is noticed within this time when
    /// polling, and at once when waiting in `poll_event`.
    pub probe_interval: Duration,
    /// Whether long messages may be read out of one process's memory by the other, without a copy
    /// between. It needs both ends, one user, and a kernel that lets one process read the other
    /// (`process_vm_readv`: Yama's `ptrace_scope` or a seccomp filter may forbid it); where one is
    /// missing, messages are copied to shared memory first.
    pub direct_reads: bool,
}

impl Default for ShmConfig {
    fn default() -> ShmConfig {
        ShmConfig {
            send_depth: 512,
            receive_depth: 256,
            reads_in_flight: 16,
            slice_bytes: 512 * 1024,
            receiver_not_ready_timeout: Duration::from_secs(10),
            max_peer_regions: 1024,
            max_peer_bytes: 8 << 30,
            allowed_uids: Vec::new(),
            hello_timeout: Duration::from_secs(1),
            probe_interval: Duration::from_millis(10),
            direct_reads: true,
        }
    }
}

impl ShmConfig {
    /// Checks every number against the bounds in its description.
    pub fn validate(&self) -> Result<(), ShmError> {
        let bad = |name: &'static str, rule: String| Err(ShmError::Config { name, rule });
        if !(1..=MAX_CAPACITY).contains(&self.send_depth) {
            return bad("send_depth", format!("{} is not in 1..=65536", self.send_depth));
        }
        if !self.receive_depth.is_power_of_two() || self.receive_depth > MAX_CAPACITY {
            return bad(
                "receive_depth",
                format!("{} is not a power of two up to 65536", self.receive_depth),
            );
        }
        if self.reads_in_flight == 0 {
            return bad("reads_in_flight", "0 would forbid every READ".into());
        }
        if self.slice_bytes < 4096 {
            return bad("slice_bytes", format!("{} is below 4096", self.slice_bytes));
        }
        if !(1..=MAX_REGIONS).contains(&self.max_peer_regions) {
            return bad(
                "max_peer_regions",
                format!("{} is not in 1..=4096", self.max_peer_regions),
            );
        }
        if self.receiver_not_ready_timeout.is_zero() {
            return bad("receiver_not_ready_timeout", "0 would fail every wait at once".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_errors_name_the_culprit() {
        ShmConfig::default().validate().unwrap();
        let bad = [
            (ShmConfig { send_depth: 0, ..Default::default() }, "send_depth"),
            (ShmConfig { receive_depth: 100, ..Default::default() }, "receive_depth"),
            (ShmConfig { receive_depth: 1 << 17, ..Default::default() }, "receive_depth"),
            (ShmConfig { reads_in_flight: 0, ..Default::default() }, "reads_in_flight"),
            (ShmConfig { slice_bytes: 1, ..Default::default() }, "slice_bytes"),
            (ShmConfig { max_peer_regions: 5000, ..Default::default() }, "max_peer_regions"),
            (
                ShmConfig { receiver_not_ready_timeout: Duration::ZERO, ..Default::default() },
                "receiver_not_ready_timeout",
            ),
        ];
        for (config, name) in bad {
            assert!(config.validate().unwrap_err().to_string().contains(name));
        }
    }
}
