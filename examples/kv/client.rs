//! The client's commands.

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Subcommand;
use futures_util::stream;
use rdma_rpc::config::ClientConfig;
use rdma_rpc::{Channel, Request};
use rdma_rpc_examples::TargetOptions;
use tokio::io::AsyncBufReadExt;

use crate::proto::kv_client::KvClient;
use crate::proto::{DeleteRequest, GetRequest, PutRequest, ScanRequest, WatchRequest, change};
use crate::server::{CLIENT, MORE};
use crate::{ADDRESS, MAX_MESSAGE_BYTES, bench, demo};

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// No call but a watch takes this long, with the longest value on a slow machine.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    target: TargetOptions,
    /// Who makes the changes, for those who watch
    #[arg(long, default_value = "kv")]
    name: String,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write the value of a key to standard output
    Get { key: String },
    /// Put a value
    Put {
        key: String,
        /// The value; or give --file
        #[arg(required_unless_present = "file")]
        value: Option<String>,
        /// Take the value from this file
        #[arg(long, conflicts_with = "value")]
        file: Option<PathBuf>,
        /// Only if the entry has this version (0: only if there is none)
        #[arg(long)]
        if_version: Option<u64>,
    },
    /// Delete a key
    Del { key: String },
    /// List keys, with their version and who put them
    Scan {
        #[arg(default_value = "")]
        prefix: String,
        /// The most keys to list; 0: all
        #[arg(long, default_value_t = 0)]
        limit: usize,
    },
    /// Put entries read from standard input, one a line: a key, a space, the value
    Load,
    /// Print changes as they happen, until ctrl-c
    Watch {
        #[arg(default_value = "")]
        prefix: String,
    },
    /// Measure gets and puts
    Bench(bench::Options),
}

/// A client whose requests carry its name.
#[derive(Debug, Clone)]
pub struct Caller {
    pub kv: KvClient,
    name: rdma_rpc::metadata::MetadataValue<rdma_rpc::metadata::Ascii>,
}

impl Caller {
    /// A request with our name and no time limit.
    pub fn endless<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert(CLIENT, self.name.clone());
        request
    }

    /// A request with our name and a time limit.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = self.endless(message);
        request.set_timeout(PATIENCE);
        request
    }
}

/// Runs one command, or the demonstration.
pub async fn run(options: Options) -> Result<()> {
    let config = ClientConfig::new(format!("auto://{ADDRESS}").parse()?);
    let channel = Channel::connect_with(options.target.over(config)?).await?;
    let kv = KvClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let caller = Caller { kv, name: options.name.parse()? };
    match options.command {
        None => demo::run(&caller, &channel).await,
        Some(Command::Bench(options)) => bench::run(&caller, &channel, options).await,
        Some(Command::Get { key }) => {
            let entry = caller.kv.get(caller.request(GetRequest { key })).await?.into_inner();
            Ok(std::io::stdout().write_all(&entry.value)?)
        }
        Some(Command::Put { key, value, file, if_version }) => {
            let value = match file {
                Some(path) => Bytes::from(std::fs::read(path)?),
                None => Bytes::from(value.unwrap_or_default()),
            };
            let put = PutRequest { key, value, if_version };
            let reply = caller.kv.put(caller.request(put)).await?.into_inner();
            println!("version {}", reply.version);
            Ok(())
        }
        Some(Command::Del { key }) => {
            let reply = caller.kv.delete(caller.request(DeleteRequest { key })).await?;
            println!("version {}", reply.into_inner().version);
            Ok(())
        }
        Some(Command::Load) => load(&caller).await,
        Some(Command::Scan { prefix, limit }) => scan(&caller, prefix, limit).await,
        Some(Command::Watch { prefix }) => watch(&caller, prefix).await,
    }
}

/// Puts lines as they are typed: one call for all of them.
async fn load(caller: &Caller) -> Result<()> {
    let lines = tokio::io::BufReader::new(tokio::io::stdin()).lines();
    let puts = stream::unfold(lines, |mut lines| async {
        // Input that is not text ends the batch as its end does, but not in silence.
        let line = lines.next_line().await.unwrap_or_else(|error| {
            tracing::error!(%error, "cannot read standard input");
            None
        })?;
        let (key, value) = line.split_once(' ').unwrap_or((&line, ""));
        let value = Bytes::copy_from_slice(value.as_bytes());
        Some((PutRequest { key: key.to_owned(), value, if_version: None }, lines))
    });
    let reply = caller.kv.batch_put(caller.endless(puts)).await?.into_inner();
    println!("{} entries, the last with version {}", reply.count, reply.version);
    Ok(())
}

/// Lists keys page by page.
async fn scan(caller: &Caller, prefix: String, limit: usize) -> Result<()> {
    const PAGE: usize = 1000;
    let mut left = if limit == 0 { usize::MAX } else { limit };
    let mut after = String::new();
    loop {
        let limit = left.min(PAGE) as u32;
        let page = ScanRequest { prefix: prefix.clone(), after, limit, keys_only: true };
        let mut entries = caller.kv.scan(caller.request(page)).await?.into_inner();
        after = String::new();
        while let Some(entry) = entries.message().await? {
            println!("{:>8}  {}  {}", entry.version, entry.key, entry.client);
            after = entry.key;
            left -= 1;
        }
        let trailers = entries.trailers().await?.unwrap_or_default();
        let more = trailers.get(MORE).is_some_and(|more| more.as_bytes() == b"true");
        if !more || left == 0 {
            return Ok(());
        }
    }
}

async fn watch(caller: &Caller, prefix: String) -> Result<()> {
    let request = caller.endless(WatchRequest { prefix });
    let mut changes = caller.kv.watch(request).await?.into_inner();
    while let Some(change) = changes.message().await? {
        let what = match change.what {
            Some(change::What::PutBytes(bytes)) => format!("put {bytes} bytes"),
            Some(change::What::Deleted(_)) => "deleted".to_owned(),
            None => "changed".to_owned(),
        };
        println!("{:>8}  {}  {what}  {}", change.version, change.key, change.client);
    }
    Ok(())
}
