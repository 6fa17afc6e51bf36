//! One received message, in the memory it is kept in.

use bytes::{Buf, Bytes};

use crate::copy;
use crate::parts::Parts;
use crate::session::Payload;

/// Messages up to this many bytes are kept in the mailbox itself.
pub(crate) const INLINE_BYTES: usize = 104;

/// A received message.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    /// Short ones lie here.
    Inline(Short),
    /// Long ones in memory of their own, which prost's `bytes` fields then share.
    Shared(Bytes),
    /// Those that were pulled and whose ends came by another way.
    Split(Box<Parts>),
}

/// Room for one short message, in a place that is used again: nothing of it is written but the
/// message.
#[derive(Clone, Copy)]
pub(crate) struct Short {
    /// More than there is room for: no message. As wide as what it is all copied by: a copy that ends
    /// amid what is loaded next makes that wait.
    len: u64,
    bytes: [u8; INLINE_BYTES],
}

const NO_MESSAGE: u64 = u64::MAX;

impl Default for Short {
    fn default() -> Short {
        Short { len: NO_MESSAGE, bytes: [0; INLINE_BYTES] }
    }
}

impl std::fmt::Debug for Short {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Short").field(&self.get()).finish()
    }
}

impl Short {
    /// Puts in a message of at most [`INLINE_BYTES`].
    #[inline]
    pub(super) fn set(&mut self, message: &[u8]) {
        self.bytes[..message.len()].copy_from_slice(message);
        self.len = message.len() as u64;
    }

    #[inline]
    pub(super) fn get(&self) -> Option<&[u8]> {
        self.bytes.get(..usize::try_from(self.len).ok()?)
    }

    #[inline]
    pub(super) fn is_some(&self) -> bool {
        self.len != NO_MESSAGE
    }

    #[inline]
    pub(super) fn clear(&mut self) {
        self.len = NO_MESSAGE;
    }
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
            let mut short = Short::default();
            short.set(slice);
            return Body::Inline(short);
        }
        Body::Shared(payload.into_bytes())
    }

    pub(crate) fn view(&self) -> View<'_> {
        match self {
            Body::Inline(short) => View::Short(short.get().unwrap_or_default()),
            Body::Shared(bytes) => View::Shared(bytes),
            Body::Split(parts) => View::Split(parts),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.view().len()
    }
}

/// Bytes to be copied from: as `&[u8]`, but for the way a `Bytes` field is made of them.
struct Slice<'a> {
    bytes: &'a [u8],
    /// Whether the fields may well be sent again, as parts of requests often are in answers: prost
    /// clones each field that it encodes, and what `Bytes` makes of a `Vec` allocates a count of its
    /// sharers when it is cloned first. So such a field lies with its count in one allocation, which
    /// costs a little more, and a locked instruction at its drop.
    sent_again: bool,
}

impl Buf for Slice<'_> {
    #[inline]
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    #[inline]
    fn chunk(&self) -> &[u8] {
        self.bytes
    }

    #[inline]
    fn advance(&mut self, count: usize) {
        self.bytes = &self.bytes[count..];
    }

    #[inline]
    fn copy_to_bytes(&mut self, len: usize) -> Bytes {
        let (bytes, rest) = self.bytes.split_at(len);
        self.bytes = rest;
        match bytes.len() {
            _ if !self.sent_again => copy::to_bytes(bytes),
            0 => Bytes::new(),
            1..=SMALL_FIELD_BYTES => Bytes::from_owner(Field::<SMALL_FIELD_BYTES>::new(bytes)),
            _ if bytes.len() <= INLINE_BYTES => {
                Bytes::from_owner(Field::<INLINE_BYTES>::new(bytes))
            }
            _ => copy::to_bytes(bytes),
        }
    }
}

/// The most bytes of the fields that are given less room than the longest that come here.
const SMALL_FIELD_BYTES: usize = 40;

/// A short `bytes` field, to be owned by a `Bytes`.
struct Field<const N: usize> {
    len: usize,
    bytes: [u8; N],
}

impl<const N: usize> Field<N> {
    /// Of at most `N` bytes.
    fn new(from: &[u8]) -> Field<N> {
        let mut bytes = [0; N];
        bytes[..from.len()].copy_from_slice(from);
        Field { len: from.len(), bytes }
    }
}

impl<const N: usize> AsRef<[u8]> for Field<N> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// A received message where it lies.
#[derive(Debug, Clone, Copy)]
pub(crate) enum View<'a> {
    /// To be copied from.
    Short(&'a [u8]),
    /// The same, of an answer: it has arrived where it was to go.
    Answer(&'a [u8]),
    /// To be shared.
    Shared(&'a Bytes),
    /// The same, in parts.
    Split(&'a Parts),
}

impl From<View<'_>> for Body {
    fn from(view: View<'_>) -> Body {
        match view {
            View::Short(bytes) | View::Answer(bytes) => Body::new(Payload::Borrowed(bytes)),
            View::Shared(bytes) => Body::Shared(bytes.clone()),
            View::Split(parts) => Body::Split(Box::new(parts.clone())),
        }
    }
}

impl View<'_> {
    /// `Message::decode`, into a message that is there.
    #[inline]
    pub(crate) fn decode_into<M: prost::Message>(
        self,
        message: &mut M,
    ) -> Result<(), prost::DecodeError> {
        match self {
            View::Short(bytes) => message.merge(Slice { bytes, sent_again: true }),
            View::Answer(bytes) => message.merge(Slice { bytes, sent_again: false }),
            View::Shared(bytes) => message.merge(Parts::from(bytes.clone())),
            View::Split(parts) => message.merge(Parts::clone(parts)),
        }
    }

    pub(crate) fn len(self) -> usize {
        match self {
            View::Short(bytes) | View::Answer(bytes) => bytes.len(),
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
            for view in [View::Short(bytes), View::Answer(bytes)] {
                let mut decoded = Bytes::new();
                assert_eq!(
                    view.decode_into(&mut decoded).map(|()| decoded).map_err(|e| e.to_string()),
                    Bytes::decode(bytes).map_err(|e| e.to_string()),
                    "{cut}"
                );
            }
        }
    }
}
