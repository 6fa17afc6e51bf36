//! What every measured echo program shares, ours and the peers': command line, runtime, closed
//! loop, histogram, CPU accounting and the JSON line. A difference between two programs is then
//! one between what they measure.
//!
//! A program implements [`Echo`] for its client, and gives [`run`] a function that serves and one
//! that connects.

mod cpu;
mod options;
mod report;
mod unary;
mod unattended;

use std::future::Future;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;

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
}

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
    let data: Bytes = (0..options.payload).map(|i| (i as u8).wrapping_mul(31)).collect();
    if options.mode != "stream" {
        for client in &clients {
            if client.echo(data.clone()).await? != data {
                return Err("the echo is not what was sent".into());
            }
        }
    }
    if options.rt == MAIN && options.mode == "unary" {
        println!("{}", unary::joined(&options, &clients, &data).await?);
        return Ok(());
    }
    // In a task of its own, as the server is.
    let line = tokio::spawn(async move {
        match (options.mode.as_str(), options.outstanding) {
            ("unary", 1) => unary::serial(&options, &clients[0], &data).await,
            ("unary", _) => unary::closed_loop(&options, &clients, &data).await,
            ("stream", _) => unattended::streaming(&options, &clients[0]).await,
            ("idle", _) => unattended::idle(&options).await,
            (mode, _) => Err(format!("unknown mode {mode:?}: unary, stream or idle")),
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
