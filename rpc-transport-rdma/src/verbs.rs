//! What the ring link asks of a verbs device.
//!
//! The names and the rules are those of the verbs specification (InfiniBand Architecture
//! Specification volume 1, chapters 10 and 11; RFC 5040 for iWARP), cut down to what one
//! reliable connection needs. A device's own code opens it and connects the queue pair during
//! the bootstrap; from then on the ring knows nothing but this trait, so that it is the same code
//! on a NIC, on shared memory and in the simulator.
//!
//! Rules every implementation keeps, because the ring relies on them:
//!
//! * Work requests of one queue pair execute in the order they were posted. A signalled one
//!   completes only after everything before it is done, and its completion frees the send-queue
//!   slots of all before it.
//! * The data of a WRITE is in the peer's memory before the completion of the immediate that
//!   came with or after it is seen there. A plain WRITE has no completion at the peer.
//! * Each immediate (and each SEND) consumes one posted receive of the peer. With none posted the
//!   request waits (receiver not ready); after a bounded time the queue pair fails.
//! * rkeys and bounds are checked for every remote access; a violation moves **both** queue
//!   pairs to the error state and changes no memory.
//! * Once in the error state, every outstanding request and receive completes with
//!   [`Status::Flushed`]; only after its completion may the memory of a request be reused.
//! * A full send queue is [`PostError::Full`]: back-pressure, not failure.

use std::fmt;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use rdma_rpc_core::poll_set::PollSet;

/// What a device offers to one queue pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// Work requests the send queue holds.
    pub send_depth: u32,
    /// Receives the receive queue holds.
    pub receive_depth: u32,
    /// Whether WRITE-with-immediate exists. Where it does not (iWARP), the ring posts a WRITE and
    /// a SEND that carries what the immediate would.
    pub write_with_imm: bool,
    /// Bytes that may travel inside a work request; 0: none.
    pub inline_bytes: u32,
    /// READs this queue pair may have in flight.
    pub reads_in_flight: u32,
    /// From how many bytes on [`QueuePair::lend`] may work here: it need not yet, nor for every
    /// peer, nor for all memory. `None`: never.
    pub lends_from_bytes: Option<usize>,
    /// Whether [`QueuePair::view`] works here, which is so at both ends of a connection or at none.
    pub views: bool,
}

/// The most work requests of one list.
pub const MAX_LIST: usize = 4;

/// Who may touch a region. A region gets the least it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Only this process writes; its device reads (staging memory on a card).
    Local,
    /// Only this process, and its device when it executes a READ of ours.
    ReadTarget,
    /// The peer may READ, never write (bulk messages waiting to be pulled).
    RemoteRead,
    /// The peer may [view](QueuePair::view) it, never write (the ring on devices of one host).
    Viewed,
    /// The peer may WRITE (receive rings, credit cells).
    RemoteWrite,
}

impl Access {
    /// Whether no peer may touch it, so that no peer needs its key.
    pub fn is_local(self) -> bool {
        matches!(self, Access::Local | Access::ReadTarget)
    }
}

/// An address in the peer's memory, as the peer told us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteAddr {
    /// Virtual address (or, on shared memory, whatever the peer's device calls one).
    pub addr: u64,
    /// The region's key.
    pub rkey: u32,
}

impl RemoteAddr {
    /// The same region, `bytes` further on; `None` on overflow.
    pub fn offset(self, bytes: u64) -> Option<RemoteAddr> {
        Some(RemoteAddr { addr: self.addr.checked_add(bytes)?, rkey: self.rkey })
    }
}

/// Registered memory. It lives at least as long as this handle; dropping the handle while a
/// request that names it is outstanding is a bug of the caller that implementations must make
/// harmless (keep the memory until the queue pair is gone).
pub trait Region: Send + fmt::Debug + 'static {
    /// Length in bytes.
    fn len(&self) -> usize;

    /// Whether the region has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the peer finds this region.
    fn remote(&self) -> RemoteAddr;

    /// Bytes from `offset` on are about to be read. A hint, for memory another core has written.
    fn prefetch(&self, _offset: usize) {}

    /// About `len` bytes from `offset` on will probably be written next. A hint, for memory the peer
    /// has viewed since it was written.
    fn will_write(&self, _offset: usize, _len: usize) {}

    /// What the owner of an [`Access::Viewed`] region has written is to be seen by the peer before any
    /// request that is posted from here on. Nothing to do where both see the same memory.
    fn publish(&self) {}

    /// Copies out of the region with volatile reads: the peer or a NIC may be writing.
    ///
    /// # Panics
    /// If `offset + into.len()` is beyond the region: callers check what comes from a peer first.
    fn read(&self, offset: usize, into: &mut [u8]);

    /// The same into new memory.
    ///
    /// # Panics
    /// As [`Region::read`].
    fn read_new(&self, offset: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.read(offset, &mut bytes);
        bytes
    }

    /// The region's bytes. Not for regions that a peer can write; the caller must not touch bytes that an
    /// outstanding READ of ours is writing.
    ///
    /// # Panics
    /// If the region is [`Access::RemoteWrite`], or the peer's ([`QueuePair::view`]).
    fn bytes_mut(&mut self) -> &mut [u8];

    /// The region's bytes, to read. The same rules as [`Region::bytes_mut`].
    fn bytes(&self) -> &[u8];
}

/// A stretch of a region of ours.
#[derive(Debug)]
pub struct Local<'a, R> {
    /// The region.
    pub region: &'a R,
    /// First byte.
    pub offset: usize,
    /// Number of bytes.
    pub len: usize,
}

impl<R> Clone for Local<'_, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for Local<'_, R> {}

/// What a work request does.
#[derive(Debug)]
pub enum Op<'a, R> {
    /// WRITE `from` to `to`. With `imm`, the peer's receive queue gets a completion.
    Write {
        /// Bytes to write; may be empty when there is an immediate.
        from: Option<Local<'a, R>>,
        /// Where to. Ignored when there is nothing to write.
        to: RemoteAddr,
        /// Immediate data.
        imm: Option<u32>,
    },
    /// WRITE a single 64-bit word, as little-endian bytes. The reader may see it half-written:
    /// cards write it in one piece, Soft-RoCE does not. `to` is 8-byte aligned.
    WriteWord {
        /// The word.
        word: u64,
        /// Where to.
        to: RemoteAddr,
    },
    /// READ `into.len` bytes at `from`.
    Read {
        /// Where the bytes land.
        into: Local<'a, R>,
        /// Where they are.
        from: RemoteAddr,
    },
    /// SEND four bytes (iWARP's stand-in for an immediate).
    Send {
        /// The bytes.
        word: u32,
    },
}

impl<R> Clone for Op<'_, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for Op<'_, R> {}

/// One work request.
#[derive(Debug)]
pub struct WorkRequest<'a, R> {
    /// Comes back in the completion.
    pub id: u64,
    /// What to do.
    pub op: Op<'a, R>,
    /// Whether success makes a completion. Failure always does.
    pub signaled: bool,
}

impl<R> Clone for WorkRequest<'_, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for WorkRequest<'_, R> {}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// Done.
    Success,
    /// Flushed: the queue pair had failed before.
    Flushed,
    /// The peer posted no receive in time.
    ReceiverNotReady,
    /// The peer's memory rules were broken.
    RemoteAccess,
    /// The peer does not answer.
    RetryExceeded,
    /// Anything else; the device's own number.
    Other(u32),
}

/// What completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completed {
    /// A signalled (or failed) work request of ours.
    Send {
        /// Its id.
        id: u64,
    },
    /// A receive was consumed by the peer's immediate or SEND; its value.
    Receive {
        /// The immediate, or the SEND's word.
        imm: u32,
    },
}

/// One completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// What completed.
    pub what: Completed,
    /// How.
    pub status: Status,
}

/// Why a post did not happen. Nothing of the list was posted.
#[derive(Debug)]
pub enum PostError {
    /// The send queue has no room for the list.
    Full,
    /// The queue pair is in the error state.
    Failed,
    /// The verb failed.
    Verb(VerbError),
}

/// A verb that failed.
#[derive(Debug, Clone)]
pub struct VerbError {
    /// The verb or system call, such as `ibv_reg_mr`.
    pub verb: &'static str,
    /// The errno.
    pub errno: i32,
    /// What was being done and what a person can do about it.
    pub context: String,
}

impl VerbError {
    /// Whether it failed for want of memory: back-pressure where it can be waited for.
    pub fn is_out_of_memory(&self) -> bool {
        self.errno == rustix::io::Errno::NOMEM.raw_os_error()
    }
}

impl fmt::Display for VerbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = std::io::Error::from_raw_os_error(self.errno);
        write!(f, "{}: {reason}", self.verb)?;
        if self.context.is_empty() { Ok(()) } else { write!(f, ": {}", self.context) }
    }
}

impl std::error::Error for VerbError {}

/// Where the next messages lie, as far as it can be told.
#[derive(Debug)]
pub struct Expected<'a, R> {
    /// Where the next one from the peer will be.
    pub arrives: (&'a R, usize),
    /// Where the answer will be made.
    pub staged: (&'a R, usize),
}

/// One connected, reliable queue pair with its completion queue and its protection domain.
///
/// Dropping it destroys the queue pair; the peer's queue pair then fails by itself or by the
/// bootstrap connection.
pub trait QueuePair: Send + 'static {
    /// Memory registered for this connection.
    type Region: Region;

    /// What the device offers.
    fn caps(&self) -> Caps;

    /// The device's name, for people.
    fn device(&self) -> String;

    /// Registers `len` bytes of memory. It is zeroed, except that a target of READs may hold what an
    /// earlier one of this process did: nobody looks at it before a READ has filled it.
    fn register(&mut self, len: usize, access: Access) -> Result<Self::Region, VerbError>;

    /// Registering was refused for want of memory: asks to be woken when some has been given back.
    /// `false`: there may be some now.
    fn wait_for_memory(&mut self, _waker: &Waker) -> bool {
        false
    }

    /// The first `len` bytes of a region that the peer has registered to be [viewed](Access::Viewed), and
    /// has told us of: the very memory, in which the peer goes on writing, so that it is only copied out
    /// ([`Region::read`]). Devices of one host have that. What the peer wrote before it posted a request
    /// is there when the request's completion is seen. The view lasts as long as its handle, whatever the
    /// peer does.
    ///
    /// # Errors
    /// The peer has offered no such region, or no device of this kind can do that.
    fn view(&mut self, _of: RemoteAddr, _len: usize) -> Result<Self::Region, VerbError> {
        Err(VerbError {
            verb: "view",
            errno: rustix::io::Errno::OPNOTSUPP.raw_os_error(),
            context: "the peer's memory cannot be seen from here".into(),
        })
    }

    /// Lends memory of the program to the peer's READs, where it lies: devices of one host can do
    /// that, where the kernel lets one process read the other, and cards with memory that is worth
    /// registering for one message. The device keeps `bytes` until [`QueuePair::take_back`], or until
    /// no READ of the peer can succeed any more. `None`: it cannot, or not now; send a copy from
    /// registered memory.
    fn lend(&mut self, _bytes: &Bytes) -> Option<RemoteAddr> {
        None
    }

    /// The peer is done with memory it was lent.
    fn take_back(&mut self, _lent: RemoteAddr) {}

    /// Posts a list of work requests with one doorbell: all or none.
    ///
    /// # Panics
    /// If the list is longer than [`MAX_LIST`].
    fn post_send(&mut self, list: &[WorkRequest<'_, Self::Region>]) -> Result<(), PostError>;

    /// Posts `count` more receives. (They carry no memory, or four bytes of the device's own.)
    fn post_receives(&mut self, count: u32) -> Result<(), PostError>;

    /// Takes completions, oldest first; how many. Also moves a software device along. Makes no
    /// system call on the way of a request. A queue pair that has failed gives everything that
    /// had arrived, then the flushed rest, and from then on an error.
    fn poll(&mut self, into: &mut [Completion]) -> Result<usize, VerbError>;

    /// A look that costs a few loads, or not much more: `false` only if no receive seems to have
    /// completed and no request of ours waits in this process to be executed.
    fn may_have_completions(&self) -> bool {
        true
    }

    /// How many such looks take about half a microsecond.
    fn looks_per_pass(&self) -> u32 {
        200
    }

    /// Asks to be woken: `Ready` when `poll` may bring something (looking again after arming),
    /// `Pending` with the waker kept otherwise.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), VerbError>>;

    /// After [`QueuePair::poll_event`] has woken its caller: whether whoever did that was on the CPU that
    /// runs this, if the device knows. A hint, for whether to give the CPU up soon.
    fn was_woken_here(&mut self) -> bool {
        false
    }

    /// Why the queue pair has failed, where the device knows more than the completions say.
    fn failure(&mut self) -> Option<VerbError> {
        None
    }

    /// What will be touched when something comes: a hint, for whoever looks before the owner does.
    fn expect(&mut self, _next: &Expected<'_, Self::Region>) {}

    /// As [`QueuePair::poll_event`], but woken by `set`, which polls, instead of by the kernel:
    /// nothing is armed, so the peer (or the NIC) makes no effort to wake us. What only the
    /// kernel can tell still wakes through it.
    fn poll_event_in(
        &mut self,
        cx: &mut Context<'_>,
        set: &PollSet,
    ) -> Poll<Result<(), VerbError>> {
        let _ = set;
        self.poll_event(cx)
    }

    /// Nobody waits in the set any more.
    fn leave_set(&mut self) {}

    /// Moves the queue pair to the error state: everything outstanding will flush.
    fn fail(&mut self);
}
