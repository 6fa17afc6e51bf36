//! The ring link: ordered, reliable frames through a pair of rings, one for each direction.
//!
//! Each side registers a receive ring and a credit cell, posts receives, and tells the peer where
//! they are ([`Prepared::hello`]). The sender keeps a staging ring of the same length: a frame is
//! filled in at the offset where the peer will find it, and one WRITE carries it there.
//!
//! ```text
//!        sender                                              receiver
//!  reserve, commit                                      receive: copied out once
//!  +--------------------------------+   WRITE + imm    +--------------------------------+
//!  | staging ring                   | ---------------> | receive ring                   |
//!  +--------------------------------+                  +--------------------------------+
//!  +--------------+                     two WRITEs          |
//!  | credit cell  | <---------------------------------------+ or in the header of a burst
//!  +--------------+                                           that goes the other way
//! ```
//!
//! On devices of one host ([`crate::verbs::Caps::views`]) there is no receive ring: the peer views the
//! staging ring, the immediate goes alone, and the receiver copies out of it as it would out of its own.
//! That saves a copy, and as much memory again. The sender's memory it is, because frames are filled
//! in as `&mut [u8]`, which memory that a peer can write never is. Everything else below is the same.
//!
//! # Positions
//!
//! A position counts bytes since the start of the connection; its offset is the position modulo
//! the ring's length. Both ends use the smaller of the two lengths they would have liked.
//!
//! # A burst
//!
//! Frames that were committed one after the other and lie together leave as one burst: one work
//! request, one doorbell, one immediate. All numbers are little-endian; bursts and frames begin
//! at multiples of 8.
//!
//! ```text
//! byte  0  u64  released: the position before which the receiver of the other direction has
//!               copied everything out and posted the receives again (cumulative)
//!       8  u64  released: bursts before that position (cumulative)
//!      16  u32  length of the first frame
//!      20       the frame, then zeros up to a multiple of 8
//!       n  u32  length of the next frame
//!     n+4       ...
//! ```
//!
//! A burst is at most seven sixteenths of the ring long and does not run over the ring's end.
//! One that would not fit skips to the ring's start; the skipped bytes count as written with it.
//!
//! # The immediate
//!
//! It comes with the burst, or alone. Where the device has no immediates (iWARP) a SEND of these
//! four bytes follows the WRITE in the same posted list.
//!
//! ```text
//!  31 30 29 28 27 26 25                         0
//! +--------+-----+--+----------------------------+
//! | kind   |  0  | f| value                      |
//! +--------+-----+--+----------------------------+
//!  0 data    f: skipped to the ring's start; value: the burst's length in 8-byte units
//!  1 wanted  f: there is a claim; value: low bits of the count of bursts known to be released
//!  2 answer  value: low bits of the count of bursts released with what the cell shows
//!  3 close   nothing follows
//! ```
//!
//! # Credit
//!
//! The sender writes up to `released + ring length`, and never has more bursts outstanding than
//! the peer has receives, less three. It learns what is released from burst headers and from its
//! credit cell: two words, bytes and bursts, that the receiver writes when an eighth of the ring
//! or of the receives was released and no burst is about to carry it. A word that is seen
//! half-written shows it (`cell`), and each is a limit of its own, so any mixture of old and new
//! words is safe. Neither takes ring space or a receive: two full rings cannot stop each other.
//!
//! A plain WRITE wakes nobody. A sender that must sleep sends "wanted" with the count of bursts
//! it knows for certain to be released; the receiver answers as soon as it has released more than
//! that, be it at once: it writes the cell, then an immediate. One question at a time is open.
//! The three receives that data leaves alone are for a question, an answer and the close; three
//! slots of the send queue are kept for them and for the cell.
//!
//! # Slots
//!
//! A request holds its slot of the send queue until a signalled request at or after it completes.
//! Every so many requests, and every eighth of the ring, one is signalled: with nothing left to
//! complete there is always room for control and for the longest burst.
//! Staging memory is written again only when the peer has released it *and* our own device has
//! completed what read it.
//!
//! # Bulk
//!
//! A long message is put in a registered buffer of its own, and a frame carries its descriptor
//! (address, length, key, buffer number and generation; 32 bytes). The receiver READs it in
//! pieces, pulls taking turns, into a buffer that the peer cannot reach, and lends that as
//! `Bytes`. The sender's buffer is free when the peer releases the descriptor, the receiver's when
//! the last `Bytes` is dropped. Both pools are bounded and their buffers come in size classes.
//!
//! # Memory
//!
//! A link has a receive ring and a staging ring, or only the latter, grows a copy of the longest burst it
//! has received (at most seven sixteenths of a ring), and has whatever bulk buffers are in use or cached:
//! with a ring of 256 KiB that is written, 512 KiB when idle, 624 KiB after the longest bursts.
//!
//! # The end
//!
//! An orderly close sends everything, then "close", and is done when that has completed. Whoever
//! closes should have had all its bulk descriptors back: its buffers go with it. When a queue pair
//! fails or the bootstrap connection closes, what had arrived is delivered first; that is certain
//! once every posted receive has been flushed.
//!
//! # Where things are
//!
//! Pure: `layout`, `immediate`, `hello`, `credits`, `cell`, `staging`, `send_queue`, `bulk_pull`,
//! `size_class`. With a device: `prepare`, `link` (the contract's methods), `halves` (what it keeps of
//! each direction), `send`, `receive`, `copy_out`, `wait` (sleeping and waking), `bulk_send`,
//! `pull_pool`, `error` (whom to blame).
#![forbid(unsafe_code)]

mod bulk_pull;
mod bulk_send;
mod cache_share;
mod cell;
mod config;
mod copy_out;
mod credits;
mod error;
mod halves;
mod hello;
mod immediate;
mod layout;
mod link;
mod prepare;
mod pull_pool;
mod receive;
mod send;
mod send_queue;
mod size_class;
mod staging;
mod wait;

pub use config::{
    MAX_BULK_BYTES, MAX_POOL_BUFFERS, MAX_RECEIVE_DEPTH, MAX_RING_BYTES, MIN_RECEIVE_DEPTH,
    MIN_RING_BYTES, PoolLimits, RingConfig,
};
pub use link::{RingLink, RingUsage};
pub use prepare::Prepared;
