//! Connections within a host do without BBR, where it is the system's choice.
//!
//! There is no path whose bandwidth and delay it could learn. Its window of sixteen segments (of
//! 64 KiB there) ends just before a mebibyte does, its probes send again what is already there, and it has its
//! sockets paced: segments wait for a timer of the kernel's. A socket that was paced once stays so
//! whatever takes BBR's place (`sk_pacing_status`, which the kernel's `tcp_bbr.c` sets and nothing takes back), so
//! another has to be there before the connection is established: cubic on connections that had begun with BBR
//! carried half as many calls of 64 KiB on eight of them.
//!
//! Before that a client knows by the route whether its peer is on this host. A listener does not: all
//! its connections begin without, and those from elsewhere get the system's choice back before
//! anything is sent.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};

/// What connections of a listener begin with: every kernel has it and lets everybody have it, and
/// hardly anybody chooses it for a route, as which it would have to stay.
const PLAIN: &[u8] = b"reno";

/// What connections within the host have in the end, if there is that.
const WITHIN_HOST: &[u8] = b"cubic";

/// Whether both ends are on this host, so that nothing but its kernel lies between.
pub(crate) fn is_within_host(stream: &TcpStream) -> bool {
    match (stream.local_addr(), stream.peer_addr()) {
        (Ok(local), Ok(peer)) => peer.ip().is_loopback() || peer.ip() == local.ip(),
        _ => false,
    }
}

/// For a socket that is about to connect to `peer`.
pub(crate) fn before_connect(raw: &SockRef<'_>, peer: SocketAddr) {
    if has_bbr(raw) && leads_here(peer) {
        leave_bbr(raw);
    }
}

/// For a socket that is connected, however that came: what can be done now is done.
pub(crate) fn within_host(raw: &SockRef<'_>) {
    if has_bbr(raw) {
        leave_bbr(raw);
    }
}

/// What a listener's connections from elsewhere are to have: the system's choice.
#[derive(Debug)]
pub(crate) struct Elsewhere {
    /// `None`: they have it.
    name: Option<Vec<u8>>,
}

impl Elsewhere {
    /// Has the listener's connections begin without BBR.
    pub(crate) fn of(listener: &TcpListener) -> Elsewhere {
        let raw = SockRef::from(listener);
        let name = raw.tcp_congestion().ok().filter(|name| is_bbr(name));
        Elsewhere { name: name.filter(|_| raw.set_tcp_congestion(PLAIN).is_ok()) }
    }

    /// A connection was accepted.
    pub(crate) fn accepted(&self, stream: &TcpStream) {
        if let Some(name) = &self.name {
            let chosen = if is_within_host(stream) { WITHIN_HOST } else { trimmed(name) };
            Elsewhere::choose(&SockRef::from(stream), chosen);
        }
    }

    fn choose(raw: &SockRef<'_>, chosen: &[u8]) {
        // A route may have a choice of its own (ip-route(8), congctl).
        if !has(raw, PLAIN) {
            return;
        }
        if let Err(error) = raw.set_tcp_congestion(chosen) {
            let (chosen, plain) = (chosen.escape_ascii(), PLAIN.escape_ascii());
            tracing::debug!(%error, "a connection has {plain} for its congestion control, not {chosen}");
        }
    }
}

/// A name as the kernel gives it may end in zeros.
fn trimmed(name: &[u8]) -> &[u8] {
    let len = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    &name[..len]
}

fn has(raw: &SockRef<'_>, name: &[u8]) -> bool {
    raw.tcp_congestion().is_ok_and(|has| trimmed(&has) == name)
}

/// Of any version.
fn is_bbr(name: &[u8]) -> bool {
    name.starts_with(b"bbr")
}

fn has_bbr(raw: &SockRef<'_>) -> bool {
    raw.tcp_congestion().is_ok_and(|name| is_bbr(&name))
}

fn leave_bbr(raw: &SockRef<'_>) {
    let left = raw.set_tcp_congestion(WITHIN_HOST).or_else(|_| raw.set_tcp_congestion(PLAIN));
    if let Err(error) = left {
        tracing::debug!(%error, "a connection within this host stays with BBR");
    }
}

/// Whether the way to an address ends on this host: what is sent there has the address itself for its
/// source. A datagram socket that is connected sends nothing.
fn leads_here(peer: SocketAddr) -> bool {
    if peer.ip().is_loopback() {
        return true;
    }
    let any: IpAddr = match peer {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let source = || -> io::Result<IpAddr> {
        let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
        socket.connect(peer)?;
        Ok(socket.local_addr()?.ip())
    };
    source().is_ok_and(|source| source == peer.ip())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpSocket;

    use super::*;

    const BBR: &[u8] = b"bbr";

    /// A socket whose system has chosen BBR. `None`: this kernel does not have it.
    fn socket() -> Option<TcpSocket> {
        let socket = TcpSocket::new_v4().unwrap();
        SockRef::from(&socket).set_tcp_congestion(BBR).is_ok().then_some(socket)
    }

    #[test]
    fn the_way_to_an_address_of_this_host_ends_here() {
        assert!(leads_here("127.0.0.1:80".parse().unwrap()));
        assert!(leads_here("127.8.7.6:80".parse().unwrap()));
        assert!(leads_here("[::1]:80".parse().unwrap()));
        // TEST-NET-1 (RFC 5737): nobody's. Without any route it leads nowhere.
        assert!(!leads_here("192.0.2.1:80".parse().unwrap()));
        let source = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
            socket.connect("192.0.2.1:80")?;
            socket.local_addr()
        });
        if let Ok(source) = source {
            assert!(leads_here(SocketAddr::new(source.ip(), 80)), "{source} is ours");
        }
    }

    /// A socket that has been established with BBR once is paced for ever.
    #[tokio::test]
    async fn connections_within_the_host_have_never_had_bbr() {
        let Some(listening) = socket() else { return };
        listening.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = listening.listen(8).unwrap();
        let elsewhere = Elsewhere::of(&listener);
        assert_eq!(elsewhere.name.as_deref().map(trimmed), Some(BBR));
        let address = listener.local_addr().unwrap();

        let connecting = socket().unwrap();
        before_connect(&SockRef::from(&connecting), "192.0.2.1:80".parse().unwrap());
        assert!(has(&SockRef::from(&connecting), BBR), "it is for elsewhere");
        before_connect(&SockRef::from(&connecting), address);
        assert!(has(&SockRef::from(&connecting), WITHIN_HOST));

        let (connected, accepted) = tokio::join!(connecting.connect(address), listener.accept());
        let (_connected, accepted) = (connected.unwrap(), accepted.unwrap().0);
        let raw = SockRef::from(&accepted);
        assert!(has(&raw, PLAIN), "not BBR, even before anybody has looked at it");
        Elsewhere::choose(&raw, BBR);
        assert!(has(&raw, BBR), "those from elsewhere have the system's choice");
        Elsewhere::choose(&raw, WITHIN_HOST);
        assert!(has(&raw, BBR), "a choice of somebody else's stays");
        raw.set_tcp_congestion(PLAIN).unwrap();
        elsewhere.accepted(&accepted);
        assert!(has(&raw, WITHIN_HOST));
    }
}
