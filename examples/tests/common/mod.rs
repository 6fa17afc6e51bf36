//! Runs the examples as people do: processes, their output, their exit codes.
//!
//! `cargo test -p rdma-rpc-examples` builds them first; with `--test NAME` it does not, so say
//! `--examples --test NAME` after a change.
#![allow(dead_code, reason = "each test file uses some of it")]

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

/// A run that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// An example's program, with none of our own environment's settings.
pub fn example(name: &str) -> Command {
    // .../target/PROFILE/deps/this-test, and .../target/PROFILE/examples/name beside it.
    let mut path: PathBuf = std::env::current_exe().expect("the test's own path");
    path.pop();
    path.pop();
    path.extend(["examples", name]);
    assert!(
        path.exists(),
        "{} is not there: cargo test -p rdma-rpc-examples builds it",
        path.display()
    );
    let mut command = Command::new(path);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("RDMA_RPC_")) {
        command.env_remove(name);
    }
    command.env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// What a program did.
#[derive(Debug)]
pub struct Run {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// Its output, if it ended well.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.status.success(), "{self:#?}");
        self.stdout
    }

    /// Its errors, if it ended with exit code 1.
    #[track_caller]
    pub fn failed(self) -> String {
        assert_eq!(self.status.code(), Some(1), "{self:#?}");
        self.stderr
    }
}

/// A program under way; killed when dropped.
pub struct Running {
    child: Child,
}

impl Running {
    pub fn start(command: &mut Command) -> Running {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
        Running { child }
    }

    /// The next line of its output, without the newline.
    #[expect(clippy::unbuffered_bytes, reason = "a buffer would take more than the line")]
    pub fn line(&mut self) -> String {
        let stdout = self.child.stdout.as_mut().expect("piped");
        // Byte by byte, without a buffer: what comes after the line stays in the pipe.
        let mut line = Vec::new();
        for byte in stdout.bytes() {
            match byte.expect("readable") {
                b'\n' => break,
                byte => line.push(byte),
            }
        }
        String::from_utf8(line).expect("UTF-8")
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Types something; its input must be piped.
    pub fn write(&mut self, text: &str) {
        let stdin = self.child.stdin.as_mut().expect("piped");
        stdin.write_all(text.as_bytes()).expect("it reads");
    }

    pub fn close_stdin(&mut self) {
        self.child.stdin = None;
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Waits for its end.
    pub fn end(mut self) -> Run {
        let stdout = collect(self.child.stdout.take().expect("piped"));
        let stderr = collect(self.child.stderr.take().expect("piped"));
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                break status;
            }
            assert!(started.elapsed() < PATIENCE, "still running after {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(5));
        };
        let text = |from: std::thread::JoinHandle<String>| from.join().expect("collected");
        Run { status, stdout: text(stdout), stderr: text(stderr) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = Vec::new();
        from.read_to_end(&mut text).expect("readable");
        String::from_utf8_lossy(&text).into_owned()
    })
}

/// The processes that this one has started and that have not been reaped, as `/proc` has them.
pub fn children(parent: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").expect("/proc is there").flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let parent_of = |process: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        // Number, (name), state, parent; the name may have spaces and parentheses of its own.
        let (_, after_name) = stat.rsplit_once(") ")?;
        after_name.split(' ').nth(1)?.parse::<u32>().ok()
    };
    numbers.filter(|process| parent_of(process) == Some(parent)).collect()
}

/// Tries until it holds.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "after {PATIENCE:?}, not yet: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs a program to its end.
pub fn run(command: &mut Command) -> Run {
    Running::start(command).end()
}

/// A server of an example, and its address.
pub struct Server {
    pub running: Running,
    pub address: String,
}

impl Server {
    /// Starts it on any free port, unless the command says where.
    pub fn start(command: &mut Command) -> Server {
        let mut running = Running::start(command);
        let line = running.line();
        let address = line.strip_prefix("listening on ").unwrap_or_else(|| {
            panic!("the server's first line is {line:?}");
        });
        Server { address: address.to_owned(), running }
    }

    pub fn of(name: &str) -> Server {
        Server::start(example(name).args(["server", "--listen", "127.0.0.1:0"]))
    }

    /// Ctrl-c: it must finish what is open and end well.
    #[track_caller]
    pub fn stop(self) -> String {
        self.running.signal(Signal::INT);
        self.running.end().ok()
    }
}

/// A folder that is removed when dropped.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Folder {
        let name = format!("rdma-rpc-examples-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a folder for temporary files");
        Folder(path)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("written");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
