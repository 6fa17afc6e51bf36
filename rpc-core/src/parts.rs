//! A message of which one long stretch lies where the program, or the link, has it already.
//!
//! ```text
//!   head   the message's first bytes, few
//!   body   a long `bytes` field, shared
//!   tail   what follows it, few
//! ```
//!
//! Going out it saves the copy into an encode buffer, coming in the copy that would put the three
//! together. Either side may have all of it in `body`.

use bytes::{Buf, Bytes, BytesMut};

use crate::link::fill;

/// One message in up to three pieces of memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parts {
    /// The first bytes.
    pub head: Bytes,
    /// The bytes after them: all, or nearly all.
    pub body: Bytes,
    /// The last bytes.
    pub tail: Bytes,
}

impl From<Bytes> for Parts {
    fn from(body: Bytes) -> Parts {
        Parts { head: Bytes::new(), body, tail: Bytes::new() }
    }
}

impl Parts {
    /// The message's length in bytes.
    pub fn len(&self) -> usize {
        self.head.len() + self.body.len() + self.tail.len()
    }

    /// Whether the message is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What of `len` bytes from `at` on lies in each part.
    ///
    /// # Panics
    /// If the message ends before.
    pub fn piece(&self, at: usize, len: usize) -> (&[u8], Bytes, &[u8]) {
        let (head, body) = (self.head.len(), self.body.len());
        let within = |start: usize, part: usize| {
            let from = at.clamp(start, start + part) - start;
            let to = (at + len).clamp(start, start + part) - start;
            from..to
        };
        (
            &self.head[within(0, head)],
            self.body.slice(within(head, body)),
            &self.tail[within(head + body, self.tail.len())],
        )
    }

    /// Copies the message into `into`, which is as long.
    pub fn copy_to(&self, into: &mut [u8]) {
        fill(into, &[&self.head, &self.body, &self.tail]);
    }

    fn first(&mut self) -> &mut Bytes {
        if !self.head.is_empty() {
            &mut self.head
        } else if !self.body.is_empty() {
            &mut self.body
        } else {
            &mut self.tail
        }
    }
}

impl Buf for Parts {
    fn remaining(&self) -> usize {
        self.len()
    }

    fn chunk(&self) -> &[u8] {
        if !self.head.is_empty() {
            &self.head
        } else if !self.body.is_empty() {
            &self.body
        } else {
            &self.tail
        }
    }

    fn advance(&mut self, mut count: usize) {
        while count > 0 {
            let first = self.first();
            let here = count.min(first.len());
            assert!(here > 0, "advanced beyond the end of a message");
            first.advance(here);
            count -= here;
        }
    }

    /// Shares what lies in one part; prost's `bytes` fields come from here.
    fn copy_to_bytes(&mut self, len: usize) -> Bytes {
        let first = self.first();
        if first.len() >= len {
            return first.split_to(len);
        }
        let mut copy = BytesMut::zeroed(len);
        self.copy_to_slice(&mut copy);
        copy.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Parts {
        Parts { head: "ab".into(), body: "cdef".into(), tail: "gh".into() }
    }

    #[test]
    fn pieces_are_cut_from_all_three_parts() {
        let parts = parts();
        let mut whole = vec![0; parts.len()];
        parts.copy_to(&mut whole);
        assert_eq!(whole, b"abcdefgh");
        for at in 0..=8 {
            for len in 0..=8 - at {
                let (head, body, tail) = parts.piece(at, len);
                assert_eq!([head, &body, tail].concat(), &whole[at..at + len], "{len} from {at}");
            }
        }
    }

    #[test]
    fn reading_crosses_the_parts_and_shares_what_lies_in_one() {
        let mut reading = parts();
        assert_eq!(reading.copy_to_bytes(1), "a");
        let body = parts().body;
        let mut shared = Parts { body: body.clone(), ..parts() };
        shared.advance(2);
        assert_eq!(shared.copy_to_bytes(4).as_ptr(), body.as_ptr());
        assert_eq!(reading.copy_to_bytes(3), "bcd", "across two parts");
        assert_eq!(reading.get_u8(), b'e');
        reading.advance(2);
        assert_eq!((reading.remaining(), reading.chunk()), (1, &b"h"[..]));
    }
}
