//! CPU time of processes, and of the whole machine, from `/proc`.

use std::fs;

/// Seconds of CPU that all threads of a process have used: exact where the kernel keeps
/// `schedstat`, in steps of 10 ms elsewhere. Threads that ended are missing from the exact figure.
pub(crate) fn process_seconds(pid: u32) -> f64 {
    exact(pid).or_else(|| coarse(pid)).unwrap_or(0.0)
}

fn exact(pid: u32) -> Option<f64> {
    let mut total = 0.0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let path = thread.ok()?.path().join("schedstat");
        let text = fs::read_to_string(path).ok()?;
        total += text.split_whitespace().next()?.parse::<f64>().ok()? * 1e-9;
    }
    Some(total)
}

fn coarse(pid: u32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = text.rsplit_once(") ")?.1;
    let mut fields = after_name.split(' ').skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / 100.0)
}

/// Seconds of CPU used by everybody, and stolen by the hypervisor.
pub(crate) fn machine_seconds() -> (f64, f64) {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<f64> = text
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    match fields[..] {
        [user, nice, system, _, _, _, _, steal, ..] => {
            ((user + nice + system) / 100.0, steal / 100.0)
        }
        _ => (0.0, 0.0),
    }
}
