//! The two kinds of metadata, text and binary, as types.

use std::fmt;

/// Marks text metadata: values of the characters 0x20 to 0x7E. No value of this type exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ascii {}

/// Marks binary metadata: any bytes, under keys that end in `-bin`. No value of this type
/// exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Binary {}

/// Text or binary: implemented by [`Ascii`] and [`Binary`], and by nothing else.
pub trait ValueEncoding: Clone + Eq + std::hash::Hash + sealed::Sealed + 'static {
    /// Whether a key is of this kind: binary keys end in `-bin`, text keys do not.
    fn is_valid_key(key: &str) -> bool;
}

impl ValueEncoding for Ascii {
    fn is_valid_key(key: &str) -> bool {
        !Binary::is_valid_key(key)
    }
}

impl ValueEncoding for Binary {
    fn is_valid_key(key: &str) -> bool {
        key.ends_with("-bin")
    }
}

pub(super) mod sealed {
    use super::super::key::MetadataKey;
    use super::super::map::Slot;
    use super::super::value::MetadataValue;
    use super::*;

    /// What the map needs to know about a kind.
    pub trait Sealed: Sized {
        /// Whether keys of this kind end in `-bin`.
        const BINARY: bool;

        /// Where the first byte is that a value of this kind may not have.
        fn bad_byte(value: &[u8]) -> Option<usize>;

        /// A value for people.
        fn fmt_value(value: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result;

        /// Joins a key and a value.
        fn into_slot(key: MetadataKey<Self>, value: MetadataValue<Self>) -> Slot;

        /// The parts of a slot of this kind.
        fn parts(slot: &Slot) -> Option<(&MetadataKey<Self>, &MetadataValue<Self>)>;

        /// The value in a slot of this kind.
        fn value_mut(slot: &mut Slot) -> Option<&mut MetadataValue<Self>>;

        /// The parts of a slot of this kind, taken out.
        fn into_parts(slot: Slot) -> Option<(MetadataKey<Self>, MetadataValue<Self>)>;
    }

    macro_rules! slots_of {
        ($kind:ident) => {
            fn into_slot(key: MetadataKey<Self>, value: MetadataValue<Self>) -> Slot {
                Slot::$kind(key, value)
            }

            fn parts(slot: &Slot) -> Option<(&MetadataKey<Self>, &MetadataValue<Self>)> {
                if let Slot::$kind(key, value) = slot { Some((key, value)) } else { None }
            }

            fn value_mut(slot: &mut Slot) -> Option<&mut MetadataValue<Self>> {
                if let Slot::$kind(_, value) = slot { Some(value) } else { None }
            }

            fn into_parts(slot: Slot) -> Option<(MetadataKey<Self>, MetadataValue<Self>)> {
                if let Slot::$kind(key, value) = slot { Some((key, value)) } else { None }
            }
        };
    }

    impl Sealed for Ascii {
        const BINARY: bool = false;

        fn bad_byte(value: &[u8]) -> Option<usize> {
            value.iter().position(|byte| !matches!(byte, 0x20..=0x7E))
        }

        fn fmt_value(value: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
            // Values are checked to be ASCII when made.
            fmt::Debug::fmt(&String::from_utf8_lossy(value), f)
        }

        slots_of!(Ascii);
    }

    impl Sealed for Binary {
        const BINARY: bool = true;

        fn bad_byte(_: &[u8]) -> Option<usize> {
            None
        }

        fn fmt_value(value: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "b\"{}\"", value.escape_ascii())
        }

        slots_of!(Binary);
    }
}
