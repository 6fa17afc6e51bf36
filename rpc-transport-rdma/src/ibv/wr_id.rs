//! What a work request's 64-bit number says: which way, whose, and which.
//!
//! ```text
//!  63       62        40 39                     0
//! +---------+-----------+------------------------+
//! | receive | inbox key | low bits of the number |
//! +---------+-----------+------------------------+
//! ```
//!
//! A completion with an error has nothing but this number (ibv_poll_cq(3)), so it must say all.

/// A work request's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WrId(u64);

const RECEIVE: u64 = 1 << 63;
const KEY_SHIFT: u32 = 40;
const LOW_MASK: u64 = (1 << KEY_SHIFT) - 1;

impl WrId {
    /// Keys have 23 bits.
    pub(super) const KEY_MASK: u32 = (1 << 23) - 1;

    pub(super) fn send(key: u32, id: u64) -> WrId {
        WrId(u64::from(key & WrId::KEY_MASK) << KEY_SHIFT | (id & LOW_MASK))
    }

    pub(super) fn receive(key: u32, number: u64) -> WrId {
        WrId(WrId::send(key, number).0 | RECEIVE)
    }

    pub(super) fn from_raw(raw: u64) -> WrId {
        WrId(raw)
    }

    pub(super) fn raw(self) -> u64 {
        self.0
    }

    pub(super) fn is_receive(self) -> bool {
        self.0 & RECEIVE != 0
    }

    pub(super) fn key(self) -> u32 {
        (self.0 >> KEY_SHIFT) as u32 & WrId::KEY_MASK
    }

    /// The whole number, which is less than 2^39 away from `near`: READs may be overtaken.
    pub(super) fn number_near(self, near: u64) -> u64 {
        let ahead = self.0.wrapping_sub(near) & LOW_MASK;
        let sign = 1 << (KEY_SHIFT - 1);
        near.wrapping_add((ahead ^ sign).wrapping_sub(sign))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_all_of_it() {
        let id = WrId::send(5, 77);
        assert_eq!((id.is_receive(), id.key(), id.number_near(0)), (false, 5, 77));
        let id = WrId::receive(WrId::KEY_MASK, 78);
        assert_eq!((id.is_receive(), id.key(), id.number_near(70)), (true, WrId::KEY_MASK, 78));
        assert_eq!(WrId::from_raw(id.raw()), id);
    }

    #[test]
    fn numbers_go_on_beyond_forty_bits() {
        let number = (3u64 << 40) + 2;
        let id = WrId::send(9, number);
        assert_eq!(id.number_near((3 << 40) - 10), number);
        assert_eq!(id.number_near(number), number);
        assert_eq!(id.number_near(number + 5), number, "backwards, over the wrap");
        assert_eq!(id.key(), 9);
    }
}
