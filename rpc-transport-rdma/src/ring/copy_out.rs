//! Copying what has arrived out of the ring. The peer may be writing there, so what is checked and used is
//! one copy of each byte; a look before that is a hint and no more.
//!
//! A burst that begins with a short frame is copied whole, and its place in the ring is free. One that
//! begins with a long frame is copied frame by frame, as they are given out: a long one into memory of
//! its own, where its message stays (its `bytes` fields are parts of it), so that nobody copies it
//! again.

use std::ops::Range;

use bytes::Bytes;
use rdma_rpc_core::link::LinkError;

use super::credits::{Arrived, Position};
use super::halves::Receiver;
use super::layout::{
    BURST_HEADER_BYTES, FRAME_PREFIX_BYTES, cut_prefix, frame_at, frame_of, read_header,
};
use super::link::RingLink;
use super::wait::{ANSWERS_BYTES, SHORT_ANSWER_BYTES};
use crate::fifo;
use crate::verbs::{QueuePair, Region};

/// Where the next frame is now.
#[derive(Debug)]
pub(super) enum NextFrame {
    /// In [`Receiver::scratch`].
    InScratch(Range<usize>),
    /// In memory of its own.
    Own(Bytes),
}

impl<R: Region> Receiver<R> {
    /// The burst was copied out: its place and its receive may be told of.
    fn release(&mut self) {
        let (position, len_bytes) = (self.burst_position, self.burst_bytes as u64);
        self.credits.consume(Arrived { position, len_bytes });
        self.receives_due += 1;
        self.look_at_credit();
    }

    /// Copies some of the ring to the start of `scratch`.
    fn read_to_scratch(&mut self, offset: usize, len: usize) {
        if self.scratch.len() < len {
            self.scratch.resize(len, 0);
        }
        self.ring.read(offset, &mut self.scratch[..len]);
    }

    /// The length of the frame at an offset of the ring. The peer may change it yet.
    fn frame_prefix(&self, offset: usize) -> [u8; FRAME_PREFIX_BYTES as usize] {
        let mut prefix = [0; FRAME_PREFIX_BYTES as usize];
        self.ring.read(offset, &mut prefix);
        prefix
    }

    /// Whether a burst at an offset of the ring begins with a long frame: a hint, because the peer may
    /// change it yet.
    fn begins_long(&self, offset: usize, len: usize) -> bool {
        len >= self.long_frame_bytes && {
            let prefix = self.frame_prefix(offset + BURST_HEADER_BYTES as usize);
            u32::from_le_bytes(prefix) as usize >= self.long_frame_bytes
        }
    }

    /// The next frame of a burst that is still in the ring.
    fn frame_out_of_ring(&mut self) -> Result<NextFrame, LinkError> {
        let (burst_bytes, at) = (self.burst_bytes, self.cursor);
        if burst_bytes - at < FRAME_PREFIX_BYTES as usize {
            return Err(cut_prefix(burst_bytes, at, self.burst_position));
        }
        let base = self.credits.offset(self.burst_position);
        let prefix = self.frame_prefix(base + at);
        let frame = frame_of(prefix, burst_bytes, at, self.burst_position)?;
        let (offset, len) = (base + frame.start, frame.end - frame.start);
        self.cursor = frame.next;
        Ok(if len < self.long_frame_bytes {
            self.read_to_scratch(offset, len);
            NextFrame::InScratch(0..len)
        } else {
            NextFrame::Own(self.ring.read_new(offset, len).into())
        })
    }
}

impl<Q: QueuePair> RingLink<Q> {
    /// Begins with the oldest burst that has arrived; `false` if none has. Its frames are checked one
    /// by one, as they are given out.
    pub(super) fn copy_out_burst(&mut self) -> Result<bool, LinkError> {
        let Some(burst) = fifo::pop_front(&mut self.receiver.arrived) else { return Ok(false) };
        if burst.len_bytes > SHORT_ANSWER_BYTES as u64 {
            self.fetch_ahead(ANSWERS_BYTES);
        }
        let checked = self.copy_out(burst);
        self.ending(checked)?;
        self.waits_in_set = false;
        self.return_credit(false)?;
        Ok(true)
    }

    fn copy_out(&mut self, burst: Arrived) -> Result<(), LinkError> {
        let receiver = &mut self.receiver;
        let len = burst.len_bytes as usize;
        let offset = receiver.credits.offset(burst.position);
        let stays = receiver.begins_long(offset, len);
        receiver.read_to_scratch(offset, if stays { BURST_HEADER_BYTES as usize } else { len });
        let released: Position = read_header(&receiver.scratch);
        // Built only when it is needed.
        if let Err(error) = self.sender.credits.learn(released, "burst header") {
            return Err(LinkError::misbehaved(format!(
                "burst at position {}: {error}",
                burst.position
            )));
        }
        self.sender.credits.confirm(released.bursts);
        receiver.burst_bytes = len;
        receiver.burst_position = burst.position;
        receiver.cursor = BURST_HEADER_BYTES as usize;
        receiver.in_ring = stays;
        if !stays {
            receiver.release();
        }
        Ok(())
    }

    /// The next frame of the burst that was begun with.
    #[inline]
    pub(super) fn next_frame(&mut self) -> Result<NextFrame, LinkError> {
        let receiver = &mut self.receiver;
        if receiver.in_ring {
            return self.next_long_frame();
        }
        let burst = &receiver.scratch[..receiver.burst_bytes];
        let frame = frame_at(burst, receiver.cursor, receiver.burst_position)?;
        receiver.cursor = frame.next;
        Ok(NextFrame::InScratch(frame.start..frame.end))
    }

    fn next_long_frame(&mut self) -> Result<NextFrame, LinkError> {
        let frame = self.receiver.frame_out_of_ring()?;
        if self.receiver.cursor >= self.receiver.burst_bytes {
            self.discard_burst();
            self.return_credit(false)?;
        }
        Ok(frame)
    }

    /// What is left of the burst that was begun with is not wanted.
    pub(super) fn discard_burst(&mut self) {
        let receiver = &mut self.receiver;
        receiver.cursor = receiver.burst_bytes;
        if std::mem::take(&mut receiver.in_ring) {
            receiver.release();
        }
    }
}
