//! The client: runs one case and prints one JSON line.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use rdma_rpc::Channel;

use crate::cpu;
use crate::options::Options;
use crate::service::proto::echo_client::EchoClient;
use crate::service::proto::{EchoMsg, StreamReq};

type Client = EchoClient;

struct Snapshot {
    at: Instant,
    calls: u64,
    client: f64,
    server: f64,
    machine: (f64, f64),
}

impl Snapshot {
    fn take(options: &Options, calls: u64) -> Snapshot {
        Snapshot {
            at: Instant::now(),
            calls,
            client: cpu::process_seconds(std::process::id()),
            server: options.server_pid.map_or(0.0, cpu::process_seconds),
            machine: cpu::machine_seconds(),
        }
    }
}

pub(crate) async fn run(options: Options) -> Result<(), String> {
    let mut clients = Vec::new();
    for _ in 0..options.conns {
        let channel = Channel::connect_with(options.client_config()?)
            .await
            .map_err(|status| status.to_string())?;
        clients.push(Client::new(channel).max_decoding_message_size(128 << 20));
    }
    let data: Bytes = (0..options.payload).map(|i| (i as u8).wrapping_mul(31)).collect();
    if options.mode == "unary" {
        for client in &clients {
            if echo(client, &data).await? != data {
                return Err("the echo is not what was sent".into());
            }
        }
    }
    // In a task of its own: the future given to `block_on` is served less often.
    let line = tokio::spawn(async move {
        match (options.mode.as_str(), options.outstanding) {
            ("unary", 1) => serial(&options, &clients[0], &data).await,
            ("unary", _) => closed_loop(&options, &clients, &data).await,
            ("stream", _) => streaming(&options, &clients[0]).await,
            (mode, _) => Err(format!("unknown mode {mode:?}: unary or stream")),
        }
    });
    println!("{}", line.await.map_err(|error| error.to_string())??);
    Ok(())
}

async fn echo(client: &Client, data: &Bytes) -> Result<Bytes, String> {
    let reply = client.unary(EchoMsg { data: data.clone() }).await;
    let reply = reply.map_err(|status| status.to_string())?.into_inner().data;
    if reply.len() == data.len() {
        return Ok(reply);
    }
    Err(format!("an echo of {} bytes, not {}", reply.len(), data.len()))
}

fn histogram() -> Histogram<u64> {
    // 1 ns to 100 s.
    Histogram::new_with_bounds(1, 100_000_000_000, 3).expect("sane bounds")
}

async fn serial(options: &Options, client: &Client, data: &Bytes) -> Result<String, String> {
    let warm = Instant::now() + Duration::from_secs_f64(options.warmup);
    while Instant::now() < warm {
        echo(client, data).await?;
    }
    let mut times = histogram();
    let before = Snapshot::take(options, 0);
    let end = before.at + Duration::from_secs_f64(options.secs);
    let (mut calls, mut last) = (0, Instant::now());
    while last < end {
        echo(client, data).await?;
        let now = Instant::now();
        times.saturating_record((now - last).as_nanos() as u64);
        (calls, last) = (calls + 1, now);
    }
    let after = Snapshot::take(options, calls);
    Ok(line(options, &before, &after, Some(&times)))
}

async fn closed_loop(
    options: &Options,
    clients: &[Client],
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
                    // One call in eight is timed.
                    let begin = count.is_multiple_of(8).then(Instant::now);
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

async fn streaming(options: &Options, client: &Client) -> Result<String, String> {
    let request = StreamReq { size: options.payload as u32 };
    let stream = client.down(request).await.map_err(|status| status.to_string())?;
    let mut stream = stream.into_inner();
    let calls = Arc::new(AtomicU64::new(0));
    let reader = tokio::spawn({
        let (calls, size) = (Arc::clone(&calls), options.payload);
        async move {
            while let Ok(Some(message)) = stream.message().await {
                assert_eq!(message.data.len(), size);
                calls.fetch_add(1, Relaxed);
            }
        }
    });
    tokio::time::sleep(Duration::from_secs_f64(options.warmup)).await;
    let before = Snapshot::take(options, calls.load(Relaxed));
    tokio::time::sleep(Duration::from_secs_f64(options.secs)).await;
    let after = Snapshot::take(options, calls.load(Relaxed));
    if reader.is_finished() {
        return Err("the stream ended early".into());
    }
    reader.abort();
    Ok(line(options, &before, &after, None))
}

fn line(
    options: &Options,
    before: &Snapshot,
    after: &Snapshot,
    times: Option<&Histogram<u64>>,
) -> String {
    let secs = (after.at - before.at).as_secs_f64();
    let ops = after.calls - before.calls;
    let (client, server) = (after.client - before.client, after.server - before.server);
    let per_call = |seconds: f64| seconds * 1e6 / ops.max(1) as f64;
    let others = (after.machine.0 - before.machine.0 - client - server).max(0.0) / secs;
    let steal = (after.machine.1 - before.machine.1) / secs;
    let rate = ops as f64 / secs;
    let mut text = format!(
        "{{\"peer\":\"rdma-rpc\",\"version\":\"{}\",\"transport\":\"{}\",\"rt\":\"{}\",\
         \"case\":\"{}\",\"payload\":{},\"conns\":{},\"outstanding\":{},\"rep\":{},\
         \"secs\":{secs:.3},\"ops\":{ops},\"ops_per_s\":{rate:.1},\"gb_per_s\":{:.4}",
        env!("CARGO_PKG_VERSION"),
        options.transport,
        options.rt,
        options.case,
        options.payload,
        options.conns,
        options.outstanding,
        options.rep,
        rate * options.payload as f64 / 1e9,
    );
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
        ",\"cpu_client_us\":{:.3},\"cpu_server_us\":{:.3},\"cpu_us\":{:.3},\
         \"other_cpu_cores\":{others:.3},\"steal_cores\":{steal:.3}}}",
        per_call(client),
        per_call(server),
        per_call(client + server),
    )
}
