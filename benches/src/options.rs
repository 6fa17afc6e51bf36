//! The command line, and what it means for the runtime and the configuration.

use rdma_rpc::config::{ClientConfig, Progress, ServerConfig};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Server,
    Client,
}

#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) role: Role,
    pub(crate) transport: String,
    pub(crate) addr: String,
    pub(crate) rt: String,
    pub(crate) case: String,
    pub(crate) mode: String,
    pub(crate) payload: usize,
    pub(crate) conns: usize,
    pub(crate) outstanding: usize,
    pub(crate) secs: f64,
    pub(crate) warmup: f64,
    pub(crate) server_pid: Option<u32>,
    pub(crate) rep: u32,
}

impl Options {
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Options, String> {
        let role = match words.next().as_deref() {
            Some("server") => Role::Server,
            Some("client") => Role::Client,
            other => return Err(format!("first word is {other:?}: server or client")),
        };
        let mut options = Options {
            role,
            transport: "tcp".into(),
            addr: "127.0.0.1:7499".into(),
            rt: "st".into(),
            case: "adhoc".into(),
            mode: "unary".into(),
            payload: 32,
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
                "--conns" => options.conns = value.parse().map_err(bad)?,
                "--outstanding" => options.outstanding = value.parse().map_err(bad)?,
                "--secs" => options.secs = value.parse().map_err(bad_float)?,
                "--warmup" => options.warmup = value.parse().map_err(bad_float)?,
                "--server-pid" => options.server_pid = Some(value.parse().map_err(bad)?),
                "--rep" => options.rep = value.parse().map_err(bad)?,
                other => return Err(format!("unknown option {other}")),
            }
        }
        Ok(options)
    }

    /// `st`, `st-pin` and `spin`: one thread; `mt` and `spin-mt`: two workers. `st-pin` and `spin`
    /// keep the client on CPU 0 and the server on CPU 1.
    pub(crate) fn runtime(&self) -> tokio::runtime::Runtime {
        if matches!(self.rt.as_str(), "st-pin" | "spin") {
            pin(match self.role {
                Role::Client => 0,
                Role::Server => 1,
            });
        }
        let mut builder = if matches!(self.rt.as_str(), "mt" | "spin-mt") {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(2);
            builder
        } else {
            tokio::runtime::Builder::new_current_thread()
        };
        builder.enable_all().build().expect("a tokio runtime")
    }

    fn progress(&self) -> Progress {
        match self.rt.as_str() {
            "spin" | "spin-mt" => Progress::Busy,
            _ if self.transport.ends_with("-event") => Progress::Event,
            _ => Progress::Adaptive,
        }
    }

    /// `rdma` or `shm`, with `-event` to sleep instead of polling, `tcp` or `unix`.
    pub(crate) fn client_config(&self) -> Result<ClientConfig, String> {
        let target = match self.transport.trim_end_matches("-event") {
            "unix" => format!("unix:{}", self.addr),
            "shm" if self.addr.starts_with('/') => format!("shm+unix:{}", self.addr),
            transport => format!("{transport}://{}", self.addr),
        };
        let target = target.parse().map_err(|error| format!("{error}"))?;
        let mut config = ClientConfig::new(target).resolve().map_err(|error| error.to_string())?;
        config.shm.progress = self.progress();
        config.rdma.progress = self.progress();
        config.limits.max_message_bytes = 128 << 20;
        Ok(config)
    }

    pub(crate) fn server_config(&self) -> Result<ServerConfig, String> {
        let listen = match self.addr.strip_prefix('/') {
            Some(path) => format!("unix:/{path}"),
            None => self.addr.clone(),
        };
        let mut config = ServerConfig::new(listen.parse().map_err(|error| format!("{error}"))?);
        config.shm.progress = self.progress();
        config.rdma.progress = self.progress();
        config.limits.max_message_bytes = 128 << 20;
        Ok(config)
    }
}

fn pin(cpu: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        eprintln!("echo: cannot pin to CPU {cpu}: {error}");
    }
}
