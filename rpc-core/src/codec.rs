//! prost messages as the session and the mailbox see them.

use prost::Message;

use crate::copy::Target;
use crate::driver::body::View;
use crate::lend;
use crate::parts::Parts;
use crate::session::Encode;
use crate::status::{RequestSeen, Status};

/// A message that has to wait shares a field of this many bytes rather than copy it.
const WORTH_LENDING_BYTES: usize = 4096;

/// A prost message on its way out.
pub(crate) struct ProstMessage<'a, M> {
    message: &'a M,
    len: usize,
}

impl<'a, M: Message> ProstMessage<'a, M> {
    /// Measures a message; one longer than `limit_bytes` is refused before anything is sent.
    pub(crate) fn new(message: &'a M, limit_bytes: Option<usize>) -> Result<Self, Status> {
        let len = message.encoded_len();
        // The wire's length field has 32 bits.
        let limit = limit_bytes.unwrap_or(usize::MAX).min(u32::MAX as usize);
        if len > limit {
            return Err(Status::resource_exhausted(format!(
                "message of {len} bytes is longer than the sender's limit of {limit} bytes"
            ))
            .with_request_seen(RequestSeen::NeverSent));
        }
        Ok(ProstMessage { message, len })
    }
}

impl<M: Message> Encode for ProstMessage<'_, M> {
    fn encoded_len(&self) -> usize {
        self.len
    }

    fn to_parts(&self) -> Parts {
        let lent =
            if self.len >= WORTH_LENDING_BYTES { self.lend(WORTH_LENDING_BYTES) } else { None };
        lent.unwrap_or_else(|| lend::to_bytes(self.message, self.len).into())
    }

    fn lend(&self, at_least: usize) -> Option<Parts> {
        // A `Message` whose two methods disagree must not break what was agreed.
        lend::lend(self.message, at_least).filter(|parts| parts.len() == self.len)
    }

    fn encode(&self, into: &mut [u8]) {
        let mut target = Target(into);
        self.message.encode_raw(&mut target);
        // A `Message` whose two methods disagree must not send what was in the ring before.
        if !target.0.is_empty() {
            target.0.fill(0);
        }
    }
}

/// Decodes a message, or says whose it was and what it should have been.
#[inline]
pub(crate) fn decode<M: Message + Default>(
    body: View<'_>,
    what: &str,
    path: &str,
) -> Result<M, Status> {
    let mut message = M::default();
    decode_into(&mut message, body, what, path)?;
    Ok(message)
}

/// The same into a message that is as it is by default.
#[inline]
pub(crate) fn decode_into<M: Message>(
    message: &mut M,
    body: View<'_>,
    what: &str,
    path: &str,
) -> Result<(), Status> {
    body.decode_into(message).map_err(|error| malformed::<M>(body.len(), what, path, &error))
}

#[cold]
fn malformed<M>(bytes: usize, what: &str, path: &str, error: &prost::DecodeError) -> Status {
    let name = std::any::type_name::<M>();
    Status::internal(format!("{what} of {path} ({bytes} bytes) is not a {name}: {error}"))
}
