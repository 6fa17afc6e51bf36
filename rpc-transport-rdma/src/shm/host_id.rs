//! Which host, and which world of abstract sockets, a process lives in.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;

/// Two processes with the same identity can reach each other by an abstract Unix socket and share
/// memory: same boot of the same kernel, same network namespace. (Containers of one pod do; a
/// container and its host usually do not.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HostId {
    bytes: [u8; HostId::BYTES],
}

impl HostId {
    /// Length of an identity, in bytes.
    pub const BYTES: usize = 32;

    /// An identity as it came from a peer.
    pub fn from_bytes(bytes: [u8; HostId::BYTES]) -> HostId {
        HostId { bytes }
    }

    /// The identity's bytes: the boot id, then device and inode of the network namespace, both
    /// little-endian.
    pub fn as_bytes(&self) -> &[u8; HostId::BYTES] {
        &self.bytes
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// This process's identity. Fails where /proc is not mounted.
pub fn host_id() -> io::Result<HostId> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let namespace = std::fs::metadata("/proc/self/ns/net")?;
    let mut bytes = [0; HostId::BYTES];
    let (boot_id, rest) = bytes.split_at_mut(16);
    boot_id.copy_from_slice(&parse_uuid(boot.trim()).ok_or_else(|| {
        let message = format!("/proc/sys/kernel/random/boot_id holds {boot:?}, not a UUID");
        io::Error::new(io::ErrorKind::InvalidData, message)
    })?);
    rest[..8].copy_from_slice(&namespace.dev().to_le_bytes());
    rest[8..].copy_from_slice(&namespace.ino().to_le_bytes());
    Ok(HostId { bytes })
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|&c| c != '-')
        .map(|c| c.to_digit(16).map(|digit| digit as u8))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> =
        digits.chunks(2).map(|pair| pair.iter().fold(0, |b, d| b << 4 | d)).collect();
    if digits.len() == 32 { bytes.try_into().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_is_stable_and_not_empty() {
        let id = host_id().unwrap();
        assert_eq!(id, host_id().unwrap());
        assert_ne!(id.as_bytes()[..16], [0; 16]);
        assert_ne!(id.as_bytes()[24..], [0; 8]);
        assert_eq!(HostId::from_bytes(*id.as_bytes()), id);
    }

    #[test]
    fn uuids() {
        let bytes = parse_uuid("00112233-4455-6677-8899-aabbccddeeff").unwrap();
        assert_eq!((bytes[0], bytes[1], bytes[15]), (0, 0x11, 0xFF));
        for bad in [
            "",
            "0011",
            "zz112233-4455-6677-8899-aabbccddeeff",
            "00112233445566778899aabbccddeeff0",
        ] {
            assert_eq!(parse_uuid(bad), None, "{bad}");
        }
    }
}
