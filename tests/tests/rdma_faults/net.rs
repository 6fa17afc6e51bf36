//! The two hosts in the virtual machine, and what can be done to the network between them.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Soft-RoCE in one network namespace, or Soft-iWARP in two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Rxe,
    Siw,
}

/// One of the hosts.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    /// Its address.
    pub(crate) address: String,
    /// Its RDMA device.
    pub(crate) device: String,
    /// Its network interface.
    pub(crate) interface: &'static str,
    prefix: String,
}

/// Both hosts, as `rdma-vm run` describes them. Dropping it heals the network.
#[derive(Debug)]
pub(crate) struct Net {
    pub(crate) kind: Kind,
    pub(crate) client: Host,
    pub(crate) server: Host,
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("set {name}: run this by scripts/rdma-vm"))
}

impl Host {
    fn of(side: &str, interface: &'static str) -> Host {
        let of = |what: &str| variable(&format!("RDMA_VM_{side}_{what}"));
        Host { address: of("ADDRESS"), device: of("DEVICE"), interface, prefix: of("PREFIX") }
    }

    /// A command that is to run on this host.
    fn command(&self, line: &str) -> Command {
        let words: Vec<&str> = self.prefix.split_whitespace().chain(line.split(' ')).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).stdin(Stdio::null());
        command
    }

    fn run(&self, line: &str) {
        let output = self.command(line).output().unwrap_or_else(|e| panic!("{line}: {e}"));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{line}: {}: {text}", output.status);
    }

    /// Whether it worked.
    fn try_to(&self, line: &str) -> bool {
        let mut command = self.command(line);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    /// What it printed.
    pub(crate) fn ask(&self, line: &str) -> String {
        let output = self.command(line).output().unwrap_or_else(|e| panic!("{line}: {e}"));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Begins to remove the host's RDMA device.
    pub(crate) fn delete_device(&self) -> Deletion {
        let line = format!("rdma link delete {}", self.device);
        Deletion(self.command(&line).spawn().expect("rdma is a program"))
    }
}

/// A device that is being removed.
#[derive(Debug)]
pub(crate) struct Deletion(Child);

impl Deletion {
    /// Waits for its end.
    pub(crate) async fn done_within(mut self, limit: Duration, who: &str) -> Duration {
        let begin = std::time::Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().expect("a child can be awaited") {
                assert!(status.success(), "deleting {who}: {status}");
                return begin.elapsed();
            }
            if begin.elapsed() > limit {
                let holders = std::fs::read_dir("/proc").map_or(0, Iterator::count);
                panic!("{who} is held open: not deleted after {limit:?} ({holders} in /proc)");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Net {
    pub(crate) fn from_environment() -> Net {
        let kind = match variable("RDMA_VM_NET").as_str() {
            "rxe" => Kind::Rxe,
            "siw" => Kind::Siw,
            other => panic!("RDMA_VM_NET is {other:?}; rxe and siw are known"),
        };
        let net = Net { kind, client: Host::of("CLIENT", "v0"), server: Host::of("SERVER", "v1") };
        net.heal();
        net
    }

    fn kind_name(&self) -> &'static str {
        if self.kind == Kind::Rxe { "rxe" } else { "siw" }
    }

    fn hosts(&self) -> [&Host; 2] {
        [&self.client, &self.server]
    }

    /// Drops this share of the packets in each direction.
    pub(crate) fn lose_percent(&self, percent: &str) {
        for host in self.hosts() {
            let dev = host.interface;
            host.run(&format!("tc qdisc replace dev {dev} root netem loss {percent}% limit 20000"));
        }
    }

    /// Packets are under way for up to twice so long, and overtake each other.
    pub(crate) fn disorder_ms(&self, ms: u32) {
        for host in self.hosts() {
            let dev = host.interface;
            let line =
                format!("tc qdisc replace dev {dev} root netem delay {ms}ms {ms}ms limit 20000");
            host.run(&line);
        }
    }

    /// Drops what RDMA sends where it arrives (where it leaves, Soft-RoCE tries again without end, on
    /// a processor of its own), and leaves alone what begins at the server's port. The caller's
    /// runtime goes on meanwhile.
    pub(crate) async fn drop_rdma_only(&self, port: u16) {
        let commands = self.hosts().map(|host| {
            let dev = host.interface;
            let filter = |pref: u32, rule: &str| {
                format!("tc filter add dev {dev} ingress pref {pref} protocol ip u32 {rule}")
            };
            let tcp = "match ip protocol 6 0xff";
            let mut lines = vec![format!("tc qdisc add dev {dev} clsact")];
            match self.kind {
                Kind::Rxe => {
                    let rule = "match ip protocol 17 0xff match ip dport 4791 0xffff action drop";
                    lines.push(filter(1, rule));
                }
                // iWARP's own TCP connection has ports that nobody tells.
                Kind::Siw => lines.extend([
                    filter(1, &format!("{tcp} match ip dport {port} 0xffff action pass")),
                    filter(2, &format!("{tcp} match ip sport {port} 0xffff action pass")),
                    filter(3, &format!("{tcp} action drop")),
                ]),
            }
            let mut command = host.command("sh -c");
            command.arg(lines.join(" && "));
            command
        });
        for mut command in commands {
            let run = tokio::task::spawn_blocking(move || command.status());
            let status = run.await.expect("no panic").expect("sh is a program");
            assert!(status.success(), "dropping packets: {status}");
        }
    }

    /// Takes a host's interface down.
    pub(crate) fn take_down(&self, host: &Host) {
        host.run(&format!("ip link set {} down", host.interface));
    }

    /// Brings it up again, with the routes it had.
    pub(crate) fn bring_up(&self, host: &Host) {
        host.run(&format!("ip link set {} up", host.interface));
        if self.kind != Kind::Rxe {
            return;
        }
        // As the machine's own set-up does; the kernel forgets them with the link.
        for (from, to, table) in
            [(&self.client, &self.server, 10), (&self.server, &self.client, 11)]
        {
            let file = format!("/sys/class/net/{}/address", to.interface);
            let mac = std::fs::read_to_string(file).expect("an interface has an address");
            let (peer, dev, source) = (&to.address, from.interface, &from.address);
            from.run(&format!("ip neighbour replace {peer} lladdr {} dev {dev}", mac.trim()));
            from.run(&format!("ip route replace {peer}/32 dev {dev} src {source} table {table}"));
        }
        let (peer, source) = (&self.server.address, &self.client.address);
        self.client.run(&format!("ip route replace {peer}/32 dev v0 src {source}"));
    }

    /// Makes a host's RDMA device again.
    pub(crate) fn add_device(&self, host: &Host) {
        let kind = self.kind_name();
        host.run(&format!("rdma link add {} type {kind} netdev {}", host.device, host.interface));
    }

    /// As it was in the beginning.
    pub(crate) fn heal(&self) {
        for host in self.hosts() {
            let dev = host.interface;
            host.try_to(&format!("tc qdisc del dev {dev} root"));
            host.try_to(&format!("tc qdisc del dev {dev} clsact"));
        }
        for host in self.hosts() {
            let state = std::path::Path::new("/sys/class/infiniband").join(&host.device);
            if !state.exists() {
                let kind = self.kind_name();
                host.try_to(&format!(
                    "rdma link add {} type {kind} netdev {}",
                    host.device, host.interface
                ));
            }
            if !host.ask(&format!("ip link show dev {}", host.interface)).contains(",UP") {
                self.bring_up(host);
            }
        }
    }

    /// Queue pairs that a process has now.
    pub(crate) fn queue_pairs(&self, process: u32) -> usize {
        // Threads are listed by their own numbers.
        let threads: Vec<String> = std::fs::read_dir(format!("/proc/{process}/task"))
            .map(|threads| threads.filter_map(|t| t.ok()?.file_name().into_string().ok()).collect())
            .unwrap_or_default();
        let table = self.client.ask("rdma resource show qp");
        let of = |line: &str| {
            let pid = line.split(" pid ").nth(1).and_then(|rest| rest.split(' ').next());
            pid.is_some_and(|pid| pid == process.to_string() || threads.iter().any(|t| t == pid))
        };
        table.lines().filter(|line| of(line)).count()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.heal();
    }
}
