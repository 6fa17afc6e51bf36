//! Connecting: an abstract socket with a name nobody can guess, and one hello each way.
//!
//! ```text
//!   server                                  client
//!   bind an abstract socket
//!   ticket (name, token) --- bootstrap ---> connect; look at the listener's uid
//!   accept                   <-- socket --- hello: token, depths, control memfd, eventfd
//!   look at token and uid
//!   hello: the same          --- socket --> look at it
//! ```
//!
//! Names of abstract sockets can be read in /proc/net/unix, so the name is no secret; the token
//! is, and a connection without it is a stranger's: dropped, and the next one taken.
//!
//! Nothing here has a time limit of its own except a stranger's hello: put `tokio::time::timeout`
//! around it. Dropping any of these futures closes everything it made. They panic outside of a
//! tokio runtime with I/O and time enabled.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::unix::AsyncFd;

use super::config::ShmConfig;
use super::control::{ControlBlock, block_bytes};
use super::cq_ring::MAX_CAPACITY;
use super::error::ShmError;
use super::event;
use super::fdpass::{self, Hello, Incoming, Message, Sent, TOKEN_BYTES};
use super::mapping::Mapping;
use super::mark::{self, Mark};
use super::memfd::OfferedMemfd;
use super::notify;
use super::peer::Peer;
use super::qp::{Parts, ShmQueuePair};

const NAME_BYTES: usize = 16;
/// Connections that wait to be accepted: the rightful one, and strangers.
const BACKLOG: i32 = 16;
/// How soon a full backlog is tried again.
const BACKLOG_RETRY: Duration = Duration::from_millis(1);

/// What a client needs to connect. It is a secret between the two ends.
#[derive(Clone, PartialEq, Eq)]
pub struct ShmTicket {
    name: [u8; NAME_BYTES],
    token: [u8; TOKEN_BYTES],
}

impl std::fmt::Debug for ShmTicket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShmTicket").finish_non_exhaustive()
    }
}

impl ShmTicket {
    /// Length of a ticket, in bytes.
    pub const BYTES: usize = NAME_BYTES + TOKEN_BYTES;

    fn random() -> Result<ShmTicket, ShmError> {
        let mut bytes = [0; ShmTicket::BYTES];
        getrandom::fill(&mut bytes).map_err(|error| {
            ShmError::io("getrandom", &error.into(), "making a name nobody can guess")
        })?;
        Ok(ShmTicket::from_bytes(bytes))
    }

    /// The ticket as it came from the server.
    pub fn from_bytes(bytes: [u8; ShmTicket::BYTES]) -> ShmTicket {
        let (mut name, mut token) = ([0; NAME_BYTES], [0; TOKEN_BYTES]);
        name.copy_from_slice(&bytes[..NAME_BYTES]);
        token.copy_from_slice(&bytes[NAME_BYTES..]);
        ShmTicket { name, token }
    }

    /// The ticket's bytes, to be sent to the client.
    pub fn to_bytes(&self) -> [u8; ShmTicket::BYTES] {
        let mut bytes = [0; ShmTicket::BYTES];
        bytes[..NAME_BYTES].copy_from_slice(&self.name);
        bytes[NAME_BYTES..].copy_from_slice(&self.token);
        bytes
    }

    fn address(&self) -> Result<SocketAddrUnix, ShmError> {
        let hex: String = self.name.iter().map(|byte| format!("{byte:02x}")).collect();
        SocketAddrUnix::new_abstract_name(format!("rdma-rpc-{hex}").as_bytes())
            .map_err(|errno| ShmError::verb("bind", errno, "an abstract Unix socket's name"))
    }

    /// Whether this is the token, in a time that does not tell how much of it is right.
    fn admits(&self, token: &[u8; TOKEN_BYTES]) -> bool {
        self.token.iter().zip(token).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
    }
}

/// Waits for one client.
#[derive(Debug)]
pub struct ShmListener {
    socket: OwnedFd,
    ticket: ShmTicket,
}

impl ShmListener {
    /// Listens on a new abstract socket.
    pub fn bind() -> Result<ShmListener, ShmError> {
        let ticket = ShmTicket::random()?;
        let socket = new_socket()?;
        rustix::net::bind(&socket, &ticket.address()?)
            .and_then(|()| rustix::net::listen(&socket, BACKLOG))
            .map_err(|errno| ShmError::verb("bind", errno, "an abstract Unix socket"))?;
        Ok(ShmListener { socket, ticket })
    }

    /// What the client needs.
    pub fn ticket(&self) -> &ShmTicket {
        &self.ticket
    }

    /// Waits for the client that has the ticket, and makes the queue pair. Strangers are dropped.
    ///
    /// # Cancel safety
    /// Dropping the future closes everything it made.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O and time enabled.
    pub async fn accept(self, config: &ShmConfig) -> Result<ShmQueuePair, ShmError> {
        config.validate()?;
        let listener = watch(self.socket)?;
        loop {
            let socket = watch(accept_one(&listener).await?)?;
            let hello = receive_hello(&socket);
            let Ok(incoming) = tokio::time::timeout(config.hello_timeout, hello).await else {
                tracing::debug!("shm: a stranger connected and said nothing");
                continue;
            };
            let (hello, fds) = match incoming {
                Ok((hello, fds)) if self.ticket.admits(&hello.token) => (hello, fds),
                Ok(_) => {
                    tracing::debug!("shm: a stranger connected with the wrong token");
                    continue;
                }
                Err(error) => {
                    tracing::debug!(%error, "shm: a stranger connected");
                    continue;
                }
            };
            let peer = Peer::check(socket.get_ref(), config)?;
            let own = Prepared::new(config)?;
            own.send_hello(socket.get_ref(), config, &self.ticket)?;
            let parts = own.join(config, socket.into_inner(), hello, fds, peer)?;
            return Ok(ShmQueuePair::new(parts));
        }
    }
}

/// A client that has said hello and waits for the server's.
#[derive(Debug)]
pub struct ShmConnecting {
    socket: AsyncFd<OwnedFd>,
    own: Prepared,
    peer: Peer,
    ticket: ShmTicket,
}

impl ShmConnecting {
    /// Connects and says hello. The server may accept any time after this.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O and time enabled.
    pub async fn start(ticket: &ShmTicket, config: &ShmConfig) -> Result<ShmConnecting, ShmError> {
        config.validate()?;
        let socket = new_socket()?;
        let address = ticket.address()?;
        loop {
            match rustix::net::connect(&socket, &address) {
                Ok(()) => break,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => tokio::time::sleep(BACKLOG_RETRY).await,
                Err(errno) => {
                    let context = "the server's abstract Unix socket; ECONNREFUSED: the server \
                                   has given up, or lives in another network namespace";
                    return Err(ShmError::verb("connect", errno, context));
                }
            }
        }
        let peer = Peer::check(&socket, config)?;
        let own = Prepared::new(config)?;
        own.send_hello(&socket, config, ticket)?;
        Ok(ShmConnecting { socket: watch(socket)?, own, peer, ticket: ticket.clone() })
    }

    /// Waits for the server's hello, and makes the queue pair.
    ///
    /// # Cancel safety
    /// Dropping the future closes everything it made.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O and time enabled.
    pub async fn finish(self, config: &ShmConfig) -> Result<ShmQueuePair, ShmError> {
        let (hello, fds) = receive_hello(&self.socket).await?;
        if !self.ticket.admits(&hello.token) {
            return Err(misbehaved("its hello carries another token"));
        }
        let socket = self.socket.into_inner();
        let parts = self.own.join(config, socket, hello, fds, self.peer)?;
        Ok(ShmQueuePair::new(parts))
    }
}

impl ShmQueuePair {
    /// Connects to the server that made the ticket.
    ///
    /// # Cancel safety
    /// Dropping the future closes everything it made.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O and time enabled.
    pub async fn connect(ticket: &ShmTicket, config: &ShmConfig) -> Result<ShmQueuePair, ShmError> {
        ShmConnecting::start(ticket, config).await?.finish(config).await
    }

    /// Two connected queue pairs in this process, for tests and benchmarks. Needs no runtime.
    pub fn pair(config: &ShmConfig) -> Result<(ShmQueuePair, ShmQueuePair), ShmError> {
        ShmQueuePair::pair_of(config, config)
    }

    /// As [`ShmQueuePair::pair`], of two that are set differently.
    pub fn pair_of(a: &ShmConfig, b: &ShmConfig) -> Result<(ShmQueuePair, ShmQueuePair), ShmError> {
        a.validate()?;
        b.validate()?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let sockets =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
        let (of_a, of_b) = sockets
            .map_err(|errno| ShmError::verb("socketpair", errno, "EMFILE: raise RLIMIT_NOFILE"))?;
        let ticket = ShmTicket::random()?;
        let (own_a, own_b) = (Prepared::new(a)?, Prepared::new(b)?);
        own_a.send_hello(&of_a, a, &ticket)?;
        own_b.send_hello(&of_b, b, &ticket)?;
        let (hello_b, fds_b) = hello_of(fdpass::receive(&of_a))?;
        let (hello_a, fds_a) = hello_of(fdpass::receive(&of_b))?;
        let first = own_a.join(a, of_a, hello_b, fds_b, Peer::this_process())?;
        let second = own_b.join(b, of_b, hello_a, fds_a, Peer::this_process())?;
        Ok((ShmQueuePair::new(first), ShmQueuePair::new(second)))
    }
}

/// This side's half of a connection.
#[derive(Debug)]
struct Prepared {
    control: Mapping,
    control_fd: OwnedFd,
    event: OwnedFd,
    /// What the peer may know our memory by.
    mark: Option<&'static Mark>,
}

impl Prepared {
    fn new(config: &ShmConfig) -> Result<Prepared, ShmError> {
        let (control, control_fd) = Mapping::for_both(block_bytes(config.receive_depth))?;
        let mark = if config.direct_reads { mark::own() } else { None };
        Ok(Prepared { control, control_fd, event: notify::new_event()?, mark })
    }

    fn send_hello(
        &self,
        socket: &OwnedFd,
        config: &ShmConfig,
        ticket: &ShmTicket,
    ) -> Result<(), ShmError> {
        let hello = Message::Hello(Hello {
            token: ticket.token,
            receive_depth: config.receive_depth,
            max_regions: config.max_peer_regions,
            max_bytes: config.max_peer_bytes,
            mark_at: self.mark.map_or(0, Mark::address),
        });
        match fdpass::send(socket, &hello, &[self.control_fd.as_fd(), self.event.as_fd()]) {
            Sent::Yes => Ok(()),
            // The socket is new: only descriptors in flight can be too many.
            Sent::Full => Err(ShmError::verb(
                "sendmsg",
                Errno::TOOMANYREFS,
                "too many descriptors in flight; raise RLIMIT_NOFILE (ulimit -n)",
            )),
            Sent::Closed => Err(misbehaved("it closed the socket during the hello")),
            Sent::Failed(errno) => Err(ShmError::verb("sendmsg", errno, "saying hello")),
        }
    }

    fn join(
        self,
        config: &ShmConfig,
        socket: OwnedFd,
        peer_hello: Hello,
        fds: Vec<OwnedFd>,
        peer: Peer,
    ) -> Result<Parts, ShmError> {
        let depth = peer_hello.receive_depth;
        if !depth.is_power_of_two() || depth > MAX_CAPACITY {
            return Err(misbehaved(format!("its hello has a receive depth of {depth}")));
        }
        let [control_fd, peer_event] = <[OwnedFd; 2]>::try_from(fds)
            .map_err(|fds| misbehaved(format!("its hello has {} descriptors", fds.len())))?;
        let memfd = OfferedMemfd::check(control_fd, block_bytes(depth)).map_err(misbehaved)?;
        notify::check_event(&peer_event).map_err(misbehaved)?;
        Ok(Parts {
            config: config.clone(),
            own: ControlBlock::new(self.control, config.receive_depth),
            own_event: self.event,
            peer: ControlBlock::new(Mapping::of_peer(&memfd, true)?, depth),
            peer_event,
            peer_memory: if config.direct_reads { peer.memory(peer_hello.mark_at) } else { None },
            peer_hello,
            showed_mark: self.mark.is_some(),
            socket,
            peer_name: peer.name,
        })
    }
}

fn misbehaved(what: impl Into<String>) -> ShmError {
    ShmError::Misbehaved { what: what.into() }
}

fn new_socket() -> Result<OwnedFd, ShmError> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).map_err(
        |errno| {
            let context = "a Unix socket; EMFILE: raise RLIMIT_NOFILE (ulimit -n)";
            ShmError::verb("socket", errno, context)
        },
    )
}

fn watch(socket: OwnedFd) -> Result<AsyncFd<OwnedFd>, ShmError> {
    event::watch(socket)
        .map_err(|error| ShmError::io("epoll_ctl", &error, "watching a Unix socket"))
}

async fn accept_one(listener: &AsyncFd<OwnedFd>) -> Result<OwnedFd, ShmError> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    loop {
        let failed = |error: io::Error| ShmError::io("epoll_wait", &error, "waiting for a client");
        let mut ready = listener.readable().await.map_err(failed)?;
        match rustix::net::accept_with(listener.get_ref(), flags) {
            Ok(socket) => return Ok(socket),
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            Err(errno) => {
                let context = "a client; EMFILE: raise RLIMIT_NOFILE (ulimit -n)";
                return Err(ShmError::verb("accept", errno, context));
            }
        }
    }
}

async fn receive_hello(socket: &AsyncFd<OwnedFd>) -> Result<(Hello, Vec<OwnedFd>), ShmError> {
    loop {
        let failed = |error: io::Error| ShmError::io("epoll_wait", &error, "waiting for a hello");
        let mut ready = socket.readable().await.map_err(failed)?;
        match fdpass::receive(socket.get_ref()) {
            Incoming::Empty => ready.clear_ready(),
            other => return hello_of(other),
        }
    }
}

fn hello_of(incoming: Incoming) -> Result<(Hello, Vec<OwnedFd>), ShmError> {
    match incoming {
        Incoming::Message(Message::Hello(hello), fds) => Ok((hello, fds)),
        Incoming::Message(other, _) => Err(misbehaved(format!("{other:?} instead of a hello"))),
        Incoming::Garbage(what) => Err(misbehaved(what)),
        Incoming::Closed | Incoming::Empty => Err(misbehaved("it closed before its hello")),
        Incoming::Failed(errno) => Err(ShmError::verb("recvmsg", errno, "a hello")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_travel_as_bytes_and_are_all_different() {
        let ticket = ShmTicket::random().unwrap();
        let copy = ShmTicket::from_bytes(ticket.to_bytes());
        assert!(copy == ticket && copy.admits(&ticket.token));
        assert!(ShmTicket::random().unwrap() != ticket);
        let mut wrong = ticket.token;
        wrong[TOKEN_BYTES - 1] ^= 1;
        assert!(!ticket.admits(&wrong));
        assert!(!format!("{ticket:?}").contains("token: ["), "a secret must not be logged");
    }

    fn hello_with(depth: u32) -> Hello {
        let token = [0; TOKEN_BYTES];
        Hello { token, receive_depth: depth, max_regions: 1, max_bytes: 1, mark_at: 0 }
    }

    #[test]
    fn a_mark_that_is_not_there_costs_only_direct_reads() {
        let config = ShmConfig::default();
        let real = mark::own().unwrap().address();
        for (mark_at, can) in [(0, false), (4096, false), (u64::MAX, false), (real, true)] {
            let own = Prepared::new(&config).unwrap();
            let (socket, _other) = fdpass::tests::socket_pair();
            let (_, control) = Mapping::for_both(block_bytes(64)).unwrap();
            let fds = vec![control, notify::new_event().unwrap()];
            let hello = Hello { mark_at, ..hello_with(64) };
            let parts = own.join(&config, socket, hello, fds, Peer::this_process()).unwrap();
            assert_eq!((parts.peer_memory.is_some(), parts.showed_mark), (can, true));
        }
    }

    #[test]
    fn lying_hellos_are_refused() {
        let config = ShmConfig::default();
        let join = |depth: u32, fds: Vec<OwnedFd>| {
            let own = Prepared::new(&config).unwrap();
            let (socket, _other) = fdpass::tests::socket_pair();
            let peer = Peer::this_process();
            own.join(&config, socket, hello_with(depth), fds, peer).unwrap_err()
        };
        let good = || {
            let (_, control) = Mapping::for_both(block_bytes(64)).unwrap();
            (control, notify::new_event().unwrap())
        };
        for depth in [0, 3, 1 << 17, u32::MAX] {
            let (control, event) = good();
            assert!(join(depth, vec![control, event]).to_string().contains("receive depth"));
        }
        let (control, event) = good();
        assert!(join(4096, vec![control, event]).to_string().contains("bytes"), "too short");
        let (control, event) = good();
        assert!(join(64, vec![event, control]).to_string().contains("memfd"));
        let (control, _event) = good();
        assert!(join(64, vec![control]).to_string().contains("1 descriptors"));
        let unsealed = super::super::memfd::create(block_bytes(64)).unwrap();
        let error = join(64, vec![unsealed, notify::new_event().unwrap()]);
        assert!(error.to_string().contains("truncated"), "{error}");
    }
}
