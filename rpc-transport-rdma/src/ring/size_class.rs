//! Size classes of bulk buffers: four steps to each doubling, so that a buffer is at most a
//! quarter longer than the message that asked for it and is soon reused by another.

/// The shortest buffer, in bytes.
const SMALLEST_BYTES: usize = 4096;

/// The length of the buffer that serves a message of `bytes`.
pub(super) fn class_bytes(bytes: usize) -> usize {
    if bytes <= SMALLEST_BYTES {
        return SMALLEST_BYTES;
    }
    // The highest power of two below `bytes`, in quarters.
    let step = (1usize << (usize::BITS - 1 - (bytes - 1).leading_zeros())) / 4;
    bytes.div_ceil(step).saturating_mul(step)
}

/// Whether an idle buffer may serve a message: long enough, and not so long that a short message
/// would pin it.
pub(super) fn fits(buffer_bytes: usize, message_bytes: usize) -> bool {
    buffer_bytes >= message_bytes && buffer_bytes <= class_bytes(message_bytes).saturating_mul(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn classes_step_by_quarters() {
        assert_eq!(class_bytes(0), 4096);
        assert_eq!(class_bytes(4096), 4096);
        assert_eq!(class_bytes(4097), 5120);
        assert_eq!(class_bytes(8192), 8192);
        assert_eq!(class_bytes(8193), 10240);
    }

    proptest! {
        #[test]
        fn a_class_holds_its_message_and_wastes_at_most_a_quarter(bytes in 4096usize..1 << 40) {
            let class = class_bytes(bytes);
            prop_assert!(class >= bytes);
            prop_assert!(class - bytes <= bytes / 4);
            prop_assert_eq!(class_bytes(class), class);
            prop_assert!(fits(class, bytes));
        }
    }
}
