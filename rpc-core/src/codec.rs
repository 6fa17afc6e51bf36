//! prost messages as the session and the mailbox see them.

use bytes::Bytes;
use prost::Message;

use crate::driver::cell::Body;
use crate::session::Encode;
use crate::status::{RequestSeen, Status};

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

    fn to_bytes(&self) -> Bytes {
        // Not zeroed first.
        let mut bytes = Vec::with_capacity(self.len);
        self.message.encode_raw(&mut bytes);
        bytes.resize(self.len, 0);
        bytes.into()
    }

    fn encode(&self, into: &mut [u8]) {
        let mut rest = &mut *into;
        self.message.encode_raw(&mut rest);
        // A `Message` whose two methods disagree must not send what was in the ring before.
        if !rest.is_empty() {
            rest.fill(0);
        }
    }
}

/// Decodes a message, or says whose it was and what it should have been.
pub(crate) fn decode<M: Message + Default>(
    body: &Body,
    what: &str,
    path: &str,
) -> Result<M, Status> {
    body.decode().map_err(|error| {
        Status::internal(format!(
            "{what} of {path} ({} bytes) is not a {}: {error}",
            body.len(),
            std::any::type_name::<M>(),
        ))
    })
}
