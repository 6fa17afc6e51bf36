//! A tour of the service that checks every answer. It works on keys of its own and leaves none.

use bytes::Bytes;
use futures_util::stream;
use rdma_rpc::{Channel, Code};

use crate::client::{Caller, Result};
use crate::proto::{
    Change, DeleteRequest, GetRequest, PutRequest, ScanRequest, WatchRequest, change,
};
use crate::server::MORE;
use crate::store::MAX_VALUE_BYTES;

const SMALL: u64 = 2500;

/// Runs it; an error says which answer was wrong.
pub async fn run(caller: &Caller, channel: &Channel) -> Result<()> {
    let info = channel.info().ok_or("the connection was lost at once")?;
    println!("connected over {}: {}", info.transport, channel.chosen_because().unwrap_or_default());
    // Two demonstrations at once must not meet.
    let prefix = format!("demo/{}/", std::process::id());
    let result = tour(caller, &prefix).await;
    let cleaned = clean(caller, &prefix).await;
    result?;
    expect("keys deleted at the end", &cleaned?, &(SMALL + 1))?;
    println!("all answers were right");
    Ok(())
}

async fn tour(caller: &Caller, prefix: &str) -> Result<()> {
    let watching = WatchRequest { prefix: prefix.to_owned() };
    let mut changes = caller.kv.watch(caller.request(watching)).await?.into_inner();

    let key = format!("{prefix}a");
    let first = put(caller, &key, "one", None).await?;
    let entry = caller.kv.get(caller.request(GetRequest { key: key.clone() })).await?.into_inner();
    expect("the value got", &&entry.value[..], &&b"one"[..])?;
    expect("the version got", &entry.version, &first)?;
    println!("put and get: version {first}, put by {:?}", entry.client);

    let second = put(caller, &key, "two", Some(first)).await?;
    let refused = put(caller, &key, "three", Some(first)).await;
    fails("a put with an old version", refused, Code::FailedPrecondition)?;
    let refused = put(caller, "", "no key", None).await;
    fails("a put without a key", refused, Code::InvalidArgument)?;
    let deleted = caller.kv.delete(caller.request(DeleteRequest { key: key.clone() })).await?;
    let deleted = deleted.into_inner().version;
    let gone = caller.kv.get(caller.request(GetRequest { key: key.clone() })).await;
    fails("a get of a deleted key", gone.map_err(Into::into), Code::NotFound)?;
    println!("compare-and-set, and three errors as they should be");

    for (version, what) in [
        (first, change::What::PutBytes(3)),
        (second, change::What::PutBytes(3)),
        (deleted, change::What::Deleted(true)),
    ] {
        let change = changes.message().await?.ok_or("the watch ended")?;
        let (key, client, what) = (key.clone(), entry.client.clone(), Some(what));
        expect("the change watched", &change, &Change { key, version, client, what })?;
    }
    drop(changes);
    println!("watch: the three changes, in order");

    batch_and_scan(caller, prefix).await?;
    large(caller, prefix).await
}

async fn batch_and_scan(caller: &Caller, prefix: &str) -> Result<()> {
    let key = |at: u64| format!("{prefix}small/{at:06}");
    let puts: Vec<PutRequest> = (0..SMALL)
        .map(|at| PutRequest {
            key: key(at),
            value: at.to_le_bytes().to_vec().into(),
            if_version: None,
        })
        .collect();
    let reply = caller.kv.batch_put(caller.request(stream::iter(puts))).await?.into_inner();
    expect("entries put in a batch", &reply.count, &SMALL)?;

    let (mut next, mut after, mut pages) = (0, String::new(), 0);
    loop {
        let scan =
            ScanRequest { prefix: format!("{prefix}small/"), after, limit: 1000, keys_only: false };
        let mut entries = caller.kv.scan(caller.request(scan)).await?.into_inner();
        after = String::new();
        while let Some(entry) = entries.message().await? {
            expect("the key scanned", &entry.key, &key(next))?;
            expect("the value scanned", &&entry.value[..], &&next.to_le_bytes()[..])?;
            after = entry.key;
            next += 1;
        }
        pages += 1;
        let trailers = entries.trailers().await?.unwrap_or_default();
        if trailers.get(MORE).is_none_or(|more| more.as_bytes() != b"true") {
            break;
        }
    }
    expect("entries scanned", &next, &SMALL)?;
    println!("batch of {SMALL} puts, scanned in {pages} pages, in order");
    Ok(())
}

/// The longest value there may be, and one byte more.
async fn large(caller: &Caller, prefix: &str) -> Result<()> {
    let key = format!("{prefix}large");
    let mut value = vec![0; MAX_VALUE_BYTES];
    // No two pages are the same.
    for (at, page) in value.chunks_exact_mut(4096).enumerate() {
        page.fill(at as u8);
        page[..8].copy_from_slice(&(at as u64).to_le_bytes());
    }
    let value = Bytes::from(value);
    let started = std::time::Instant::now();
    put(caller, &key, value.clone(), None).await?;
    let put_time = started.elapsed();
    let entry = caller.kv.get(caller.request(GetRequest { key: key.clone() })).await?.into_inner();
    let get_time = started.elapsed() - put_time;
    if entry.value != value {
        return Err("the 64 MiB value came back with other bytes".into());
    }
    let too_long = Bytes::from(vec![0; MAX_VALUE_BYTES + 1]);
    fails("a value too long", put(caller, &key, too_long, None).await, Code::InvalidArgument)?;
    println!(
        "64 MiB value: put in {} ms, got in {} ms, every byte right",
        put_time.as_millis(),
        get_time.as_millis()
    );
    Ok(())
}

async fn put(
    caller: &Caller,
    key: &str,
    value: impl Into<Bytes>,
    if_version: Option<u64>,
) -> Result<u64> {
    let put = PutRequest { key: key.to_owned(), value: value.into(), if_version };
    Ok(caller.kv.put(caller.request(put)).await?.into_inner().version)
}

/// Deletes all keys with this prefix; gives how many there were.
async fn clean(caller: &Caller, prefix: &str) -> Result<u64> {
    let scan = ScanRequest { prefix: prefix.to_owned(), keys_only: true, ..ScanRequest::default() };
    let mut entries = caller.kv.scan(caller.request(scan)).await?.into_inner();
    let mut count = 0;
    while let Some(entry) = entries.message().await? {
        caller.kv.delete(caller.request(DeleteRequest { key: entry.key })).await?;
        count += 1;
    }
    Ok(count)
}

fn expect<T: PartialEq + std::fmt::Debug>(what: &str, got: &T, want: &T) -> Result<()> {
    if got == want {
        return Ok(());
    }
    Err(format!("wrong answer: {what} is {got:?}, not {want:?}").into())
}

fn fails<T>(what: &str, result: Result<T>, want: Code) -> Result<()> {
    let error = result.err().ok_or_else(|| format!("wrong answer: {what} was accepted"))?;
    match error.downcast_ref::<rdma_rpc::Status>() {
        Some(status) if status.code() == want => Ok(()),
        _ => Err(format!("wrong answer: {what} failed with {error}, not {want:?}").into()),
    }
}
