//! Bytes of a burst: header, frames, padding. Pure: positions and slices only.

use rdma_rpc_core::link::LinkError;

use super::credits::Position;

/// Everything in a ring starts at a multiple of this.
pub(super) const ALIGN_BYTES: u64 = 8;
/// Bytes of a burst's header: two cumulative counts.
pub(super) const BURST_HEADER_BYTES: u64 = 16;
/// Bytes of the length before each frame.
pub(super) const FRAME_PREFIX_BYTES: u64 = 4;

/// The longest burst of a ring: seven sixteenths.
///
/// A burst that does not fit before the ring's end skips fewer bytes than its own length, so it
/// takes less than seven eighths of the ring. The last eighth is what may still wait for a
/// signalled completion (see `send_queue`): an empty ring always has room for the longest burst.
pub(super) fn max_burst_bytes(ring_bytes: u64) -> u64 {
    ring_bytes / 16 * 7
}

/// The longest frame of a ring.
pub(super) fn max_frame_bytes(ring_bytes: u64) -> usize {
    (max_burst_bytes(ring_bytes) - BURST_HEADER_BYTES - ALIGN_BYTES) as usize
}

/// Bytes a frame of `len` bytes takes in a burst, with length and padding.
pub(super) fn frame_slot_bytes(len: usize) -> u64 {
    (FRAME_PREFIX_BYTES + len as u64).next_multiple_of(ALIGN_BYTES)
}

/// Writes a burst's header.
pub(super) fn write_header(released: Position, into: &mut [u8]) {
    into[..8].copy_from_slice(&released.bytes.to_le_bytes());
    into[8..16].copy_from_slice(&released.bursts.to_le_bytes());
}

/// Reads a burst's header or a credit cell; `bytes` has at least 16.
pub(super) fn read_header(bytes: &[u8]) -> Position {
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(word)
    };
    Position { bytes: word(0), bursts: word(8) }
}

/// Writes a frame's length and zeroes the padding; then the frame is to be filled. `slot` is the
/// frame's whole slot.
#[inline]
pub(super) fn begin_frame(slot: &mut [u8], len: usize) {
    // The padding is within the last word, and what else is in it is written next.
    if let Some(last) = slot.last_chunk_mut::<{ ALIGN_BYTES as usize }>() {
        *last = [0; ALIGN_BYTES as usize];
    }
    if let Some(prefix) = slot.first_chunk_mut::<{ FRAME_PREFIX_BYTES as usize }>() {
        *prefix = (len as u32).to_le_bytes();
    }
}

/// Where a frame lies in a burst, and where the next one begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameAt {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) next: usize,
}

/// The frame whose length stands at `at`. `burst` is private memory the peer cannot reach any
/// more; `position` is where the burst lay, for the error.
#[inline]
pub(super) fn frame_at(burst: &[u8], at: usize, position: u64) -> Result<FrameAt, LinkError> {
    let Some(prefix) = burst.get(at..).and_then(<[u8]>::first_chunk) else {
        return Err(cut_prefix(burst.len(), at, position));
    };
    frame_of(*prefix, burst.len(), at, position)
}

/// The same where only the length was copied out of the burst yet, all of which is inside of it.
#[inline]
pub(super) fn frame_of(
    prefix: [u8; FRAME_PREFIX_BYTES as usize],
    burst_bytes: usize,
    at: usize,
    position: u64,
) -> Result<FrameAt, LinkError> {
    let start = at + FRAME_PREFIX_BYTES as usize;
    let len = u32::from_le_bytes(prefix) as usize;
    let room = burst_bytes - start;
    if len > room {
        return Err(beyond_end(len, at, position, room));
    }
    // A slot's end is a multiple of 8 as the burst's is, so it is at most the burst's length.
    let next = (at as u64 + frame_slot_bytes(len)) as usize;
    Ok(FrameAt { start, end: start + len, next })
}

#[cold]
pub(super) fn cut_prefix(burst_bytes: usize, at: usize, position: u64) -> LinkError {
    LinkError::misbehaved(format!(
        "burst at position {position} ends at byte {burst_bytes} inside the frame length at byte {at}"
    ))
}

#[cold]
fn beyond_end(len: usize, at: usize, position: u64, room: usize) -> LinkError {
    LinkError::misbehaved(format!(
        "frame length {len} at byte {at} of the burst at position {position} is beyond the burst's \
         end: {room} bytes are left"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn burst_of(frames: &[Vec<u8>]) -> Vec<u8> {
        let mut burst = vec![0xEE; BURST_HEADER_BYTES as usize];
        for frame in frames {
            let mut slot = vec![0xEE; frame_slot_bytes(frame.len()) as usize];
            begin_frame(&mut slot, frame.len());
            slot[4..4 + frame.len()].copy_from_slice(frame);
            burst.extend_from_slice(&slot);
        }
        burst
    }

    #[test]
    fn the_smallest_ring_carries_what_the_link_contract_promises() {
        let ring = super::super::config::MIN_RING_BYTES as u64;
        assert!(max_frame_bytes(ring) >= 4096);
        let slot = frame_slot_bytes(max_frame_bytes(ring));
        assert!(BURST_HEADER_BYTES + slot <= max_burst_bytes(ring));
    }

    #[test]
    fn a_known_burst_has_known_bytes() {
        let mut burst = burst_of(&[b"abc".to_vec(), Vec::new()]);
        write_header(Position { bytes: 0x0102, bursts: 3 }, &mut burst);
        let expected = [
            2, 1, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, // released: bytes, bursts
            3, 0, 0, 0, b'a', b'b', b'c', 0, // length 3, "abc", one byte of padding
            0, 0, 0, 0, 0, 0, 0, 0, // length 0, four bytes of padding
        ];
        assert_eq!(burst, expected);
        assert_eq!(read_header(&burst), Position { bytes: 0x0102, bursts: 3 });
    }

    proptest! {
        #[test]
        fn frames_come_back_as_they_went(
            frames in proptest::collection::vec(
                proptest::collection::vec(any::<u8>(), 0..100), 1..20)
        ) {
            let burst = burst_of(&frames);
            prop_assert_eq!(burst.len() % 8, 0);
            let mut at = BURST_HEADER_BYTES as usize;
            for frame in &frames {
                let found = frame_at(&burst, at, 0).unwrap();
                prop_assert_eq!(&burst[found.start..found.end], frame.as_slice());
                at = found.next;
            }
            prop_assert_eq!(at, burst.len());
        }

        #[test]
        fn no_bytes_make_the_check_panic_or_read_beyond(
            words in proptest::collection::vec(any::<u64>(), 2..40)
        ) {
            let burst: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
            let mut at = BURST_HEADER_BYTES as usize;
            while at < burst.len()
                && let Ok(found) = frame_at(&burst, at, 0)
            {
                prop_assert!(found.end <= burst.len() && found.next <= burst.len());
                prop_assert!(found.next > at);
                at = found.next;
            }
        }
    }
}
