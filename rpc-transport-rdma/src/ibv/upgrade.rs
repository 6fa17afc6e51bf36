//! Moving a bootstrap connection to a verbs device.
//!
//! ```text
//!   client                                       server
//!   offer: its endpoints          ----------->   choose a pair
//!                                 <-----------   answer: which of them, and its own endpoint
//!   InfiniBand, RoCE:
//!   QUEUE PAIR                    ----------->   connect to it
//!   connect to it                 <-----------   QUEUE PAIR
//!   iWARP:
//!   QUEUE PAIR                    ----------->   listen
//!   rdma_connect with the token   <-----------   LISTENING
//!                                 ===========>   rdma_accept
//!                                 <-----------   ACCEPTED
//!   both:
//!   an immediate (or SEND)        ===========>
//!                                 <===========   an immediate (or SEND)
//! ```
//!
//! `----` travels on the bootstrap connection, `====` on RDMA. The two last messages prove that
//! packets of the devices get through both ways, before either end gives up its socket. The side
//! that fails says so with its verdict at the end of the bootstrap.
//!
//! All numbers are little-endian.
//!
//! ```text
//! offer:      u8 version, 1 | u8 number of endpoints, at most 16 | endpoints of 20 bytes
//! answer:     u8 version, 1 | u8 which of the client's endpoints | the server's endpoint
//! QUEUE PAIR: u8 kind, 1 | u8 path MTU (1: 256 bytes, 5: 4096) | u8 READs it answers at once
//!             | u8 READs it has in flight | u32 queue pair number | u32 first packet number
//! LISTENING:  u8 kind, 2 | u8 READs it answers | u8 READs it has in flight | u8 zero | u16 port
//!             | 16 bytes token
//! ACCEPTED:   u8 kind, 3
//! ```
//!
//! A client on iWARP sends nothing before ACCEPTED: Soft-iWARP leaves unread, until more comes, what
//! arrives while it accepts.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rdma_rpc_core::upgrade::Exchange;

use super::address::{Endpoint, Network, PathMtu};
use super::choose::{Candidate, MAX_CANDIDATES, candidates, pair};
use super::cm::{self, ConnectParams, Listener};
use super::config::{IbvConfig, Path};
use super::device::Device;
use super::pd::ProtectionDomain;
use super::probe::{Expected, UpgradeError, probe};
use super::queue_pair::{IbvQueuePair, Parts};
use super::raw_qp::{Depths, MASK_24, RawQueuePair, Reads, Remote};
use super::worker::Worker;
use crate::verbs::QueuePair;

const VERSION: u8 = 1;
const QUEUE_PAIR: u8 = 1;
const LISTENING: u8 = 2;
const ACCEPTED: u8 = 3;
const TOKEN_BYTES: usize = 16;

/// The verbs devices as one channel, or one worker of a server, uses them: what is configured, and
/// the completion queues its connections share.
#[derive(Debug)]
pub struct Ibv {
    config: IbvConfig,
    worker: Worker,
}

/// What one end could use.
#[derive(Debug, Clone)]
pub struct Offer {
    candidates: Vec<Candidate>,
    devices: Vec<Arc<Device>>,
}

/// The pair a connection shall use.
#[derive(Debug)]
pub struct Choice {
    candidate: Candidate,
    device: Arc<Device>,
    remote: Endpoint,
    /// Which of the client's endpoints it is.
    index: u8,
}

impl Offer {
    /// The body of the offer in the bootstrap's HELLO.
    pub fn body(&self) -> Vec<u8> {
        let mut body = vec![VERSION, self.candidates.len() as u8];
        for candidate in &self.candidates {
            candidate.endpoint.encode(&mut body);
        }
        body
    }

    fn choice(&self, at: usize, remote: Endpoint, index: u8) -> Result<Choice, String> {
        let candidate = self
            .candidates
            .get(at)
            .ok_or_else(|| format!("endpoint {at} of {} is meant", self.candidates.len()))?;
        let named = |device: &&Arc<Device>| device.facts().name == candidate.device;
        let device = self.devices.iter().find(named);
        let device = device.ok_or_else(|| format!("{} is gone", candidate.device))?;
        Ok(Choice { candidate: candidate.clone(), device: device.clone(), remote, index })
    }

    /// The client's choice, made by the server's answer.
    ///
    /// # Errors
    /// If the answer makes no sense; the sentence names the byte.
    pub fn chosen(&self, answer: &[u8]) -> Result<Choice, String> {
        let [version, index, endpoint @ ..] = answer else {
            return Err(format!("an rdma answer of {} bytes", answer.len()));
        };
        check_version("answer", *version)?;
        let endpoint = endpoint.try_into().map_err(|_| {
            format!("an rdma answer of {} bytes, not {}", answer.len(), 2 + Endpoint::BYTES)
        })?;
        let remote = Endpoint::decode(endpoint)
            .ok_or_else(|| format!("rdma answer, byte 2: network {} is unknown", endpoint[0]))?;
        let choice = self.choice(usize::from(*index), remote, *index)?;
        match choice.candidate.endpoint.unreachable_from(&remote) {
            None => Ok(choice),
            Some(reason) => Err(format!("rdma answer, byte 2: {reason}")),
        }
    }
}

impl Choice {
    /// The body of the server's answer.
    pub fn body(&self) -> Vec<u8> {
        let mut body = vec![VERSION, self.index];
        self.candidate.endpoint.encode(&mut body);
        body
    }

    /// For people: device, port and both addresses.
    pub fn describe(&self) -> String {
        format!(
            "{} port {}, {} to {}",
            self.candidate.device, self.candidate.port, self.candidate.endpoint, self.remote
        )
    }
}

fn check_version(what: &str, version: u8) -> Result<(), String> {
    if version == VERSION {
        return Ok(());
    }
    Err(format!("rdma {what}, byte 0: version {version}, this side speaks {VERSION}"))
}

/// The endpoints of an offer, with their places; networks this build does not know are left out.
fn parse_offer(body: &[u8]) -> Result<Vec<(u8, Endpoint)>, String> {
    let [version, count, rest @ ..] = body else {
        return Err(format!("an rdma offer of {} bytes", body.len()));
    };
    check_version("offer", *version)?;
    let wanted = usize::from(*count) * Endpoint::BYTES;
    if usize::from(*count) > MAX_CANDIDATES || rest.len() != wanted {
        return Err(format!(
            "rdma offer, byte 1: {count} endpoints in {} bytes; each has {}, and there are at \
             most {MAX_CANDIDATES}",
            rest.len(),
            Endpoint::BYTES
        ));
    }
    let endpoints = rest.chunks_exact(Endpoint::BYTES).enumerate();
    Ok(endpoints
        .filter_map(|(at, bytes)| Some((at as u8, Endpoint::decode(bytes.try_into().ok()?)?)))
        .collect())
}

impl Ibv {
    /// Nothing is opened yet.
    pub fn new(config: IbvConfig) -> Ibv {
        Ibv { config, worker: Worker::default() }
    }

    /// What this end could use, for a peer that is reached from the local address `local`.
    ///
    /// # Errors
    /// A sentence that says why there is nothing: no library, no kernel support, no permission, no
    /// device, no active port, no GID.
    pub async fn offer(&self, local: Option<IpAddr>) -> Result<Offer, String> {
        let (wish, memory_bytes) = (self.config.wish.clone(), self.config.memory_bytes);
        // Opening devices takes many system calls.
        let survey = tokio::task::spawn_blocking(move || {
            let devices = Device::open_all(memory_bytes)?;
            let facts: Vec<_> = devices.iter().map(|device| device.facts().clone()).collect();
            let iwarp_device = |ip| match cm::device_of(ip) {
                Ok(name) => Some(name),
                Err(error) => {
                    tracing::debug!(%ip, %error, "no iWARP device has this address");
                    None
                }
            };
            let candidates = candidates(&facts, &wish, local, &iwarp_device)?;
            Ok(Offer { candidates, devices })
        });
        survey.await.unwrap_or_else(|error| Err(format!("looking for RDMA devices: {error}")))
    }

    /// The server's choice among a client's endpoints.
    ///
    /// # Errors
    /// A sentence that says why no pair fits.
    pub async fn choose(&self, offer: &[u8], local: Option<IpAddr>) -> Result<Choice, String> {
        let theirs = parse_offer(offer)?;
        let ours = self.offer(local).await?;
        let endpoints: Vec<Endpoint> = theirs.iter().map(|(_, endpoint)| *endpoint).collect();
        let (at, candidate) = pair(&endpoints, &ours.candidates)?;
        let place = ours.candidates.iter().position(|c| *c == candidate).unwrap_or(0);
        ours.choice(place, theirs[at].1, theirs[at].0)
    }

    /// The client's side of the upgrade. It has no time limit of its own.
    ///
    /// # Errors
    /// A sentence that says what failed; the bootstrap connection stays.
    ///
    /// # Cancel safety
    /// Dropping the future destroys the queue pair; the bootstrap connection is then in the middle
    /// of the exchange.
    pub async fn upgrade_client<E: Exchange>(
        &self,
        exchange: &mut E,
        choice: &Choice,
    ) -> Result<IbvQueuePair, UpgradeError> {
        let mut half = self.half(choice)?;
        send(exchange, &half.message()).await?;
        let message = receive(exchange).await?;
        if choice.candidate.endpoint.network == Network::Iwarp {
            let (remote, port, token) = parse_listening(&message)?;
            half.agree(&remote);
            let (local, server) = (choice.candidate.endpoint.gid.to_ip(), choice.remote.gid);
            let server = SocketAddr::new(server.to_ip(), port);
            let params = half.connect_params();
            half.queue_pair.begin_connecting();
            let connected = cm::connect(local, server, &token, params).await;
            half.queue_pair.set_connection(connected.map_err(|error| error.to_string())?);
            check_accepted(&receive(exchange).await?)?;
        } else {
            let (remote, mtu) = parse_queue_pair(&message)?;
            half.connect(choice, &remote, mtu, &self.config)?;
        }
        self.first_message(exchange, &mut half.queue_pair, choice, true).await?;
        Ok(half.queue_pair)
    }

    /// The server's side of the upgrade. Errors and cancellation as for
    /// [`Ibv::upgrade_client`].
    pub async fn upgrade_server<E: Exchange>(
        &self,
        exchange: &mut E,
        choice: &Choice,
    ) -> Result<IbvQueuePair, UpgradeError> {
        let mut half = self.half(choice)?;
        let message = receive(exchange).await?;
        let (remote, mtu) = parse_queue_pair(&message)?;
        if choice.candidate.endpoint.network == Network::Iwarp {
            let reads = half.reads;
            half.agree(&remote);
            let ip = choice.candidate.endpoint.gid.to_ip();
            let listener = Listener::bind(ip).map_err(|error| error.to_string())?;
            let mut token = [0; TOKEN_BYTES];
            getrandom::fill(&mut token).map_err(|error| format!("a random token: {error}"))?;
            send(exchange, &listening_message(listener.port(), &token, reads)).await?;
            let accepted = listener.accept(&token, half.connect_params()).await;
            half.queue_pair.set_connection(accepted.map_err(|error| error.to_string())?);
            send(exchange, &[ACCEPTED]).await?;
        } else {
            let message = half.message();
            half.connect(choice, &remote, mtu, &self.config)?;
            send(exchange, &message).await?;
        }
        self.first_message(exchange, &mut half.queue_pair, choice, false).await?;
        Ok(half.queue_pair)
    }

    /// The probe. An end that goes on sends nothing over the bootstrap before it has its message: what
    /// comes there says that the other end has given up. iWARP has no limit: its packets got through
    /// when TCP connected.
    async fn first_message<E: Exchange>(
        &self,
        exchange: &mut E,
        queue_pair: &mut IbvQueuePair,
        choice: &Choice,
        first: bool,
    ) -> Result<(), UpgradeError> {
        let network = choice.candidate.endpoint.network;
        let expected = Expected {
            limit: (network != Network::Iwarp).then(|| self.config.retries_bound()),
            advice: match network {
                Network::RoceV2 => {
                    "is UDP port 4791 open between them, and the GID of the right network?"
                }
                _ => "do the networks of both devices meet?",
            },
        };
        let gave_up = async {
            match receive(exchange).await {
                Ok(message) => out_of_step("the first message over RDMA", &message),
                Err(why) => why,
            }
        };
        probe(queue_pair, first, expected, gave_up).await
    }

    /// A queue pair that can be written to as soon as it is connected.
    fn half(&self, choice: &Choice) -> Result<Half, String> {
        let (device, config) = (&choice.device, &self.config);
        let text = |error: crate::verbs::VerbError| error.to_string();
        let limits = device.facts().limits;
        let iwarp = device.facts().iwarp;
        let depths = Depths {
            send: config.send_depth.min(limits.max_qp_wr),
            // One more for the probe.
            receive: (config.receive_depth + 1).min(limits.max_qp_wr),
            inline_bytes: config.inline_bytes,
        };
        let seat = self.worker.seat(device, depths.send + depths.receive).map_err(text)?;
        let pd = ProtectionDomain::new(device).map_err(text)?;
        let qp = RawQueuePair::new(&pd, seat.shared.cq(), depths).map_err(text)?;
        qp.to_init(choice.candidate.port).map_err(text)?;
        let private = device.facts().has_private_reads();
        let most = config.reads_in_flight.min(device.facts().most_reads());
        let reads = Reads {
            responder: most.min(limits.max_reads_responder),
            initiator: most.min(limits.max_reads_initiator),
        };
        let parts = Parts {
            pd,
            seat,
            qp,
            write_with_imm: !iwarp,
            receive_depth: depths.receive - 1,
            reads_in_flight: 0,
            lends_from_bytes: config.lends_from_bytes,
        };
        let mut queue_pair = IbvQueuePair::new(parts).map_err(text)?;
        queue_pair.post_receives(1).map_err(|error| format!("posting a receive: {error:?}"))?;
        let mut psn = [0; 4];
        getrandom::fill(&mut psn).map_err(|error| format!("a random number: {error}"))?;
        let psn = u32::from_le_bytes(psn) & MASK_24;
        Ok(Half { queue_pair, psn, reads, private_reads: private, mtu: choice.candidate.mtu })
    }
}

/// One end between making its queue pair and connecting it.
#[derive(Debug)]
struct Half {
    queue_pair: IbvQueuePair,
    psn: u32,
    reads: Reads,
    private_reads: bool,
    mtu: PathMtu,
}

impl Half {
    fn number(&self) -> u32 {
        self.queue_pair.raw().map_or(0, RawQueuePair::number)
    }

    /// What the peer has to know, before anything is agreed.
    fn message(&self) -> Vec<u8> {
        queue_pair_message(self.number(), self.psn, self.mtu, self.reads)
    }

    /// Settles how many READs there may be.
    fn agree(&mut self, remote: &Remote) {
        self.reads = Reads::agreed(self.reads, remote);
        let ours = if self.private_reads { self.reads.initiator } else { 0 };
        self.queue_pair.set_reads_in_flight(u32::from(ours));
    }

    fn connect_params(&self) -> ConnectParams {
        ConnectParams {
            qp_num: self.number(),
            reads_responder: self.reads.responder,
            reads_initiator: self.reads.initiator,
        }
    }

    fn connect(
        &mut self,
        choice: &Choice,
        remote: &Remote,
        mtu: PathMtu,
        config: &IbvConfig,
    ) -> Result<(), String> {
        self.agree(remote);
        let path = Path {
            port: choice.candidate.port,
            gid_index: u8::try_from(choice.candidate.gid_index).map_err(|_| {
                format!("GID index {} does not fit into 8 bits", choice.candidate.gid_index)
            })?,
            mtu: self.mtu.min(mtu),
            remote: choice.remote,
            service_level: config.service_level,
            traffic_class: config.traffic_class,
            hop_limit: config.hop_limit,
        };
        let Some(qp) = self.queue_pair.raw() else { return Err("no queue pair".into()) };
        qp.connect(&path, self.psn, remote, self.reads, config).map_err(|error| error.to_string())
    }
}

fn queue_pair_message(qp_num: u32, psn: u32, mtu: PathMtu, reads: Reads) -> Vec<u8> {
    let mut message = vec![QUEUE_PAIR, mtu.code(), reads.responder, reads.initiator];
    message.extend_from_slice(&qp_num.to_le_bytes());
    message.extend_from_slice(&psn.to_le_bytes());
    message
}

fn listening_message(port: u16, token: &[u8; TOKEN_BYTES], reads: Reads) -> Vec<u8> {
    let mut message = vec![LISTENING, reads.responder, reads.initiator, 0];
    message.extend_from_slice(&port.to_le_bytes());
    message.extend_from_slice(token);
    message
}

fn parse_queue_pair(message: &[u8]) -> Result<(Remote, PathMtu), String> {
    let [QUEUE_PAIR, mtu, responder, initiator, numbers @ ..] = message else {
        return Err(out_of_step("a QUEUE PAIR message", message));
    };
    let numbers: [u8; 8] =
        numbers.try_into().map_err(|_| out_of_step("a QUEUE PAIR message of 12 bytes", message))?;
    let mtu = PathMtu::from_code(*mtu)
        .ok_or_else(|| format!("QUEUE PAIR, byte 1: path MTU {mtu}; 1 to 5 are known"))?;
    let number = |at: usize| {
        u32::from_le_bytes([numbers[at], numbers[at + 1], numbers[at + 2], numbers[at + 3]])
    };
    let (qp_num, psn) = (number(0), number(4));
    for (byte, name, value) in [(4, "number", qp_num), (8, "first packet", psn)] {
        if value > MASK_24 {
            return Err(format!("QUEUE PAIR, byte {byte}: {name} {value:#x} has over 24 bits"));
        }
    }
    let (reads_responder, reads_initiator) = (*responder, *initiator);
    Ok((Remote { qp_num, psn, reads_responder, reads_initiator }, mtu))
}

fn parse_listening(message: &[u8]) -> Result<(Remote, u16, [u8; TOKEN_BYTES]), String> {
    let [LISTENING, responder, initiator, 0, port_low, port_high, token @ ..] = message else {
        return Err(out_of_step("a LISTENING message", message));
    };
    let token =
        token.try_into().map_err(|_| out_of_step("a LISTENING message of 22 bytes", message))?;
    let remote =
        Remote { qp_num: 0, psn: 0, reads_responder: *responder, reads_initiator: *initiator };
    Ok((remote, u16::from_le_bytes([*port_low, *port_high]), token))
}

fn check_accepted(message: &[u8]) -> Result<(), String> {
    if message == [ACCEPTED] { Ok(()) } else { Err(out_of_step("an ACCEPTED message", message)) }
}

fn out_of_step(wanted: &str, message: &[u8]) -> String {
    format!("{wanted} was due, not {} bytes of kind {:?}", message.len(), message.first())
}

async fn send<E: Exchange>(exchange: &mut E, message: &[u8]) -> Result<(), String> {
    exchange.send(message).await.map_err(|error| format!("the rdma handshake broke off: {error}"))
}

async fn receive<E: Exchange>(exchange: &mut E) -> Result<Vec<u8>, String> {
    exchange.receive().await.map_err(|error| format!("the rdma handshake broke off: {error}"))
}

#[cfg(test)]
mod tests;
