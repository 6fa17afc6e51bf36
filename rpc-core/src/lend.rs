//! Finds the one long `bytes` field of a message while prost encodes it, and shares it instead of
//! copying it.
//!
//! prost writes a field of type `Bytes` by `BufMut::put`, and a `Bytes` that is asked for all of
//! its bytes gives itself away. `BufMut` is an unsafe trait, which is the reason for `unsafe` here;
//! everything it demands is left to `Vec`.

use bytes::{Buf, BufMut, Bytes, buf::UninitSlice};

use crate::copy;
use crate::parts::Parts;
use crate::warm;

/// More around the long field than this, in bytes, and the message is better copied: it travels
/// within a frame, of which every link takes 4096 bytes.
pub(crate) const MAX_AROUND_BYTES: usize = 1024;

/// A prost message as [`Parts`], if it has a `bytes` field of at least `at_least` bytes, made of
/// `Bytes`, and little else.
pub(crate) fn lend<M: prost::Message>(message: &M, at_least: usize) -> Option<Parts> {
    let mut out = Lending::new(at_least, MAX_AROUND_BYTES, Vec::new());
    message.encode_raw(&mut out);
    let body = out.body.filter(|_| !out.too_much)?;
    Some(Parts { head: out.head.into(), body, tail: out.tail.into() })
}

/// A prost message in memory of its own, which is not zeroed first. `len` is its length.
pub(crate) fn to_bytes<M: prost::Message>(message: &M, len: usize) -> Bytes {
    let mut out = Lending::new(usize::MAX, usize::MAX, warm::buffer(len));
    message.encode_raw(&mut out);
    // A `Message` whose two methods disagree must not break what was agreed.
    out.head.resize(len, 0);
    warm::share(out.head)
}

struct Lending {
    at_least: usize,
    max_around_bytes: usize,
    head: Vec<u8>,
    body: Option<Bytes>,
    tail: Vec<u8>,
    /// The rest is not written any more.
    too_much: bool,
}

impl Lending {
    fn new(at_least: usize, max_around_bytes: usize, head: Vec<u8>) -> Lending {
        let (body, tail) = (None, Vec::new());
        Lending { at_least, max_around_bytes, head, body, tail, too_much: false }
    }

    /// Where copied bytes go, if `more` are still wanted.
    fn around(&mut self, more: usize) -> Option<&mut Vec<u8>> {
        let so_far = self.head.len() + self.tail.len();
        self.too_much |= so_far.saturating_add(more) > self.max_around_bytes;
        if self.too_much { None } else { Some(self.current()) }
    }

    fn current(&mut self) -> &mut Vec<u8> {
        if self.body.is_some() { &mut self.tail } else { &mut self.head }
    }
}

/// Whether a buffer gives its bytes away uncopied. A wrong answer costs a copy, nothing else.
fn is_shared<T: Buf>() -> bool {
    std::any::type_name::<T>() == std::any::type_name::<Bytes>()
}

// SAFETY: `chunk_mut` and `advance_mut` are those of one `Vec`, and nothing happens to that `Vec`
// between the two unless the caller writes in between, which ends its chunk (**current** is
// chosen by `body`, which only `put` changes).
unsafe impl BufMut for Lending {
    fn remaining_mut(&self) -> usize {
        self.head.remaining_mut().min(self.tail.remaining_mut())
    }

    fn chunk_mut(&mut self) -> &mut UninitSlice {
        if self.too_much {
            // Whatever still comes this way is not wanted, and shall not grow the memory.
            self.current().clear();
        }
        self.current().chunk_mut()
    }

    unsafe fn advance_mut(&mut self, count: usize) {
        // SAFETY: the caller has written `count` bytes of what `chunk_mut` gave, which was the
        // spare room of this `Vec`.
        unsafe { self.current().advance_mut(count) }
        // Without this a message written by chunks would go on being collected.
        self.around(0);
    }

    fn put<T: Buf>(&mut self, mut src: T) {
        let len = src.remaining();
        if len >= self.at_least && self.body.is_none() && !self.too_much && is_shared::<T>() {
            self.body = Some(src.copy_to_bytes(len));
            return;
        }
        if let Some(around) = self.around(len) {
            copy::append_all(around, src);
        }
    }

    fn put_slice(&mut self, src: &[u8]) {
        if let Some(around) = self.around(src.len()) {
            copy::append(around, src);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, PartialEq, prost::Message)]
    struct Pair {
        #[prost(string, tag = "1")]
        key: String,
        #[prost(bytes = "bytes", tag = "2")]
        value: Bytes,
        #[prost(uint64, repeated, tag = "3")]
        numbers: Vec<u64>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Owned {
        #[prost(bytes = "vec", tag = "2")]
        value: Vec<u8>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Outer {
        #[prost(uint64, tag = "1")]
        id: u64,
        #[prost(message, repeated, tag = "2")]
        pairs: Vec<Pair>,
    }

    fn pair(bytes: usize, numbers: u64) -> Pair {
        let value = (0..bytes).map(|at| at as u8).collect::<Vec<_>>().into();
        Pair { key: "a key".into(), value, numbers: (0..numbers).collect() }
    }

    fn joined(parts: &Parts) -> Vec<u8> {
        [&parts.head[..], &parts.body, &parts.tail].concat()
    }

    #[test]
    fn a_long_field_is_shared_and_the_rest_put_around_it() {
        use prost::Message;
        let message = pair(10_000, 50);
        let parts = lend(&message, 10_000).unwrap();
        assert_eq!(parts.body.as_ptr(), message.value.as_ptr());
        assert_eq!(joined(&parts), message.encode_to_vec());
        let outer = Outer { id: 7, pairs: vec![pair(10, 3), message, pair(20, 4)] };
        let parts = lend(&outer, 10_000).unwrap();
        assert_eq!(parts.body.as_ptr(), outer.pairs[1].value.as_ptr());
        assert_eq!(joined(&parts), outer.encode_to_vec());
        assert_eq!(Outer::decode(parts).unwrap(), outer);
    }

    #[test]
    fn what_is_better_copied_is_not_lent() {
        assert!(lend(&pair(9_999, 0), 10_000).is_none(), "too short");
        assert!(lend(&pair(10_000, 2_000), 10_000).is_none(), "too much after it");
        let two = Outer { id: 1, pairs: vec![pair(10_000, 0), pair(10_000, 0)] };
        assert!(lend(&two, 10_000).is_none(), "two of them");
        assert!(lend(&Owned { value: vec![1; 10_000] }, 10_000).is_none(), "it is not shared");
    }

    #[test]
    fn a_copy_is_the_same_bytes() {
        use prost::Message;
        let message = Outer { id: 7, pairs: vec![pair(5_000, 300), pair(10_000, 2)] };
        let len = message.encoded_len();
        assert_eq!(to_bytes(&message, len), message.encode_to_vec());
    }

    #[test]
    fn chunks_are_collected_and_bounded_too() {
        let mut out = Lending::new(10, 100, Vec::new());
        for _ in 0..10_000 {
            let chunk = out.chunk_mut();
            chunk.write_byte(0, 1);
            // SAFETY: one byte of the chunk was written.
            unsafe { out.advance_mut(1) };
        }
        assert!(out.too_much && out.head.capacity() < 1000);
    }
}
