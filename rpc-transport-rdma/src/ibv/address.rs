//! Where a port is found: GIDs, LIDs and what kind of network carries them.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// What carries RDMA between two ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Network {
    /// InfiniBand: LIDs inside a subnet, GIDs between them.
    InfiniBand,
    /// RoCE v1: InfiniBand's network header directly on Ethernet; one broadcast domain only.
    RoceV1,
    /// RoCE v2: over UDP, port 4791; routable.
    RoceV2,
    /// iWARP: over TCP (RFC 5040 to 5044).
    Iwarp,
}

impl Network {
    /// The number on the wire.
    pub(super) fn code(self) -> u8 {
        match self {
            Network::InfiniBand => 1,
            Network::RoceV1 => 2,
            Network::RoceV2 => 3,
            Network::Iwarp => 4,
        }
    }

    /// The network with this number.
    pub(super) fn from_code(code: u8) -> Option<Network> {
        [Network::InfiniBand, Network::RoceV1, Network::RoceV2, Network::Iwarp]
            .into_iter()
            .find(|network| network.code() == code)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Network::InfiniBand => "InfiniBand",
            Network::RoceV1 => "RoCE v1",
            Network::RoceV2 => "RoCE v2",
            Network::Iwarp => "iWARP",
        })
    }
}

/// A global identifier: 128 bits, written like an IPv6 address (InfiniBand Architecture
/// Specification 1.4, section 4.1.1). RoCE v2 puts IP addresses there, IPv4 ones mapped.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Gid(pub(super) [u8; 16]);

impl Gid {
    /// The GID that stands for an IP address.
    pub(super) fn from_ip(ip: IpAddr) -> Gid {
        Gid(match ip {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        })
    }

    /// The IP address this GID would be, with mapped IPv4 addresses taken out.
    pub(super) fn to_ip(self) -> IpAddr {
        Ipv6Addr::from(self.0).to_canonical()
    }

    /// An entry of the table that holds nothing.
    pub(super) fn is_zero(self) -> bool {
        self.0 == [0; 16]
    }

    /// The first half: which InfiniBand subnet.
    pub(super) fn subnet_prefix(self) -> [u8; 8] {
        let mut prefix = [0; 8];
        prefix.copy_from_slice(&self.0[..8]);
        prefix
    }

    /// Made from a MAC address (fe80::/64), meaningful on one link only.
    pub(super) fn is_link_local(self) -> bool {
        self.0[0] == 0xFE && self.0[1] & 0xC0 == 0x80
    }
}

impl fmt::Display for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Ipv6Addr::from(self.0), f)
    }
}

impl fmt::Debug for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One end of a possible path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// What carries it.
    pub(super) network: Network,
    /// The port's LID; 0 where there is none (RoCE, iWARP).
    pub(super) lid: u16,
    /// The GID; on iWARP, the IP address as a GID would hold it.
    pub(super) gid: Gid,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.network {
            Network::InfiniBand => write!(f, "{} LID {} GID {}", self.network, self.lid, self.gid),
            Network::RoceV1 => write!(f, "{} GID {}", self.network, self.gid),
            Network::RoceV2 | Network::Iwarp => write!(f, "{} {}", self.network, self.gid.to_ip()),
        }
    }
}

impl Endpoint {
    /// Bytes on the wire.
    pub(super) const BYTES: usize = 20;

    /// ```text
    /// byte 0  u8   network: 1 InfiniBand, 2 RoCE v1, 3 RoCE v2, 4 iWARP
    ///      1  u8   zero
    ///      2  u16  LID, little-endian
    ///      4  16   GID
    /// ```
    pub(super) fn encode(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&[self.network.code(), 0]);
        into.extend_from_slice(&self.lid.to_le_bytes());
        into.extend_from_slice(&self.gid.0);
    }

    /// `None`: a network this build does not know.
    pub(super) fn decode(bytes: &[u8; Endpoint::BYTES]) -> Option<Endpoint> {
        let mut gid = [0; 16];
        gid.copy_from_slice(&bytes[4..]);
        Some(Endpoint {
            network: Network::from_code(bytes[0])?,
            lid: u16::from_le_bytes([bytes[2], bytes[3]]),
            gid: Gid(gid),
        })
    }

    /// Why a path from here to there cannot exist, if that can be told from the addresses.
    pub(super) fn unreachable_from(&self, other: &Endpoint) -> Option<String> {
        if self.network != other.network {
            return Some(format!("one end is {}, the other {}", self.network, other.network));
        }
        let family = |endpoint: &Endpoint| endpoint.gid.to_ip().is_ipv4();
        match self.network {
            Network::InfiniBand => {
                let same = self.gid.subnet_prefix() == other.gid.subnet_prefix();
                (!same).then(|| {
                    format!("InfiniBand subnets differ: GIDs {} and {}", self.gid, other.gid)
                })
            }
            Network::RoceV1 => None,
            Network::RoceV2 if self.gid.is_link_local() != other.gid.is_link_local() => {
                Some(format!("{} is link-local and {} is not", self.gid, other.gid))
            }
            Network::RoceV2 | Network::Iwarp => (family(self) != family(other)).then(|| {
                format!("{} and {} are of two families", self.gid.to_ip(), other.gid.to_ip())
            }),
        }
    }
}

/// A path's largest packet, as the verbs count it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PathMtu(u8);

impl PathMtu {
    /// From the verbs' number: 1 is 256 bytes, 5 is 4096.
    pub const fn from_code(code: u8) -> Option<PathMtu> {
        if code >= 1 && code <= 5 { Some(PathMtu(code)) } else { None }
    }

    /// The largest that is not more than `bytes`.
    pub fn within(bytes: u32) -> Option<PathMtu> {
        (1..=5).rev().map(PathMtu).find(|mtu| mtu.bytes() <= bytes)
    }

    /// The verbs' number.
    pub fn code(self) -> u8 {
        self.0
    }

    /// Bytes of payload in a packet.
    pub fn bytes(self) -> u32 {
        128 << self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gid(text: &str) -> Gid {
        Gid(text.parse::<Ipv6Addr>().unwrap().octets())
    }

    #[test]
    fn gids_are_read_and_written_like_addresses() {
        let ip: IpAddr = "10.1.0.2".parse().unwrap();
        assert_eq!(Gid::from_ip(ip), gid("::ffff:10.1.0.2"));
        assert_eq!(Gid::from_ip(ip).to_ip(), ip);
        assert_eq!(Gid::from_ip(ip).to_string(), "::ffff:10.1.0.2");
        assert!(gid("fe80::1").is_link_local() && !gid("2001:db8::1").is_link_local());
        assert!(Gid::default().is_zero());
    }

    #[test]
    fn endpoints_come_back_as_they_went() {
        for network in [Network::InfiniBand, Network::RoceV1, Network::RoceV2, Network::Iwarp] {
            let endpoint = Endpoint { network, lid: 0x1234, gid: gid("fe80::abcd") };
            let mut bytes = Vec::new();
            endpoint.encode(&mut bytes);
            let bytes: [u8; Endpoint::BYTES] = bytes.try_into().unwrap();
            assert_eq!(Endpoint::decode(&bytes), Some(endpoint));
        }
        let mut unknown = [0; Endpoint::BYTES];
        unknown[0] = 9;
        assert_eq!(Endpoint::decode(&unknown), None);
    }

    #[test]
    fn what_cannot_reach_what() {
        let at = |network, text| Endpoint { network, lid: 1, gid: gid(text) };
        let reachable = |a: Endpoint, b: Endpoint| {
            assert_eq!(a.unreachable_from(&b).is_none(), b.unreachable_from(&a).is_none());
            a.unreachable_from(&b).is_none()
        };
        use Network::*;
        assert!(reachable(at(RoceV2, "::ffff:10.0.0.1"), at(RoceV2, "::ffff:10.9.0.2")));
        assert!(!reachable(at(RoceV2, "::ffff:10.0.0.1"), at(RoceV2, "2001:db8::2")));
        assert!(!reachable(at(RoceV2, "fe80::1"), at(RoceV2, "2001:db8::2")));
        assert!(!reachable(at(RoceV2, "::ffff:10.0.0.1"), at(RoceV1, "fe80::1")));
        assert!(reachable(at(RoceV1, "fe80::1"), at(RoceV1, "fe80::2")));
        assert!(reachable(at(InfiniBand, "fe80::1"), at(InfiniBand, "fe80::2")));
        assert!(!reachable(at(InfiniBand, "fe80::1"), at(InfiniBand, "fec0:0:0:1::2")));
        assert!(!reachable(at(Iwarp, "::ffff:10.0.0.1"), at(Iwarp, "2001:db8::2")));
    }

    #[test]
    fn mtus() {
        assert_eq!(PathMtu::from_code(5).unwrap().bytes(), 4096);
        assert_eq!(PathMtu::from_code(1).unwrap().bytes(), 256);
        assert!(PathMtu::from_code(0).is_none() && PathMtu::from_code(6).is_none());
        assert_eq!(PathMtu::within(1500).unwrap().bytes(), 1024);
        assert!(PathMtu::within(255).is_none());
    }
}
