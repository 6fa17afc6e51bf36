//! One stream socket, TCP or Unix, with everything set that a long-lived connection needs.
//!
//! On TCP: no Nagle delay; keepalive probes and `TCP_USER_TIMEOUT`, so that a vanished host *and*
//! a peer that stopped reading both end the connection after [`Keepalive::timeout`] (Linux
//! counts time spent on a closed window against the user timeout too). A Unix socket's peer is
//! on this host: the kernel tells at once when its process ends, but nothing in the kernel ends a
//! connection to a process that lives and does not read; that is left to the pings of the session.

use std::io::{self, IoSlice, Read};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BufMut;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::Interest;
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::time::Instant;

use crate::address::Address;
#[cfg(target_os = "linux")]
use crate::congestion;

/// When a silent peer counts as gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// How long a connection may be idle before it is probed, and between probes. Rounded up to
    /// whole seconds, which is what the system takes.
    pub interval: Duration,
    /// How long a peer may leave probes or data unanswered, or its window shut, before the
    /// connection ends.
    pub timeout: Duration,
}

impl Default for Keepalive {
    fn default() -> Keepalive {
        Keepalive { interval: Duration::from_secs(10), timeout: Duration::from_secs(20) }
    }
}

/// How sockets are set up.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SocketOptions {
    /// Dead-peer detection; `None` leaves the system's defaults (hours).
    pub keepalive: Option<Keepalive>,
    /// The kernel's send buffer (`SO_SNDBUF`); `None` lets the kernel tune it.
    pub send_buffer_bytes: Option<usize>,
    /// The kernel's receive buffer (`SO_RCVBUF`); `None` lets the kernel tune it.
    pub receive_buffer_bytes: Option<usize>,
    /// The address of this host a client connects from; `None`: the route to the server decides.
    pub local_address: Option<IpAddr>,
}

impl Default for SocketOptions {
    fn default() -> SocketOptions {
        SocketOptions {
            keepalive: Some(Keepalive::default()),
            send_buffer_bytes: None,
            receive_buffer_bytes: None,
            local_address: None,
        }
    }
}

/// A connected stream socket.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(TcpStream),
    /// Unix.
    Unix(UnixStream),
}

/// A socket in no runtime.
#[derive(Debug)]
pub struct DetachedSocket(Detached);

#[derive(Debug)]
enum Detached {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl DetachedSocket {
    /// Puts the socket into the runtime this is called in.
    ///
    /// # Errors
    /// If the runtime cannot watch it.
    pub fn attach(self) -> io::Result<Socket> {
        Ok(match self.0 {
            Detached::Tcp(stream) => Socket::Tcp(TcpStream::from_std(stream)?),
            Detached::Unix(stream) => Socket::Unix(UnixStream::from_std(stream)?),
        })
    }
}

/// Runs the same expression on whichever stream there is.
macro_rules! on_stream {
    ($socket:expr, $stream:ident => $call:expr) => {
        match $socket {
            Socket::Tcp($stream) => $call,
            Socket::Unix($stream) => $call,
        }
    };
}

impl Socket {
    /// Connects, trying each address a name resolves to, all before `deadline`.
    ///
    /// # Errors
    /// The error of the last address tried, its text saying which it was and what to look at.
    pub async fn connect(
        address: &Address,
        options: &SocketOptions,
        deadline: Instant,
    ) -> io::Result<Socket> {
        let socket = match address {
            Address::Unix(path) => {
                let connected = tokio::time::timeout_at(deadline, UnixStream::connect(path)).await;
                let stream = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                Socket::Unix(stream.map_err(|error| explain_connect(address, None, &error))?)
            }
            Address::Tcp { host, port } => {
                let found = tokio::time::timeout_at(
                    deadline,
                    tokio::net::lookup_host((host.as_str(), *port)),
                )
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
                .map_err(|error| {
                    io::Error::new(error.kind(), format!("cannot resolve {host:?}: {error}"))
                })?;
                let addresses: Vec<SocketAddr> = found.collect();
                Socket::Tcp(connect_any(address, &addresses, options, deadline).await?)
            }
        };
        socket.set_up(options)?;
        Ok(socket)
    }

    /// Takes over a connected TCP stream.
    ///
    /// # Errors
    /// If a socket option cannot be set.
    pub fn from_tcp(stream: TcpStream, options: &SocketOptions) -> io::Result<Socket> {
        let socket = Socket::Tcp(stream);
        socket.set_up(options)?;
        Ok(socket)
    }

    /// Takes over a connected Unix stream.
    ///
    /// # Errors
    /// If a socket option cannot be set.
    pub fn from_unix(stream: UnixStream, options: &SocketOptions) -> io::Result<Socket> {
        let socket = Socket::Unix(stream);
        socket.set_up(options)?;
        Ok(socket)
    }

    fn set_up(&self, options: &SocketOptions) -> io::Result<()> {
        let raw = on_stream!(self, stream => SockRef::from(stream));
        if let Some(bytes) = options.send_buffer_bytes {
            name_option("SO_SNDBUF", raw.set_send_buffer_size(bytes))?;
        }
        if let Some(bytes) = options.receive_buffer_bytes {
            name_option("SO_RCVBUF", raw.set_recv_buffer_size(bytes))?;
        }
        if let Socket::Tcp(stream) = self {
            name_option("TCP_NODELAY", stream.set_nodelay(true))?;
            if let Some(keepalive) = options.keepalive {
                set_keepalive(&raw, keepalive)?;
            }
            #[cfg(target_os = "linux")]
            if congestion::is_within_host(stream) {
                congestion::within_host(&raw);
            }
        }
        Ok(())
    }

    /// Takes the socket out of its runtime, to be put into another.
    ///
    /// # Errors
    /// If it cannot be taken out.
    pub fn detach(self) -> io::Result<DetachedSocket> {
        Ok(DetachedSocket(match self {
            Socket::Tcp(stream) => Detached::Tcp(stream.into_std()?),
            Socket::Unix(stream) => Detached::Unix(stream.into_std()?),
        }))
    }

    /// Whether this is a Unix socket.
    pub fn is_unix(&self) -> bool {
        matches!(self, Socket::Unix(_))
    }

    /// This end's address, for people.
    pub fn local_text(&self) -> String {
        match self {
            Socket::Tcp(stream) => text_of(stream.local_addr()),
            Socket::Unix(stream) => unix_text(stream.local_addr()),
        }
    }

    /// This end's IP address: the way to the peer. `None` on a Unix socket.
    pub fn local_ip(&self) -> Option<IpAddr> {
        match self {
            Socket::Tcp(stream) => Some(stream.local_addr().ok()?.ip().to_canonical()),
            Socket::Unix(_) => None,
        }
    }

    /// The other end's address, for people. A Unix peer that has no path is named by its process.
    pub fn peer_text(&self) -> String {
        match self {
            Socket::Tcp(stream) => text_of(stream.peer_addr()),
            Socket::Unix(stream) => {
                let text = unix_text(stream.peer_addr());
                match stream.peer_cred().ok().and_then(|credentials| credentials.pid()) {
                    Some(pid) if text == "unix:" => format!("unix:pid {pid}"),
                    _ => text,
                }
            }
        }
    }

    /// Ready when a read may bring something: bytes, the end, or an error.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(self, stream => stream.poll_read_ready(cx))
    }

    /// Ready when a write may take something.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(self, stream => stream.poll_write_ready(cx))
    }

    /// Reads what is there. A read that does not fill `buf` has emptied the socket, so the
    /// readiness is cleared with it and the next `try_read` costs no system call until the
    /// selector reports new bytes (the same rule tokio's own `poll_read` follows).
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing; whatever the system says otherwise.
    pub fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        let mut got = None;
        let full = buf.len();
        let outcome = {
            let read = || {
                let raw = on_stream!(self, stream => SockRef::from(stream));
                let n = (&*raw).read(buf)?;
                got = Some(n);
                if n == full { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
            };
            on_stream!(self, stream => stream.try_io(Interest::READABLE, read))
        };
        match (got, outcome) {
            (Some(n), _) => Ok(n),
            (None, Err(error)) => Err(error),
            (None, Ok(())) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Reads what is there without asking the runtime whether there is anything: a system call in any
    /// case. The runtime may say later that there is something to read, and be wrong.
    ///
    /// # Errors
    /// As [`Socket::try_read`].
    pub fn read_unasked(&self, buf: &mut [u8]) -> io::Result<usize> {
        let raw = on_stream!(self, stream => SockRef::from(stream));
        (&*raw).read(buf)
    }

    /// Whether packets arrive on the CPU on which the peer has sent them: those of TCP within a host.
    pub(crate) fn arrives_where_sent(&self) -> bool {
        #[cfg(target_os = "linux")]
        return matches!(self, Socket::Tcp(stream) if congestion::is_within_host(stream));
        #[cfg(not(target_os = "linux"))]
        false
    }

    /// Whether the last packet arrived on the CPU that runs this (SO_INCOMING_CPU, socket(7)).
    pub(crate) fn has_arrived_here(&self) -> bool {
        #[cfg(target_os = "linux")]
        if let Socket::Tcp(stream) = self {
            let cpu = SockRef::from(stream).cpu_affinity();
            return cpu.is_ok_and(|cpu| cpu == rustix::thread::sched_getcpu());
        }
        false
    }

    /// Reads into the spare room of `buf`.
    ///
    /// # Errors
    /// As [`Socket::try_read`].
    pub fn try_read_buf<B: BufMut>(&self, buf: &mut B) -> io::Result<usize> {
        on_stream!(self, stream => stream.try_read_buf(buf))
    }

    /// Writes as much of `pieces` as the socket takes.
    ///
    /// # Errors
    /// `WouldBlock` when it takes nothing now; whatever the system says otherwise.
    pub fn try_write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        on_stream!(self, stream => stream.try_write_vectored(pieces))
    }

    /// Writes as much of `buf` as the socket takes.
    ///
    /// # Errors
    /// As [`Socket::try_write_vectored`].
    pub fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
        on_stream!(self, stream => stream.try_write(buf))
    }

    /// Tells the peer that nothing more will come from this end.
    ///
    /// # Errors
    /// Whatever the system says; a peer that is gone already is not an error.
    pub fn shutdown_write(&self) -> io::Result<()> {
        let raw = on_stream!(self, stream => SockRef::from(stream));
        match raw.shutdown(Shutdown::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            other => other,
        }
    }

    /// Polls for the peer's end of stream, throwing away what still arrives.
    fn poll_drained(&self, cx: &mut Context<'_>, budget_bytes: &mut usize) -> Poll<()> {
        let mut sink = [0; 4096];
        loop {
            if ready!(self.poll_read_ready(cx)).is_err() || *budget_bytes == 0 {
                return Poll::Ready(());
            }
            match self.try_read(&mut sink) {
                Ok(0) => return Poll::Ready(()),
                Ok(n) => *budget_bytes = budget_bytes.saturating_sub(n),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Poll::Ready(()),
            }
        }
    }
}

/// How long [`linger`] waits for the peer to close.
pub(crate) const LINGER: Duration = Duration::from_secs(2);

/// Bytes [`linger`] throws away before it gives up.
const LINGER_BYTES: usize = 1 << 20;

/// Keeps a socket whose writing side is shut until the peer has closed too. Closing at once
/// while unread bytes lie in the receive buffer would send a reset, and a reset destroys what
/// the peer has not read yet.
pub(crate) async fn linger(socket: Socket) {
    let mut budget_bytes = LINGER_BYTES;
    let drained = std::future::poll_fn(|cx| socket.poll_drained(cx, &mut budget_bytes));
    let _ = tokio::time::timeout(LINGER, drained).await;
}

/// Tries the addresses in turn, each with an equal share of the time left.
async fn connect_any(
    address: &Address,
    addresses: &[SocketAddr],
    options: &SocketOptions,
    deadline: Instant,
) -> io::Result<TcpStream> {
    let mut last = io::Error::new(
        io::ErrorKind::NotFound,
        format!("{address} resolves to no address: check the name"),
    );
    for (tried, &peer) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / (addresses.len() - tried) as u32;
        match tokio::time::timeout(share, connect_one(peer, options)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = explain_connect(address, Some(peer), &error),
            Err(_) => {
                last = explain_connect(address, Some(peer), &io::ErrorKind::TimedOut.into());
            }
        }
    }
    Err(last)
}

async fn connect_one(peer: SocketAddr, options: &SocketOptions) -> io::Result<TcpStream> {
    let socket = if peer.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(local) = options.local_address {
        socket.bind(SocketAddr::new(local, 0)).map_err(|error| {
            io::Error::new(error.kind(), format!("binding to tcp.local_address {local}: {error}"))
        })?;
    }
    #[cfg(target_os = "linux")]
    congestion::before_connect(&SockRef::from(&socket), peer);
    socket.connect(peer).await
}

fn explain_connect(address: &Address, peer: Option<SocketAddr>, error: &io::Error) -> io::Error {
    let name = match peer {
        Some(peer) if peer.to_string() != address.to_string() => format!("{address} ({peer})"),
        _ => address.to_string(),
    };
    let advice = match error.kind() {
        io::ErrorKind::ConnectionRefused => ": no server listens there",
        io::ErrorKind::NotFound => ": no server has made this socket",
        io::ErrorKind::PermissionDenied => ": this user may not open it",
        io::ErrorKind::TimedOut => ": nothing answered in time",
        _ => "",
    };
    io::Error::new(error.kind(), format!("cannot connect to {name}: {error}{advice}"))
}

fn set_keepalive(raw: &SockRef<'_>, keepalive: Keepalive) -> io::Result<()> {
    let whole_seconds = keepalive.interval.as_millis().div_ceil(1000).clamp(1, 32_767) as u64;
    let interval = Duration::from_secs(whole_seconds);
    let retries = keepalive.timeout.as_secs().div_ceil(whole_seconds).clamp(1, 127) as u32;
    let params = TcpKeepalive::new().with_time(interval).with_interval(interval);
    #[cfg(target_os = "linux")]
    let params = params.with_retries(retries);
    name_option("SO_KEEPALIVE", raw.set_tcp_keepalive(&params))?;
    #[cfg(target_os = "linux")]
    name_option("TCP_USER_TIMEOUT", raw.set_tcp_user_timeout(Some(keepalive.timeout)))?;
    Ok(())
}

fn name_option(option: &str, outcome: io::Result<()>) -> io::Result<()> {
    outcome.map_err(|error| io::Error::new(error.kind(), format!("cannot set {option}: {error}")))
}

fn text_of(address: io::Result<SocketAddr>) -> String {
    address.map_or_else(|_| "unknown".to_string(), |address| address.to_string())
}

fn unix_text(address: io::Result<tokio::net::unix::SocketAddr>) -> String {
    match address {
        Ok(address) => match address.as_pathname() {
            Some(path) => format!("unix:{}", path.display()),
            None => "unix:".to_string(),
        },
        Err(_) => "unknown".to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn options_reach_the_kernel() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: Address = listener.local_addr().unwrap().to_string().parse().unwrap();
        let options = SocketOptions {
            keepalive: Some(Keepalive {
                interval: Duration::from_millis(2500),
                timeout: Duration::from_secs(7),
            }),
            ..SocketOptions::default()
        };
        let deadline = Instant::now() + Duration::from_secs(5);
        let socket = Socket::connect(&address, &options, deadline).await.unwrap();
        let Socket::Tcp(stream) = &socket else { panic!("not tcp") };
        let raw = SockRef::from(stream);
        assert!(stream.nodelay().unwrap());
        assert!(raw.keepalive().unwrap());
        assert_eq!(raw.tcp_keepalive_time().unwrap(), Duration::from_secs(3));
        assert_eq!(raw.tcp_keepalive_interval().unwrap(), Duration::from_secs(3));
        assert_eq!(raw.tcp_keepalive_retries().unwrap(), 3);
        assert_eq!(raw.tcp_user_timeout().unwrap(), Some(Duration::from_secs(7)));
    }

    #[tokio::test]
    async fn a_refused_connection_names_the_address() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: Address = listener.local_addr().unwrap().to_string().parse().unwrap();
        drop(listener);
        let deadline = Instant::now() + Duration::from_secs(5);
        let error =
            Socket::connect(&address, &SocketOptions::default(), deadline).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(error.to_string().contains(&address.to_string()), "{error}");
        assert!(error.to_string().contains("no server listens"), "{error}");

        let missing = Address::unix("/nonexistent/rpc.sock").unwrap();
        let error =
            Socket::connect(&missing, &SocketOptions::default(), deadline).await.unwrap_err();
        assert!(error.to_string().contains("/nonexistent/rpc.sock"), "{error}");
        assert!(error.to_string().contains("no server has made"), "{error}");
    }

    #[tokio::test]
    async fn a_short_read_clears_readiness_and_new_bytes_set_it_again() {
        let (a, b) = UnixStream::pair().unwrap();
        let a = Socket::from_unix(a, &SocketOptions::default()).unwrap();
        let b = Socket::from_unix(b, &SocketOptions::default()).unwrap();
        let mut buf = [0; 64];
        for round in 0..200_u8 {
            b.try_write(&[round]).unwrap();
            std::future::poll_fn(|cx| a.poll_read_ready(cx)).await.unwrap();
            assert_eq!(a.try_read(&mut buf).unwrap(), 1);
            assert_eq!(buf[0], round);
            let again = a.try_read(&mut buf).unwrap_err();
            assert_eq!(again.kind(), io::ErrorKind::WouldBlock);
        }
        drop(b);
        std::future::poll_fn(|cx| a.poll_read_ready(cx)).await.unwrap();
        assert_eq!(a.try_read(&mut buf).unwrap(), 0);
    }

    /// Whoever polls where its peer waits to run keeps it from running.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_socket_within_a_host_knows_whether_what_came_was_sent_on_this_cpu() {
        use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (a, accepted) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let a = Socket::from_tcp(a.unwrap(), &SocketOptions::default()).unwrap();
        let b = Socket::from_tcp(accepted.unwrap().0, &SocketOptions::default()).unwrap();
        assert!(a.arrives_where_sent() && b.arrives_where_sent());
        let allowed = sched_getaffinity(None).unwrap();
        let go_to = |cpu| {
            let mut only = CpuSet::new();
            only.set(cpu);
            sched_setaffinity(None, &only).unwrap();
        };
        let cpus: Vec<_> =
            (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).take(2).collect();
        for sends in &cpus {
            go_to(*sends);
            a.try_write(&[1]).unwrap();
            std::future::poll_fn(|cx| b.poll_read_ready(cx)).await.unwrap();
            b.try_read(&mut [0; 8]).unwrap();
            for reads in &cpus {
                go_to(*reads);
                assert_eq!(b.has_arrived_here(), reads == sends, "from CPU {sends} to {reads}");
            }
        }
        sched_setaffinity(None, &allowed).unwrap();
        let (c, _d) = UnixStream::pair().unwrap();
        assert!(!Socket::from_unix(c, &SocketOptions::default()).unwrap().arrives_where_sent());
    }
}
