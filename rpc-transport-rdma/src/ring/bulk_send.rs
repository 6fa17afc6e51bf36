//! Bulk messages waiting to be pulled by the peer: a bounded pool of registered buffers, and
//! memory of the program that is lent where the device can do that.
//!
//! A buffer is busy from `reserve`, memory is lent from `lend`, until the peer says it is done with
//! it. No work request of
//! ours ever touches one; the peer's READs do, and they are over when it says so.

use bytes::Bytes;
use rdma_rpc_core::link::{BulkDescriptor, LinkError, MAX_BULK_DESCRIPTOR_BYTES};

use super::config::PoolLimits;
use super::size_class::{class_bytes, fits};
use crate::verbs::{Access, QueuePair, Region, RemoteAddr, VerbError};

/// A descriptor's fields, little-endian:
///
/// ```text
/// byte  0  u64  address
///       8  u64  length
///      16  u32  rkey
///      20  u32  buffer number      (of meaning to its owner only)
///      24  u64  buffer generation  (of meaning to its owner only)
/// 32 bytes
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Described {
    pub(super) at: RemoteAddr,
    pub(super) len: u64,
    pub(super) buffer: u32,
    pub(super) generation: u64,
}

impl Described {
    pub(super) fn encode(&self) -> [u8; MAX_BULK_DESCRIPTOR_BYTES] {
        let mut bytes = [0; MAX_BULK_DESCRIPTOR_BYTES];
        bytes[..8].copy_from_slice(&self.at.addr.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.len.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.at.rkey.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.buffer.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.generation.to_le_bytes());
        bytes
    }

    pub(super) fn decode(descriptor: &BulkDescriptor) -> Result<Described, LinkError> {
        let bytes: &[u8; MAX_BULK_DESCRIPTOR_BYTES] =
            descriptor.as_bytes().try_into().map_err(|_| {
                LinkError::misbehaved(format!(
                    "bulk descriptor has {} bytes; a ring's has {MAX_BULK_DESCRIPTOR_BYTES}",
                    descriptor.as_bytes().len()
                ))
            })?;
        let u64_at =
            |at: usize| (0..8).fold(0, |word, i| word | u64::from(bytes[at + i]) << (8 * i));
        let u32_at =
            |at: usize| (0..4).fold(0, |word, i| word | u32::from(bytes[at + i]) << (8 * i));
        Ok(Described {
            at: RemoteAddr { addr: u64_at(0), rkey: u32_at(16) },
            len: u64_at(8),
            buffer: u32_at(20),
            generation: u64_at(24),
        })
    }
}

/// A buffer and what it is doing.
#[derive(Debug)]
struct Buffer<R> {
    memory: Memory<R>,
    generation: u64,
    state: State,
}

#[derive(Debug)]
enum Memory<R> {
    /// Ours, to be used again.
    Registered(R),
    /// The program's, kept by the device. Always busy.
    Lent(RemoteAddr),
}

impl<R: Region> Buffer<R> {
    /// The bytes it has of the pool's; what is lent is not the pool's.
    fn registered_bytes(&self) -> usize {
        match &self.memory {
            Memory::Registered(region) => region.len(),
            Memory::Lent(_) => 0,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    /// Lent to be filled; the message's length.
    Filling(usize),
    /// Described to the peer; the message's length.
    Busy(usize),
}

/// The pool.
#[derive(Debug)]
pub(super) struct BulkSendPool<R> {
    limits: PoolLimits,
    /// A number's place keeps its generation when its buffer is given back to the system.
    buffers: Vec<Option<Buffer<R>>>,
    registered_bytes: usize,
    idle_bytes: usize,
    lent_bytes: usize,
    next_generation: u64,
    filling: Option<usize>,
}

impl<R: Region> BulkSendPool<R> {
    pub(super) fn new(limits: PoolLimits) -> BulkSendPool<R> {
        BulkSendPool {
            limits,
            buffers: Vec::new(),
            registered_bytes: 0,
            idle_bytes: 0,
            lent_bytes: 0,
            next_generation: 1,
            filling: None,
        }
    }

    /// Buffers the peer has been told of and has not given back.
    pub(super) fn busy(&self) -> usize {
        let busy = |b: &&Buffer<R>| matches!(b.state, State::Busy(_));
        self.buffers.iter().flatten().filter(busy).count()
    }

    /// Whether a message of `len` bytes would find a buffer now.
    pub(super) fn has_room(&self, len: usize) -> bool {
        let buffers = self.buffers.iter().flatten();
        let idle = buffers.filter(|b| b.state == State::Idle);
        let (mut idle_buffers, mut reusable) = (0, false);
        for buffer in idle {
            idle_buffers += 1;
            reusable |= fits(buffer.registered_bytes(), len);
        }
        let in_use = self.buffers.iter().flatten().count() - idle_buffers;
        let busy_bytes = self.registered_bytes - self.idle_bytes;
        reusable
            || (in_use < self.limits.max_buffers
                && busy_bytes + self.lent_bytes + class_bytes(len) <= self.limits.max_bytes)
    }

    /// Makes a buffer of `len` bytes ready to be filled, if there is room. The one reserved before
    /// and never committed is forgotten.
    pub(super) fn prepare<Q>(&mut self, queue_pair: &mut Q, len: usize) -> Result<bool, VerbError>
    where
        Q: QueuePair<Region = R>,
    {
        self.forget_filling();
        if !self.has_room(len) {
            return Ok(false);
        }
        let number = match self.best_idle(len) {
            Some(number) => number,
            None => self.register(queue_pair, len)?,
        };
        let Some(Some(buffer)) = self.buffers.get_mut(number) else { return Ok(false) };
        buffer.state = State::Filling(len);
        self.idle_bytes -= buffer.registered_bytes();
        self.filling = Some(number);
        Ok(true)
    }

    /// The buffer that is being filled.
    pub(super) fn filling(&mut self) -> Option<&mut [u8]> {
        let buffer = self.buffers.get_mut(self.filling?)?.as_mut()?;
        let (State::Filling(len), Memory::Registered(region)) = (buffer.state, &mut buffer.memory)
        else {
            return None;
        };
        Some(&mut region.bytes_mut()[..len])
    }

    /// The buffer last reserved is complete.
    pub(super) fn commit(&mut self) -> Option<BulkDescriptor> {
        let number = self.filling.take()?;
        let buffer = self.buffers[number].as_mut()?;
        let State::Filling(len) = buffer.state else { return None };
        buffer.generation = self.next_generation;
        self.next_generation += 1;
        buffer.state = State::Busy(len);
        BulkDescriptor::new(&describe(number, buffer, len).encode())
    }

    /// Lends the program's own memory to the peer, if the device can and not too much is out.
    pub(super) fn lend<Q>(&mut self, queue_pair: &mut Q, bytes: &Bytes) -> Option<BulkDescriptor>
    where
        Q: QueuePair<Region = R>,
    {
        let len = bytes.len();
        let busy = self.busy();
        if busy >= self.limits.max_buffers
            || self.registered_bytes - self.idle_bytes + self.lent_bytes + len
                > self.limits.max_bytes
        {
            return None;
        }
        let at = queue_pair.lend(bytes)?;
        let generation = self.next_generation;
        self.next_generation += 1;
        self.lent_bytes += len;
        let buffer = Buffer { memory: Memory::Lent(at), generation, state: State::Busy(len) };
        let number = self.place(buffer);
        let buffer = self.buffers[number].as_ref()?;
        BulkDescriptor::new(&describe(number, buffer, len).encode())
    }

    /// The peer is done with a buffer, or with what was lent.
    pub(super) fn release<Q>(
        &mut self,
        queue_pair: &mut Q,
        descriptor: &BulkDescriptor,
    ) -> Result<(), LinkError>
    where
        Q: QueuePair<Region = R>,
    {
        let said = Described::decode(descriptor)?;
        let number = said.buffer as usize;
        let buffer = self.buffers.get_mut(number).and_then(Option::as_mut);
        let issued = buffer.as_ref().and_then(|b| match b.state {
            State::Busy(len) => Some(describe(number, b, len)),
            _ => None,
        });
        let (Some(buffer), Some(issued)) = (buffer, issued) else {
            return Err(LinkError::misbehaved(format!(
                "bulk descriptor releases buffer {number} (byte 20), which is not busy"
            )));
        };
        if issued != said {
            return Err(LinkError::misbehaved(format!(
                "bulk descriptor releases buffer {number} as {said:?}, but it was {issued:?}: \
                 stale or made up"
            )));
        }
        match buffer.memory {
            Memory::Registered(ref region) => {
                buffer.state = State::Idle;
                self.idle_bytes += region.len();
                self.trim(number);
            }
            Memory::Lent(at) => {
                queue_pair.take_back(at);
                self.lent_bytes -= said.len as usize;
                self.buffers[number] = None;
            }
        }
        Ok(())
    }

    fn forget_filling(&mut self) {
        if let Some(number) = self.filling.take()
            && let Some(buffer) = self.buffers[number].as_mut()
        {
            buffer.state = State::Idle;
            self.idle_bytes += buffer.registered_bytes();
            self.trim(number);
        }
    }

    /// Gives a buffer that has just become idle back to the system if enough lie idle.
    fn trim(&mut self, number: usize) {
        if self.idle_bytes > self.limits.max_idle_bytes {
            self.drop_buffer(number);
        }
    }

    fn drop_buffer(&mut self, number: usize) {
        if let Some(buffer) = self.buffers[number].take() {
            self.idle_bytes -= buffer.registered_bytes();
            self.registered_bytes -= buffer.registered_bytes();
        }
    }

    /// Gives an idle buffer back to the system, if there is one.
    fn drop_idle(&mut self) -> bool {
        let is_idle = |b: &Option<Buffer<R>>| b.as_ref().is_some_and(|b| b.state == State::Idle);
        let number = self.buffers.iter().position(is_idle);
        number.is_some_and(|number| {
            self.drop_buffer(number);
            true
        })
    }

    /// The shortest idle buffer that fits.
    fn best_idle(&self, len: usize) -> Option<usize> {
        let idle = self.buffers.iter().enumerate().filter_map(|(number, buffer)| {
            let buffer = buffer.as_ref()?;
            let bytes = buffer.registered_bytes();
            (buffer.state == State::Idle && fits(bytes, len)).then_some((bytes, number))
        });
        idle.min().map(|(_, number)| number)
    }

    /// Registers a buffer, giving idle ones back to the system where the bounds demand it.
    fn register<Q>(&mut self, queue_pair: &mut Q, len: usize) -> Result<usize, VerbError>
    where
        Q: QueuePair<Region = R>,
    {
        let bytes = class_bytes(len);
        let too_much = |pool: &Self| {
            pool.registered_bytes + pool.lent_bytes + bytes > pool.limits.max_bytes
                || pool.buffers.iter().flatten().count() >= pool.limits.max_buffers
        };
        // `has_room` has said that idle ones suffice.
        while too_much(self) && self.drop_idle() {}
        let region = loop {
            match queue_pair.register(bytes, Access::RemoteRead) {
                // What lies idle here may be what is missing.
                Err(error) if error.is_out_of_memory() && self.drop_idle() => {}
                registered => break registered?,
            }
        };
        let bytes = region.len();
        let memory = Memory::Registered(region);
        let number = self.place(Buffer { memory, generation: 0, state: State::Idle });
        self.registered_bytes += bytes;
        self.idle_bytes += bytes;
        Ok(number)
    }

    /// A number for a buffer.
    fn place(&mut self, buffer: Buffer<R>) -> usize {
        match self.buffers.iter().position(Option::is_none) {
            Some(number) => {
                self.buffers[number] = Some(buffer);
                number
            }
            None => {
                self.buffers.push(Some(buffer));
                self.buffers.len() - 1
            }
        }
    }
}

fn describe<R: Region>(number: usize, buffer: &Buffer<R>, len: usize) -> Described {
    Described {
        at: match &buffer.memory {
            Memory::Registered(region) => region.remote(),
            Memory::Lent(at) => *at,
        },
        len: len as u64,
        buffer: number as u32,
        generation: buffer.generation,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{Fabric, SimConfig, SimQueuePair, SimRegion};

    fn pool(
        max_bytes: usize,
        max_idle_bytes: usize,
        max_buffers: usize,
    ) -> BulkSendPool<SimRegion> {
        BulkSendPool::new(PoolLimits { max_bytes, max_idle_bytes, max_buffers })
    }

    fn queue_pair() -> SimQueuePair {
        Fabric::new(1).pair(SimConfig::default(), SimConfig::default()).0.queue_pair
    }

    /// The length of the whole buffer a message gets, and its descriptor.
    fn send(
        pool: &mut BulkSendPool<SimRegion>,
        queue_pair: &mut SimQueuePair,
        len: usize,
    ) -> Option<BulkDescriptor> {
        if !pool.prepare(queue_pair, len).unwrap() {
            return None;
        }
        let buffer = pool.filling()?;
        assert_eq!(buffer.len(), len);
        pool.commit()
    }

    #[test]
    fn bytes_and_buffers_are_bounded_busy_and_idle_together() {
        let mut queue_pair = queue_pair();
        let mut pool = pool(64 * 1024, 64 * 1024, 3);
        let first = send(&mut pool, &mut queue_pair, 32 * 1024).unwrap();
        let second = send(&mut pool, &mut queue_pair, 32 * 1024).unwrap();
        assert!(send(&mut pool, &mut queue_pair, 1).is_none(), "no bytes left");
        pool.release(&mut queue_pair, &first).unwrap();
        // The idle buffer is too long for a short message, and makes room for a fitting one.
        for _ in 0..2 {
            send(&mut pool, &mut queue_pair, 100).unwrap();
        }
        assert_eq!(pool.registered_bytes, 32 * 1024 + 2 * 4096);
        assert!(send(&mut pool, &mut queue_pair, 100).is_none(), "three buffers");
        pool.release(&mut queue_pair, &second).unwrap();
        assert_eq!(pool.busy(), 2);
    }

    #[test]
    fn buffers_are_reused_and_idle_ones_bounded() {
        let mut queue_pair = queue_pair();
        let mut pool = pool(1 << 20, 20 * 1024, 8);
        let mut seen = std::collections::HashSet::new();
        for _ in 0..10 {
            let descriptor = send(&mut pool, &mut queue_pair, 10_000).unwrap();
            let described = Described::decode(&descriptor).unwrap();
            seen.insert((described.at.addr, described.at.rkey));
            pool.release(&mut queue_pair, &descriptor).unwrap();
        }
        assert_eq!(seen.len(), 1, "one registration serves all");
        let long = send(&mut pool, &mut queue_pair, 100_000).unwrap();
        pool.release(&mut queue_pair, &long).unwrap();
        assert_eq!(pool.registered_bytes, 10_240, "more than may lie idle is given back");
        assert_eq!(pool.idle_bytes, 10_240);
    }

    #[test]
    fn a_reservation_that_is_not_committed_is_forgotten() {
        let mut queue_pair = queue_pair();
        let mut pool = pool(8192, 8192, 1);
        for _ in 0..5 {
            assert!(pool.prepare(&mut queue_pair, 8000).unwrap());
        }
        assert!(pool.commit().is_some());
        assert!(pool.commit().is_none());
        assert!(!pool.prepare(&mut queue_pair, 1).unwrap());
    }

    #[test]
    fn what_is_lent_is_bounded_and_goes_back_to_the_program() {
        let mut queue_pair = queue_pair();
        let mut pool = pool(64 * 1024, 64 * 1024, 3);
        let bytes = Bytes::from(vec![7; 30_000]);
        let first = pool.lend(&mut queue_pair, &bytes).unwrap();
        let second = pool.lend(&mut queue_pair, &bytes).unwrap();
        assert_ne!(first, second);
        assert!(pool.lend(&mut queue_pair, &bytes).is_none(), "too many bytes");
        assert!(!pool.prepare(&mut queue_pair, 10_000).unwrap(), "a copy is no way around it");
        pool.release(&mut queue_pair, &first).unwrap();
        assert!(pool.release(&mut queue_pair, &first).is_err(), "twice");
        assert!(pool.prepare(&mut queue_pair, 10_000).unwrap());
        pool.release(&mut queue_pair, &second).unwrap();
        assert_eq!((pool.busy(), pool.lent_bytes), (0, 0));
    }
}
