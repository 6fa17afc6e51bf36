//! The client: every kind of call on every transport; no reply goes unchecked.

use std::error::Error;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::try_join_all;
use futures_util::stream;
use rdma_rpc::Channel;

use crate::proto::arithmetic_client::ArithmeticClient;
use crate::proto::{AddRequest, Blob, CountRequest, DigestReply, Number};
use crate::report::{self, Measured};
use crate::server::{MAX_MESSAGE_BYTES, digest_step};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// How long unary calls are made, alone and together.
const UNARY_TIME: Duration = Duration::from_millis(500);
const OUTSTANDING: u64 = 64;
const STREAM_MESSAGES: u64 = 30_000;
const BLOB_BYTES: usize = 16 << 20;
const BLOBS: u64 = 6;

/// Calls the server over both transports and prints the table.
pub async fn measure(address: &str) -> Result<()> {
    tokio::select! {
        result = measure_all(address) => result,
        () = crate::stdin_closed() => Err("the process that started the client is gone".into()),
    }
}

async fn measure_all(address: &str) -> Result<()> {
    // `auto` takes the fastest transport both ends have: here the ring in shared memory.
    let ring = measure_one(&format!("auto://{address}")).await?;
    if ring.transport == "tcp" {
        return Err(format!("no ring between these two processes: {}", ring.because).into());
    }
    // The same code; the target is all that differs.
    let tcp = measure_one(&format!("tcp://{address}")).await?;
    report::print(&[ring, tcp]);
    Ok(())
}

async fn measure_one(target: &str) -> Result<Measured> {
    let channel = Channel::connect(target).await?;
    let info = channel.info().ok_or("the connection was lost at once")?;
    let client =
        ArithmeticClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let mut measured = Measured {
        target: target.to_owned(),
        transport: info.transport.to_owned(),
        because: channel.chosen_because().unwrap_or_default(),
        ..Measured::default()
    };
    let calls = async {
        unary(&client, &mut measured).await?;
        outstanding(&client, &mut measured).await?;
        server_stream(&client, &mut measured).await?;
        client_stream(&client, &mut measured).await?;
        bidi_stream(&client, &mut measured).await?;
        large(&client, &mut measured).await
    };
    calls.await.map_err(|error| format!("over {}: {error}", info.transport))?;
    Ok(measured)
}

/// One small call, checked.
async fn add(client: &ArithmeticClient, a: u64, b: u64) -> Result<()> {
    let sum = client.add(AddRequest { a, b }).await?.into_inner();
    expect(&format_args!("Add({a}, {b})"), &sum.value, &a.wrapping_add(b))
}

/// One call after the other: how long does each take?
async fn unary(client: &ArithmeticClient, measured: &mut Measured) -> Result<()> {
    for warm_up in 0..1000 {
        add(client, warm_up, 1).await?;
        measured.calls += 1;
    }
    let started = Instant::now();
    let mut before = started;
    while before - started < UNARY_TIME {
        add(client, measured.calls, u64::MAX / 2).await?;
        measured.calls += 1;
        let now = Instant::now();
        measured.latencies.push(now - before);
        before = now;
    }
    Ok(())
}

/// Many callers on one channel, each with one call outstanding.
async fn outstanding(client: &ArithmeticClient, measured: &mut Measured) -> Result<()> {
    let started = Instant::now();
    let callers = (0..OUTSTANDING).map(|caller| async move {
        let mut calls = 0;
        while started.elapsed() < UNARY_TIME {
            add(client, caller, calls).await?;
            calls += 1;
        }
        Ok::<u64, Box<dyn Error>>(calls)
    });
    let calls: u64 = try_join_all(callers).await?.iter().sum();
    measured.calls += calls;
    measured.calls_per_second = calls as f64 / started.elapsed().as_secs_f64();
    Ok(())
}

async fn server_stream(client: &ArithmeticClient, measured: &mut Measured) -> Result<()> {
    let started = Instant::now();
    let mut numbers = client.count(CountRequest { end: STREAM_MESSAGES }).await?.into_inner();
    let mut received = 0;
    while let Some(Number { value }) = numbers.message().await? {
        expect(&format_args!("message {received} of Count"), &value, &received)?;
        received += 1;
    }
    expect(&"the number of messages of Count", &received, &STREAM_MESSAGES)?;
    measured.streamed(|rates| &mut rates.from_server, STREAM_MESSAGES, started);
    Ok(())
}

async fn client_stream(client: &ArithmeticClient, measured: &mut Measured) -> Result<()> {
    let started = Instant::now();
    let numbers = stream::iter((0..STREAM_MESSAGES).map(|value| Number { value }));
    let reply = client.digest(numbers).await?.into_inner();
    measured.streamed(|rates| &mut rates.to_server, STREAM_MESSAGES, started);
    let digest = (0..STREAM_MESSAGES).fold(0, digest_step);
    expect(&"Digest", &reply, &DigestReply { count: STREAM_MESSAGES, digest })
}

async fn bidi_stream(client: &ArithmeticClient, measured: &mut Measured) -> Result<()> {
    let started = Instant::now();
    let numbers = stream::iter((0..STREAM_MESSAGES).map(|value| Number { value }));
    let mut squares = client.square(numbers).await?.into_inner();
    let mut received = 0;
    while let Some(Number { value }) = squares.message().await? {
        expect(&format_args!("message {received} of Square"), &value, &(received * received))?;
        received += 1;
    }
    expect(&"the number of messages of Square", &received, &STREAM_MESSAGES)?;
    measured.streamed(|rates| &mut rates.both_ways, STREAM_MESSAGES, started);
    Ok(())
}

/// Large messages there and back. Each has other contents, so that an old one cannot pass for it.
async fn large(client: &ArithmeticClient, measured: &mut Measured) -> Result<()> {
    let mut spent = Duration::ZERO;
    for seed in 0..BLOBS {
        let sent = noise(seed);
        let started = Instant::now();
        let back = client.echo(Blob { data: sent.clone() }).await?.into_inner().data;
        spent += started.elapsed();
        measured.calls += 1;
        expect(&"the length of the answer of Echo", &back.len(), &sent.len())?;
        if back != sent
            && let Some(at) = (0..sent.len()).find(|&at| back[at] != sent[at])
        {
            expect(&format_args!("byte {at} of the answer of Echo"), &back[at], &sent[at])?;
        }
    }
    let bytes = BLOBS as usize * BLOB_BYTES;
    measured.large_bytes_per_second = bytes as f64 / spent.as_secs_f64();
    Ok(())
}

/// Bytes without a pattern (xorshift64*).
fn noise(seed: u64) -> Bytes {
    let mut state = seed + 1;
    let mut words = Vec::with_capacity(BLOB_BYTES);
    for _ in 0..BLOB_BYTES / 8 {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        words.extend_from_slice(&state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    words.into()
}

fn expect<T: PartialEq + std::fmt::Debug>(
    what: &dyn std::fmt::Display,
    got: &T,
    want: &T,
) -> Result<()> {
    if got == want {
        return Ok(());
    }
    Err(format!("wrong reply: {what} is {got:?}, not {want:?}").into())
}
