//! Moving a bootstrap connection to shared memory.
//!
//! ```text
//!   server                                        client
//!   OFFER  1 | version u16 | host id 32
//!          | ticket 32               ------->  same host? connect, say hello
//!                                      <-------   OK 2
//!   accept, say hello, OK 2            ------->   look at the hello
//!                                      <-------   OK 2
//! ```
//!
//! Instead of any of these a side may send `REFUSED 3 | reason`, after which nothing more is
//! exchanged: both ends know that there will be no shared memory, and why, and the bootstrap
//! connection is at the same point for both.

use rdma_rpc_core::upgrade::Exchange;

use super::config::ShmConfig;
use super::connect::{ShmConnecting, ShmListener, ShmTicket};
use super::error::ShmError;
use super::fdpass::VERSION;
use super::host_id::{HostId, host_id};
use super::qp::ShmQueuePair;

const OFFER: u8 = 1;
const OK: u8 = 2;
const REFUSED: u8 = 3;
const OFFER_BYTES: usize = 1 + size_of::<u16>() + HostId::BYTES + ShmTicket::BYTES;
const MAX_REASON_BYTES: usize = 512;

/// The server's side: offers shared memory, and accepts the client.
///
/// Unless the error [is the exchange's own](ShmError::is_exchange), the bootstrap connection is
/// still good and both ends know that shared memory is not used.
///
/// # Cancel safety
/// Dropping the future closes everything it made; the bootstrap connection is then in the middle
/// of the exchange. It has no time limit of its own.
pub async fn upgrade_server<E: Exchange>(
    exchange: &mut E,
    config: &ShmConfig,
) -> Result<ShmQueuePair, ShmError> {
    let (listener, offer) = refusing(exchange, prepare_offer(config)).await?;
    exchange.send(&offer).await.map_err(ShmError::Exchange)?;
    expect_ok(exchange).await?;
    let accepted = listener.accept(config).await;
    let queue_pair = refusing(exchange, accepted).await?;
    exchange.send(&[OK]).await.map_err(ShmError::Exchange)?;
    expect_ok(exchange).await?;
    Ok(queue_pair)
}

/// The client's side: takes the server's offer. Errors and cancellation as for
/// [`upgrade_server`].
pub async fn upgrade_client<E: Exchange>(
    exchange: &mut E,
    config: &ShmConfig,
) -> Result<ShmQueuePair, ShmError> {
    let message = exchange.receive().await.map_err(ShmError::Exchange)?;
    if let Some(refused) = refusal(&message) {
        return Err(refused);
    }
    let connecting = match parse_offer(&message) {
        Ok(ticket) => ShmConnecting::start(&ticket, config).await,
        Err(error) => Err(error),
    };
    let connecting = refusing(exchange, connecting).await?;
    exchange.send(&[OK]).await.map_err(ShmError::Exchange)?;
    expect_ok(exchange).await?;
    let finished = connecting.finish(config).await;
    let queue_pair = refusing(exchange, finished).await?;
    exchange.send(&[OK]).await.map_err(ShmError::Exchange)?;
    Ok(queue_pair)
}

fn prepare_offer(config: &ShmConfig) -> Result<(ShmListener, Vec<u8>), ShmError> {
    config.validate()?;
    let listener = ShmListener::bind()?;
    let mut offer = Vec::with_capacity(OFFER_BYTES);
    offer.push(OFFER);
    offer.extend_from_slice(&VERSION.to_le_bytes());
    offer.extend_from_slice(own_host()?.as_bytes());
    offer.extend_from_slice(&listener.ticket().to_bytes());
    Ok((listener, offer))
}

fn own_host() -> Result<HostId, ShmError> {
    host_id().map_err(|error| ShmError::io("open", &error, "this host's identity in /proc"))
}

fn parse_offer(message: &[u8]) -> Result<ShmTicket, ShmError> {
    let bad = || ShmError::Misbehaved {
        what: format!(
            "an offer of {} bytes and kind {:?}, not {OFFER_BYTES} and {OFFER}",
            message.len(),
            message.first()
        ),
    };
    let Some((&OFFER, rest)) = message.split_first() else { return Err(bad()) };
    let (version, rest) = rest.split_first_chunk().ok_or_else(bad)?;
    let version = u16::from_le_bytes(*version);
    if version != VERSION {
        let what = format!("it speaks version {version} of shared memory, this side {VERSION}");
        return Err(ShmError::Misbehaved { what });
    }
    let (host, ticket) = rest.split_at_checked(HostId::BYTES).ok_or_else(bad)?;
    let theirs = HostId::from_bytes(host.try_into().map_err(|_| bad())?);
    let ticket = ShmTicket::from_bytes(ticket.try_into().map_err(|_| bad())?);
    let ours = own_host()?;
    if theirs != ours {
        let detail = format!("host and network namespace {theirs} there, {ours} here");
        return Err(ShmError::OtherHost { detail });
    }
    Ok(ticket)
}

/// Tells the other end if `outcome` is an error.
async fn refusing<E: Exchange, T>(
    exchange: &mut E,
    outcome: Result<T, ShmError>,
) -> Result<T, ShmError> {
    if let Err(error) = &outcome {
        let reason = error.to_string();
        // A character cut in two is replaced by the reader.
        let end = reason.len().min(MAX_REASON_BYTES);
        let message = [&[REFUSED], &reason.as_bytes()[..end]].concat();
        exchange.send(&message).await.map_err(ShmError::Exchange)?;
    }
    outcome
}

fn refusal(message: &[u8]) -> Option<ShmError> {
    let (&REFUSED, reason) = message.split_first()? else { return None };
    let reason = &reason[..reason.len().min(MAX_REASON_BYTES)];
    Some(ShmError::Refused { reason: String::from_utf8_lossy(reason).into_owned() })
}

async fn expect_ok<E: Exchange>(exchange: &mut E) -> Result<(), ShmError> {
    let message = exchange.receive().await.map_err(ShmError::Exchange)?;
    if let Some(refused) = refusal(&message) {
        return Err(refused);
    }
    if message == [OK] {
        return Ok(());
    }
    // The other end is out of step: nothing more can be exchanged with it.
    let what = format!("{} bytes of kind {:?} where OK is due", message.len(), message.first());
    Err(ShmError::Exchange(std::io::Error::new(std::io::ErrorKind::InvalidData, what)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_are_checked_byte_by_byte() {
        let (_listener, offer) = prepare_offer(&ShmConfig::default()).unwrap();
        assert!(parse_offer(&offer).is_ok());
        for len in 0..offer.len() {
            assert!(matches!(parse_offer(&offer[..len]), Err(ShmError::Misbehaved { .. })));
        }
        let longer = [&offer[..], &[0]].concat();
        assert!(matches!(parse_offer(&longer), Err(ShmError::Misbehaved { .. })));
        let mut newer = offer.clone();
        newer[1] = 9;
        assert!(parse_offer(&newer).unwrap_err().to_string().contains("version 9"));
        for byte in 3..3 + HostId::BYTES {
            let mut elsewhere = offer.clone();
            elsewhere[byte] ^= 1;
            assert!(matches!(parse_offer(&elsewhere), Err(ShmError::OtherHost { .. })));
        }
    }

    #[test]
    fn refusals_are_read_and_bounded() {
        let message = [&[REFUSED][..], &[b'x'; 10_000]].concat();
        let Some(ShmError::Refused { reason }) = refusal(&message) else { panic!("a refusal") };
        assert_eq!(reason.len(), MAX_REASON_BYTES);
        assert!(refusal(&[OK]).is_none());
        assert!(refusal(&[]).is_none());
    }
}
