//! Calls, sessions and the link contract of rdma-rpc.
#![forbid(unsafe_code)]

mod driver;
pub mod extensions;
pub mod link;
pub mod metadata;
pub mod request;
pub mod response;
pub mod session;
pub mod status;
pub mod upgrade;
pub mod wire;

pub use driver::{Progress, ProgressMode};
pub use extensions::{Extensions, GrpcMethod};
pub use request::{IntoRequest, IntoStreamingRequest, Request};
pub use response::Response;
pub use status::{Code, RequestSeen, Status};
