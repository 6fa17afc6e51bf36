//! Where a case runs: over which transport, in how many processes.

use std::fmt;
use std::str::FromStr;

/// What carries the calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// The link inside one process.
    Memory,
    /// TCP on the loopback address.
    Tcp,
    /// A Unix socket.
    Unix,
    /// Rings in shared memory, begun on TCP.
    Shm,
    /// As the environment says: `CONFORMANCE_SCHEME` (`rdma`, say) and `CONFORMANCE_LISTEN`, the
    /// host the server listens on; the server's command may be prefixed by
    /// `CONFORMANCE_SERVER_PREFIX` (`ip netns exec b`, say).
    Environment,
}

/// Where the server runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Processes {
    /// Client and server share a process and a runtime.
    One,
    /// The server is a child process.
    Two,
}

/// Where a case runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// What carries the calls.
    pub transport: Transport,
    /// Where the server runs.
    pub processes: Processes,
    /// The server's threads of its own; 0: it has none.
    pub workers: u32,
}

impl Place {
    /// In one process.
    pub const fn one(transport: Transport) -> Place {
        Place { transport, processes: Processes::One, workers: 0 }
    }

    /// In two processes.
    pub const fn two(transport: Transport) -> Place {
        Place { transport, processes: Processes::Two, workers: 0 }
    }

    /// The same, with a server that has threads of its own.
    #[must_use]
    pub const fn workers(mut self, workers: u32) -> Place {
        self.workers = workers;
        self
    }

    /// What the link calls itself here.
    pub fn link_name(self) -> String {
        match self.transport {
            Transport::Memory => "memory".into(),
            Transport::Tcp => "tcp".into(),
            // A Unix socket carries the link of TCP.
            Transport::Unix => "tcp".into(),
            Transport::Shm => "shm".into(),
            Transport::Environment => self.scheme(),
        }
    }

    /// The scheme of targets here.
    pub(super) fn scheme(self) -> String {
        match self.transport {
            Transport::Environment => variable("CONFORMANCE_SCHEME"),
            Transport::Shm => "shm".into(),
            _ => "tcp".into(),
        }
    }

    /// The host servers listen on here.
    pub(super) fn host(self) -> String {
        match self.transport {
            Transport::Environment => variable("CONFORMANCE_LISTEN"),
            _ => "127.0.0.1".into(),
        }
    }
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("set {name}: see Transport::Environment"))
}

const NAMES: [(&str, Transport); 5] = [
    ("memory", Transport::Memory),
    ("tcp", Transport::Tcp),
    ("unix", Transport::Unix),
    ("shm", Transport::Shm),
    ("environment", Transport::Environment),
];

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.iter().find(|(_, transport)| *transport == self.transport);
        let processes = match self.processes {
            Processes::One => 1,
            Processes::Two => 2,
        };
        write!(f, "{}-{processes}", name.map_or("?", |(name, _)| name))?;
        if self.workers > 0 { write!(f, "-w{}", self.workers) } else { Ok(()) }
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Place, String> {
        let bad =
            || format!("bad place {text:?}: write memory-1, tcp-1, tcp-2, shm-2, shm-2-w2, ...");
        let (text, workers) = match text.split_once("-w") {
            Some((text, workers)) => (text, workers.parse().map_err(|_| bad())?),
            None => (text, 0),
        };
        let (name, processes) = text.split_once('-').ok_or_else(bad)?;
        let (_, transport) = NAMES.iter().find(|(known, _)| *known == name).ok_or_else(bad)?;
        match processes {
            "1" => Ok(Place::one(*transport).workers(workers)),
            "2" => Ok(Place::two(*transport).workers(workers)),
            _ => Err(bad()),
        }
    }
}
