//! The connection manager (librdmacm): how iWARP queue pairs are connected.
//!
//! iWARP runs over a TCP connection that only the kernel's connection manager can make (RFC 5044),
//! so the queue pairs are not simply told of each other: the server listens at a port of its own
//! for each upgrade, and the client brings the token it was given as private data.

mod channel;
mod id;
mod kept;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;

use self::channel::{Event, EventChannel};
use self::id::CmId;
pub(super) use self::id::ConnectParams;
use super::error::failed;
use super::ffi;
use crate::verbs::VerbError;

/// How long finding an address or a route may take, in milliseconds; the upgrade has a deadline
/// of its own.
const RESOLVE_MS: i32 = 2000;

/// How often a port is chosen anew. The connection manager gives out ports that are free among its
/// own; Soft-iWARP then needs the TCP port of the same number, which a socket may have.
const PORT_ATTEMPTS: u32 = 16;

/// Connections that others may try to make at a port of ours before we give up.
const MAX_STRANGERS: usize = 64;

/// The name of the RDMA device that has an address of this host, by the connection manager.
pub(super) fn device_of(ip: IpAddr) -> Result<String, VerbError> {
    let channel = EventChannel::new()?;
    let id = CmId::new(&channel)?;
    id.bind(SocketAddr::new(ip, 0))?;
    id.device_name().ok_or_else(|| {
        let errno = Errno::NODEV.raw_os_error();
        failed("rdma_bind_addr", errno, format!("no RDMA device has the address {ip}"))
    })
}

/// A port at which one connection is awaited.
#[derive(Debug)]
pub(super) struct Listener {
    id: CmId,
    channel: Arc<EventChannel>,
}

impl Listener {
    /// Listens at an address, on any port.
    pub(super) fn bind(ip: IpAddr) -> Result<Listener, VerbError> {
        for attempt in 1.. {
            let channel = EventChannel::new()?;
            let id = CmId::new(&channel)?;
            id.bind(SocketAddr::new(ip, 0))?;
            match id.listen() {
                Ok(()) => return Ok(Listener { id, channel }),
                Err(error) if attempt < PORT_ATTEMPTS && is_port_taken(&error) => {}
                Err(error) => return Err(error),
            }
        }
        unreachable!("the last attempt returns")
    }

    pub(super) fn port(&self) -> u16 {
        self.id.port()
    }

    /// Waits for the one who brings the token, and connects the queue pair to it.
    pub(super) async fn accept(
        self,
        token: &[u8],
        params: ConnectParams,
    ) -> Result<Connection, VerbError> {
        let mut strangers = 0;
        let id = loop {
            let event = self.channel.next().await?;
            if event.kind != ffi::RDMA_CM_EVENT_CONNECT_REQUEST {
                return Err(event.unexpected("while listening"));
            }
            let Some(id) = event.into_request(&self.channel, token) else {
                strangers += 1;
                if strangers == MAX_STRANGERS {
                    let errno = Errno::CONNREFUSED.raw_os_error();
                    let what = "only strangers connect to the port of this upgrade";
                    return Err(failed("rdma_get_cm_event", errno, what));
                }
                continue;
            };
            break id;
        };
        id.accept(&params)?;
        established(&self.channel, &id).await?;
        Ok(Connection { id, channel: self.channel.clone() })
    }
}

fn is_port_taken(error: &VerbError) -> bool {
    error.errno == Errno::ADDRINUSE.raw_os_error()
}

/// Connects the queue pair to a server's port.
pub(super) async fn connect(
    local: IpAddr,
    remote: SocketAddr,
    token: &[u8],
    params: ConnectParams,
) -> Result<Connection, VerbError> {
    for attempt in 1.. {
        match connect_once(local, remote, token, params).await {
            Err(error) if attempt < PORT_ATTEMPTS && is_port_taken(&error) => {}
            result => return result,
        }
    }
    unreachable!("the last attempt returns")
}

async fn connect_once(
    local: IpAddr,
    remote: SocketAddr,
    token: &[u8],
    params: ConnectParams,
) -> Result<Connection, VerbError> {
    let channel = EventChannel::new()?;
    let id = CmId::new(&channel)?;
    id.bind(SocketAddr::new(local, 0))?;
    id.resolve_address(remote, RESOLVE_MS)?;
    expect(&channel, &id, ffi::RDMA_CM_EVENT_ADDR_RESOLVED).await?;
    id.note_device(&mut kept::lock());
    id.resolve_route(RESOLVE_MS)?;
    expect(&channel, &id, ffi::RDMA_CM_EVENT_ROUTE_RESOLVED).await?;
    let token = token.to_vec();
    let id = aside(move || id.connect(&params, &token).map(|()| id)).await?;
    established(&channel, &id).await?;
    Ok(Connection { id, channel })
}

/// Runs in a thread of its own what may sleep in the kernel: `rdma_connect` on Soft-iWARP waits
/// for the answer to its SYN, two minutes if packets are dropped. Not among the runtime's blocking
/// tasks, because a runtime that ends would wait for it.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, VerbError> + Send + 'static,
) -> Result<T, VerbError> {
    let (done, result) = tokio::sync::oneshot::channel();
    let run = move || {
        // If nobody waits any more, the result is dropped here.
        let _ = done.send(work());
    };
    let thread = std::thread::Builder::new().name("rdma-rpc-connect".into()).spawn(run);
    let gone = |error: Option<std::io::Error>| {
        let errno = error.and_then(|error| error.raw_os_error());
        let errno = errno.unwrap_or(Errno::AGAIN.raw_os_error());
        failed("rdma_connect", errno, "a thread to connect in")
    };
    thread.map_err(|error| gone(Some(error)))?;
    result.await.unwrap_or_else(|_| Err(gone(None)))
}

async fn established(channel: &EventChannel, id: &CmId) -> Result<(), VerbError> {
    expect(channel, id, ffi::RDMA_CM_EVENT_ESTABLISHED).await
}

/// Waits for an event of one connection.
async fn expect(
    channel: &EventChannel,
    id: &CmId,
    kind: ffi::rdma_cm_event_type,
) -> Result<(), VerbError> {
    loop {
        let event = channel.next().await?;
        if event.is_request() {
            // A stranger at the port we have just been met at.
            drop(event.into_request(id.channel(), &[]));
            continue;
        }
        if event.kind != kind || !event.is_of(id) {
            return Err(event.unexpected("while connecting"));
        }
        return Ok(());
    }
}

/// An established connection. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Connection {
    // Before its channel, which must outlive it.
    id: CmId,
    channel: Arc<EventChannel>,
}

impl Connection {
    /// Ready when the connection has ended, with how.
    pub(super) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        loop {
            let event: Result<Event, VerbError> = ready!(self.channel.poll_next(cx));
            match event {
                Err(error) => return Poll::Ready(error.to_string()),
                Ok(event) if event.is_request() => drop(event.into_request(&self.channel, &[])),
                Ok(event) => return Poll::Ready(format!("the connection manager says {event}")),
            }
        }
    }

    /// Whether [`poll_closed`](Connection::poll_closed) has something to say; asks to be woken
    /// when it has.
    pub(super) fn peek_closed(&mut self, cx: &mut Context<'_>) -> bool {
        self.channel.poll_readable(cx).is_ready()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.id.disconnect();
    }
}
