//! What a case has cost, and the line it prints.

use std::time::Instant;

use hdrhistogram::Histogram;

use crate::cpu;
use crate::options::Options;

/// Where every count stands at one moment.
#[derive(Debug)]
pub struct Snapshot {
    pub(crate) at: Instant,
    pub(crate) calls: u64,
    client: f64,
    server: f64,
    machine: (f64, f64),
}

impl Snapshot {
    /// Now, with so many calls made.
    pub fn take(options: &Options, calls: u64) -> Snapshot {
        Snapshot {
            at: Instant::now(),
            calls,
            client: cpu::process_seconds(std::process::id()),
            server: options.server_pid.map_or(0.0, cpu::process_seconds),
            machine: cpu::machine_seconds(),
        }
    }
}

/// A histogram of nanoseconds, 1 ns to 100 s.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 100_000_000_000, 3).expect("sane bounds")
}

/// The line of a case that ran between two moments.
pub fn line(
    options: &Options,
    before: &Snapshot,
    after: &Snapshot,
    times: Option<&Histogram<u64>>,
) -> String {
    let secs = (after.at - before.at).as_secs_f64();
    let ops = after.calls - before.calls;
    let (client, server) = (after.client - before.client, after.server - before.server);
    let others = (after.machine.0 - before.machine.0 - client - server).max(0.0) / secs;
    let steal = (after.machine.1 - before.machine.1) / secs;
    let rate = ops as f64 / secs;
    let mut text = format!(
        "{{\"peer\":\"{}\",\"version\":\"{}\",\"transport\":\"{}\",\"rt\":\"{}\",\
         \"case\":\"{}\",\"payload\":{},\"conns\":{},\"outstanding\":{},\"rep\":{},\
         \"secs\":{secs:.3},\"ops\":{ops}",
        options.peer,
        options.version,
        options.transport,
        options.rt,
        options.case,
        options.payload,
        options.conns,
        options.outstanding,
        options.rep,
    );
    if ops > 0 {
        let per_call = |seconds: f64| seconds * 1e6 / ops as f64;
        text += &format!(
            ",\"ops_per_s\":{rate:.1},\"gb_per_s\":{:.4},\"cpu_client_us\":{:.3},\
             \"cpu_server_us\":{:.3},\"cpu_us\":{:.3}",
            rate * options.payload as f64 / 1e9,
            per_call(client),
            per_call(server),
            per_call(client + server),
        );
    }
    if let Some(times) = times.filter(|times| !times.is_empty()) {
        let at = |quantile| times.value_at_quantile(quantile) as f64 / 1e3;
        text += &format!(
            ",\"p50_us\":{:.3},\"p90_us\":{:.3},\"p99_us\":{:.3},\"p999_us\":{:.3},\
             \"mean_us\":{:.3},\"min_us\":{:.3}",
            at(0.5),
            at(0.9),
            at(0.99),
            at(0.999),
            times.mean() / 1e3,
            times.min() as f64 / 1e3,
        );
    }
    text + &format!(
        ",\"cpu_cores\":{:.4},\"other_cpu_cores\":{others:.3},\"steal_cores\":{steal:.3}}}",
        (client + server) / secs,
    )
}
