//! Messages as the session sends them.

use bytes::{Bytes, BytesMut};

use crate::copy;
use crate::parts::Parts;

/// A message that can write itself.
pub trait Encode: Sync {
    /// Its length in bytes.
    fn encoded_len(&self) -> usize;

    /// Fills `into`, which is exactly [`Encode::encoded_len`] bytes long.
    fn encode(&self, into: &mut [u8]);

    /// The message in memory it shares or that is its own.
    fn to_parts(&self) -> Parts {
        let mut bytes = BytesMut::zeroed(self.encoded_len());
        self.encode(&mut bytes);
        bytes.freeze().into()
    }

    /// The message with a body of at least `at_least` bytes that need not be copied, and at most
    /// some 1000 bytes around it; `None`: it has none.
    fn lend(&self, _at_least: usize) -> Option<Parts> {
        None
    }
}

impl Encode for Parts {
    fn encoded_len(&self) -> usize {
        self.len()
    }

    fn encode(&self, into: &mut [u8]) {
        self.copy_to(into);
    }

    fn to_parts(&self) -> Parts {
        self.clone()
    }

    fn lend(&self, at_least: usize) -> Option<Parts> {
        (self.body.len() >= at_least).then(|| self.clone())
    }
}

impl Encode for Bytes {
    fn encoded_len(&self) -> usize {
        self.len()
    }

    fn encode(&self, into: &mut [u8]) {
        copy::copy(self, into);
    }

    fn to_parts(&self) -> Parts {
        self.clone().into()
    }

    fn lend(&self, at_least: usize) -> Option<Parts> {
        (self.len() >= at_least).then(|| self.to_parts())
    }
}
