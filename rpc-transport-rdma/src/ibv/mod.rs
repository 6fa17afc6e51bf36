//! Device `ibv`: real verbs, through libibverbs and librdmacm opened at run time.
//!
//! ```text
//!   upgrade            from a bootstrap connection to a connected queue pair
//!     choose           which device, port and GID (pure, on recorded `facts` and `address`es)
//!     cm/              iWARP: connecting through librdmacm
//!   queue_pair         what the ring stands on
//!     worker           the completion queues of one runtime
//!       shared_cq      one completion queue for many queue pairs; sleeping and waking
//!     send_slots     the send queue, counted
//!   one file for each verbs object:
//!     device  pd  registration and mr  channel  cq  raw_qp  events (asynchronous ones)
//!   pool, buddy        memory worth registering
//!   lend               memory of the program, registered while the peer pulls it
//!   rest               and for a while after that, like all that peers have READ
//!   removal            devices that are taken away
//!   siw                a fault of Soft-iWARP's library, walked around
//!   ffi/               the C functions
//! ```
//!
//! # Who may touch what
//!
//! Each connection has a protection domain of its own. A key that its peer knows is good for that
//! peer's queue pair alone: used on another one it is refused by the device, and kills the queue
//! pair of whoever tried.

mod address;
mod buddy;
mod channel;
mod choose;
mod cm;
mod completed;
mod config;
mod cq;
mod device;
mod error;
mod events;
mod facts;
pub(crate) mod ffi;
mod lend;
mod mr;
mod pd;
mod pool;
mod probe;
mod queue_pair;
mod raw_qp;
mod read_order;
mod registration;
mod removal;
mod rest;
mod seat;
mod send_slots;
mod shared_cq;
mod siw;
mod status;
mod upgrade;
mod worker;
mod wr_id;

pub use address::PathMtu;
pub use choose::Wish;
pub use config::IbvConfig;
pub use mr::IbvRegion;
pub use probe::UpgradeError;
pub use queue_pair::IbvQueuePair;
pub use upgrade::{Choice, Ibv, Offer};
