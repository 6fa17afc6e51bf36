//! The server side of calls: services by path, handlers polled where they arrive.

mod call;
mod connection;
mod handler;
mod reply;
mod router;
mod unary;

pub use call::IncomingCall;
pub use connection::{ConnectionConfig, ServerConnection, serve_connection};
pub use handler::Handler;
pub use router::{Router, Service};
pub use unary::Answered;
