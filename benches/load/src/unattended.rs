//! Cases in which the client makes no calls while it is measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::Echo;
use crate::options::Options;
use crate::report::{Snapshot, line};

/// One server stream, as fast as it comes.
pub(crate) async fn streaming<C: Echo>(options: &Options, client: &C) -> Result<String, String> {
    let messages = Arc::new(AtomicU64::new(0));
    let reader = tokio::spawn({
        let (client, count, size) = (client.clone(), Arc::clone(&messages), options.payload);
        async move { client.stream(size, count).await }
    });
    tokio::time::sleep(Duration::from_secs_f64(options.warmup)).await;
    let before = Snapshot::take(options, messages.load(Relaxed));
    tokio::time::sleep(Duration::from_secs_f64(options.secs)).await;
    let after = Snapshot::take(options, messages.load(Relaxed));
    if reader.is_finished() {
        reader.await.map_err(|error| error.to_string())??;
        return Err("the stream ended early".into());
    }
    reader.abort();
    Ok(line(options, &before, &after, None))
}

/// Connections that were used and are open: what they cost while nothing is asked of them.
pub(crate) async fn idle(options: &Options) -> Result<String, String> {
    tokio::time::sleep(Duration::from_secs_f64(options.warmup)).await;
    let before = Snapshot::take(options, 0);
    tokio::time::sleep(Duration::from_secs_f64(options.secs)).await;
    let after = Snapshot::take(options, 0);
    Ok(line(options, &before, &after, None))
}
