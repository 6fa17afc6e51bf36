//! What can be set about a ring, and the limits of what can be set.

use rdma_rpc_core::link::LinkError;

use super::size_class::class_bytes;
use crate::verbs::Caps;

/// The smallest ring: two bursts that each hold a 4096-byte frame fit beside one another.
pub const MIN_RING_BYTES: usize = 16 * 1024;
/// The largest ring.
pub const MAX_RING_BYTES: usize = 256 * 1024 * 1024;
/// The fewest receives: three are kept for control, one is left for data.
pub const MIN_RECEIVE_DEPTH: u32 = 4;
/// The most receives a ring posts, and the most it believes a peer to have posted.
pub const MAX_RECEIVE_DEPTH: u32 = 32 * 1024;
/// The longest bulk message any configuration allows.
pub const MAX_BULK_BYTES: usize = 1 << 40;
/// The most buffers a bulk pool may have.
pub const MAX_POOL_BUFFERS: usize = 65_536;

/// Bounds of one bulk pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolLimits {
    /// Registered bytes, busy and idle together. At least one message of `max_bulk_bytes`.
    pub max_bytes: usize,
    /// Of these, how many may lie idle, kept for reuse. More are given back to the system.
    pub max_idle_bytes: usize,
    /// Buffers, busy and idle together. 1 to [`MAX_POOL_BUFFERS`].
    pub max_buffers: usize,
}

/// What can be set about a ring.
#[derive(Debug, Clone)]
pub struct RingConfig {
    /// The name shown to people: `"rdma"` or `"shm"`.
    pub transport: &'static str,
    /// The peer's address, shown to people.
    pub peer: String,
    /// Bytes of the receive ring; a power of two from [`MIN_RING_BYTES`] to [`MAX_RING_BYTES`].
    /// Both ends use the smaller of their two values.
    pub ring_bytes: usize,
    /// Receives to post, [`MIN_RECEIVE_DEPTH`] to [`MAX_RECEIVE_DEPTH`]; a device that holds fewer
    /// gets as many as it holds.
    pub receive_depth: u32,
    /// Messages longer than this go by bulk. At least 1.
    pub bulk_threshold_bytes: usize,
    /// Longer messages of unary calls, up to three times as long, go through the ring all the same
    /// while they and as long ones of all open calls take no more than this, and those of all such links
    /// of the process no more than 1 MiB. For devices that copy within a host, where a pull costs more
    /// than copies out of the caches. 0: never.
    pub cached_frames_bytes: usize,
    /// Frames from this length on are copied out of the ring into memory of their own, in which their
    /// message then stays; others are lent, and what is kept of them is copied once more. At least
    /// 1024.
    pub long_frame_bytes: usize,
    /// The longest bulk message sent or pulled; at least `bulk_threshold_bytes`, at most
    /// [`MAX_BULK_BYTES`].
    pub max_bulk_bytes: usize,
    /// Buffers of messages waiting to be pulled by the peer.
    pub send_pool: PoolLimits,
    /// Buffers pulled into, and lent to whoever holds a pulled message.
    pub receive_pool: PoolLimits,
    /// A message is pulled in pieces of at most this many bytes, so that several pulls share the
    /// queue fairly. 4 KiB to 1 GiB.
    pub read_piece_bytes: usize,
    /// READs in flight; at least 1. A device that allows fewer gets fewer.
    pub reads_in_flight: u32,
    /// Pulls under way at a time; 1 to 65536.
    pub pulls_in_flight: usize,
}

impl Default for RingConfig {
    fn default() -> RingConfig {
        let pool = PoolLimits {
            max_bytes: 512 * 1024 * 1024,
            max_idle_bytes: 64 * 1024 * 1024,
            max_buffers: 256,
        };
        RingConfig {
            transport: "rdma",
            peer: String::new(),
            ring_bytes: 256 * 1024,
            receive_depth: 256,
            bulk_threshold_bytes: 16 * 1024,
            cached_frames_bytes: 0,
            // With less the wait for a burst's first line, before the rest is asked for, costs more.
            long_frame_bytes: 8 * 1024,
            max_bulk_bytes: 256 * 1024 * 1024,
            send_pool: pool,
            receive_pool: pool,
            read_piece_bytes: 1024 * 1024,
            reads_in_flight: 8,
            pulls_in_flight: 64,
        }
    }
}

/// Control requests that must always find room in the send queue: two words of credit and an
/// immediate.
pub(super) const CONTROL_REQUESTS: u64 = 3;

/// Receives of the peer that data must leave alone: one for "credit wanted", one for its answer,
/// one for the close. The protocol allows one of each to be outstanding, so three are enough.
pub(super) const CONTROL_RECEIVES: u32 = 3;

impl RingConfig {
    /// Checks every limit; the error names the field, its value and its bounds.
    ///
    /// # Errors
    /// [`rdma_rpc_core::link::LinkErrorKind::Io`] with the sentence to show.
    pub fn validate(&self) -> Result<(), LinkError> {
        let ring = self.ring_bytes;
        if !ring.is_power_of_two() || !(MIN_RING_BYTES..=MAX_RING_BYTES).contains(&ring) {
            return Err(LinkError::io(format!(
                "ring_bytes is {ring}; it must be a power of two from {MIN_RING_BYTES} to \
                 {MAX_RING_BYTES}"
            )));
        }
        let depth = self.receive_depth as usize;
        between("receive_depth", depth, MIN_RECEIVE_DEPTH as usize, MAX_RECEIVE_DEPTH as usize)?;
        between("bulk_threshold_bytes", self.bulk_threshold_bytes, 1, MAX_BULK_BYTES)?;
        between("long_frame_bytes", self.long_frame_bytes, 1024, MAX_RING_BYTES)?;
        between("max_bulk_bytes", self.max_bulk_bytes, self.bulk_threshold_bytes, MAX_BULK_BYTES)?;
        between("read_piece_bytes", self.read_piece_bytes, 4096, 1 << 30)?;
        between("reads_in_flight", self.reads_in_flight as usize, 1, 65_536)?;
        between("pulls_in_flight", self.pulls_in_flight, 1, 65_536)?;
        for (name, pool) in [("send_pool", self.send_pool), ("receive_pool", self.receive_pool)] {
            between(&format!("{name}.max_buffers"), pool.max_buffers, 1, MAX_POOL_BUFFERS)?;
            let least = class_bytes(self.max_bulk_bytes);
            if pool.max_bytes < least {
                return Err(LinkError::io(format!(
                    "{name}.max_bytes is {}; one message of max_bulk_bytes = {} needs {least}",
                    pool.max_bytes, self.max_bulk_bytes
                )));
            }
        }
        Ok(())
    }

    /// Checks what the device offers against what the ring cannot do without.
    pub(super) fn validate_caps(&self, caps: Caps) -> Result<(), LinkError> {
        let data_requests = if caps.write_with_imm { 1 } else { 2 };
        let least = CONTROL_REQUESTS + data_requests;
        if u64::from(caps.send_depth) < least {
            return Err(LinkError::io(format!(
                "the device's send queue holds {} requests; the ring needs {least}",
                caps.send_depth
            )));
        }
        if caps.receive_depth < MIN_RECEIVE_DEPTH {
            return Err(LinkError::io(format!(
                "the device's receive queue holds {} receives; the ring needs {MIN_RECEIVE_DEPTH}",
                caps.receive_depth
            )));
        }
        Ok(())
    }
}

fn between(name: &str, value: usize, least: usize, most: usize) -> Result<(), LinkError> {
    if (least..=most).contains(&value) {
        Ok(())
    } else {
        Err(LinkError::io(format!("{name} is {value}; it must be from {least} to {most}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        RingConfig::default().validate().unwrap();
    }

    #[test]
    fn each_error_names_its_field() {
        type Change = fn(&mut RingConfig);
        let cases: [(&str, Change); 10] = [
            ("ring_bytes is 8192", |c| c.ring_bytes = 8192),
            ("ring_bytes is 20000", |c| c.ring_bytes = 20_000),
            ("receive_depth is 3", |c| c.receive_depth = 3),
            ("bulk_threshold_bytes is 0", |c| c.bulk_threshold_bytes = 0),
            ("long_frame_bytes is 1023", |c| c.long_frame_bytes = 1023),
            ("max_bulk_bytes is 9", |c| c.max_bulk_bytes = 9),
            ("read_piece_bytes is 1", |c| c.read_piece_bytes = 1),
            ("reads_in_flight is 0", |c| c.reads_in_flight = 0),
            ("send_pool.max_bytes is 5", |c| c.send_pool.max_bytes = 5),
            ("receive_pool.max_buffers is 0", |c| c.receive_pool.max_buffers = 0),
        ];
        for (expected, change) in cases {
            let mut config = RingConfig::default();
            change(&mut config);
            let message = config.validate().unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn shallow_devices_are_refused_with_the_depth_needed() {
        let caps = Caps {
            send_depth: 4,
            receive_depth: 4,
            write_with_imm: true,
            inline_bytes: 0,
            reads_in_flight: 1,
            lends_from_bytes: None,
            views: false,
        };
        let config = RingConfig::default();
        config.validate_caps(caps).unwrap();
        let no_imm = Caps { write_with_imm: false, ..caps };
        assert!(config.validate_caps(no_imm).unwrap_err().to_string().contains("needs 5"));
        let few = Caps { receive_depth: 3, ..caps };
        assert!(config.validate_caps(few).unwrap_err().to_string().contains("needs 4"));
    }
}
