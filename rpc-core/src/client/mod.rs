//! The client side of calls: channels that connect by themselves, and the calls on them.

mod call;
mod channel;
mod connection;
mod pump;
mod stub;
mod unary;

pub use channel::{Channel, ConnectError, Connector, ReconnectPolicy};
#[cfg(test)]
pub(crate) use connection::Nothing;
pub use connection::{ClientConnection, connect_link};
pub use stub::Client;
pub use unary::Unary;
