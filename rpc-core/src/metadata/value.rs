//! Metadata values.

use std::cmp::Ordering;
use std::error::Error;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::str::FromStr;

use bytes::Bytes;

use super::encoding::{Ascii, Binary, ValueEncoding};
use super::key::MetadataKey;

/// A metadata value: text of the characters 0x20 to 0x7E, or any bytes.
///
/// Binary values are held and sent as they are; there is no base64 anywhere. A clone shares the
/// bytes.
pub struct MetadataValue<VE> {
    bytes: Bytes,
    sensitive: bool,
    kind: PhantomData<VE>,
}

/// A text value.
pub type AsciiMetadataValue = MetadataValue<Ascii>;
/// A binary value.
pub type BinaryMetadataValue = MetadataValue<Binary>;

impl<VE> MetadataValue<VE> {
    /// Whether the value has no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How many bytes the value has.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The value, without a copy. For this library's values it never fails; programs written
    /// for tonic expect a `Result`.
    pub fn to_bytes(&self) -> Result<Bytes, InvalidMetadataValueBytes> {
        Ok(self.bytes.clone())
    }

    /// The value as bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Marks a value that must not be shown, such as a password: `Debug` hides it. The mark
    /// stays in this process.
    pub fn set_sensitive(&mut self, sensitive: bool) {
        self.sensitive = sensitive;
    }

    /// Whether the value must not be shown.
    pub fn is_sensitive(&self) -> bool {
        self.sensitive
    }

    fn unchecked(bytes: Bytes) -> MetadataValue<VE> {
        MetadataValue { bytes, sensitive: false, kind: PhantomData }
    }
}

impl<VE: ValueEncoding> MetadataValue<VE> {
    pub(super) fn checked(bytes: Bytes) -> Result<MetadataValue<VE>, InvalidMetadataValueBytes> {
        match VE::bad_byte(&bytes) {
            None => Ok(MetadataValue::unchecked(bytes)),
            Some(offset) => {
                Err(InvalidMetadataValueBytes(InvalidMetadataValue { offset, byte: bytes[offset] }))
            }
        }
    }
}

impl MetadataValue<Ascii> {
    /// A value from a string of the program, without a copy.
    ///
    /// # Panics
    ///
    /// If it has other characters than 0x20 to 0x7E.
    pub fn from_static(src: &'static str) -> MetadataValue<Ascii> {
        match MetadataValue::checked(Bytes::from_static(src.as_bytes())) {
            Ok(value) => value,
            Err(error) => panic!("{src:?} is no metadata value: {error}"),
        }
    }

    /// The name of a key as a value.
    pub fn from_key<VE>(key: MetadataKey<VE>) -> MetadataValue<Ascii> {
        // Every character of a key is one of a value.
        MetadataValue::unchecked(key.into_bytes())
    }

    /// The value as text. For this library's values it never fails; programs written for tonic
    /// expect a `Result`.
    pub fn to_str(&self) -> Result<&str, ToStrError> {
        std::str::from_utf8(&self.bytes).map_err(|_| ToStrError(()))
    }
}

impl MetadataValue<Binary> {
    /// A value of these bytes.
    pub fn from_bytes(src: &[u8]) -> MetadataValue<Binary> {
        MetadataValue::unchecked(Bytes::copy_from_slice(src))
    }

    /// A value of these bytes of the program, without a copy.
    pub const fn from_static_bytes(src: &'static [u8]) -> MetadataValue<Binary> {
        MetadataValue { bytes: Bytes::from_static(src), sensitive: false, kind: PhantomData }
    }
}

impl<VE> AsRef<[u8]> for MetadataValue<VE> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

// Written by hand where a derive would ask `VE` for the same trait; the mark of a sensitive
// value does not take part.

impl<VE> Clone for MetadataValue<VE> {
    fn clone(&self) -> MetadataValue<VE> {
        MetadataValue { sensitive: self.sensitive, ..MetadataValue::unchecked(self.bytes.clone()) }
    }
}

impl<VE> PartialEq for MetadataValue<VE> {
    fn eq(&self, other: &MetadataValue<VE>) -> bool {
        self.bytes == other.bytes
    }
}

impl<VE> Eq for MetadataValue<VE> {}

impl<VE> PartialOrd for MetadataValue<VE> {
    fn partial_cmp(&self, other: &MetadataValue<VE>) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<VE> Ord for MetadataValue<VE> {
    fn cmp(&self, other: &MetadataValue<VE>) -> Ordering {
        self.bytes.cmp(&other.bytes)
    }
}

impl<VE> Hash for MetadataValue<VE> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes.hash(state);
    }
}

impl<VE: ValueEncoding> fmt::Debug for MetadataValue<VE> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.sensitive { f.write_str("Sensitive") } else { VE::fmt_value(&self.bytes, f) }
    }
}

/// Comparisons with plain bytes and text, both ways round.
macro_rules! equals {
    ($($other:ty)*) => {$(
        impl<VE> PartialEq<$other> for MetadataValue<VE> {
            fn eq(&self, other: &$other) -> bool {
                *self.bytes == *AsRef::<[u8]>::as_ref(other)
            }
        }

        impl<VE> PartialEq<MetadataValue<VE>> for $other {
            fn eq(&self, other: &MetadataValue<VE>) -> bool {
                other == self
            }
        }
    )*};
}

equals!([u8] str String Bytes);

impl<'a, VE, T: ?Sized> PartialEq<&'a T> for MetadataValue<VE>
where
    MetadataValue<VE>: PartialEq<T>,
{
    fn eq(&self, other: &&'a T) -> bool {
        *self == **other
    }
}

impl<VE> PartialEq<MetadataValue<VE>> for &str {
    fn eq(&self, other: &MetadataValue<VE>) -> bool {
        other == self
    }
}

impl<VE> PartialEq<MetadataValue<VE>> for &MetadataValue<VE> {
    fn eq(&self, other: &MetadataValue<VE>) -> bool {
        **self == *other
    }
}

impl<VE> PartialEq<str> for &MetadataValue<VE> {
    fn eq(&self, other: &str) -> bool {
        **self == *other
    }
}

impl FromStr for MetadataValue<Ascii> {
    type Err = InvalidMetadataValue;

    fn from_str(src: &str) -> Result<MetadataValue<Ascii>, InvalidMetadataValue> {
        MetadataValue::checked(Bytes::copy_from_slice(src.as_bytes())).map_err(|error| error.0)
    }
}

impl TryFrom<&str> for MetadataValue<Ascii> {
    type Error = InvalidMetadataValue;

    fn try_from(src: &str) -> Result<MetadataValue<Ascii>, InvalidMetadataValue> {
        src.parse()
    }
}

impl TryFrom<&String> for MetadataValue<Ascii> {
    type Error = InvalidMetadataValue;

    fn try_from(src: &String) -> Result<MetadataValue<Ascii>, InvalidMetadataValue> {
        src.parse()
    }
}

impl TryFrom<String> for MetadataValue<Ascii> {
    type Error = InvalidMetadataValue;

    fn try_from(src: String) -> Result<MetadataValue<Ascii>, InvalidMetadataValue> {
        MetadataValue::checked(Bytes::from(src)).map_err(|error| error.0)
    }
}

impl<VE: ValueEncoding> TryFrom<&[u8]> for MetadataValue<VE> {
    type Error = InvalidMetadataValueBytes;

    fn try_from(src: &[u8]) -> Result<MetadataValue<VE>, InvalidMetadataValueBytes> {
        MetadataValue::checked(Bytes::copy_from_slice(src))
    }
}

impl<VE: ValueEncoding, const N: usize> TryFrom<&[u8; N]> for MetadataValue<VE> {
    type Error = InvalidMetadataValueBytes;

    fn try_from(src: &[u8; N]) -> Result<MetadataValue<VE>, InvalidMetadataValueBytes> {
        MetadataValue::try_from(src.as_slice())
    }
}

impl<VE: ValueEncoding> TryFrom<Bytes> for MetadataValue<VE> {
    type Error = InvalidMetadataValueBytes;

    fn try_from(src: Bytes) -> Result<MetadataValue<VE>, InvalidMetadataValueBytes> {
        MetadataValue::checked(src)
    }
}

impl<VE: ValueEncoding> TryFrom<Vec<u8>> for MetadataValue<VE> {
    type Error = InvalidMetadataValueBytes;

    fn try_from(src: Vec<u8>) -> Result<MetadataValue<VE>, InvalidMetadataValueBytes> {
        MetadataValue::checked(Bytes::from(src))
    }
}

impl<VE> From<MetadataKey<VE>> for MetadataValue<Ascii> {
    fn from(key: MetadataKey<VE>) -> MetadataValue<Ascii> {
        MetadataValue::from_key(key)
    }
}

/// Numbers are written in decimal.
macro_rules! from_numbers {
    ($($number:ty)*) => {$(
        impl From<$number> for MetadataValue<Ascii> {
            fn from(number: $number) -> MetadataValue<Ascii> {
                MetadataValue::unchecked(Bytes::from(number.to_string()))
            }
        }
    )*};
}

from_numbers!(u16 i16 u32 i32 u64 i64 usize isize);

/// Why text is not a metadata value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InvalidMetadataValue {
    offset: usize,
    byte: u8,
}

impl fmt::Display for InvalidMetadataValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {} of the value is {:#04x}, not 0x20 to 0x7e", self.offset, self.byte)
    }
}

impl Error for InvalidMetadataValue {}

/// Why bytes are not a metadata value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InvalidMetadataValueBytes(InvalidMetadataValue);

impl InvalidMetadataValueBytes {
    /// Where in the value the trouble is, in bytes.
    pub(super) fn offset(&self) -> usize {
        self.0.offset
    }

    /// The byte that may not be there.
    pub(super) fn byte(&self) -> u8 {
        self.0.byte
    }
}

impl fmt::Display for InvalidMetadataValueBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for InvalidMetadataValueBytes {}

/// A value is not text. This library's text values always are.
#[derive(Debug)]
pub struct ToStrError(());

impl fmt::Display for ToStrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the metadata value is not text")
    }
}

impl Error for ToStrError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_printable_ascii() {
        let all: String = (0x20..=0x7E).map(char::from).collect();
        let value: AsciiMetadataValue = all.parse().unwrap();
        assert_eq!(value.to_str().unwrap(), all);
        assert_eq!(value.len(), 95);
        assert!(AsciiMetadataValue::from_static("").is_empty());
        for bad in ["\t", "\n", "\x7f", "\0", "\u{e9}"] {
            assert!(bad.parse::<AsciiMetadataValue>().is_err(), "{bad:?}");
        }
        let error = AsciiMetadataValue::try_from("ab\r").unwrap_err();
        assert_eq!(error.to_string(), "byte 2 of the value is 0x0d, not 0x20 to 0x7e");
        let error = AsciiMetadataValue::try_from(b"\xff").unwrap_err();
        assert_eq!(error.to_string(), "byte 0 of the value is 0xff, not 0x20 to 0x7e");
    }

    #[test]
    fn binary_is_any_bytes() {
        let all: Vec<u8> = (0..=255).collect();
        let value = BinaryMetadataValue::from_bytes(&all);
        assert_eq!(value.to_bytes().unwrap(), all);
        assert_eq!(BinaryMetadataValue::try_from(all).unwrap(), value);
        assert_eq!(BinaryMetadataValue::from_static_bytes(b"\0"), *b"\0".as_slice());
    }

    #[test]
    fn made_from_many_things() {
        assert_eq!(AsciiMetadataValue::from(-5i64), "-5");
        assert_eq!(AsciiMetadataValue::try_from(String::from("a")).unwrap(), "a");
        assert_eq!(AsciiMetadataValue::try_from(&String::from("b")).unwrap(), *"b");
        assert_eq!(AsciiMetadataValue::try_from(Bytes::from_static(b"c")).unwrap(), "c");
        assert_eq!("d", AsciiMetadataValue::try_from(b"d".as_slice()).unwrap());
        let key = MetadataKey::<Binary>::from_static("trace-bin");
        assert_eq!(AsciiMetadataValue::from(key), "trace-bin");
    }

    #[test]
    fn compared_with_what_programs_have_at_hand() {
        let (value, other) =
            (AsciiMetadataValue::from_static("e"), AsciiMetadataValue::from_static("f"));
        let text = String::from("e");
        let found = Some(&value).filter(|found| value == *found && other != *found);
        assert_eq!(found.unwrap(), "e");
        assert_eq!(value, text);
        assert_eq!(text, value);
        assert_eq!(value, b"e".as_slice());
        assert_ne!(value, text + "e");
    }

    #[test]
    fn sensitive_values_are_not_shown() {
        let mut value = AsciiMetadataValue::from_static("secret");
        assert_eq!(format!("{value:?}"), "\"secret\"");
        value.set_sensitive(true);
        assert_eq!(format!("{:?}", value.clone()), "Sensitive");
        assert!(value.is_sensitive());
        assert_eq!(value, "secret");
        let value = BinaryMetadataValue::from_bytes(b"\x01a");
        assert_eq!(format!("{value:?}"), "b\"\\x01a\"");
    }

    #[test]
    fn values_are_ordered_by_bytes() {
        let mut values = ["b", "a", "aa"].map(AsciiMetadataValue::from_static);
        values.sort();
        assert_eq!(values, ["a", "aa", "b"]);
    }
}
