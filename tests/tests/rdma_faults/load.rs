//! 64 calls of every kind that go on until they are stopped or fail, each checking every byte.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::stream::{self, FuturesUnordered, StreamExt};
use rdma_rpc::{Code, RequestSeen, Status};
use rdma_rpc_tests::cases::support::{MIB, behave, exchange, output, within};
use rdma_rpc_tests::pattern::{checksum, payload};
use rdma_rpc_tests::proto::StreamingInputCallRequest;
use rdma_rpc_tests::proto::behave_request::Behaviour;
use rdma_rpc_tests::proto::test_service_client::TestServiceClient;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Calls at once.
pub(crate) const CALLS: usize = 64;

/// Messages of a stream, after which a new one begins.
const STREAM_MESSAGES: u32 = 10;

/// How long calls may take that were never sent and are repeated on the next connection: the
/// handshake, and another transport after RDMA has failed in it.
const REPEATED: Duration = Duration::from_secs(12);

/// The kind of a lane's calls. Most are small; making and checking long ones is what takes the
/// time of an emulated machine.
fn kind_of(lane: usize) -> usize {
    match lane {
        0..4 => 3,
        4..10 => 2,
        10..16 => 1,
        16..32 => 4,
        _ => 0,
    }
}

/// The calls.
#[derive(Debug)]
pub(crate) struct Load {
    tasks: FuturesUnordered<JoinHandle<Result<(), Status>>>,
    stop: Arc<AtomicBool>,
    /// Ends the calls that have no end.
    cancel: watch::Sender<bool>,
    done: Arc<[AtomicU64; 4]>,
}

impl Load {
    /// Begins all of them, and waits until each kind has brought something to its end.
    pub(crate) async fn begin(client: &TestServiceClient) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let done: Arc<[AtomicU64; 4]> = Arc::default();
        let (cancel, cancelled) = watch::channel(false);
        let tasks = (0..CALLS)
            .map(|number| {
                let (client, stop, done) = (client.clone(), stop.clone(), done.clone());
                let mut cancelled = cancelled.clone();
                tokio::spawn(async move {
                    let kind = kind_of(number);
                    if kind == 4 {
                        return tokio::select! {
                            result = client.behave(behave(Behaviour::Forever, 0)) => result.map(drop),
                            _ = cancelled.wait_for(|cancelled| *cancelled) => Ok(()),
                        };
                    }
                    while !stop.load(Ordering::Relaxed) {
                        once(&client, kind).await?;
                        done[kind].fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        let mut load = Load { tasks, stop, cancel, done };
        let begin = Instant::now();
        while load.done.iter().any(|kind| kind.load(Ordering::Relaxed) == 0) {
            assert!(begin.elapsed() < Duration::from_secs(20), "no calls: {:?}", load.done);
            let pause = Duration::from_millis(10);
            if let Ok(Some(ended)) = tokio::time::timeout(pause, load.tasks.next()).await {
                panic!("a call failed before anything was done to it: {ended:?}");
            }
        }
        load
    }

    /// Calls that were done.
    pub(crate) fn done(&self) -> u64 {
        self.done.iter().map(|kind| kind.load(Ordering::Relaxed)).sum()
    }

    /// Something has died at `since`: what is under way ends within `bound` of it, with
    /// UNAVAILABLE and whether it may have run. (A lane that is between two calls at that moment
    /// has nothing to lose.) Gives the statuses.
    pub(crate) async fn die(
        mut self,
        since: Instant,
        bound: Duration,
        what: &str,
    ) -> (Duration, Vec<Status>) {
        self.stop.store(true, Ordering::Relaxed);
        let mut statuses = Vec::new();
        let mut took = Duration::ZERO;
        while let Some(ended) = within(bound + REPEATED, what, self.tasks.next()).await {
            let Err(status) = ended.expect("a call does not panic") else { continue };
            check_unavailable(&status, what);
            // One that was never sent has tried a new connection meanwhile.
            if status.request_seen() == RequestSeen::MayHaveRun {
                took = since.elapsed();
            }
            statuses.push(status);
        }
        let ran = |status: &&Status| status.request_seen() == RequestSeen::MayHaveRun;
        let may_have_run = statuses.iter().filter(ran).count();
        let count = statuses.len();
        let example = statuses.iter().find(ran).map(ToString::to_string).unwrap_or_default();
        eprintln!(
            "  {what}: over after {took:?}; of {count} that failed {may_have_run} may have run: {example}"
        );
        assert!(took < bound, "{what}: after {took:?}, not {bound:?}");
        let all = since.elapsed();
        assert!(all < bound + REPEATED, "{what}: what was never sent ended after {all:?}");
        assert!(may_have_run > 0, "{what}: {count} calls failed, and none was under way");
        (took, statuses)
    }

    /// All of them end, well or with UNAVAILABLE and whether they may have run; how many failed.
    pub(crate) async fn end(mut self, bound: Duration, what: &str) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.cancel.send_replace(true);
        let mut failed = 0;
        while let Some(ended) = within(bound, what, self.tasks.next()).await {
            let Err(status) = ended.expect("a call does not panic") else { continue };
            check_unavailable(&status, what);
            failed += 1;
        }
        failed
    }

    /// All of them end well once told to.
    pub(crate) async fn finish(mut self, bound: Duration, what: &str) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.cancel.send_replace(true);
        while let Some(ended) = within(bound, what, self.tasks.next()).await {
            let result = ended.expect("a call does not panic");
            result.unwrap_or_else(|status| panic!("{what}: a call failed: {status}"));
        }
        self.done()
    }
}

/// The call ended with UNAVAILABLE and whether it may have run.
fn check_unavailable(status: &Status, what: &str) {
    assert_eq!(status.code(), Code::Unavailable, "{what}: {status}");
    assert_ne!(status.request_seen(), RequestSeen::Unknown, "{what}: {status}");
}

/// One call of this kind.
async fn once(client: &TestServiceClient, kind: usize) -> Result<(), Status> {
    match kind {
        0 => exchange(client, 100, 200).await,
        1 => {
            let wanted = output(&[1000, 20_000], STREAM_MESSAGES / 2);
            let mut responses = client.streaming_output_call(wanted).await?.into_inner();
            let mut count = 0;
            while let Some(response) = responses.message().await? {
                let bytes = if count % 2 == 0 { 1000 } else { 20_000 };
                assert_eq!(response.number, count, "responses out of order");
                assert!(response.payload == payload(bytes, bytes as u64), "{count} is changed");
                count += 1;
            }
            assert_eq!(count, u64::from(STREAM_MESSAGES), "the stream was cut short");
            Ok(())
        }
        2 => {
            let sent = payload(10_000, 7);
            let sum = checksum(&sent);
            let messages = (0..STREAM_MESSAGES)
                .map(move |_| StreamingInputCallRequest { payload: sent.clone() });
            let reply = client.streaming_input_call(stream::iter(messages)).await?.into_inner();
            let want = (0..STREAM_MESSAGES).fold(0_u64, |all, _| all.rotate_left(1) ^ sum);
            assert_eq!((reply.messages, reply.checksum), (u64::from(STREAM_MESSAGES), want));
            Ok(())
        }
        _ => exchange(client, MIB, MIB).await,
    }
}

/// So many calls of every kind, one after the other in 16 lanes.
pub(crate) async fn mixed(client: &TestServiceClient, count: usize) -> Result<(), Status> {
    let kind = |number: usize| if number % 40 == 3 { 3 } else { [0, 0, 0, 1, 2][number % 5] };
    let calls = stream::iter((0..count).map(|number| once(client, kind(number))));
    let mut calls = calls.buffer_unordered(16);
    while let Some(result) = calls.next().await {
        result?;
    }
    Ok(())
}
