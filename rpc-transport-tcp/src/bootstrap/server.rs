//! The server's end of the handshake.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use rdma_rpc_core::upgrade::Exchange;
use tokio::time::Instant;

use super::confirm::{Agreed, Confirmed, Role, upgrade_deadline};
use super::error::BootstrapError;
use super::framed::Framed;
use super::wire::{Declined, FrameKind, Hello, HelloReply, Offer, Reject, check_body};
use super::{BootstrapOptions, RejectCode, TransportKind};
use crate::socket::{Socket, linger};

/// How long a REJECT may take to leave.
const REJECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A server that has read its client's HELLO.
///
/// Call order: [`accept`](Self::accept); look at the [`offers`](Self::offers); either
/// [`reject`](Self::reject), or [`answer`](Self::answer), then run the chosen transport's code
/// over the [`Exchange`], no longer than [`upgrade_deadline`](Self::upgrade_deadline), then
/// [`confirm`](Self::confirm) with how it went.
#[derive(Debug)]
pub struct ServerBootstrap {
    agreed: Agreed,
    offers: Vec<Offer>,
    versions: (u16, u16),
    answered: bool,
}

impl ServerBootstrap {
    /// Reads the HELLO of a fresh connection. A client of another version, or one whose HELLO
    /// cannot be read, is told so before the error is returned; a stranger (no magic) is not.
    ///
    /// # Errors
    /// If no valid HELLO arrives within `options.handshake_timeout`.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn accept(
        socket: Socket,
        options: &BootstrapOptions,
    ) -> Result<ServerBootstrap, BootstrapError> {
        let start = Instant::now();
        let mut deadline = start + options.handshake_timeout;
        let peer = socket.peer_text();
        let mut framed = Framed::new(socket, peer);
        let versions = (options.min_version, options.max_version);
        let hello = match read_hello(&mut framed, deadline).await {
            Ok(hello) => hello,
            Err(error) => {
                if error.is_malformed() && framed.magic_seen() {
                    send_reject(framed, RejectCode::Malformed, &error.to_string(), versions).await;
                }
                return Err(error);
            }
        };
        let version = hello.max_version.min(options.max_version);
        if version < hello.min_version.max(options.min_version) {
            let text = format!(
                "no protocol version in common: this server speaks {} to {}, the client {} to {}",
                options.min_version, options.max_version, hello.min_version, hello.max_version
            );
            let peer = framed.peer.clone();
            send_reject(framed, RejectCode::VersionMismatch, &text, versions).await;
            return Err(BootstrapError::version_mismatch(text, 0).sent_by(&peer));
        }
        if hello.timeout_ms > 0 {
            deadline = deadline.min(start + Duration::from_millis(u64::from(hello.timeout_ms)));
        }
        Ok(ServerBootstrap {
            agreed: Agreed {
                framed,
                role: Role::Server,
                version,
                features: hello.features & options.features,
                max_frame_bytes: options.max_frame_bytes_on_wire(),
                peer_max_frame_bytes: hello.max_frame_bytes,
                authority: hello.authority,
                transport: TransportKind::Tcp,
                declined: Vec::new(),
                upgrade_deadline: upgrade_deadline(deadline),
                deadline,
                peer_verdict: None,
            },
            offers: hello.offers,
            versions,
            answered: false,
        })
    }

    /// What the client can do besides TCP, in its order of preference.
    pub fn offers(&self) -> &[Offer] {
        &self.offers
    }

    /// The target's name as the client knows it.
    pub fn authority(&self) -> &str {
        &self.agreed.authority
    }

    /// The protocol version both ends speak.
    pub fn version(&self) -> u16 {
        self.agreed.version
    }

    /// The feature bits both ends have.
    pub fn features(&self) -> u64 {
        self.agreed.features
    }

    /// The client's address.
    pub fn peer(&self) -> &str {
        &self.agreed.framed.peer
    }

    /// This end's IP address, if the client came by one.
    pub fn local_ip(&self) -> Option<IpAddr> {
        self.agreed.framed.local_ip()
    }

    /// When the upgrade must be done; see [`ClientBootstrap::upgrade_deadline`].
    ///
    /// [`ClientBootstrap::upgrade_deadline`]: super::ClientBootstrap::upgrade_deadline
    pub fn upgrade_deadline(&self) -> Instant {
        self.agreed.upgrade_deadline
    }

    /// Tells the client which transport it shall be, with a body for its side of it, and why the
    /// other offers were not taken. Offers neither chosen nor listed get a reason of their own.
    ///
    /// # Errors
    /// If the choice was not offered, the body is too long, there has been an answer already, or
    /// the answer cannot be sent in time.
    pub async fn answer(
        &mut self,
        choice: TransportKind,
        body: &[u8],
        declined: Vec<Declined>,
    ) -> Result<(), BootstrapError> {
        if self.answered {
            return Err(BootstrapError::misuse("the hello was answered before".to_string()));
        }
        let offered = |kind| self.offers.iter().any(|offer| offer.transport == kind);
        if choice != TransportKind::Tcp && !offered(choice) {
            return Err(BootstrapError::misuse(format!("{choice} was not offered")));
        }
        check_body(choice, body)?;
        let declined: Vec<Declined> = self
            .offers
            .iter()
            .map(|offer| offer.transport)
            .filter(|&transport| transport != choice)
            .map(|transport| {
                let given = declined.iter().find(|known| known.transport == transport);
                given.cloned().unwrap_or_else(|| Declined {
                    transport,
                    reason: match transport {
                        TransportKind::Unknown(_) => "not known to this server".to_string(),
                        _ => format!("{choice} was chosen"),
                    },
                })
            })
            .collect();
        let reply = HelloReply {
            version: self.agreed.version,
            features: self.agreed.features,
            max_frame_bytes: self.agreed.max_frame_bytes,
            transport: choice,
            body: body.to_vec(),
            declined,
        };
        self.answered = true;
        let deadline = self.agreed.deadline;
        self.agreed.framed.send(FrameKind::HelloReply, &reply.encode(), deadline).await?;
        self.agreed.transport = choice;
        self.agreed.declined = reply.declined;
        self.agreed.upgrade_deadline = upgrade_deadline(deadline);
        Ok(())
    }

    /// Waits for the client's word on the upgrade and answers it; a server whose side failed
    /// says so at once. With tcp chosen there is nothing to say, and this returns at once.
    ///
    /// # Errors
    /// If the two ends cannot agree in time (the connection is then useless), or there has been
    /// no answer.
    pub async fn confirm(self, upgraded: Result<(), String>) -> Result<Confirmed, BootstrapError> {
        if !self.answered {
            return Err(BootstrapError::misuse("the hello was not answered".to_string()));
        }
        self.agreed.confirm(upgraded).await
    }

    /// Turns the client away and closes. Returns when the client has read it or after a short
    /// while, whatever the client does.
    pub async fn reject(self, code: RejectCode, text: &str) {
        if !self.answered {
            send_reject(self.agreed.framed, code, text, self.versions).await;
        }
    }
}

impl Exchange for ServerBootstrap {
    async fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.agreed.exchange_send(message).await
    }

    async fn receive(&mut self) -> io::Result<Vec<u8>> {
        self.agreed.exchange_receive().await
    }
}

async fn read_hello(framed: &mut Framed, deadline: Instant) -> Result<Hello, BootstrapError> {
    let frame = framed.receive("a HELLO frame", deadline).await?;
    let hello = match frame.kind {
        FrameKind::Hello => Hello::decode(&frame.payload, frame.payload_offset()),
        _ => Err(frame.unexpected("a HELLO frame")),
    };
    hello.map_err(|error| error.sent_by(&framed.peer))
}

/// Best effort: whoever is turned away may have gone already.
async fn send_reject(mut framed: Framed, code: RejectCode, text: &str, versions: (u16, u16)) {
    let reject =
        Reject { code, min_version: versions.0, max_version: versions.1, text: text.to_string() };
    let deadline = Instant::now() + REJECT_TIMEOUT;
    if framed.send(FrameKind::Reject, &reject.encode(), deadline).await.is_ok() {
        let (socket, _) = framed.into_parts();
        if socket.shutdown_write().is_ok() {
            linger(socket).await;
        }
    }
}
