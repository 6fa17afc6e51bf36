//! Memory of the program that the peer READs where it lies.
//!
//! What is lent is registered, just as long as it is and no further, for READs only, and only while
//! it is lent: a peer can read what it was told to pull and nothing beside it. To register costs the
//! kernel some system calls' time, and more for small pages than for huge ones. So it is done for
//! the bytes of a [`BulkBuffer`](crate::BulkBuffer) and for what was itself pulled, if they are
//! enough, and the others are copied.
//!
//! When the peer says that it is done, what was lent rests for a while (`rest`).

use std::sync::Arc;

use bytes::Bytes;

use super::pd::ProtectionDomain;
use super::registration::Held;
use crate::bulk_buffer;
use crate::verbs::RemoteAddr;

/// What one connection has lent.
#[derive(Debug, Default)]
pub(super) struct Lendings {
    lent: Vec<Lent>,
    /// The device or the system took no more once (`RLIMIT_MEMLOCK`); it is not asked again, because a
    /// refusal costs as much as a registration.
    refused: bool,
}

#[derive(Debug)]
struct Lent {
    at: RemoteAddr,
    held: Held,
}

impl Lendings {
    /// Registers memory of the program, if that is possible.
    pub(super) fn lend(&mut self, pd: &Arc<ProtectionDomain>, bytes: &Bytes) -> Option<RemoteAddr> {
        if self.refused || bytes.is_empty() || !is_worth_it(pd, bytes) {
            return None;
        }
        match Held::of_program(pd, bytes) {
            Ok((held, keys)) => {
                let at = RemoteAddr { addr: held.start().as_ptr().addr() as u64, rkey: keys.rkey };
                self.lent.push(Lent { at, held });
                Some(at)
            }
            Err(error) => {
                tracing::info!(%error, "long messages of this connection are copied from now on");
                self.refused = true;
                None
            }
        }
    }

    /// The peer is done with what it finds there.
    pub(super) fn take_back(&mut self, at: RemoteAddr) {
        if let Some(index) = self.lent.iter().position(|lent| lent.at == at) {
            self.lent.swap_remove(index).held.let_go();
        }
    }
}

/// Whether bytes lie in private memory, in huge pages if there are any, that nobody writes as long as
/// somebody has a share of them: in a buffer of the program, or where a message was pulled into. (Of a
/// pool's memory nothing else becomes `Bytes`.)
fn is_worth_it(pd: &ProtectionDomain, bytes: &Bytes) -> bool {
    bulk_buffer::holds(bytes) || pd.device().pool().holds(bytes)
}
