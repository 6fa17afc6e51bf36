//! What was measured, as a table.

use std::time::{Duration, Instant};

/// What was measured over one transport.
#[derive(Debug, Default)]
pub struct Measured {
    pub target: String,
    pub transport: String,
    pub because: String,
    /// Calls made; the replies of all of them were checked.
    pub calls: u64,
    pub stream_messages: u64,
    /// Of unary calls made one after the other.
    pub latencies: Vec<Duration>,
    /// With many outstanding.
    pub calls_per_second: f64,
    pub rates: StreamRates,
    /// Of large messages, each way.
    pub large_bytes_per_second: f64,
}

/// Messages per second.
#[derive(Debug, Default)]
pub struct StreamRates {
    pub from_server: f64,
    pub to_server: f64,
    /// Each way.
    pub both_ways: f64,
}

impl Measured {
    /// One more stream was read to its end.
    pub fn streamed(
        &mut self,
        rate: impl FnOnce(&mut StreamRates) -> &mut f64,
        messages: u64,
        started: Instant,
    ) {
        self.calls += 1;
        self.stream_messages += messages;
        *rate(&mut self.rates) = messages as f64 / started.elapsed().as_secs_f64();
    }

    fn latency_us(&self, quantile: f64) -> f64 {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let at = ((sorted.len() as f64 * quantile) as usize).min(sorted.len().saturating_sub(1));
        sorted.get(at).map_or(0.0, |latency| latency.as_secs_f64() * 1e6)
    }
}

/// Prints one column for each transport.
pub fn print(columns: &[Measured]) {
    println!("rdma-rpc: two processes, one set of generated code, a transport for each column\n");
    row("", columns, |of| of.target.split(':').next().unwrap_or_default().to_owned() + "://");
    row("transport", columns, |of| of.transport.clone());
    row("calls, every reply checked", columns, |of| count(of.calls as f64));
    row("unary call, p50 (us)", columns, |of| format!("{:.1}", of.latency_us(0.50)));
    row("unary call, p99 (us)", columns, |of| format!("{:.1}", of.latency_us(0.99)));
    row("calls/s, 64 outstanding", columns, |of| count(of.calls_per_second));
    row("messages/s, server stream", columns, |of| count(of.rates.from_server));
    row("messages/s, client stream", columns, |of| count(of.rates.to_server));
    row("messages/s each way, bidi", columns, |of| count(of.rates.both_ways));
    row("16 MiB echo, MB/s each way", columns, |of| count(of.large_bytes_per_second / 1e6));
    println!();
    for of in columns {
        println!("{} took {}: {}.", of.target, of.transport, of.because);
    }
    println!(
        "\nNext: `cargo run --release --example greeter -- server`, and `.. greeter -- client` \
         in another terminal; then route-guide and kv."
    );
}

fn row(name: &str, columns: &[Measured], cell: impl Fn(&Measured) -> String) {
    let cells: String = columns.iter().map(|of| format!("{:>14}", cell(of))).collect();
    println!("  {name:<28}{cells}");
}

/// 1234567.8 as "1,234,568".
fn count(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
