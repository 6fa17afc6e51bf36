//! The ring link of rdma-rpc and the verbs devices under it.

mod copy;
pub mod ibv;
pub mod probe;
pub mod ring;
pub mod shm;
pub mod sim;
pub mod verbs;
