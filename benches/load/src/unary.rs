//! Unary calls: one after the other, or a number of them open all the time.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::{TryFutureExt, try_join_all};
use hdrhistogram::Histogram;
use quanta::Clock;

use crate::Echo;
use crate::options::Options;
use crate::report::{Snapshot, histogram, line};

/// One call in so many is timed under load.
const TIMED: u64 = 8;

pub(crate) async fn echo<C: Echo>(client: &C, data: &Bytes) -> Result<(), String> {
    let reply = client.echo(data.clone()).await?;
    if reply.len() == data.len() {
        return Ok(());
    }
    Err(format!("an echo of {} bytes, not {}", reply.len(), data.len()))
}

/// How long each of a row of exchanges took.
struct Times {
    /// Reads the processor's counter: to ask the system costs 20 ns here, a tenth of what is measured at best.
    clock: Clock,
    last: u64,
    left_ns: u64,
    histogram: Histogram<u64>,
}

impl Times {
    fn start(options: &Options) -> Times {
        let (clock, histogram) = (Clock::new(), histogram());
        let left_ns = Duration::from_secs_f64(options.secs).as_nanos() as u64;
        Times { last: clock.raw(), clock, left_ns, histogram }
    }

    fn goes_on(&self) -> bool {
        self.left_ns > 0
    }

    fn exchanged(&mut self) {
        let now = self.clock.raw();
        let took_ns = self.clock.delta_as_nanos(self.last, now);
        self.histogram.saturating_record(took_ns);
        self.left_ns = self.left_ns.saturating_sub(took_ns);
        self.last = now;
    }
}

/// One exchange after the other, each of which counts as `unit` calls.
pub(crate) async fn timed<F: Future<Output = Result<(), String>>>(
    options: &Options,
    unit: u64,
    mut exchange: impl FnMut() -> F,
) -> Result<String, String> {
    let warm = Instant::now() + Duration::from_secs_f64(options.warmup);
    while Instant::now() < warm {
        exchange().await?;
    }
    let mut times = Times::start(options);
    let before = Snapshot::take(options, 0);
    let mut calls = 0;
    while times.goes_on() {
        exchange().await?;
        times.exchanged();
        calls += unit;
    }
    let after = Snapshot::take(options, calls);
    Ok(line(options, &before, &after, Some(&times.histogram)))
}

pub(crate) async fn serial<C: Echo>(
    options: &Options,
    client: &C,
    data: &Bytes,
) -> Result<String, String> {
    timed(options, 1, || echo(client, data)).await
}

/// So many calls at a time as are to be open, awaited together, and then as many again: as a program's
/// main function may do. What is timed is until the last of them has its answer.
pub(crate) async fn joined<C: Echo>(
    options: &Options,
    clients: &[C],
    data: &Bytes,
) -> Result<String, String> {
    let batch = || {
        let calls = clients.iter().cycle().take(options.outstanding);
        try_join_all(calls.map(|client| echo(client, data))).map_ok(drop)
    };
    timed(options, options.outstanding as u64, batch).await
}

/// The same for an exchange that blocks its thread; each call of `exchange` counts as `unit` calls.
pub fn blocking(
    options: &Options,
    unit: u64,
    mut exchange: impl FnMut() -> Result<(), String>,
) -> Result<String, String> {
    let warm = Instant::now() + Duration::from_secs_f64(options.warmup);
    while Instant::now() < warm {
        exchange()?;
    }
    let mut times = Times::start(options);
    let before = Snapshot::take(options, 0);
    let mut calls = 0;
    while times.goes_on() {
        exchange()?;
        times.exchanged();
        calls += unit;
    }
    let after = Snapshot::take(options, calls);
    Ok(line(options, &before, &after, Some(&times.histogram)))
}

/// A task for each call that is open, spread over the connections.
pub(crate) async fn closed_loop<C: Echo>(
    options: &Options,
    clients: &[C],
    data: &Bytes,
) -> Result<String, String> {
    let calls: Arc<Vec<AtomicU64>> =
        Arc::new((0..options.outstanding * 16).map(|_| AtomicU64::new(0)).collect());
    let (stop, measuring) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let times = Arc::new(Mutex::new(histogram()));
    let tasks: Vec<_> = (0..options.outstanding)
        .map(|task| {
            let client = clients[task % clients.len()].clone();
            let (calls, stop, measuring) =
                (Arc::clone(&calls), Arc::clone(&stop), Arc::clone(&measuring));
            let (times, data) = (Arc::clone(&times), data.clone());
            tokio::spawn(async move {
                let mut count = task as u64;
                while !stop.load(Relaxed) {
                    count += 1;
                    let begin = count.is_multiple_of(TIMED).then(Instant::now);
                    echo(&client, &data).await?;
                    if let Some(begin) = begin
                        && measuring.load(Relaxed)
                    {
                        let nanos = begin.elapsed().as_nanos() as u64;
                        times.lock().expect("no panics").saturating_record(nanos);
                    }
                    // Sixteen apart: each counter has cache lines of its own.
                    calls[task * 16].fetch_add(1, Relaxed);
                }
                Ok::<(), String>(())
            })
        })
        .collect();
    let sum = || calls.iter().map(|count| count.load(Relaxed)).sum();
    tokio::time::sleep(Duration::from_secs_f64(options.warmup)).await;
    measuring.store(true, Relaxed);
    let before = Snapshot::take(options, sum());
    tokio::time::sleep(Duration::from_secs_f64(options.secs)).await;
    let after = Snapshot::take(options, sum());
    stop.store(true, Relaxed);
    for task in tasks {
        task.await.map_err(|error| error.to_string())??;
    }
    let times = times.lock().expect("no panics");
    Ok(line(options, &before, &after, Some(&times)))
}
