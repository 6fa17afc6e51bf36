//! What waits to be written: copied frames in a staging ring, and messages queued as they are.
//!
//! ```text
//!   staging   [ ..free.. | prefix head | prefix frame prefix frame | ..free.. ]
//!                              ^              ^
//!   pieces      Staged(n), Owned(body), Staged(m)          in the order of the wire
//! ```
//!
//! The ring is filled front to back; when a frame does not fit behind the last one it starts
//! over at the front, if the oldest bytes there have gone. It starts at 16 KiB and doubles while
//! that is not enough, up to its limit; growing keeps every byte where it was.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf, Bytes};
use rdma_rpc_core::link::fill;

use super::{FILLER, FILLER_BYTES, PREFIX_BYTES};
use crate::socket::Socket;

/// What the staging ring starts with, in bytes.
const FIRST_STAGING_BYTES: usize = 16 * 1024;

/// Bodies shorter than this are cheaper to copy than to write from where they lie.
const LEND_BYTES: usize = 4096;

/// Shorter bodies are not worth a filler.
const FILLED_BYTES: usize = 64 * 1024;
const PAGE_BYTES: usize = 4096;
/// So near to its source, modulo a page, the destination of a copy had better not be.
const NEAR_BYTES: usize = 64;

/// Slices given to one `writev`.
const MAX_SLICES: usize = 64;

/// The most pieces that may wait. Pieces are at least [`LEND_BYTES`] long on average over two,
/// so this is only reached with limits far above the defaults.
const MAX_PIECES: usize = 4096;

/// Drains in a row that used less than a quarter of the ring before it is halved.
const QUIET_DRAINS: u32 = 1024;

/// Bytes that lie together and leave in order.
#[derive(Debug)]
enum Piece {
    /// `len` bytes of the ring at `start`.
    Staged { start: usize, len: usize },
    /// A message, or what is left of it.
    Owned(Bytes),
}

/// A frame that has room but is not complete.
#[derive(Debug, Clone, Copy)]
struct Reserved {
    start: usize,
    len: usize,
}

#[derive(Debug)]
pub(super) struct Outbound {
    ring: Vec<u8>,
    max_ring_bytes: usize,
    /// Where the next frame goes, if it fits.
    tail: usize,
    pieces: VecDeque<Piece>,
    staged_bytes: usize,
    owned_bytes: usize,
    max_owned_bytes: usize,
    reserved: Option<Reserved>,
    /// The most the ring held since it was last empty, and for how long that was little.
    peak_bytes: usize,
    quiet_drains: u32,
}

impl Outbound {
    pub(super) fn new(max_ring_bytes: usize, max_owned_bytes: usize) -> Outbound {
        Outbound {
            ring: Vec::new(),
            max_ring_bytes,
            tail: 0,
            pieces: VecDeque::new(),
            staged_bytes: 0,
            owned_bytes: 0,
            max_owned_bytes,
            reserved: None,
            peak_bytes: 0,
            quiet_drains: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    pub(super) fn len_bytes(&self) -> usize {
        self.staged_bytes + self.owned_bytes
    }

    pub(super) fn capacity_bytes(&self) -> usize {
        self.ring.capacity() + self.owned_bytes + self.pieces.capacity() * size_of::<Piece>()
    }

    /// Throws away everything that waits.
    pub(super) fn clear(&mut self) {
        self.pieces.clear();
        self.staged_bytes = 0;
        self.owned_bytes = 0;
        self.reserved = None;
        self.tail = 0;
    }

    /// Room for a frame of `len` bytes behind its prefix.
    pub(super) fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        self.reserved = None;
        let start = self.find_room(PREFIX_BYTES + len)?;
        self.reserved = Some(Reserved { start, len: PREFIX_BYTES + len });
        let frame = &mut self.ring[start..start + PREFIX_BYTES + len];
        let (prefix, frame) = frame.split_at_mut(PREFIX_BYTES);
        prefix.copy_from_slice(&(len as u32).to_le_bytes());
        Some(frame)
    }

    pub(super) fn commit(&mut self) {
        if let Some(Reserved { start, len }) = self.reserved.take() {
            self.tail = start + len;
            self.staged_bytes += len;
            self.peak_bytes = self.peak_bytes.max(self.staged_bytes);
            match self.pieces.back_mut() {
                Some(Piece::Staged { start: first, len: before }) if *first + *before == start => {
                    *before += len;
                }
                _ => self.pieces.push_back(Piece::Staged { start, len }),
            }
        }
    }

    /// One frame of `head`, `body` and `tail`; `false` when there is no room.
    pub(super) fn send_owned(&mut self, head: [&[u8]; 2], body: &Bytes, tail: &[u8]) -> bool {
        self.reserved = None;
        let head_len = head[0].len() + head[1].len();
        let len = head_len + body.len() + tail.len();
        if body.len() < LEND_BYTES {
            let Some(frame) = self.reserve(len) else { return false };
            fill(frame, &[head[0], head[1], body, tail]);
            self.commit();
            return true;
        }
        // One message is always accepted, however long: the owner holds it anyway.
        if self.owned_bytes > 0 && self.owned_bytes + body.len() > self.max_owned_bytes {
            return false;
        }
        if self.pieces.len() + 3 > MAX_PIECES {
            return false;
        }
        // What is copied lies together, so that there is room for all of it or none.
        let filler = &[0; FILLER_BYTES][..self.filler_bytes(head_len, body)];
        let first = filler.len() + PREFIX_BYTES + head_len;
        let Some(start) = self.find_room(first + tail.len()) else { return false };
        let staged = &mut self.ring[start..start + first + tail.len()];
        fill(staged, &[filler, &(len as u32).to_le_bytes(), head[0], head[1], tail]);
        if !filler.is_empty() {
            let filler = FILLER | (filler.len() - PREFIX_BYTES) as u32;
            staged[..PREFIX_BYTES].copy_from_slice(&filler.to_le_bytes());
        }
        self.reserved = Some(Reserved { start, len: first });
        self.commit();
        self.owned_bytes += body.len();
        self.pieces.push_back(Piece::Owned(body.clone()));
        if !tail.is_empty() {
            self.reserved = Some(Reserved { start: start + first, len: tail.len() });
            self.commit();
        }
        true
    }

    /// Bytes of a filler before a frame with this body. The kernel begins a page for what waits here, as
    /// a rule; if it would copy the body to a few bytes from where it lies, modulo a page, that would
    /// take AMD's Zen two to four times as long (`receive.rs` has more).
    fn filler_bytes(&self, head_len: usize, body: &Bytes) -> usize {
        if body.len() < FILLED_BYTES {
            return 0;
        }
        let place = self.len_bytes() + PREFIX_BYTES + head_len;
        let ahead = place.wrapping_sub(body.as_ptr().addr()) % PAGE_BYTES;
        match ahead.min(PAGE_BYTES - ahead) {
            1..NEAR_BYTES => FILLER_BYTES,
            _ => 0,
        }
    }

    /// Where `len` bytes lie together in the ring. Grows it where that is allowed.
    fn find_room(&mut self, len: usize) -> Option<usize> {
        if self.pieces.len() >= MAX_PIECES {
            return None;
        }
        let Some(oldest) = self.oldest() else {
            self.tail = 0;
            if len > self.ring.len() && !self.grow(len) {
                return None;
            }
            return Some(0);
        };
        if oldest < self.tail {
            // Free: behind the newest bytes, and before the oldest.
            if self.ring.len() - self.tail >= len || self.grow(self.tail + len) {
                return Some(self.tail);
            }
            return (oldest >= len).then_some(0);
        }
        // Wrapped: free between the newest and the oldest; nothing when they meet.
        (oldest - self.tail >= len).then_some(self.tail)
    }

    /// Position of the oldest staged byte.
    fn oldest(&self) -> Option<usize> {
        // A staged piece is first or second: every owned one has its head before it, and only
        // the head of the first can have gone.
        self.pieces.iter().take(2).find_map(|piece| match piece {
            Piece::Staged { start, .. } => Some(*start),
            Piece::Owned(_) => None,
        })
    }

    fn grow(&mut self, needed: usize) -> bool {
        if needed > self.max_ring_bytes {
            return false;
        }
        let doubled = needed.next_power_of_two().max(FIRST_STAGING_BYTES);
        self.ring.resize(doubled.min(self.max_ring_bytes), 0);
        true
    }

    /// Writes until everything has gone or the socket takes no more.
    pub(super) fn flush(&mut self, socket: &Socket) -> io::Result<()> {
        while !self.pieces.is_empty() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let mut used = 0;
            for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
                *slice = IoSlice::new(match piece {
                    Piece::Staged { start, len } => &self.ring[*start..*start + *len],
                    Piece::Owned(bytes) => bytes,
                });
                used += 1;
            }
            match socket.try_write_vectored(&slices[..used]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.drained();
        Ok(())
    }

    /// Forgets `written` bytes from the front.
    fn advance(&mut self, mut written: usize) {
        while written > 0 {
            let Some(piece) = self.pieces.front_mut() else { return };
            let gone = match piece {
                Piece::Staged { start, len } => {
                    let gone = written.min(*len);
                    *start += gone;
                    *len -= gone;
                    self.staged_bytes -= gone;
                    if *len == 0 {
                        self.pieces.pop_front();
                    }
                    gone
                }
                Piece::Owned(bytes) => {
                    let gone = written.min(bytes.len());
                    bytes.advance(gone);
                    self.owned_bytes -= gone;
                    if bytes.is_empty() {
                        self.pieces.pop_front();
                    }
                    gone
                }
            };
            written -= gone;
        }
    }

    /// Everything has gone: the ring starts over, and shrinks when it has long been too large.
    fn drained(&mut self) {
        if self.reserved.is_none() {
            self.tail = 0;
        }
        let quiet = self.ring.len() > FIRST_STAGING_BYTES && self.peak_bytes < self.ring.len() / 4;
        self.peak_bytes = 0;
        self.quiet_drains = if quiet { self.quiet_drains + 1 } else { 0 };
        if self.quiet_drains >= QUIET_DRAINS && self.reserved.is_none() {
            self.quiet_drains = 0;
            self.ring.truncate((self.ring.len() / 2).max(FIRST_STAGING_BYTES));
            self.ring.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filler_comes_before_a_long_body_that_lies_a_few_bytes_from_where_it_would_be_copied_to() {
        let memory = Bytes::from(vec![1; FILLED_BYTES + 2 * PAGE_BYTES]);
        let page = memory.as_ptr().addr().next_multiple_of(PAGE_BYTES) - memory.as_ptr().addr();
        // A head of 20 bytes behind its prefix: the body's place is 24.
        let head = [1; 20];
        for (offset, len, filled) in [
            (16, FILLED_BYTES, true),
            (24, FILLED_BYTES, false),
            (40, FILLED_BYTES, true),
            (24 + NEAR_BYTES, FILLED_BYTES, false),
            (PAGE_BYTES - 8, FILLED_BYTES, true),
            (16, FILLED_BYTES - 1, false),
        ] {
            let mut out = Outbound::new(1 << 20, 1 << 20);
            let body = memory.slice(page + offset..page + offset + len);
            assert!(out.send_owned([&head, &[]], &body, &[]));
            let filler = if filled { FILLER_BYTES } else { 0 };
            assert_eq!(out.len_bytes(), filler + PREFIX_BYTES + 20 + len, "{offset}, {len}");
            // Of what has waited here before, the peer gets nothing.
            assert!(out.ring[PREFIX_BYTES..FILLER_BYTES].iter().all(|&byte| !filled || byte == 0));
        }
    }
}
