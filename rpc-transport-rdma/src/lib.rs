//! The ring link of rdma-rpc and the verbs devices under it.

mod bulk_buffer;
mod copy;
mod fifo;
pub mod ibv;
pub mod probe;
#[cfg(test)]
mod protocol_text;
mod ranges;
pub mod ring;
pub mod shm;
pub mod sim;
pub mod verbs;

pub use bulk_buffer::BulkBuffer;
