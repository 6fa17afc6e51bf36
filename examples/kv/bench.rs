//! How fast are gets and puts? Every value got is compared.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::try_join_all;
use rdma_rpc::Channel;

use crate::client::{Caller, Result};
use crate::proto::{DeleteRequest, GetRequest, PutRequest};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Callers at once, each with one call outstanding
    #[arg(long, default_value_t = 64)]
    callers: usize,
    /// Bytes of a value
    #[arg(long, default_value_t = 100)]
    value_bytes: usize,
    /// How long to put, and how long to get
    #[arg(long, default_value_t = 2)]
    seconds: u64,
}

/// Puts for a while, then gets for a while.
pub async fn run(caller: &Caller, channel: &Channel, options: Options) -> Result<()> {
    let info = channel.info().ok_or("the connection was lost at once")?;
    println!(
        "{} callers over {}, values of {} bytes",
        options.callers, info.transport, options.value_bytes
    );
    let value = Bytes::from(vec![b'v'; options.value_bytes]);
    let keys: Vec<String> =
        (0..options.callers).map(|at| format!("bench/{}/{at}", std::process::id())).collect();
    let time = Duration::from_secs(options.seconds);

    let put = async |key: &str| {
        let put = PutRequest { key: key.to_owned(), value: value.clone(), if_version: None };
        caller.kv.put(caller.request(put)).await?;
        Ok(())
    };
    report("put", measure(&keys, time, put).await?);
    let get = async |key: &str| {
        let get = GetRequest { key: key.to_owned() };
        let entry = caller.kv.get(caller.request(get)).await?.into_inner();
        if entry.value != value {
            return Err(format!("wrong value for key {key:?}").into());
        }
        Ok(())
    };
    report("get", measure(&keys, time, get).await?);
    for key in keys {
        caller.kv.delete(caller.request(DeleteRequest { key })).await?;
    }
    Ok(())
}

/// Latencies of all calls, and the time it took.
async fn measure(
    keys: &[String],
    time: Duration,
    call: impl AsyncFn(&str) -> Result<()>,
) -> Result<(Vec<Duration>, Duration)> {
    let started = Instant::now();
    let call = &call;
    let callers = keys.iter().map(|key| async move {
        let mut latencies = Vec::new();
        let mut before = Instant::now();
        loop {
            call(key).await?;
            let now = Instant::now();
            latencies.push(now - before);
            before = now;
            if now - started >= time {
                return Result::Ok(latencies);
            }
        }
    });
    let latencies = try_join_all(callers).await?.concat();
    Ok((latencies, started.elapsed()))
}

fn report(what: &str, (mut latencies, time): (Vec<Duration>, Duration)) {
    latencies.sort_unstable();
    let at = |per_cent: usize| {
        let index = latencies.len() * per_cent / 100;
        latencies.get(index).map_or(0.0, |latency| latency.as_secs_f64() * 1e6)
    };
    println!(
        "{what}: {:.0} calls/s, p50 {:.1} us, p99 {:.1} us",
        latencies.len() as f64 / time.as_secs_f64(),
        at(50),
        at(99)
    );
}
