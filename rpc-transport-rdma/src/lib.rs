//! The ring link of rdma-rpc and the verbs devices under it.

pub mod shm;
pub mod verbs;
