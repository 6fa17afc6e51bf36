//! The words of a credit cell. Pure.
//!
//! A word may be seen half-written: a software RNIC copies eight bytes like any others. A torn
//! count could be larger than the old and the new one, and a sender that believed it would write
//! over what was not read yet. So a word holds the low half of its count, and the complement of
//! that; a word whose halves do not fit is looked at again later. The whole count follows from
//! the one that is known: a ring is far shorter than the two gigabytes in doubt.

/// The word that says `count`.
pub(super) fn encode(count: u64) -> u64 {
    let low = count as u32;
    u64::from(!low) << 32 | u64::from(low)
}

/// What a word says to one who knows `known`; `None`: nothing yet, half-written, or nothing new.
pub(super) fn decode(word: u64, known: u64) -> Option<u64> {
    let low = word as u32;
    if (word >> 32) as u32 != !low {
        return None;
    }
    let ahead = low.wrapping_sub(known as u32);
    (ahead < 1 << 31).then(|| known.wrapping_add(u64::from(ahead)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_document_shows_what_is_written() {
        let cell = [encode(3040).to_le_bytes(), encode(2).to_le_bytes()].concat();
        assert_eq!(cell, crate::protocol_text::vector("ring/cell"));
    }

    #[test]
    fn a_cell_never_written_says_nothing() {
        assert_eq!(decode(0, 0), None);
        assert_eq!(decode(encode(0), 0), Some(0));
    }

    proptest! {
        #[test]
        fn counts_come_back_over_every_boundary(known: u64, ahead in 0u64..1 << 31) {
            let count = known.wrapping_add(ahead);
            prop_assert_eq!(decode(encode(count), known), Some(count));
            prop_assert_eq!(decode(encode(known.wrapping_sub(1)), known), None);
        }

        #[test]
        fn a_torn_word_is_the_old_the_new_or_nothing(
            known in 0u64..1 << 40,
            old in 0u64..1 << 28,
            new in 0u64..1 << 28,
            split in 0usize..=8,
            low_first: bool,
        ) {
            let (old, new) = (known + old.min(new), known + old.max(new));
            let (old_bytes, new_bytes) = (encode(old).to_le_bytes(), encode(new).to_le_bytes());
            let mut torn = [0; 8];
            for at in 0..8 {
                let is_new = (at < split) == low_first;
                torn[at] = if is_new { new_bytes[at] } else { old_bytes[at] };
            }
            let said = decode(u64::from_le_bytes(torn), known);
            prop_assert!(said.is_none_or(|said| said == old || said == new), "{:?}", said);
        }
    }
}
