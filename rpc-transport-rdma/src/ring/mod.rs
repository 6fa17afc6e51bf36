//! The ring link.
#![forbid(unsafe_code)]

mod bulk_pull;
mod bulk_send;
mod config;
mod credits;
mod error;
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
