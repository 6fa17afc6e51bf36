//! The command line, and the runtime it asks for.

/// The runtime of a client that makes its calls in the future given to `block_on`.
pub(crate) const MAIN: &str = "main";

/// Which end of the connection a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Answers.
    Server,
    /// Calls and measures.
    Client,
}

/// What an echo program was told.
#[derive(Debug, Clone)]
#[allow(missing_docs)] // the names are those of the command line
pub struct Options {
    pub role: Role,
    /// What is measured, and its version.
    pub peer: String,
    pub version: String,
    pub transport: String,
    pub addr: String,
    pub rt: String,
    pub case: String,
    pub mode: String,
    pub payload: usize,
    /// The payload lies where the allocator put it, not in memory that the library has for messages.
    pub heap: bool,
    pub conns: usize,
    pub outstanding: usize,
    pub secs: f64,
    pub warmup: f64,
    pub server_pid: Option<u32>,
    pub rep: u32,
}

fn of_heap(memory: &str) -> Result<bool, String> {
    match memory {
        "heap" => Ok(true),
        "library" => Ok(false),
        other => Err(format!("--memory {other:?}: heap or library")),
    }
}

impl Options {
    /// Reads the words of a command line.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(
        peer: &str,
        version: &str,
        mut words: impl Iterator<Item = String>,
    ) -> Result<Options, String> {
        let role = match words.next().as_deref() {
            Some("server") => Role::Server,
            Some("client") => Role::Client,
            other => return Err(format!("first word is {other:?}: server or client")),
        };
        let mut options = Options {
            role,
            peer: peer.into(),
            version: version.into(),
            transport: "tcp".into(),
            addr: "127.0.0.1:7499".into(),
            rt: "st".into(),
            case: "adhoc".into(),
            mode: "unary".into(),
            payload: 32,
            heap: false,
            conns: 1,
            outstanding: 1,
            secs: 3.0,
            warmup: 0.5,
            server_pid: None,
            rep: 1,
        };
        while let Some(key) = words.next() {
            let value = words.next().ok_or_else(|| format!("{key} needs a value"))?;
            let bad = |_| format!("{key} {value:?} is not a number");
            let bad_float = |_| format!("{key} {value:?} is not a number");
            match key.as_str() {
                "--transport" => options.transport = value,
                "--addr" => options.addr = value,
                "--rt" => options.rt = value,
                "--case" => options.case = value,
                "--mode" => options.mode = value,
                "--payload" => options.payload = value.parse().map_err(bad)?,
                "--memory" => options.heap = of_heap(&value)?,
                "--conns" => options.conns = value.parse().map_err(bad)?,
                "--outstanding" => options.outstanding = value.parse().map_err(bad)?,
                "--secs" => options.secs = value.parse().map_err(bad_float)?,
                "--warmup" => options.warmup = value.parse().map_err(bad_float)?,
                "--server-pid" => options.server_pid = Some(value.parse().map_err(bad)?),
                "--rep" => options.rep = value.parse().map_err(bad)?,
                other => return Err(format!("unknown option {other}")),
            }
        }
        if options.conns == 0 || options.outstanding == 0 {
            return Err("--conns and --outstanding are at least 1".into());
        }
        Ok(options)
    }

    /// `st`, `st-pin` and `spin`: one thread; `mt` and `spin-mt`: two workers. `st-pin` and `spin`
    /// keep the client and the server on a CPU of its own each. `main`: a client with two workers that
    /// calls from neither, and a server as of `st-pin`.
    ///
    /// # Panics
    /// Where the system has no room for a runtime.
    pub fn runtime(&self) -> tokio::runtime::Runtime {
        let calls_from_main = self.rt == MAIN && self.role == Role::Client;
        if matches!(self.rt.as_str(), "st-pin" | "spin" | MAIN) && !calls_from_main {
            self.pin();
        }
        let mut builder = if calls_from_main || matches!(self.rt.as_str(), "mt" | "spin-mt") {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(2);
            builder
        } else {
            tokio::runtime::Builder::new_current_thread()
        };
        builder.enable_all().build().expect("a tokio runtime")
    }

    /// Keeps this thread, and those it starts, on one CPU: the client on the first this process
    /// may use, the server on the second.
    pub fn pin(&self) {
        use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
        let Ok(allowed) = sched_getaffinity(None) else { return };
        let nth = usize::from(self.role == Role::Server);
        let Some(cpu) = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).nth(nth) else {
            eprintln!("{}: not pinned: there are fewer than two CPUs", self.peer);
            return;
        };
        let mut set = CpuSet::new();
        set.set(cpu);
        if let Err(error) = sched_setaffinity(None, &set) {
            eprintln!("{}: cannot pin to CPU {cpu}: {error}", self.peer);
        }
    }
}
