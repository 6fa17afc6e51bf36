//! Which port and which GID a connection uses. Pure: it looks at recorded facts.

use std::net::IpAddr;

use super::address::{Endpoint, Gid, Network, PathMtu};
use super::facts::{DeviceFacts, GidFacts, LinkLayer, PortFacts, PortState};

/// What the configuration says about it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// The device's name; `None`: any.
    pub device: Option<String>,
    /// The port's number; `None`: any that is active.
    pub port: Option<u8>,
    /// The place in the port's table of GIDs; `None`: chosen by type and address.
    pub gid_index: Option<u32>,
    /// The local address whose device shall be used; `None`: that of the bootstrap connection.
    pub address: Option<IpAddr>,
    /// The largest packet; `None`: the largest both ports carry.
    pub mtu: Option<PathMtu>,
}

/// A port and a GID that could be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    /// The device.
    pub(super) device: String,
    /// The port's number.
    pub(super) port: u8,
    /// The place in the port's table of GIDs. Not used on iWARP.
    pub(super) gid_index: u32,
    /// The largest packet.
    pub(super) mtu: PathMtu,
    /// What a peer would have to know.
    pub(super) endpoint: Endpoint,
}

/// The most candidates one end names.
pub(super) const MAX_CANDIDATES: usize = 16;

/// All that could be used, best first: what lies on the route to the peer (its GID is the local
/// address of the bootstrap connection, or the address of the configuration) before the rest, and
/// RoCE v2 before v1. `iwarp_device` tells which iWARP device an address of this host belongs to:
/// the tables of those ports hold no addresses.
///
/// # Errors
/// A sentence that names what is missing.
pub(super) fn candidates(
    devices: &[DeviceFacts],
    wish: &Wish,
    local: Option<IpAddr>,
    iwarp_device: &dyn Fn(IpAddr) -> Option<String>,
) -> Result<Vec<Candidate>, String> {
    let named: Vec<&DeviceFacts> = match &wish.device {
        None => devices.iter().collect(),
        Some(name) => devices.iter().filter(|device| device.name == *name).collect(),
    };
    if named.is_empty() {
        return Err(no_such_device(devices, wish));
    }
    let route = wish.address.or(local);
    let mut found = Vec::new();
    let mut obstacles = Vec::new();
    for device in named {
        let mut any_port = false;
        for port in &device.ports {
            if wish.port.is_some_and(|number| number != port.number) {
                continue;
            }
            any_port = true;
            match of_port(device, port, wish, route, iwarp_device) {
                Ok(some) => found.extend(some),
                Err(obstacle) => obstacles.push(obstacle),
            }
        }
        if !any_port {
            let number = wish.port.unwrap_or(1);
            obstacles.push(format!("{} has no port {number}", device.name));
        }
    }
    if found.is_empty() {
        return Err(obstacles.join("; "));
    }
    let on_route = |c: &Candidate| route.is_some_and(|ip| c.endpoint.gid == Gid::from_ip(ip));
    let address_is_a_demand = wish.address.is_some();
    if address_is_a_demand {
        found.retain(|candidate| {
            on_route(candidate) || candidate.endpoint.network == Network::InfiniBand
        });
        if found.is_empty() {
            let ip = wish.address.map_or_else(String::new, |ip| ip.to_string());
            return Err(format!("no active RDMA port has the address {ip}"));
        }
    }
    // Stable: devices, ports and GIDs stay in their order otherwise.
    found.sort_by_key(|candidate| {
        let network = match candidate.endpoint.network {
            Network::InfiniBand | Network::Iwarp => 0,
            Network::RoceV2 => 1,
            Network::RoceV1 => 2,
        };
        (!on_route(candidate), network, candidate.endpoint.gid.is_link_local())
    });
    found.truncate(MAX_CANDIDATES);
    Ok(found)
}

fn no_such_device(devices: &[DeviceFacts], wish: &Wish) -> String {
    let names: Vec<&str> = devices.iter().map(|device| device.name.as_str()).collect();
    match &wish.device {
        Some(name) => {
            let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            format!("there is no RDMA device {name} (rdma.device); there is: {there}")
        }
        None => "there is no RDMA device".to_owned(),
    }
}

/// The candidates of one port, or why there are none.
fn of_port(
    device: &DeviceFacts,
    port: &PortFacts,
    wish: &Wish,
    route: Option<IpAddr>,
    iwarp_device: &dyn Fn(IpAddr) -> Option<String>,
) -> Result<Vec<Candidate>, String> {
    let name = format!("{} port {}", device.name, port.number);
    if let PortState::Down(state) = port.state {
        return Err(format!(
            "{name} is not active (state {state}): bring its link up, or, on InfiniBand, start a \
             subnet manager"
        ));
    }
    let mtu = wish.mtu.map_or(port.active_mtu, |wished| wished.min(port.active_mtu));
    let candidate = |gid_index, endpoint| Candidate {
        device: device.name.clone(),
        port: port.number,
        gid_index,
        mtu,
        endpoint,
    };
    if device.iwarp {
        let Some(ip) = route else {
            return Err(format!("{name} speaks iWARP and needs a local IP address"));
        };
        if iwarp_device(ip).as_ref() != Some(&device.name) {
            return Err(format!("{name} speaks iWARP and does not have the address {ip}"));
        }
        let endpoint = Endpoint { network: Network::Iwarp, lid: 0, gid: Gid::from_ip(ip) };
        return Ok(vec![candidate(0, endpoint)]);
    }
    let wanted = |entry: &&GidFacts| wish.gid_index.is_none_or(|index| index == entry.index);
    let entries: Vec<&GidFacts> = port.gids.iter().filter(wanted).collect();
    if entries.is_empty() {
        return Err(match wish.gid_index {
            Some(index) => format!("{name} has no GID at index {index} (rdma.gid_index)"),
            None => format!("{name} has no GID: does its network interface have an address?"),
        });
    }
    if port.link_layer == LinkLayer::InfiniBand {
        // The table of an InfiniBand port names one port in several ways; the first will do.
        let entry = entries[0];
        let endpoint = Endpoint { network: Network::InfiniBand, lid: port.lid, gid: entry.gid };
        return Ok(vec![candidate(entry.index, endpoint)]);
    }
    Ok(entries
        .into_iter()
        .map(|entry| {
            let endpoint = Endpoint { network: entry.network, lid: 0, gid: entry.gid };
            candidate(entry.index, endpoint)
        })
        .collect())
}

/// The first pair that could work, in the order of both lists, theirs before ours: the place in
/// their list, and ours.
///
/// # Errors
/// A sentence that says why each pair is impossible.
pub(super) fn pair(theirs: &[Endpoint], ours: &[Candidate]) -> Result<(usize, Candidate), String> {
    let mut reasons: Vec<String> = Vec::new();
    for (at, their) in theirs.iter().enumerate() {
        for our in ours {
            match our.endpoint.unreachable_from(their) {
                None => return Ok((at, our.clone())),
                Some(reason) if !reasons.contains(&reason) => reasons.push(reason),
                Some(_) => {}
            }
        }
    }
    if theirs.is_empty() {
        return Err("the other end names no RDMA address this version knows".to_owned());
    }
    reasons.truncate(4);
    Err(format!("no RDMA path: {}", reasons.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::super::facts::DeviceLimits;
    use super::*;

    const LIMITS: DeviceLimits = DeviceLimits {
        max_qp_wr: 16_384,
        max_cqe: 32_767,
        max_mr_bytes: 1 << 40,
        max_reads_responder: 16,
        max_reads_initiator: 16,
    };

    fn gid(text: &str) -> Gid {
        Gid(text.parse::<std::net::Ipv6Addr>().unwrap().octets())
    }

    fn device(name: &str, iwarp: bool, ports: Vec<PortFacts>) -> DeviceFacts {
        DeviceFacts { name: name.into(), iwarp, vendor_id: 0x2C9, limits: LIMITS, ports }
    }

    fn port(
        number: u8,
        link_layer: LinkLayer,
        lid: u16,
        gids: &[(u32, &str, Network)],
    ) -> PortFacts {
        PortFacts {
            number,
            state: PortState::Active,
            link_layer,
            lid,
            active_mtu: PathMtu::from_code(5).unwrap(),
            gids: gids
                .iter()
                .map(|&(index, text, network)| GidFacts { index, gid: gid(text), network })
                .collect(),
        }
    }

    /// A ConnectX-5 with two RoCE ports' worth of functions, as `ibv_devinfo -v` and
    /// `show_gids` print them.
    fn roce() -> Vec<DeviceFacts> {
        use Network::{RoceV1, RoceV2};
        let first = [
            (0, "fe80::ba59:9fff:fe12:3456", RoceV1),
            (1, "fe80::ba59:9fff:fe12:3456", RoceV2),
            (2, "::ffff:192.168.1.10", RoceV1),
            (3, "::ffff:192.168.1.10", RoceV2),
        ];
        let second = [
            (0, "fe80::ba59:9fff:fe12:3457", RoceV1),
            (1, "fe80::ba59:9fff:fe12:3457", RoceV2),
            (4, "::ffff:10.9.0.10", RoceV1),
            (5, "::ffff:10.9.0.10", RoceV2),
        ];
        vec![
            device("mlx5_0", false, vec![port(1, LinkLayer::Ethernet, 0, &first)]),
            device("mlx5_1", false, vec![port(1, LinkLayer::Ethernet, 0, &second)]),
        ]
    }

    /// A ConnectX-3 whose second port is InfiniBand.
    fn infiniband() -> Vec<DeviceFacts> {
        let mut down = port(1, LinkLayer::Ethernet, 0, &[]);
        down.state = PortState::Down(1);
        let gids = [(0, "fe80::2:c903:ff:1", Network::InfiniBand)];
        let second = port(2, LinkLayer::InfiniBand, 0x4C, &gids);
        vec![device("mlx4_0", false, vec![down, second])]
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    fn choose(
        devices: &[DeviceFacts],
        wish: &Wish,
        local: Option<IpAddr>,
    ) -> Result<Vec<Candidate>, String> {
        let has = |ip: IpAddr| (ip.to_string() == "10.2.0.1").then(|| "siw0".to_owned());
        candidates(devices, wish, local, &has)
    }

    #[test]
    fn the_route_to_the_peer_decides_and_version_two_comes_first() {
        let found = choose(&roce(), &Wish::default(), ip("10.9.0.10")).unwrap();
        assert_eq!((found[0].device.as_str(), found[0].gid_index), ("mlx5_1", 5));
        assert_eq!(found[0].endpoint.network, Network::RoceV2);
        assert_eq!(found[1].gid_index, 4, "then version one of the same address");
        let found = choose(&roce(), &Wish::default(), ip("172.16.0.1")).unwrap();
        assert_eq!((found[0].device.as_str(), found[0].gid_index), ("mlx5_0", 3));
    }

    #[test]
    fn the_configuration_decides_before_the_route() {
        let wish = Wish { device: Some("mlx5_0".into()), ..Wish::default() };
        let found = choose(&roce(), &wish, ip("10.9.0.10")).unwrap();
        assert!(found.iter().all(|candidate| candidate.device == "mlx5_0"));
        let wish = Wish { gid_index: Some(2), ..wish };
        let found = choose(&roce(), &wish, None).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].endpoint.network, Network::RoceV1);
        let wish = Wish { address: ip("192.168.1.10"), ..Wish::default() };
        let found = choose(&roce(), &wish, ip("10.9.0.10")).unwrap();
        assert!(found.iter().all(|c| c.endpoint.gid == gid("::ffff:192.168.1.10")));
        let wish = Wish { mtu: PathMtu::within(1024), ..Wish::default() };
        assert_eq!(choose(&roce(), &wish, None).unwrap()[0].mtu.bytes(), 1024);
    }

    #[test]
    fn a_second_port_on_infiniband_is_found_with_its_lid() {
        let found = choose(&infiniband(), &Wish::default(), ip("192.168.1.10")).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].port, found[0].endpoint.lid), (2, 0x4C));
        assert_eq!(found[0].endpoint.network, Network::InfiniBand);
    }

    #[test]
    fn an_iwarp_port_goes_by_the_local_address() {
        // Two devices of two network namespaces; both see both.
        let siw = ["siw1", "siw0"]
            .map(|name| device(name, true, vec![port(1, LinkLayer::Ethernet, 0, &[])]));
        let found = choose(&siw, &Wish::default(), ip("10.2.0.1")).unwrap();
        assert_eq!((found.len(), found[0].device.as_str()), (1, "siw0"));
        assert_eq!(found[0].endpoint.network, Network::Iwarp);
        assert_eq!(found[0].endpoint.gid.to_ip(), ip("10.2.0.1").unwrap());
        let why = choose(&siw, &Wish::default(), None).unwrap_err();
        assert!(why.contains("needs a local IP address"), "{why}");
    }

    #[test]
    fn what_is_missing_is_named() {
        let why = |devices: &[DeviceFacts], wish: Wish| {
            choose(devices, &wish, None).expect_err("nothing to choose")
        };
        let named = Wish { device: Some("rxe7".into()), ..Wish::default() };
        let text = why(&roce(), named);
        assert!(text.contains("rxe7") && text.contains("mlx5_0, mlx5_1"), "{text}");
        let text = why(&roce(), Wish { port: Some(9), ..Wish::default() });
        assert!(text.contains("mlx5_0 has no port 9"), "{text}");
        let text = why(&infiniband(), Wish { port: Some(1), ..Wish::default() });
        assert!(text.contains("mlx4_0 port 1 is not active (state 1)"), "{text}");
        let text = why(&roce(), Wish { gid_index: Some(77), ..Wish::default() });
        assert!(text.contains("no GID at index 77"), "{text}");
        let text = why(&roce(), Wish { address: ip("1.2.3.4"), ..Wish::default() });
        assert!(text.contains("1.2.3.4"), "{text}");
    }

    #[test]
    fn pairs_are_of_one_network_and_family() {
        let ours = choose(&roce(), &Wish::default(), ip("10.9.0.10")).unwrap();
        let theirs = [
            Endpoint { network: Network::Iwarp, lid: 0, gid: gid("::ffff:10.9.0.20") },
            Endpoint { network: Network::RoceV2, lid: 0, gid: gid("::ffff:10.9.0.20") },
        ];
        let (at, our) = pair(&theirs, &ours).unwrap();
        assert_eq!((at, our.gid_index), (1, 5));
        let why = pair(&theirs[..1], &ours).unwrap_err();
        assert!(why.contains("iWARP") && why.contains("RoCE v2"), "{why}");
        assert!(pair(&[], &ours).unwrap_err().contains("names no RDMA address"));
    }
}
