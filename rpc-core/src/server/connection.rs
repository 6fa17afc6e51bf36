//! A server's end of one connection.

use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::call::{IncomingCall, Site};
use super::handler::HandlerSlot;
use super::router::{Router, Service};
use crate::driver::{
    Arrival, ArrivalBatch, Arrivals, Arrived, Conn, Connection, Driver, Ended, Progress, now,
};
use crate::link::{Link, LinkInfo};
use crate::session::{Role, SessionConfig};
use crate::status::Status;

/// How a connection behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnectionConfig {
    /// Limits of the protocol.
    pub session: SessionConfig,
    /// How it waits for news.
    pub progress: Progress,
}

/// A handle on a connection that is being served.
#[derive(Clone)]
pub struct ServerConnection {
    conn: Arc<dyn Conn>,
}

impl ServerConnection {
    /// Accepts no more calls, lets those that are open finish, then closes in order.
    pub fn shut_down(&self, reason: &str) {
        self.conn.go_away(reason);
    }

    /// What the connection is made of.
    pub fn info(&self) -> &LinkInfo {
        self.conn.info()
    }
}

impl fmt::Debug for ServerConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerConnection").field("info", self.info()).finish()
    }
}

/// Serves one connection: the future drives it and runs its handlers, to be spawned or awaited
/// inside a tokio runtime. It ends with the reason, or `None` after an orderly shutdown.
///
/// On a runtime of one thread with several connections that poll, another task of the runtime may run
/// the handlers in its stead: do not count on what belongs to the task that polls it, such as
/// task-local values or a span it is instrumented with.
pub fn serve_connection<L: Link>(
    link: L,
    router: Arc<Router>,
    config: ConnectionConfig,
) -> (ServerConnection, impl Future<Output = Option<Status>> + Send) {
    let connection =
        Arc::new(Connection::new(Role::Server, config.session, config.progress, link, now()));
    let conn: Arc<dyn Conn> = Arc::clone(&connection) as Arc<dyn Conn>;
    let dispatcher = Dispatcher { router, conn: Arc::clone(&conn), methods: Vec::new() };
    let driver = Driver::new(connection, dispatcher).seated();
    let ended = async move {
        match driver.await {
            Ended::Drained => None,
            Ended::Failed(status) => Some(status),
        }
    };
    (ServerConnection { conn }, ended)
}

/// A method a client has bound.
struct Bound {
    site: Arc<Site>,
    service: Option<(Arc<dyn Service>, usize)>,
    slot: Option<HandlerSlot>,
}

/// Gives each request to its handler.
struct Dispatcher {
    router: Arc<Router>,
    conn: Arc<dyn Conn>,
    /// By the client's number.
    methods: Vec<Bound>,
}

impl Arrivals for Dispatcher {
    fn bind(&mut self, method: u16, path: &str) -> Option<usize> {
        debug_assert_eq!(usize::from(method), self.methods.len());
        let service = self.router.find(path);
        let limit = service.as_ref().and_then(|(service, _)| service.limits().decode_bytes);
        let site = Site { conn: Arc::clone(&self.conn), path: path.into() };
        self.methods.push(Bound { site: Arc::new(site), service, slot: None });
        limit
    }

    fn run(&mut self, batch: &mut ArrivalBatch) -> bool {
        let mut go_on = false;
        for arrival in &mut batch.arrivals {
            go_on |= self.run_one(arrival, &batch.short);
        }
        batch.clear();
        go_on
    }
}

impl Dispatcher {
    /// Whether the handler goes on, as a task.
    fn run_one(&mut self, arrival: &mut Arrival, short: &[u8]) -> bool {
        if let Arrived::In(cell) = &arrival.request
            && cell.has_failed()
        {
            return false;
        }
        let Some(bound) = self.methods.get_mut(usize::from(arrival.method)) else { return false };
        let Some((service, index)) = &bound.service else {
            let status = Status::unimplemented(self.router.explain(&bound.site.path));
            self.conn.finish(arrival.id, Err(status));
            return false;
        };
        let id = arrival.id;
        let (limits, slot) = (self.router.limits(), bound.slot.take());
        let call = IncomingCall::new(&bound.site, arrival, short, limits, slot);
        // A request that panics as it is decoded is answered by the reply that drops.
        let handler = catch_unwind(AssertUnwindSafe(|| service.call(*index, call)));
        let Ok(mut handler) = handler else { return false };
        match handler.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(()) => {
                bound.slot = Some(handler.into_slot());
                false
            }
            // The task polls it again at once, with a waker that is its own.
            Poll::Pending => {
                let task = handler.into_task(|| self.conn.attach(id));
                drop(tokio::spawn(task));
                true
            }
        }
    }
}
