//! What generated code names. Not for people: it changes with the generator.

pub use crate::client::{Channel, Client};
pub use crate::request::{IntoRequest, IntoStreamingRequest, Request};
pub use crate::response::Response;
pub use crate::server::{Handler, IncomingCall, Service};
pub use crate::service::{
    Idempotency, MessageLimits, MethodDescriptor, MethodKind, ServiceDescriptor,
};
pub use crate::status::Status;
pub use crate::streaming::Streaming;
pub use futures_core::Stream;
