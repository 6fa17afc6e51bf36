//! What both ends share after the replies: exchange messages, the two verdicts, the outcome.

use std::io;

use rdma_rpc_core::upgrade::MAX_EXCHANGE_BYTES;
use tokio::time::Instant;

use super::TransportKind;
use super::error::BootstrapError;
use super::framed::Framed;
use super::wire::{Declined, FrameKind, Verdict};
use crate::link::{TcpLink, TcpLinkOptions};
use crate::liveness::SocketLiveness;
use crate::socket::Socket;

/// How a handshake ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Both ends have moved to this transport; the socket is only a sign of life now.
    Upgraded(TransportKind),
    /// Both ends stay on the socket.
    Tcp {
        /// Why, for people.
        reason: String,
    },
}

/// A finished handshake.
#[derive(Debug)]
#[non_exhaustive]
pub struct Confirmed {
    /// The socket.
    pub socket: Socket,
    /// What has arrived past the handshake: the first bytes of the link. Empty after an upgrade.
    pub early: Vec<u8>,
    /// Who carries the connection now.
    pub outcome: Outcome,
    /// The protocol version both ends speak.
    pub version: u16,
    /// The feature bits both ends have.
    pub features: u64,
    /// The longest frame this end has said it receives on a link over the socket.
    pub max_frame_bytes: usize,
    /// The longest frame the peer receives there.
    pub peer_max_frame_bytes: usize,
    /// The target's name the client sent.
    pub authority: String,
    /// Which offers the server did not take, and why.
    pub declined: Vec<Declined>,
    /// This end's address.
    pub local: String,
    /// The other end's address.
    pub peer: String,
}

impl Confirmed {
    /// The link over this socket, for [`Outcome::Tcp`]. The frame limits are those the two ends
    /// told each other, not the one in `options`.
    pub fn into_link(self, options: &TcpLinkOptions) -> TcpLink {
        let options = TcpLinkOptions { max_frame_bytes: self.max_frame_bytes, ..options.clone() };
        let mut link = TcpLink::new(self.socket, &self.early, &options);
        link.limit_sending(self.peer_max_frame_bytes);
        link
    }

    /// The socket as a sign of life, for [`Outcome::Upgraded`].
    pub fn into_liveness(self) -> SocketLiveness {
        SocketLiveness::new(self.socket, &self.early)
    }
}

/// Which end this is: decides who speaks first in the confirmation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Client,
    Server,
}

/// A handshake whose replies have been exchanged.
#[derive(Debug)]
pub(super) struct Agreed {
    pub(super) framed: Framed,
    pub(super) role: Role,
    pub(super) version: u16,
    pub(super) features: u64,
    pub(super) max_frame_bytes: u32,
    pub(super) peer_max_frame_bytes: u32,
    pub(super) authority: String,
    pub(super) transport: TransportKind,
    pub(super) declined: Vec<Declined>,
    /// When the upgrade must be done.
    pub(super) upgrade_deadline: Instant,
    /// When the whole handshake must be done.
    pub(super) deadline: Instant,
    /// The peer's CONFIRM, if it has come.
    pub(super) peer_verdict: Option<Verdict>,
}

/// Half of the time left is the upgrade's, the other half is kept for falling back.
pub(super) fn upgrade_deadline(deadline: Instant) -> Instant {
    let now = Instant::now();
    now + deadline.saturating_duration_since(now) / 2
}

impl Agreed {
    pub(super) async fn exchange_send(&mut self, message: &[u8]) -> io::Result<()> {
        self.check_exchange()?;
        if message.len() > MAX_EXCHANGE_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "a handshake message of {} bytes: at most {MAX_EXCHANGE_BYTES} are allowed",
                    message.len()
                ),
            ));
        }
        let sent = self.framed.send(FrameKind::Exchange, message, self.upgrade_deadline).await;
        sent.map_err(|error| error.to_io())
    }

    pub(super) async fn exchange_receive(&mut self) -> io::Result<Vec<u8>> {
        self.check_exchange()?;
        let expected = format!("an EXCHANGE frame of the {} upgrade", self.transport);
        let frame = self
            .framed
            .receive(&expected, self.upgrade_deadline)
            .await
            .map_err(|error| error.to_io())?;
        match frame.kind {
            FrameKind::Exchange => Ok(frame.payload),
            FrameKind::Confirm => {
                let verdict = Verdict::decode(&frame.payload, frame.payload_offset())
                    .map_err(|error| error.to_io())?;
                self.peer_verdict = Some(verdict);
                self.check_exchange()?;
                Ok(Vec::new())
            }
            _ => Err(frame.unexpected(&expected).to_io()),
        }
    }

    fn check_exchange(&self) -> io::Result<()> {
        if self.transport == TransportKind::Tcp {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "no upgrade was agreed on: there is nothing to exchange",
            ));
        }
        match &self.peer_verdict {
            None => Ok(()),
            Some(Verdict::Fallback(reason)) => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                format!("{} fell back to tcp: {reason}", self.framed.peer),
            )),
            Some(Verdict::Upgraded) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{} confirmed the upgrade in the middle of it", self.framed.peer),
            )),
        }
    }

    pub(super) async fn confirm(
        mut self,
        upgraded: Result<(), String>,
    ) -> Result<Confirmed, BootstrapError> {
        if self.transport == TransportKind::Tcp {
            let reason = self.why_tcp();
            return Ok(self.finish(Outcome::Tcp { reason }));
        }
        let outcome = match upgraded {
            Ok(()) if self.role == Role::Server => self.answer_verdict().await?,
            Ok(()) => match self.peer_verdict.take() {
                // The server has given up already: agree with it.
                Some(Verdict::Fallback(reason)) => self.agree_to_fall_back(reason).await?,
                known => {
                    self.send_verdict(&Verdict::Upgraded).await?;
                    self.peer_verdict = known;
                    match self.receive_verdict(false).await? {
                        Verdict::Upgraded => Outcome::Upgraded(self.transport),
                        Verdict::Fallback(reason) => self.peer_fell_back(&reason),
                    }
                }
            },
            Err(reason) => {
                self.send_verdict(&Verdict::Fallback(reason.clone())).await?;
                self.receive_verdict(true).await?;
                Outcome::Tcp { reason: format!("the {} upgrade failed: {reason}", self.transport) }
            }
        };
        Ok(self.finish(outcome))
    }

    /// The server's side of an upgrade that worked here: the client speaks first.
    async fn answer_verdict(&mut self) -> Result<Outcome, BootstrapError> {
        match self.receive_verdict(false).await? {
            Verdict::Upgraded => {
                self.send_verdict(&Verdict::Upgraded).await?;
                Ok(Outcome::Upgraded(self.transport))
            }
            Verdict::Fallback(reason) => self.agree_to_fall_back(reason).await,
        }
    }

    async fn agree_to_fall_back(&mut self, reason: String) -> Result<Outcome, BootstrapError> {
        let outcome = self.peer_fell_back(&reason);
        self.send_verdict(&Verdict::Fallback(reason)).await?;
        Ok(outcome)
    }

    fn peer_fell_back(&self, reason: &str) -> Outcome {
        let reason = format!("the peer's {} upgrade failed: {reason}", self.transport);
        Outcome::Tcp { reason }
    }

    async fn send_verdict(&mut self, verdict: &Verdict) -> Result<(), BootstrapError> {
        self.framed.send(FrameKind::Confirm, &verdict.encode(), self.deadline).await
    }

    /// The peer's CONFIRM. An end that falls back (`skip_exchange`) may have left messages of
    /// the upgrade unread.
    async fn receive_verdict(&mut self, skip_exchange: bool) -> Result<Verdict, BootstrapError> {
        if let Some(verdict) = self.peer_verdict.take() {
            return Ok(verdict);
        }
        loop {
            let frame = self.framed.receive("a CONFIRM frame", self.deadline).await?;
            match frame.kind {
                FrameKind::Confirm => {
                    return Verdict::decode(&frame.payload, frame.payload_offset())
                        .map_err(|error| error.sent_by(&self.framed.peer));
                }
                FrameKind::Exchange if skip_exchange => {}
                _ => {
                    let error = frame.unexpected("a CONFIRM frame");
                    return Err(error.sent_by(&self.framed.peer));
                }
            }
        }
    }

    fn why_tcp(&self) -> String {
        if self.declined.is_empty() {
            return "the client offered no other transport".to_string();
        }
        let reasons: Vec<String> =
            self.declined.iter().map(|d| format!("{}: {}", d.transport, d.reason)).collect();
        reasons.join("; ")
    }

    fn finish(self, outcome: Outcome) -> Confirmed {
        let (peer, local) = (self.framed.peer.clone(), self.framed.local.clone());
        let (socket, early) = self.framed.into_parts();
        Confirmed {
            socket,
            early,
            outcome,
            version: self.version,
            features: self.features,
            max_frame_bytes: self.max_frame_bytes as usize,
            peer_max_frame_bytes: self.peer_max_frame_bytes as usize,
            authority: self.authority,
            declined: self.declined,
            local,
            peer,
        }
    }
}
