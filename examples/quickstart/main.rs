//! The first program to run: `cargo run --release --example quickstart`.
//!
//! It starts a server process and a client process (itself, twice), makes calls of all four kinds
//! over a ring in shared memory and then over TCP with the same generated code, checks every
//! reply, and prints what it measured. It exits with 0 only if every reply was right.
//!
//! Does it really check? `-- --wrong add` (or another answer, see `--help`) makes the server lie,
//! and the program must fail.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use clap::{Parser, Subcommand};

mod client;
mod report;
mod server;

mod proto {
    rdma_rpc::include_proto!("quickstart.v1");
}

/// Nothing here takes this long, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Calls of all four kinds, over shared memory and over TCP, every reply checked
#[derive(Debug, Parser)]
#[command(name = "quickstart")]
struct Options {
    /// Self-check: the server gives one wrong answer of this kind, and the program must fail
    #[arg(long, value_name = "ANSWER")]
    wrong: Option<server::Wrong>,
    #[command(subcommand)]
    role: Option<Role>,
}

/// Which of the processes this is; none given: the one that starts the others.
#[derive(Debug, Subcommand)]
enum Role {
    #[command(hide = true)]
    Server,
    #[command(hide = true)]
    Client { address: String },
}

fn main() -> ExitCode {
    rdma_rpc_examples::init_logs();
    let Options { wrong, role } = Options::parse();
    let result = match role {
        None => start_both(wrong),
        Some(Role::Server) => run(server::serve(wrong)),
        Some(Role::Client { address }) => run(client::measure(&address)),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("quickstart failed: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Starts the server, then the client; the client's verdict is ours.
fn start_both(wrong: Option<server::Wrong>) -> Result<ExitCode, Box<dyn Error>> {
    let mut server = Process::start(|command| {
        if let Some(wrong) = wrong {
            command.arg(format!("--wrong={wrong}"));
        }
        command.arg("server").stdout(Stdio::piped());
    })?;
    // The server takes any free port and says which.
    let mut address = String::new();
    let stdout = server.child.stdout.take().ok_or("the server has no standard output")?;
    BufReader::new(stdout).read_line(&mut address)?;
    if address.is_empty() {
        return Err(format!("the server did not start: {}", server.child.wait()?).into());
    }

    let client = Process::start(|command| {
        command.args(["client", address.trim()]);
    })?;
    let client = client.end(false)?;
    let server = server.end(true)?;
    if client.success() && !server.success() {
        return Err(format!("the server did not end well: {server}").into());
    }
    // A client that failed has said why.
    Ok(if client.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// This program once more, as a process that ends when its standard input closes: that happens
/// even if we are killed, so nothing is left behind.
struct Process {
    child: Child,
}

impl Process {
    fn start(setup: impl FnOnce(&mut Command)) -> Result<Process, Box<dyn Error>> {
        let mut command = Command::new(std::env::current_exe()?);
        setup(&mut command);
        let child = command.stdin(Stdio::piped()).spawn()?;
        Ok(Process { child })
    }

    /// Waits for its end; `ask`: asks for it first.
    fn end(mut self, ask: bool) -> std::io::Result<std::process::ExitStatus> {
        let stdin = self.child.stdin.take();
        if ask {
            drop(stdin);
            return self.child.wait();
        }
        let status = self.child.wait();
        drop(stdin);
        status
    }
}

/// Runs one role to its end.
#[tokio::main]
async fn run(
    role: impl Future<Output = Result<(), Box<dyn Error>>>,
) -> Result<ExitCode, Box<dyn Error>> {
    tokio::time::timeout(PATIENCE, role)
        .await
        .map_err(|_| format!("not done after {} s", PATIENCE.as_secs()))??;
    Ok(ExitCode::SUCCESS)
}

/// Ready when whoever started this process closes our standard input, or dies.
async fn stdin_closed() {
    let (closed, wait) = tokio::sync::oneshot::channel::<()>();
    // A thread of our own: one of tokio's would be waited for when the program ends.
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        drop(closed);
    });
    let _ = wait.await;
}
