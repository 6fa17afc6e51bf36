//! `rdma-raw`: what a verbs device can do with no ring, session or call on top of it, measured
//! through the same device layer. The limit that `echo --transport rdma` is compared with.
//!
//! ```text
//! rdma-raw server --addr IP:PORT
//! rdma-raw client --addr IP:PORT [--local IP] [--mode lat|write|read] [--progress busy|event]
//!                 [--payload BYTES] [--window N] [--secs S]
//! ```
//!
//! `lat`: WRITE with immediate there and back (WRITE and SEND on iWARP). `write`, `read`: requests
//! of `--payload` bytes, `--window` of them outstanding, one way.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rdma_rpc_core::upgrade::Exchange;
use rdma_rpc_transport_rdma::ibv::{Ibv, IbvConfig, IbvQueuePair, IbvRegion};
use rdma_rpc_transport_rdma::verbs::{
    Access, Completed, Completion, Local, Op, PostError, QueuePair, Region, RemoteAddr, Status,
    WorkRequest,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

type Failure = Box<dyn std::error::Error>;

/// Requests posted between two signalled ones.
const SIGNAL_EVERY: u64 = 16;
/// Receives that are posted.
const RECEIVES: u32 = 64;
/// Bytes of the memory each end offers.
const AREA_BYTES: usize = 8 << 20;
/// Polls without news between two looks at the socket.
const POLLS_PER_LOOK: u32 = 20_000;

#[derive(Debug, Clone)]
struct Options {
    server: bool,
    addr: SocketAddr,
    local: Option<IpAddr>,
    mode: String,
    event: bool,
    payload: usize,
    window: u64,
    secs: f64,
}

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Options, Failure> {
        let server = match words.next().as_deref() {
            Some("server") => true,
            Some("client") => false,
            other => return Err(format!("first word is {other:?}: server or client").into()),
        };
        let mut options = Options {
            server,
            addr: "127.0.0.1:7498".parse()?,
            local: None,
            mode: "lat".into(),
            event: false,
            payload: 32,
            window: 16,
            secs: 3.0,
        };
        while let Some(key) = words.next() {
            let value = words.next().ok_or_else(|| format!("{key} needs a value"))?;
            match key.as_str() {
                "--addr" => options.addr = value.parse()?,
                "--local" => options.local = Some(value.parse()?),
                "--mode" => options.mode = value,
                "--progress" => options.event = value == "event",
                "--payload" => options.payload = value.parse()?,
                "--window" => options.window = value.parse()?,
                "--secs" => options.secs = value.parse()?,
                other => return Err(format!("unknown option {other}").into()),
            }
        }
        if options.payload > AREA_BYTES {
            return Err(format!("--payload is at most {AREA_BYTES}").into());
        }
        Ok(options)
    }
}

/// Length-prefixed messages on the socket.
struct Wire(TcpStream);

impl Exchange for Wire {
    async fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.0.write_u32_le(message.len() as u32).await?;
        self.0.write_all(message).await
    }

    async fn receive(&mut self) -> io::Result<Vec<u8>> {
        let len = self.0.read_u32_le().await?;
        let mut message = vec![0; (len as usize).min(16 * 1024)];
        self.0.read_exact(&mut message).await?;
        Ok(message)
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = Options::parse(std::env::args().skip(1)).and_then(|options| {
        runtime?.block_on(async move {
            if options.server { serve(&options).await } else { measure(&options).await }
        })
    });
    if let Err(failure) = result {
        eprintln!("rdma-raw: {failure}");
        std::process::exit(1);
    }
}

/// A connected queue pair and both ends' memory.
struct Connected {
    wire: Wire,
    queue_pair: IbvQueuePair,
    staging: IbvRegion,
    /// Where the peer writes. Kept, not read: the benchmark is about moving it.
    _area: IbvRegion,
    peer_area: RemoteAddr,
    peer_readable: RemoteAddr,
    posted: u64,
}

async fn serve(options: &Options) -> Result<(), Failure> {
    let listener = TcpListener::bind(options.addr).await?;
    println!("READY {}", std::process::id());
    loop {
        let (stream, _) = listener.accept().await?;
        if let Err(failure) = serve_one(stream).await {
            eprintln!("rdma-raw: {failure}");
        }
    }
}

async fn serve_one(stream: TcpStream) -> Result<(), Failure> {
    stream.set_nodelay(true)?;
    let local = stream.local_addr()?.ip();
    let mut wire = Wire(stream);
    let ibv = Ibv::new(IbvConfig::default());
    let choice = ibv.choose(&wire.receive().await?, Some(local)).await?;
    wire.send(&choice.body()).await?;
    let queue_pair = ibv.upgrade_server(&mut wire, &choice).await?;
    let mut connected = Connected::new(wire, queue_pair).await?;
    let plan = connected.wire.receive().await?;
    let (event, payload) = match plan.as_slice() {
        [event, payload @ ..] => (*event == 1, u32::from_le_bytes(payload.try_into()?) as usize),
        [] => return Err("an empty plan".into()),
    };
    let mut sequence = 0;
    while connected.wait_receive(event).await? {
        sequence += 1;
        connected.post_write(payload, Some(sequence as u32))?;
    }
    Ok(())
}

async fn measure(options: &Options) -> Result<(), Failure> {
    let socket = if options.addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(local) = options.local {
        socket.bind(SocketAddr::new(local, 0))?;
    }
    let stream = socket.connect(options.addr).await?;
    stream.set_nodelay(true)?;
    let local = stream.local_addr()?.ip();
    let mut wire = Wire(stream);
    let ibv = Ibv::new(IbvConfig::default());
    let offer = ibv.offer(Some(local)).await?;
    wire.send(&offer.body()).await?;
    let choice = offer.chosen(&wire.receive().await?)?;
    let queue_pair = ibv.upgrade_client(&mut wire, &choice).await?;
    let mut connected = Connected::new(wire, queue_pair).await?;
    let mut plan = vec![u8::from(options.event)];
    plan.extend_from_slice(&(options.payload as u32).to_le_bytes());
    connected.wire.send(&plan).await?;
    match options.mode.as_str() {
        "lat" => latency(&mut connected, options).await,
        "write" | "read" => bandwidth(&mut connected, options).await,
        other => Err(format!("--mode {other}: lat, write or read").into()),
    }
}

async fn latency(connected: &mut Connected, options: &Options) -> Result<(), Failure> {
    let mut times = Vec::new();
    let start = Instant::now();
    let length = Duration::from_secs_f64(options.secs);
    let mut sequence = 0;
    while start.elapsed() < length {
        let begin = Instant::now();
        sequence += 1;
        connected.post_write(options.payload, Some(sequence))?;
        if !connected.wait_receive(options.event).await? {
            return Err("the server has gone".into());
        }
        times.push(begin.elapsed());
    }
    times.sort_unstable();
    let at = |part: f64| {
        let index = ((times.len() - 1) as f64 * part) as usize;
        times[index].as_nanos() as f64 / 1000.0
    };
    println!(
        "{{\"peer\":\"raw-verbs\",\"mode\":\"lat\",\"event\":{},\"payload\":{},\"count\":{},\
         \"p50_us\":{:.2},\"p99_us\":{:.2}}}",
        options.event,
        options.payload,
        times.len(),
        at(0.5),
        at(0.99)
    );
    Ok(())
}

async fn bandwidth(connected: &mut Connected, options: &Options) -> Result<(), Failure> {
    let read = options.mode == "read";
    let target = connected.queue_pair.register(AREA_BYTES, Access::ReadTarget)?;
    let window = options.window.min(u64::from(connected.queue_pair.caps().send_depth) - 1);
    let (mut outstanding, mut done) = (0, 0u64);
    let start = Instant::now();
    let length = Duration::from_secs_f64(options.secs);
    while start.elapsed() < length {
        while outstanding < window {
            let region = if read { &target } else { &connected.staging };
            let piece = Local { region, offset: 0, len: options.payload };
            let op = if read {
                Op::Read { into: piece, from: connected.peer_readable }
            } else {
                Op::Write { from: Some(piece), to: connected.peer_area, imm: None }
            };
            let request = WorkRequest { id: connected.posted, op, signaled: true };
            match connected.queue_pair.post_send(&[request]) {
                Ok(()) => {}
                Err(PostError::Full) => break,
                Err(error) => return Err(format!("{error:?}").into()),
            }
            connected.posted += 1;
            outstanding += 1;
        }
        let completed = connected.poll()?;
        outstanding -= completed.sends;
        done += completed.sends;
        tokio::task::yield_now().await;
    }
    let seconds = start.elapsed().as_secs_f64();
    let megabytes = done as f64 * options.payload as f64 / 1e6 / seconds;
    println!(
        "{{\"peer\":\"raw-verbs\",\"mode\":\"{}\",\"payload\":{},\"window\":{window},\
         \"ops_per_s\":{:.0},\"mb_per_s\":{megabytes:.2}}}",
        options.mode,
        options.payload,
        done as f64 / seconds
    );
    Ok(())
}

#[derive(Debug, Default)]
struct Polled {
    sends: u64,
    receives: u64,
}

impl Connected {
    async fn new(mut wire: Wire, mut queue_pair: IbvQueuePair) -> Result<Connected, Failure> {
        let staging = queue_pair.register(AREA_BYTES, Access::RemoteRead)?;
        let area = queue_pair.register(AREA_BYTES, Access::RemoteWrite)?;
        queue_pair.post_receives(RECEIVES).map_err(|error| format!("{error:?}"))?;
        let mut ours = Vec::new();
        for at in [area.remote(), staging.remote()] {
            ours.extend_from_slice(&at.addr.to_le_bytes());
            ours.extend_from_slice(&at.rkey.to_le_bytes());
        }
        wire.send(&ours).await?;
        let theirs = wire.receive().await?;
        let [first, second] = theirs.as_chunks::<12>().0 else {
            return Err("the peer's memory is not described in 24 bytes".into());
        };
        let (peer_area, peer_readable) = (address(first), address(second));
        Ok(Connected {
            wire,
            queue_pair,
            staging,
            _area: area,
            peer_area,
            peer_readable,
            posted: 0,
        })
    }

    fn post_write(&mut self, payload: usize, imm: Option<u32>) -> Result<(), Failure> {
        let from = Some(Local { region: &self.staging, offset: 0, len: payload });
        let (id, to) = (self.posted, self.peer_area);
        let signaled = id.is_multiple_of(SIGNAL_EVERY);
        let posted = if self.queue_pair.caps().write_with_imm {
            let op = Op::Write { from, to, imm };
            self.queue_pair.post_send(&[WorkRequest { id, op, signaled }])
        } else {
            let write = WorkRequest { id, op: Op::Write { from, to, imm: None }, signaled: false };
            let op = Op::Send { word: imm.unwrap_or_default() };
            self.queue_pair.post_send(&[write, WorkRequest { id, op, signaled }])
        };
        self.posted += 1;
        posted.map_err(|error| format!("post: {error:?}").into())
    }

    fn poll(&mut self) -> Result<Polled, Failure> {
        let mut batch =
            [Completion { what: Completed::Send { id: 0 }, status: Status::Success }; 8];
        let count = self.queue_pair.poll(&mut batch)?;
        let mut polled = Polled::default();
        for completion in &batch[..count] {
            match completion {
                Completion { status: Status::Success, what: Completed::Send { .. } } => {
                    polled.sends += 1;
                }
                Completion { status: Status::Success, what: Completed::Receive { .. } } => {
                    polled.receives += 1;
                }
                Completion { status, what } => return Err(format!("{what:?}: {status:?}").into()),
            }
        }
        Ok(polled)
    }

    /// Waits for one message; `false`: the peer has closed its socket.
    async fn wait_receive(&mut self, event: bool) -> Result<bool, Failure> {
        let mut looks = 0;
        loop {
            let polled = self.poll()?;
            if polled.receives > 0 {
                // One at a time is under way.
                self.queue_pair.post_receives(1).map_err(|error| format!("{error:?}"))?;
                return Ok(true);
            }
            looks += 1;
            if looks % POLLS_PER_LOOK == 0 && self.is_closed().await {
                return Ok(false);
            }
            if event {
                let news = poll_fn(|cx| self.queue_pair.poll_event(cx));
                let mut byte = [0];
                tokio::select! {
                    news = news => news?,
                    read = self.wire.0.peek(&mut byte) => {
                        if read? == 0 { return Ok(false) }
                    }
                }
            }
        }
    }

    async fn is_closed(&mut self) -> bool {
        // Lets the reactor look.
        tokio::task::yield_now().await;
        matches!(self.wire.0.try_read(&mut [0]), Ok(0))
    }
}

fn address(bytes: &[u8; 12]) -> RemoteAddr {
    let [a, b, c, d, e, f, g, h, k, l, m, n] = *bytes;
    RemoteAddr {
        addr: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        rkey: u32::from_le_bytes([k, l, m, n]),
    }
}
