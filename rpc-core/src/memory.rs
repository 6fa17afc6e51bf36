//! A link inside one process: two ends joined by queues in memory. For tests and for programs
//! that want to call a service of their own without a socket.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use crate::link::{BulkDescriptor, FrameSink, Link, LinkError, LinkInfo, LinkLimits, Received};

/// How a [`MemoryLink`] behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryConfig {
    /// The longest frame, in bytes.
    pub max_frame_bytes: usize,
    /// Bytes of frames that may wait to be received, each way.
    pub queue_bytes: usize,
    /// Messages longer than this go by bulk, in bytes; `None`: no bulk.
    pub bulk_threshold_bytes: Option<usize>,
}

impl Default for MemoryConfig {
    fn default() -> MemoryConfig {
        MemoryConfig {
            max_frame_bytes: 64 * 1024,
            queue_bytes: 256 * 1024,
            bulk_threshold_bytes: Some(32 * 1024),
        }
    }
}

/// The longest bulk message, in bytes, and how many may wait to be pulled.
const MAX_BULK_BYTES: usize = 1 << 30;
const MAX_BULKS: usize = 64;

/// One direction.
#[derive(Debug, Default)]
struct Pipe {
    frames: VecDeque<Bytes>,
    bytes: usize,
    bulks: HashMap<u64, Bytes>,
    closed: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

type Shared = Arc<Mutex<Pipe>>;

/// One end.
#[derive(Debug)]
pub struct MemoryLink {
    config: MemoryConfig,
    out: Shared,
    incoming: Shared,
    staging: Vec<u8>,
    /// Committed, not flushed.
    unsent: VecDeque<Bytes>,
    unsent_bytes: usize,
    bulk: Vec<u8>,
    next_bulk: u64,
    pulled: VecDeque<(u64, Bytes)>,
    refused: bool,
}

/// Two ends of a new link.
pub fn pair(config: MemoryConfig) -> (MemoryLink, MemoryLink) {
    let (one, other) = (Shared::default(), Shared::default());
    let end = |out: &Shared, incoming: &Shared| MemoryLink {
        config,
        out: Arc::clone(out),
        incoming: Arc::clone(incoming),
        staging: Vec::new(),
        unsent: VecDeque::new(),
        unsent_bytes: 0,
        bulk: Vec::new(),
        next_bulk: 0,
        pulled: VecDeque::new(),
        refused: false,
    };
    (end(&one, &other), end(&other, &one))
}

fn lock(pipe: &Shared) -> MutexGuard<'_, Pipe> {
    pipe.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl MemoryLink {
    fn has_room(&self, len: usize) -> bool {
        self.unsent_bytes == 0 || self.unsent_bytes + len <= self.config.queue_bytes
    }
}

impl FrameSink for MemoryLink {
    fn limits(&self) -> LinkLimits {
        LinkLimits {
            max_frame_bytes: self.config.max_frame_bytes,
            bulk_threshold_bytes: self.config.bulk_threshold_bytes,
            max_bulk_bytes: if self.config.bulk_threshold_bytes.is_some() {
                MAX_BULK_BYTES
            } else {
                0
            },
            lend_threshold_bytes: self.config.bulk_threshold_bytes,
        }
    }

    fn reserve(&mut self, len: usize) -> Result<Option<&mut [u8]>, LinkError> {
        debug_assert!(len <= self.config.max_frame_bytes);
        if !self.has_room(len) {
            self.refused = true;
            return Ok(None);
        }
        self.staging.clear();
        self.staging.resize(len, 0);
        Ok(Some(&mut self.staging))
    }

    fn commit(&mut self) {
        self.unsent_bytes += self.staging.len();
        self.unsent.push_back(Bytes::copy_from_slice(&self.staging));
    }

    fn bulk_reserve(&mut self, len: usize) -> Result<Option<&mut [u8]>, LinkError> {
        if lock(&self.out).bulks.len() >= MAX_BULKS {
            self.refused = true;
            return Ok(None);
        }
        self.bulk = vec![0; len];
        Ok(Some(&mut self.bulk))
    }

    fn bulk_commit(&mut self) -> BulkDescriptor {
        self.next_bulk += 1;
        let message = Bytes::from(std::mem::take(&mut self.bulk));
        lock(&self.out).bulks.insert(self.next_bulk, message);
        BulkDescriptor::new(&self.next_bulk.to_le_bytes()).expect("eight bytes fit")
    }

    fn bulk_lend(&mut self, body: &Bytes) -> Result<Option<BulkDescriptor>, LinkError> {
        if lock(&self.out).bulks.len() >= MAX_BULKS {
            return Ok(None);
        }
        self.next_bulk += 1;
        lock(&self.out).bulks.insert(self.next_bulk, body.clone());
        Ok(BulkDescriptor::new(&self.next_bulk.to_le_bytes()))
    }

    fn bulk_release(&mut self, descriptor: &BulkDescriptor) -> Result<(), LinkError> {
        let number = number(descriptor)?;
        match lock(&self.out).bulks.remove(&number) {
            Some(_) => Ok(()),
            None => Err(LinkError::misbehaved(format!("bulk buffer {number} is not in use"))),
        }
    }

    fn bulk_pull(
        &mut self,
        ticket: u64,
        descriptor: &BulkDescriptor,
        len: usize,
    ) -> Result<bool, LinkError> {
        let number = number(descriptor)?;
        let message = lock(&self.incoming).bulks.get(&number).cloned();
        match message {
            Some(message) if message.len() == len => {
                self.pulled.push_back((ticket, message));
                Ok(true)
            }
            _ => Err(LinkError::misbehaved(format!("no bulk message {number} of {len} bytes"))),
        }
    }
}

fn number(descriptor: &BulkDescriptor) -> Result<u64, LinkError> {
    match descriptor.as_bytes().try_into() {
        Ok(bytes) => Ok(u64::from_le_bytes(bytes)),
        Err(_) => Err(LinkError::misbehaved("a bulk descriptor that is not eight bytes long")),
    }
}

impl Link for MemoryLink {
    fn flush(&mut self) -> Result<(), LinkError> {
        if self.unsent.is_empty() {
            return Ok(());
        }
        let mut pipe = lock(&self.out);
        if pipe.closed {
            return Err(LinkError::closed("the other end was dropped"));
        }
        let mut sent = false;
        while let Some(frame) = self.unsent.front() {
            if pipe.bytes > 0 && pipe.bytes + frame.len() > self.config.queue_bytes {
                break;
            }
            pipe.bytes += frame.len();
            self.unsent_bytes -= frame.len();
            pipe.frames.extend(self.unsent.pop_front());
            sent = true;
        }
        let reader = if sent { pipe.reader.take() } else { None };
        drop(pipe);
        wake(reader);
        Ok(())
    }

    fn receive(&mut self) -> Result<Option<Received<'_>>, LinkError> {
        if let Some((ticket, message)) = self.pulled.pop_front() {
            return Ok(Some(Received::Pulled { ticket, message }));
        }
        let mut pipe = lock(&self.incoming);
        let Some(frame) = pipe.frames.pop_front() else {
            return if pipe.closed {
                Err(LinkError::closed("the other end was dropped"))
            } else {
                Ok(None)
            };
        };
        pipe.bytes -= frame.len();
        let writer = pipe.writer.take();
        drop(pipe);
        wake(writer);
        Ok(Some(Received::Owned(frame)))
    }

    fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        if !self.pulled.is_empty() {
            return Poll::Ready(Ok(()));
        }
        if self.has_unsent() || std::mem::take(&mut self.refused) {
            let mut pipe = lock(&self.out);
            let fits = |frame: &Bytes| {
                pipe.bytes == 0 || pipe.bytes + frame.len() <= self.config.queue_bytes
            };
            if pipe.closed || self.unsent.front().is_some_and(fits) {
                return Poll::Ready(Ok(()));
            }
            pipe.writer = Some(cx.waker().clone());
        }
        let mut pipe = lock(&self.incoming);
        if pipe.closed || !pipe.frames.is_empty() {
            return Poll::Ready(Ok(()));
        }
        pipe.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        self.flush()?;
        if self.has_unsent() {
            let mut pipe = lock(&self.out);
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        close(&self.out);
        Poll::Ready(Ok(()))
    }

    fn info(&self) -> LinkInfo {
        LinkInfo::new("memory", "memory", "this process")
    }
}

fn close(pipe: &Shared) {
    let mut pipe = lock(pipe);
    pipe.closed = true;
    let (reader, writer) = (pipe.reader.take(), pipe.writer.take());
    drop(pipe);
    wake(reader);
    wake(writer);
}

impl Drop for MemoryLink {
    fn drop(&mut self) {
        close(&self.out);
        close(&self.incoming);
    }
}
