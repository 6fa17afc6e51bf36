//! Memory for a program's long messages, where the other end reads it fastest.
//!
//! `BufMut` is an unsafe trait, which is the one reason for `unsafe` here: all that it demands is
//! that nobody counts bytes as written that are not initialised, and all of this memory always is.
#![allow(unsafe_code)]

use std::fmt;
use std::io::{self, Read, Write};
use std::ops::{Deref, DerefMut};

use bytes::buf::UninitSlice;
use bytes::{BufMut, Bytes};

use crate::shm::PrivateMemory;

/// Shorter buffers are the allocator's: what short messages lie in is copied in any case.
const SHORTEST_MAPPED_BYTES: usize = 16 * 1024;

/// Memory to make a long message in: a `bytes` field of some 100 KiB and more.
///
/// A long `Bytes` field is not copied when it is sent; the other end reads it where it lies. On
/// shared memory that takes the kernel several times as long out of pages of 4 KiB, as allocators
/// give them, as out of a huge page, which a buffer is a part of where the system gives some
/// (`madvise` or `always` in `/sys/kernel/mm/transparent_hugepage/enabled`). Over RDMA memory must be
/// registered first, and for a buffer of `rdma.direct_reads_from_bytes` or more that is done instead
/// of a copy. What is freed is used for the next buffers: up to 32 MiB stay with the process.
///
/// ```
/// # use rdma_rpc_transport_rdma::BulkBuffer;
/// # fn main() -> std::io::Result<()> {
/// # let mut file: &[u8] = &[7; 300_000];
/// let mut picture = BulkBuffer::with_capacity(300_000);
/// while picture.len() < 300_000 && picture.read_from(&mut file)? > 0 {}
/// let data: bytes::Bytes = picture.freeze();
/// # assert_eq!(data.len(), 300_000);
/// # Ok(())
/// # }
/// ```
///
/// It is filled like a `Vec<u8>`, but has the capacity it was made with: through [`BufMut`] (so that tokio's
/// `read_buf` reads into it), [`Write`], [`read_from`](BulkBuffer::read_from) or, after
/// [`resize`](BulkBuffer::resize), as a slice. Nobody sees bytes that were not written.
///
/// A buffer costs whole pages, and keeps a block of 2 MiB in memory that it may share with others:
/// it is for messages on their way and for values that are sent again and again, and not for many that
/// are rarely sent.
pub struct BulkBuffer {
    memory: Memory,
    filled: usize,
}

enum Memory {
    Mapped(PrivateMemory),
    Heap(Vec<u8>),
}

impl BulkBuffer {
    /// An empty buffer with room for so many bytes. Where nothing can be mapped (`RLIMIT_AS`,
    /// `vm.max_map_count`) it is on the heap.
    pub fn with_capacity(capacity_bytes: usize) -> BulkBuffer {
        let mapped = (capacity_bytes >= SHORTEST_MAPPED_BYTES)
            .then(|| PrivateMemory::new(capacity_bytes))
            .and_then(Result::ok);
        let memory = mapped.map_or_else(|| Memory::Heap(vec![0; capacity_bytes]), Memory::Mapped);
        BulkBuffer { memory, filled: 0 }
    }

    /// A copy of bytes that lie elsewhere, for instance in the message they came with, which keeps a
    /// buffer of its connection.
    pub fn copy_from_slice(bytes: &[u8]) -> BulkBuffer {
        let mut buffer = BulkBuffer::with_capacity(bytes.len());
        buffer.put_slice(bytes);
        buffer
    }

    /// How many bytes there is room for, those that are written included.
    pub fn capacity(&self) -> usize {
        self.memory.bytes().len()
    }

    /// How many bytes are written.
    pub fn len(&self) -> usize {
        self.filled
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Forgets what was written.
    pub fn clear(&mut self) {
        self.filled = 0;
    }

    /// Forgets what was written beyond `len`, or writes `value` until there are so many bytes.
    ///
    /// # Panics
    /// If `len` is beyond the capacity.
    pub fn resize(&mut self, len: usize, value: u8) {
        assert!(len <= self.capacity(), "{len} bytes do not fit into {}", self.capacity());
        if let Some(more) = self.memory.bytes_mut()[..len].get_mut(self.filled..) {
            more.fill(value);
        }
        self.filled = len;
    }

    /// Writes what one call of [`Read::read`] gives, as far as there is room. How many bytes: 0 at
    /// the reader's end, and if there is no room.
    ///
    /// # Errors
    /// The reader's; nothing is written then.
    pub fn read_from(&mut self, reader: &mut impl Read) -> io::Result<usize> {
        let room = &mut self.memory.bytes_mut()[self.filled..];
        if room.is_empty() {
            return Ok(0);
        }
        let count = reader.read(room)?;
        assert!(
            count <= room.len(),
            "a reader that says it wrote {count} bytes into {}",
            room.len()
        );
        self.filled += count;
        Ok(count)
    }

    /// What was written, to be sent. The memory is used again after the last share of it is dropped.
    pub fn freeze(self) -> Bytes {
        match self.memory {
            Memory::Heap(mut bytes) => {
                bytes.truncate(self.filled);
                bytes.into()
            }
            Memory::Mapped(_) => Bytes::from_owner(self),
        }
    }
}

/// Whether bytes lie in memory of this kind, mapped and nobody's but theirs for as long as they are kept.
pub(crate) fn holds(bytes: &Bytes) -> bool {
    PrivateMemory::holds(bytes)
}

impl Memory {
    fn bytes(&self) -> &[u8] {
        match self {
            Memory::Mapped(memory) => memory.bytes(),
            Memory::Heap(bytes) => bytes,
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Memory::Mapped(memory) => memory.bytes_mut(),
            Memory::Heap(bytes) => bytes,
        }
    }
}

impl Deref for BulkBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory.bytes()[..self.filled]
    }
}

impl DerefMut for BulkBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory.bytes_mut()[..self.filled]
    }
}

impl AsRef<[u8]> for BulkBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<BulkBuffer> for Bytes {
    fn from(buffer: BulkBuffer) -> Bytes {
        buffer.freeze()
    }
}

impl fmt::Debug for BulkBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("BulkBuffer");
        debug.field("len", &self.filled).field("capacity", &self.capacity()).finish()
    }
}

/// As for `&mut [u8]`: writes as much as there is room for, and 0 bytes when there is none.
impl Write for BulkBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(self.remaining_mut());
        self.put_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// SAFETY: `chunk_mut` gives the bytes after those that are written, of memory that nobody else has and
// that is initialised from its first byte to its last: `advance_mut` cannot uncover any that is not,
// and does not go beyond the end.
unsafe impl BufMut for BulkBuffer {
    fn remaining_mut(&self) -> usize {
        self.capacity() - self.filled
    }

    unsafe fn advance_mut(&mut self, count: usize) {
        let room = self.remaining_mut();
        assert!(count <= room, "{count} bytes do not fit into the {room} that are left");
        self.filled += count;
    }

    fn chunk_mut(&mut self) -> &mut UninitSlice {
        UninitSlice::new(&mut self.memory.bytes_mut()[self.filled..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENS: [usize; 5] =
        [1, SHORTEST_MAPPED_BYTES - 1, SHORTEST_MAPPED_BYTES, 1 << 20, 5 << 20];

    #[test]
    fn every_way_to_write_leaves_what_was_written() {
        for len in LENS {
            let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let half = len / 2;

            let mut put = BulkBuffer::with_capacity(len);
            assert!(put.is_empty() && put.capacity() == len && put.remaining_mut() == len);
            put.put_slice(&bytes[..half]);
            assert_eq!(put.len(), half);
            put.put_slice(&bytes[half..]);
            assert_eq!((put.remaining_mut(), &put[..]), (0, &bytes[..]));

            let mut written = BulkBuffer::with_capacity(len);
            written.write_all(&bytes).unwrap();
            assert_eq!(written.write(b"x").unwrap(), 0);

            let mut read = BulkBuffer::with_capacity(len);
            let mut from = &bytes[..];
            while read.read_from(&mut from).unwrap() > 0 {}

            let mut as_slice = BulkBuffer::with_capacity(len);
            as_slice.resize(len, 9);
            assert!(as_slice.iter().all(|&byte| byte == 9));
            as_slice.copy_from_slice(&bytes);

            for buffer in [put, written, read, as_slice, BulkBuffer::copy_from_slice(&bytes)] {
                assert_eq!(buffer.freeze(), bytes);
            }
        }
    }

    #[tokio::test]
    async fn tokio_reads_into_it_what_there_is_room_for() {
        use tokio::io::AsyncReadExt;
        let bytes: Vec<u8> = (0..300_000).map(|i| (i % 251) as u8).collect();
        let mut buffer = BulkBuffer::with_capacity(200_000);
        let mut from = &bytes[..];
        while buffer.has_remaining_mut()
            && AsyncReadExt::read_buf(&mut from, &mut buffer).await.unwrap() > 0
        {}
        assert_eq!((buffer.freeze(), from.len()), (bytes[..200_000].to_vec().into(), 100_000));
    }

    #[test]
    fn memory_that_is_used_again_shows_nothing_of_before() {
        for len in LENS {
            BulkBuffer::copy_from_slice(&vec![0xAA; len]).freeze();
            let mut next = BulkBuffer::with_capacity(len);
            assert!(next.is_empty() && next.iter().next().is_none());
            next.resize(len, 0);
            assert!(next.iter().all(|&byte| byte == 0));
            next.resize(len / 2, 1);
            next.resize(len, 2);
            assert_eq!(next.iter().filter(|&&byte| byte == 2).count(), len - len / 2);
            next.clear();
            assert!(next.freeze().is_empty());
        }
    }

    #[test]
    fn a_frozen_buffer_is_shared_and_its_parts_keep_it() {
        let bytes = BulkBuffer::copy_from_slice(&vec![3; 1 << 20]).freeze();
        let part = bytes.slice(1000..);
        drop(bytes);
        // Would be cut from the same place, were it free.
        let other = BulkBuffer::copy_from_slice(&vec![4; 1 << 20]).freeze();
        assert!(part.iter().all(|&byte| byte == 3) && other.iter().all(|&byte| byte == 4));
    }

    #[test]
    fn where_nothing_can_be_mapped_of_such_a_size_the_error_is_the_allocators() {
        assert!(PrivateMemory::new(isize::MAX as usize).is_err());
    }

    #[test]
    #[should_panic(expected = "do not fit")]
    fn more_than_the_capacity_is_not_written() {
        let mut buffer = BulkBuffer::with_capacity(10);
        buffer.resize(11, 0);
    }

    #[test]
    #[should_panic(expected = "into")]
    fn a_reader_that_lies_is_found_out() {
        struct Liar;
        impl Read for Liar {
            fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
                Ok(room.len() + 1)
            }
        }
        let _ = BulkBuffer::with_capacity(10).read_from(&mut Liar);
    }
}
