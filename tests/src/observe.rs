//! What a process holds: files, maps, memory, sockets.

use std::fs;

/// Set where the program runs under a sanitizer, which has memory of its own, and pipes to the program that
/// finds it the names of functions: neither is counted then.
const SANITIZED: &str = "CONFORMANCE_SANITIZED";

fn is_sanitized() -> bool {
    std::env::var_os(SANITIZED).is_some()
}

/// Open file descriptors of this process.
pub fn open_files() -> u64 {
    if is_sanitized() {
        return 0;
    }
    fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64)
}

/// Memory maps of this process that are shared memory of the transport.
pub fn shared_maps() -> u64 {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    maps.lines().filter(|line| line.contains("memfd:")).count() as u64
}

/// Resident memory of this process, in bytes.
pub fn resident_bytes() -> u64 {
    if is_sanitized() {
        return 0;
    }
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

/// What a process has in memory, in bytes, shared pages counted by its share of them.
pub fn proportional_bytes(process: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))
        .unwrap_or_else(|error| panic!("the memory of process {process}: {error}"));
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).expect("a Pss line");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of KiB") * 1024
}

/// The thread this runs on.
pub fn thread() -> String {
    let thread = std::thread::current();
    format!("{:?} {}", thread.id(), thread.name().unwrap_or(""))
}

/// Tasks of this runtime that have not ended.
pub fn alive_tasks() -> u64 {
    tokio::runtime::Handle::current().metrics().num_alive_tasks() as u64
}

/// Names of abstract Unix sockets on this host that the transport made, with their inodes.
fn abstract_sockets_by_inode() -> Vec<(u64, String)> {
    let table = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let sockets = table.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(6);
        Some((words.next()?.parse().ok()?, words.next()?.to_owned()))
    });
    sockets.filter(|(_, name)| name.starts_with("@rdma-rpc")).collect()
}

/// Names of abstract Unix sockets on this host that the transport made.
pub fn abstract_sockets() -> Vec<String> {
    abstract_sockets_by_inode().into_iter().map(|(_, name)| name).collect()
}

/// Those of them that one of these processes holds.
pub fn abstract_sockets_of(processes: &[u32]) -> Vec<String> {
    let held: Vec<u64> = processes
        .iter()
        .filter_map(|process| fs::read_dir(format!("/proc/{process}/fd")).ok())
        .flatten()
        .filter_map(|entry| {
            let link = fs::read_link(entry.ok()?.path()).ok()?;
            link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
        })
        .collect();
    let sockets = abstract_sockets_by_inode();
    sockets.into_iter().filter(|(inode, _)| held.contains(inode)).map(|(_, name)| name).collect()
}

/// Files in /dev/shm whose name says they are ours.
pub fn shm_files() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/dev/shm") else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name.contains("rdma")).collect()
}
