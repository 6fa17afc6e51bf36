//! What every measured echo program shares, ours and the peers': command line, runtime, closed
//! loop, histogram, CPU accounting and the JSON line. A difference between two programs is then
//! one between what they measure.
//!
//! A program implements [`Echo`] for its client, and gives [`run`] a function that serves and one
//! that connects.

mod cpu;
mod options;
mod report;
mod scenes;
mod unary;
mod unattended;

use std::future::Future;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
pub use futures_util::stream::{BoxStream, StreamExt};
use tokio::sync::mpsc;

use options::MAIN;
pub use options::{Options, Role};
pub use report::{Snapshot, histogram, line};
pub use unary::blocking;

/// The longest message any case sends, with room to spare.
pub const MAX_MESSAGE_BYTES: usize = 128 << 20;

/// More calls than any case has open at once: where a library has a lower limit, its program
/// raises it to this, which is our own default, if it can.
pub const MAX_OPEN_CALLS: u32 = 16 * 1024;

/// One connection to an echo server. A clone shares the connection.
pub trait Echo: Clone + Send + Sync + 'static {
    /// A payload in the memory that the library has for messages; without any, the allocator's.
    fn payload(bytes: Vec<u8>) -> Bytes {
        bytes.into()
    }

    /// Sends a message and gives the answer.
    fn echo(&self, data: Bytes) -> impl Future<Output = Result<Bytes, String>> + Send;

    /// Reads one server stream of messages of `size` bytes and counts them, until dropped.
    fn stream(
        &self,
        size: usize,
        count: Arc<AtomicU64>,
    ) -> impl Future<Output = Result<(), String>> + Send {
        let _ = (size, count);
        async { Err("streams are not offered".into()) }
    }

    /// The same as [`Echo::echo`], with a deadline and three entries of metadata.
    fn echo_with_extras(
        &self,
        data: Bytes,
        deadline: Duration,
    ) -> impl Future<Output = Result<(), String>> + Send {
        let _ = (data, deadline);
        async { Err("metadata is not offered".into()) }
    }

    /// The same as [`Echo::echo`], by a handler that spawns a task and awaits it.
    fn echo_spawned(&self, data: Bytes) -> impl Future<Output = Result<(), String>> + Send {
        let _ = data;
        async { Err("this handler is not offered".into()) }
    }

    /// Sends what comes out of a channel and gives how much of it has arrived.
    fn upload(
        &self,
        messages: mpsc::Receiver<Bytes>,
    ) -> impl Future<Output = Result<u64, String>> + Send {
        drop(messages);
        async { Err("streams are not offered".into()) }
    }

    /// Sends what comes out of a channel and gives each message as it comes back.
    fn chat(
        &self,
        messages: mpsc::Receiver<Bytes>,
    ) -> impl Future<Output = Result<BoxStream<'static, Result<Bytes, String>>, String>> + Send
    {
        drop(messages);
        async { Err("streams are not offered".into()) }
    }
}

/// What comes out of a channel, as a stream.
pub fn in_order(mut messages: mpsc::Receiver<Bytes>) -> impl Stream<Item = Bytes> + Send + 'static {
    futures_util::stream::poll_fn(move |cx| messages.poll_recv(cx))
}

/// The metadata of [`Echo::echo_with_extras`].
pub const EXTRAS: [(&str, &str); 3] = [
    ("x-request-id", "6f0a1c52-6c1f-4f27-9c57-1d2b6d5b8f2e"),
    ("x-tenant", "a-tenant-with-a-name-of-some-length"),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
];

/// The whole of an echo program: parses the command line and serves, or runs one case and prints
/// its line. `name` and `version` say what is measured.
pub fn run<C, S, Serving, K, Connecting>(name: &str, version: &str, serve: S, connect: K)
where
    C: Echo,
    S: FnOnce(Options) -> Serving,
    Serving: Future<Output = Result<(), String>> + Send + 'static,
    K: Fn(Options) -> Connecting,
    Connecting: Future<Output = Result<C, String>>,
{
    let options = parse(name, version);
    let runtime = options.runtime();
    let result = runtime.block_on(async {
        match options.role {
            // In a task of its own: the future given to `block_on` is served less often.
            Role::Server => {
                tokio::spawn(serve(options)).await.map_err(|error| error.to_string())?
            }
            Role::Client => client(options, connect).await,
        }
    });
    end(name, result);
}

/// The options of the command line; a program that was called wrongly ends here.
pub fn parse(name: &str, version: &str) -> Options {
    raise_descriptor_limit();
    Options::parse(name, version, std::env::args().skip(1)).unwrap_or_else(|problem| {
        eprintln!("{name}: {problem}");
        std::process::exit(2);
    })
}

/// Ends the program if something went wrong.
pub fn end(name: &str, result: Result<(), String>) {
    if let Err(problem) = result {
        eprintln!("{name}: {problem}");
        std::process::exit(1);
    }
}

/// Says that the server listens, for whoever started it, and lets it end with its standard input,
/// so that no server outlives whoever started it.
pub fn ready() -> Result<(), String> {
    std::thread::spawn(|| {
        let mut buffer = [0; 64];
        while std::io::stdin().read(&mut buffer).is_ok_and(|bytes| bytes > 0) {}
        std::process::exit(0);
    });
    println!("READY {}", std::process::id());
    std::io::stdout().flush().map_err(|error| error.to_string())
}

async fn client<C, K, Connecting>(options: Options, connect: K) -> Result<(), String>
where
    C: Echo,
    K: Fn(Options) -> Connecting,
    Connecting: Future<Output = Result<C, String>>,
{
    let mut clients = Vec::new();
    for _ in 0..options.conns {
        clients.push(connect(options.clone()).await?);
    }
    let data: Vec<u8> = (0..options.payload).map(|i| (i as u8).wrapping_mul(31)).collect();
    let data = if options.heap { data.into() } else { C::payload(data) };
    if options.mode != "stream" {
        for client in &clients {
            if client.echo(data.clone()).await? != data {
                return Err("the echo is not what was sent".into());
            }
        }
    }
    if options.rt == MAIN && !matches!(options.mode.as_str(), "stream" | "idle") {
        let line = match options.mode.as_str() {
            "unary" => unary::joined(&options, &clients, &data).await?,
            _ => scenes::run(&options, &clients, &data).await?,
        };
        println!("{line}");
        return Ok(());
    }
    // In a task of its own, as the server is.
    let line = tokio::spawn(async move {
        match (options.mode.as_str(), options.outstanding) {
            ("unary", 1) => unary::serial(&options, &clients[0], &data).await,
            ("unary", _) => unary::closed_loop(&options, &clients, &data).await,
            ("stream", _) => unattended::streaming(&options, &clients[0]).await,
            ("idle", _) => unattended::idle(&options).await,
            _ => scenes::run(&options, &clients, &data).await,
        }
    });
    println!("{}", line.await.map_err(|error| error.to_string())??);
    Ok(())
}

/// A thousand connections take some thousands of descriptors: as many as this user may have.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        eprintln!("cannot raise the limit of open files: {error}");
    }
}
