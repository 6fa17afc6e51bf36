//! One received message, in the memory it is kept in.

use bytes::{Buf, Bytes};

use crate::parts::Parts;
use crate::session::Payload;

/// Messages up to this many bytes are kept in the mailbox itself.
const INLINE_BYTES: usize = 104;

/// A received message.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    /// Short ones lie here.
    Inline(u8, [u8; INLINE_BYTES]),
    /// Long ones in memory of their own, which prost's `bytes` fields then share.
    Shared(Bytes),
    /// Those that were pulled and whose ends came by another way.
    Split(Box<Parts>),
}

/// What came of a message with the word that it can be pulled.
#[derive(Debug)]
pub(crate) struct Around(Option<Box<Parts>>);

impl Around {
    pub(crate) fn new(head: &[u8], tail: &[u8]) -> Around {
        if head.is_empty() && tail.is_empty() {
            return Around(None);
        }
        let [head, tail] = [head, tail].map(Bytes::copy_from_slice);
        Around(Some(Box::new(Parts { head, body: Bytes::new(), tail })))
    }

    pub(super) fn complete(&mut self, body: Bytes) -> Body {
        match self.0.take() {
            None => Body::new(Payload::Owned(body)),
            Some(mut parts) => {
                parts.body = body;
                Body::Split(parts)
            }
        }
    }
}

impl Body {
    pub(crate) fn new(payload: Payload<'_>) -> Body {
        let slice = payload.as_slice();
        if slice.len() <= INLINE_BYTES {
            let mut bytes = [0; INLINE_BYTES];
            bytes[..slice.len()].copy_from_slice(slice);
            return Body::Inline(slice.len() as u8, bytes);
        }
        Body::Shared(payload.into_bytes())
    }

    pub(crate) fn view(&self) -> View<'_> {
        match self {
            Body::Inline(len, bytes) => View::Short(&bytes[..usize::from(*len)]),
            Body::Shared(bytes) => View::Shared(bytes),
            Body::Split(parts) => View::Split(parts),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.view().len()
    }
}

/// Bytes to be copied from: as `&[u8]`, but for the way a `Bytes` field is made of them, which
/// allocates once and copies once, without a buffer that could grow between.
struct Short<'a>(&'a [u8]);

impl Buf for Short<'_> {
    #[inline]
    fn remaining(&self) -> usize {
        self.0.len()
    }

    #[inline]
    fn chunk(&self) -> &[u8] {
        self.0
    }

    #[inline]
    fn advance(&mut self, count: usize) {
        self.0 = &self.0[count..];
    }

    #[inline]
    fn copy_to_bytes(&mut self, len: usize) -> Bytes {
        let (bytes, rest) = self.0.split_at(len);
        self.0 = rest;
        Bytes::copy_from_slice(bytes)
    }
}

/// A received message where it lies.
#[derive(Debug, Clone, Copy)]
pub(crate) enum View<'a> {
    /// To be copied from.
    Short(&'a [u8]),
    /// To be shared.
    Shared(&'a Bytes),
    /// The same, in parts.
    Split(&'a Parts),
}

impl View<'_> {
    pub(crate) fn decode<M: prost::Message + Default>(self) -> Result<M, prost::DecodeError> {
        match self {
            View::Short(bytes) => M::decode(Short(bytes)),
            View::Shared(bytes) => M::decode(Parts::from(bytes.clone())),
            View::Split(parts) => M::decode(Parts::clone(parts)),
        }
    }

    pub(crate) fn len(self) -> usize {
        match self {
            View::Short(bytes) => bytes.len(),
            View::Shared(bytes) => bytes.len(),
            View::Split(parts) => parts.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn short_messages_are_decoded_like_any_slice_whole_or_cut() {
        let mut encoded = Bytes::from_static(&[7; 300]).encode_to_vec();
        // An unknown field behind it.
        encoded.extend_from_slice(&[0x12, 2, 1, 1]);
        for cut in 0..=encoded.len() {
            let bytes = &encoded[..cut];
            let short = View::Short(bytes).decode::<Bytes>();
            assert_eq!(
                short.map_err(|e| e.to_string()),
                Bytes::decode(bytes).map_err(|e| e.to_string()),
                "{cut}"
            );
        }
    }
}
