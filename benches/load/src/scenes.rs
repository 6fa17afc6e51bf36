//! Programs as people write them around calls: each of these is what one thread of a program does over
//! and over again. `--mode` names one; `--conns` and `--outstanding` say how many it uses where it uses
//! several.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::{Either, TryFutureExt, select, try_join_all};
use futures_util::stream::BoxStream;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinSet;

use crate::Echo;
use crate::options::Options;
use crate::report::{Snapshot, histogram, line};
use crate::unary::{echo, timed};

/// The messages of a stream that come out of a channel.
const UPLOADED: u64 = 1000;
/// What channels between tasks hold.
const CHANNEL: usize = 16;
/// From one call to the next of a program that calls now and then.
const PACE: Duration = Duration::from_micros(200);
/// A deadline that no call comes near to.
const DEADLINE: Duration = Duration::from_secs(5);

/// Runs the scene that `options` name.
pub(crate) async fn run<C: Echo>(
    options: &Options,
    clients: &[C],
    data: &Bytes,
) -> Result<String, String> {
    let client = &clients[0];
    match options.mode.as_str() {
        "deadline" => timed(options, 1, || client.echo_with_extras(data.clone(), DEADLINE)).await,
        "timeout" => timed(options, 1, || in_time(client, data)).await,
        "spawning-handler" => timed(options, 1, || client.echo_spawned(data.clone())).await,
        "fan-out" => timed(options, 1, || fan_out(clients, data)).await,
        "hedged" => timed(options, 1, || hedged(clients, data)).await,
        "spawned" => {
            let unit = options.outstanding as u64;
            timed(options, unit, || spawned(options.outstanding, client, data)).await
        }
        "actor" => {
            let actor = actor(client.clone());
            timed(options, 1, || ask(&actor, data)).await
        }
        "subscribed" => {
            let (_hold, never) = mpsc::channel(1);
            let mut subscription = client.chat(never).await?;
            let subscriber = tokio::spawn(async move { subscription.next().await });
            let line = timed(options, 1, || echo(client, data)).await;
            subscriber.abort();
            line
        }
        "paced" => paced(options, client, data).await,
        "chat" => {
            let chats = Chat::several(client, 1).await?;
            timed(options, 1, || talk(&chats[0], data)).await
        }
        "chats" => {
            let chats = Chat::several(client, options.outstanding).await?;
            let unit = chats.len() as u64;
            let all = || try_join_all(chats.iter().map(|chat| talk(chat, data))).map_ok(drop);
            timed(options, unit, all).await
        }
        "upload" => timed(options, UPLOADED, || upload(client, data)).await,
        mode => Err(format!("unknown mode {mode:?}: see benches/README.md")),
    }
}

/// A call that the program itself gives up after a time.
async fn in_time<C: Echo>(client: &C, data: &Bytes) -> Result<(), String> {
    let answer = tokio::time::timeout(DEADLINE, echo(client, data)).await;
    answer.map_err(|error| error.to_string())?
}

/// A call on every connection, awaited together.
async fn fan_out<C: Echo>(clients: &[C], data: &Bytes) -> Result<(), String> {
    try_join_all(clients.iter().map(|client| echo(client, data))).await.map(drop)
}

/// The same call on two connections: the first answer is taken, the other call is dropped.
async fn hedged<C: Echo>(clients: &[C], data: &Bytes) -> Result<(), String> {
    let [one, other, ..] = clients else { return Err("hedged needs --conns 2".into()) };
    let (one, other) = (Box::pin(echo(one, data)), Box::pin(echo(other, data)));
    match select(one, other).await {
        Either::Left((answer, _)) | Either::Right((answer, _)) => answer,
    }
}

/// A task for each call, all awaited, and then as many again.
async fn spawned<C: Echo>(count: usize, client: &C, data: &Bytes) -> Result<(), String> {
    let mut tasks = JoinSet::new();
    for _ in 0..count {
        let (client, data) = (client.clone(), data.clone());
        tasks.spawn(async move { echo(&client, &data).await });
    }
    while let Some(done) = tasks.join_next().await {
        done.map_err(|error| error.to_string())??;
    }
    Ok(())
}

type Question = (Bytes, oneshot::Sender<Result<Bytes, String>>);

/// A task that owns the client and is asked for calls.
fn actor<C: Echo>(client: C) -> mpsc::Sender<Question> {
    let (asks, mut asked) = mpsc::channel::<Question>(CHANNEL);
    tokio::spawn(async move {
        while let Some((data, answer)) = asked.recv().await {
            // Whoever asked may have gone.
            let _ = answer.send(client.echo(data).await);
        }
    });
    asks
}

async fn ask(actor: &mpsc::Sender<Question>, data: &Bytes) -> Result<(), String> {
    let (answer, answered) = oneshot::channel();
    actor.send((data.clone(), answer)).await.map_err(|error| error.to_string())?;
    answered.await.map_err(|error| error.to_string())?.map(drop)
}

/// A call now and then: what is timed is the call.
async fn paced<C: Echo>(options: &Options, client: &C, data: &Bytes) -> Result<String, String> {
    let mut times = histogram();
    let start = Instant::now();
    let measured = start + Duration::from_secs_f64(options.warmup);
    let end = measured + Duration::from_secs_f64(options.secs);
    let (mut before, mut calls, mut next) = (None, 0, start);
    loop {
        next = (next + PACE).max(Instant::now());
        // Timers of tokio's are whole milliseconds; in between a program has something to do.
        while Instant::now() < next {
            tokio::task::yield_now().await;
        }
        let begin = Instant::now();
        if begin >= measured && before.is_none() {
            before = Some(Snapshot::take(options, 0));
            continue;
        }
        echo(client, data).await?;
        let now = Instant::now();
        if let Some(before) = &before {
            times.saturating_record((now - begin).as_nanos() as u64);
            calls += 1;
            if now >= end {
                let after = Snapshot::take(options, calls);
                return Ok(line(options, before, &after, Some(&times)));
            }
        }
    }
}

/// A bidirectional stream whose requests come out of a channel.
struct Chat {
    say: mpsc::Sender<Bytes>,
    hear: Mutex<BoxStream<'static, Result<Bytes, String>>>,
}

impl Chat {
    async fn several<C: Echo>(client: &C, count: usize) -> Result<Vec<Chat>, String> {
        let mut chats = Vec::new();
        for _ in 0..count {
            let (say, said) = mpsc::channel(CHANNEL);
            let hear = Mutex::new(client.chat(said).await?);
            chats.push(Chat { say, hear });
        }
        Ok(chats)
    }
}

/// A message there and back.
async fn talk(chat: &Chat, data: &Bytes) -> Result<(), String> {
    chat.say.send(data.clone()).await.map_err(|error| error.to_string())?;
    let answer = chat.hear.lock().await.next().await.ok_or("the stream ended")??;
    if answer.len() == data.len() { Ok(()) } else { Err("not what was said".into()) }
}

/// A client's stream that another task feeds.
async fn upload<C: Echo>(client: &C, data: &Bytes) -> Result<(), String> {
    let (give, given) = mpsc::channel(CHANNEL);
    let data = data.clone();
    let giving = tokio::spawn(async move {
        for _ in 0..UPLOADED {
            if give.send(data.clone()).await.is_err() {
                break;
            }
        }
    });
    let count = client.upload(given).await?;
    giving.await.map_err(|error| error.to_string())?;
    if count == UPLOADED { Ok(()) } else { Err(format!("{count} of {UPLOADED} arrived")) }
}
