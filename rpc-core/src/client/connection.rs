//! A client's end of one connection.

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;

use crate::driver::{ArrivalBatch, Arrivals, Conn, Connection, Driver, Ended, now};
use crate::link::{Link, LinkInfo};
use crate::server::ConnectionConfig;
use crate::session::{Role, Session};
use crate::status::Status;

/// A connection calls can be made on. When the last clone is dropped the connection closes, after
/// its open calls have ended.
#[derive(Clone)]
pub struct ClientConnection {
    handle: Arc<Handle>,
}

struct Handle {
    conn: Arc<dyn Conn>,
    /// Why this link and not another, for people.
    chosen_because: Box<str>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.conn.go_away("the client is done");
    }
}

impl ClientConnection {
    pub(super) fn new(conn: Arc<dyn Conn>, chosen_because: &str) -> ClientConnection {
        let chosen_because = chosen_because.into();
        ClientConnection { handle: Arc::new(Handle { conn, chosen_because }) }
    }

    pub(super) fn conn(&self) -> &Arc<dyn Conn> {
        &self.handle.conn
    }

    /// What the connection is made of.
    pub fn info(&self) -> &LinkInfo {
        self.handle.conn.info()
    }

    /// Why this transport was chosen.
    pub fn chosen_because(&self) -> &str {
        &self.handle.chosen_because
    }

    /// Whether no new call can be made on it: it failed, or the server is going away.
    pub fn is_closed(&self) -> bool {
        self.handle.conn.is_closed()
    }
}

impl fmt::Debug for ClientConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConnection")
            .field("info", self.info())
            .field("closed", &self.is_closed())
            .finish()
    }
}

/// A connection as a call has it.
pub(super) enum Held<'a> {
    /// The channel has it as long as the call.
    Lent(&'a ClientConnection),
    /// The channel may have another by now.
    Own(ClientConnection),
}

impl Deref for Held<'_> {
    type Target = ClientConnection;

    #[inline]
    fn deref(&self) -> &ClientConnection {
        match self {
            Held::Lent(connection) => connection,
            Held::Own(connection) => connection,
        }
    }
}

/// Makes a client connection of a link. The future drives it and must be spawned inside a tokio
/// runtime; it ends with the reason, or `None` after an orderly close.
pub fn connect_link<L: Link>(
    link: L,
    config: ConnectionConfig,
    chosen_because: &str,
) -> (ClientConnection, impl Future<Output = Option<Status>> + Send + use<L>) {
    let connection =
        Arc::new(Connection::new(Role::Client, config.session, config.progress, link, now()));
    let conn: Arc<dyn Conn> = Arc::clone(&connection) as Arc<dyn Conn>;
    let driver = Driver::new(connection, Nothing).seated();
    let ended = async move {
        match driver.await {
            Ended::Drained => None,
            Ended::Failed(status) => Some(status),
        }
    };
    (ClientConnection::new(conn, chosen_because), ended)
}

/// Nothing arrives at a client.
pub(crate) struct Nothing;

impl Arrivals for Nothing {
    fn bind(&mut self, _: u16, _: &str) -> Option<usize> {
        None
    }

    fn run(&mut self, _: &mut ArrivalBatch) -> bool {
        false
    }
}

const _: () = assert!(size_of::<Session>() <= 640, "a session without calls stays small");
