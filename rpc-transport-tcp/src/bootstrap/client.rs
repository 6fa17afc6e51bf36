//! The client's end of the handshake.

use std::io;

use rdma_rpc_core::upgrade::Exchange;
use tokio::time::Instant;

use super::confirm::{Agreed, Confirmed, Role, upgrade_deadline};
use super::error::BootstrapError;
use super::framed::{Frame, Framed};
use super::wire::{Declined, FrameKind, Hello, HelloReply, Offer, Reject};
use super::{BootstrapOptions, RejectCode, TransportKind};
use crate::address::Address;
use crate::socket::Socket;

/// A client that has its server's answer.
///
/// Call order: [`connect`](Self::connect); read the [`answer`](Self::answer); if it chose an
/// upgrade, run that transport's code over the [`Exchange`], no longer than
/// [`upgrade_deadline`](Self::upgrade_deadline); then [`confirm`](Self::confirm) with how it went.
#[derive(Debug)]
pub struct ClientBootstrap {
    agreed: Agreed,
    body: Vec<u8>,
}

/// What the server chose.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// The transport: one of those offered, or tcp.
    pub transport: TransportKind,
    /// What the server's side of it says; opaque to the handshake.
    pub body: &'a [u8],
    /// Offers the server did not take, and why.
    pub declined: &'a [Declined],
}

impl ClientBootstrap {
    /// Connects, offers, and waits for the answer.
    ///
    /// # Errors
    /// If no connection can be made, the server turns it away, or what answers is no server of
    /// ours.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn connect(
        address: &Address,
        options: &BootstrapOptions,
        offers: Vec<Offer>,
    ) -> Result<ClientBootstrap, BootstrapError> {
        let socket = ClientBootstrap::connect_socket(address, options).await?;
        ClientBootstrap::greet_at(socket, address, options, offers).await
    }

    /// The first half of [`connect`](Self::connect): what can be offered may depend on which of
    /// this host's addresses leads to the server.
    ///
    /// # Errors
    /// If no connection can be made.
    pub async fn connect_socket(
        address: &Address,
        options: &BootstrapOptions,
    ) -> Result<Socket, BootstrapError> {
        let deadline = Instant::now() + options.connect_timeout;
        Socket::connect(address, &options.socket, deadline)
            .await
            .map_err(|error| BootstrapError::connect(&error))
    }

    /// The second half of [`connect`](Self::connect).
    ///
    /// # Errors
    /// As [`ClientBootstrap::connect`].
    pub async fn greet_at(
        socket: Socket,
        address: &Address,
        options: &BootstrapOptions,
        offers: Vec<Offer>,
    ) -> Result<ClientBootstrap, BootstrapError> {
        let authority = options.authority.clone().unwrap_or_else(|| address.authority());
        let hello = hello(options, authority, offers)?;
        ClientBootstrap::greet(socket, address.to_string(), options, hello).await
    }

    /// The same over a socket that is connected already; `options.authority` names the target.
    ///
    /// # Errors
    /// As [`ClientBootstrap::connect`].
    pub async fn over(
        socket: Socket,
        options: &BootstrapOptions,
        offers: Vec<Offer>,
    ) -> Result<ClientBootstrap, BootstrapError> {
        let peer = socket.peer_text();
        let authority = options.authority.clone().unwrap_or_else(|| peer.clone());
        let hello = hello(options, authority, offers)?;
        ClientBootstrap::greet(socket, peer, options, hello).await
    }

    async fn greet(
        socket: Socket,
        peer: String,
        options: &BootstrapOptions,
        hello: Hello,
    ) -> Result<ClientBootstrap, BootstrapError> {
        let deadline = Instant::now() + options.handshake_timeout;
        let mut framed = Framed::new(socket, peer);
        // A server may turn us away and close before it has read anything: what it said is then
        // worth more than that our write failed.
        let sent = framed.send(FrameKind::Hello, &hello.encode(), deadline).await;
        let frame = match (framed.receive("a HELLO-REPLY frame", deadline).await, sent) {
            (Ok(frame), _) => frame,
            (Err(_), Err(error)) | (Err(error), Ok(())) => return Err(error),
        };
        let reply = read_reply(&frame, &hello).map_err(|error| error.sent_by(&framed.peer))?;
        Ok(ClientBootstrap {
            agreed: Agreed {
                framed,
                role: Role::Client,
                version: reply.version,
                features: reply.features,
                max_frame_bytes: hello.max_frame_bytes,
                peer_max_frame_bytes: reply.max_frame_bytes,
                authority: hello.authority,
                transport: reply.transport,
                declined: reply.declined,
                upgrade_deadline: upgrade_deadline(deadline),
                deadline,
                peer_verdict: None,
            },
            body: reply.body,
        })
    }

    /// What the server chose.
    pub fn answer(&self) -> Answer<'_> {
        Answer {
            transport: self.agreed.transport,
            body: &self.body,
            declined: &self.agreed.declined,
        }
    }

    /// The protocol version both ends speak.
    pub fn version(&self) -> u16 {
        self.agreed.version
    }

    /// The feature bits both ends have.
    pub fn features(&self) -> u64 {
        self.agreed.features
    }

    /// The server's address.
    pub fn peer(&self) -> &str {
        &self.agreed.framed.peer
    }

    /// When the upgrade must be done. The messages of [`Exchange`] keep to it by themselves; a
    /// transport that waits for anything else must be stopped then.
    pub fn upgrade_deadline(&self) -> Instant {
        self.agreed.upgrade_deadline
    }

    /// Tells the server how the upgrade went here, and learns how it went there. With tcp chosen
    /// there is nothing to say, and this returns at once.
    ///
    /// # Errors
    /// If the two ends cannot agree in time: the connection is then useless.
    pub async fn confirm(self, upgraded: Result<(), String>) -> Result<Confirmed, BootstrapError> {
        self.agreed.confirm(upgraded).await
    }
}

impl Exchange for ClientBootstrap {
    async fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.agreed.exchange_send(message).await
    }

    async fn receive(&mut self) -> io::Result<Vec<u8>> {
        self.agreed.exchange_receive().await
    }
}

fn hello(
    options: &BootstrapOptions,
    authority: String,
    offers: Vec<Offer>,
) -> Result<Hello, BootstrapError> {
    let hello = Hello {
        min_version: options.min_version,
        max_version: options.max_version,
        features: options.features,
        timeout_ms: u32::try_from(options.handshake_timeout.as_millis()).unwrap_or(u32::MAX),
        max_frame_bytes: options.max_frame_bytes_on_wire(),
        authority,
        offers,
    };
    hello.check()?;
    Ok(hello)
}

/// Checks the server's first frame against what we said.
fn read_reply(frame: &Frame, hello: &Hello) -> Result<HelloReply, BootstrapError> {
    let offset = frame.payload_offset();
    match frame.kind {
        FrameKind::HelloReply => {}
        FrameKind::Reject => {
            let reject = Reject::decode(&frame.payload, offset)?;
            let mut text = reject.text;
            if reject.code == RejectCode::VersionMismatch {
                text = format!(
                    "{text} (the server speaks versions {} to {}, this client {} to {})",
                    reject.min_version, reject.max_version, hello.min_version, hello.max_version
                );
            }
            return Err(BootstrapError::rejected(reject.code, &text));
        }
        _ => return Err(frame.unexpected("a HELLO-REPLY or REJECT frame")),
    }
    let reply = HelloReply::decode(&frame.payload, offset)?;
    if !(hello.min_version..=hello.max_version).contains(&reply.version) {
        return Err(BootstrapError::version_mismatch(
            format!(
                "the server chose protocol version {}, this client speaks {} to {}",
                reply.version, hello.min_version, hello.max_version
            ),
            offset,
        ));
    }
    if reply.features & !hello.features != 0 {
        return Err(BootstrapError::malformed(
            &format!("no feature bits but {:#x}", hello.features),
            &format!("{:#x}", reply.features),
            offset + 4,
        ));
    }
    let offered = hello.offers.iter().any(|offer| offer.transport == reply.transport);
    if !offered && reply.transport != TransportKind::Tcp {
        return Err(BootstrapError::malformed(
            "a transport that was offered",
            &reply.transport.to_string(),
            offset + 16,
        ));
    }
    Ok(reply)
}
