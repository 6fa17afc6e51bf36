//! The 32 bits that come with a burst, or alone.

use rdma_rpc_core::link::LinkError;

/// Bits 0 to 25 carry a value: a length in units, or the low bits of a count.
const VALUE_BITS: u32 = 26;
const VALUE_MASK: u32 = (1 << VALUE_BITS) - 1;
/// Data: the bytes between the last burst and the ring's end are skipped.
const SKIP: u32 = 1 << 26;
/// Control: the value is a claim.
const CLAIM: u32 = 1 << 26;
const KIND_SHIFT: u32 = 29;
const KIND_DATA: u32 = 0;
const KIND_WANTED: u32 = 1;
const KIND_ANSWER: u32 = 2;
const KIND_CLOSE: u32 = 3;

/// Counts below this many apart can be told apart by their low bits.
pub(super) const CLAIM_WINDOW: u64 = 1 << VALUE_BITS;

/// What an immediate says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Immediate {
    /// A burst of so many bytes (a multiple of 8) arrived where the last one ended, or at the
    /// ring's start.
    Data { len_bytes: u64, skip: bool },
    /// The sender of this sleeps for want of credit. The claim: the low bits of the count of
    /// released bursts it knows of for certain.
    Wanted { claim: Option<u32> },
    /// More credit than was claimed has been released: look at the cell. It holds at least what
    /// was released with so many bursts (the low bits).
    Answer { bursts: u32 },
    /// Nothing follows.
    Close,
}

impl Immediate {
    /// The 32 bits.
    pub(super) fn encode(self) -> u32 {
        match self {
            Immediate::Data { len_bytes, skip } => {
                let units = (len_bytes / 8) as u32;
                debug_assert!(units <= VALUE_MASK && len_bytes.is_multiple_of(8));
                (KIND_DATA << KIND_SHIFT) | if skip { SKIP } else { 0 } | units
            }
            Immediate::Wanted { claim } => {
                let claim = claim.map_or(0, |low| CLAIM | (low & VALUE_MASK));
                (KIND_WANTED << KIND_SHIFT) | claim
            }
            Immediate::Answer { bursts } => (KIND_ANSWER << KIND_SHIFT) | (bursts & VALUE_MASK),
            Immediate::Close => KIND_CLOSE << KIND_SHIFT,
        }
    }

    /// Reads 32 bits; bits that have no meaning must be zero.
    #[inline]
    pub(super) fn decode(word: u32) -> Result<Immediate, LinkError> {
        let value = word & VALUE_MASK;
        let flag = word & SKIP != 0;
        let decoded = match word >> KIND_SHIFT {
            KIND_DATA => Immediate::Data { len_bytes: u64::from(value) * 8, skip: flag },
            KIND_WANTED => Immediate::Wanted { claim: flag.then_some(value) },
            KIND_ANSWER => Immediate::Answer { bursts: value },
            KIND_CLOSE => Immediate::Close,
            kind => {
                return Err(LinkError::misbehaved(format!(
                    "immediate {word:#010x} has unknown kind {kind}"
                )));
            }
        };
        if decoded.encode() == word {
            Ok(decoded)
        } else {
            Err(LinkError::misbehaved(format!(
                "immediate {word:#010x} has bits set that mean nothing"
            )))
        }
    }
}

/// The low bits of a count, as a claim carries them.
pub(super) fn claim_of(count: u64) -> u32 {
    (count & u64::from(VALUE_MASK)) as u32
}

/// The count a claim stands for: the greatest one up to `most` with these low bits.
pub(super) fn claimed_count(claim: u32, most: u64) -> u64 {
    most.saturating_sub(most.wrapping_sub(u64::from(claim)) & u64::from(VALUE_MASK))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_words() {
        assert_eq!(Immediate::Data { len_bytes: 24, skip: false }.encode(), 3);
        assert_eq!(Immediate::Data { len_bytes: 24, skip: true }.encode(), 0x0400_0003);
        assert_eq!(Immediate::Wanted { claim: Some(5) }.encode(), 0x2400_0005);
        assert_eq!(Immediate::Wanted { claim: None }.encode(), 0x2000_0000);
        assert_eq!(Immediate::Answer { bursts: 9 }.encode(), 0x4000_0009);
        assert_eq!(Immediate::Close.encode(), 0x6000_0000);
    }

    #[test]
    fn the_largest_ring_fits() {
        let most = super::super::config::MAX_RING_BYTES as u64;
        let burst = super::super::layout::max_burst_bytes(most);
        let data = Immediate::Data { len_bytes: burst, skip: true };
        assert_eq!(Immediate::decode(data.encode()).unwrap(), data);
    }

    proptest! {
        #[test]
        fn any_word_decodes_to_itself_or_to_an_error(word: u32) {
            if let Ok(decoded) = Immediate::decode(word) {
                prop_assert_eq!(decoded.encode(), word);
            }
        }

        #[test]
        fn a_claim_within_the_window_is_understood(most: u64, behind in 0..CLAIM_WINDOW) {
            let count = most.saturating_sub(behind);
            prop_assert_eq!(claimed_count(claim_of(count), most), count);
        }
    }
}
