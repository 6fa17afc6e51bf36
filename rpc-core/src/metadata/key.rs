//! Metadata keys.

use std::borrow::Borrow;
use std::error::Error;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::str::FromStr;

use bytes::Bytes;

use super::encoding::{Ascii, Binary, ValueEncoding};

/// The longest metadata key, in bytes.
pub const MAX_METADATA_KEY_BYTES: usize = 255;

/// A metadata key: 1 to [`MAX_METADATA_KEY_BYTES`] of the characters `0-9 a-z _ - .`, ending in
/// `-bin` if and only if its values are binary.
///
/// Upper case is turned to lower case where a key is parsed.
pub struct MetadataKey<VE> {
    name: Bytes,
    kind: PhantomData<VE>,
}

/// A key of text values.
pub type AsciiMetadataKey = MetadataKey<Ascii>;
/// A key of binary values; ends in `-bin`.
pub type BinaryMetadataKey = MetadataKey<Binary>;

impl<VE: ValueEncoding> MetadataKey<VE> {
    /// Checks a key, and turns upper case to lower case.
    pub fn from_bytes(src: &[u8]) -> Result<MetadataKey<VE>, InvalidMetadataKey> {
        check_name(src)?;
        MetadataKey::checked(Bytes::from(src.to_ascii_lowercase()))
    }

    /// A key from a string of the program, without a copy.
    ///
    /// # Panics
    ///
    /// If it is no valid key of this kind, or has upper case.
    pub fn from_static(src: &'static str) -> MetadataKey<VE> {
        match MetadataKey::from_wire(Bytes::from_static(src.as_bytes())) {
            Ok(key) => key,
            Err(error) => panic!("{src:?} is no metadata key: {error}"),
        }
    }

    /// Takes a name as it is, if it is valid and in lower case.
    pub(super) fn from_wire(name: Bytes) -> Result<MetadataKey<VE>, InvalidMetadataKey> {
        check_name(&name)?;
        if let Some(offset) = name.iter().position(u8::is_ascii_uppercase) {
            return Err(InvalidMetadataKey(Reason::BadByte { offset, byte: name[offset] }));
        }
        MetadataKey::checked(name)
    }

    /// The last check, for names whose characters are known to be good.
    fn checked(name: Bytes) -> Result<MetadataKey<VE>, InvalidMetadataKey> {
        match (VE::BINARY, name.ends_with(b"-bin")) {
            (true, false) => Err(InvalidMetadataKey(Reason::NotBinary)),
            (false, true) => Err(InvalidMetadataKey(Reason::NotAscii)),
            _ => Ok(MetadataKey { name, kind: PhantomData }),
        }
    }
}

/// Whether a name has a good length and good characters, either case.
fn check_name(name: &[u8]) -> Result<(), InvalidMetadataKey> {
    if name.is_empty() {
        return Err(InvalidMetadataKey(Reason::Empty));
    }
    if name.len() > MAX_METADATA_KEY_BYTES {
        return Err(InvalidMetadataKey(Reason::TooLong { len: name.len() }));
    }
    let good =
        |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'-' | b'.');
    match name.iter().position(|byte| !good(byte)) {
        Some(offset) => Err(InvalidMetadataKey(Reason::BadByte { offset, byte: name[offset] })),
        None => Ok(()),
    }
}

impl<VE> MetadataKey<VE> {
    /// The key as text, in lower case.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.name).expect("keys are checked to be ASCII when made")
    }

    /// The key as bytes.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.name
    }

    pub(super) fn into_bytes(self) -> Bytes {
        self.name
    }
}

// Written by hand where a derive would ask `VE` for the same trait.

impl<VE> Clone for MetadataKey<VE> {
    fn clone(&self) -> MetadataKey<VE> {
        MetadataKey { name: self.name.clone(), kind: PhantomData }
    }
}

impl<VE> PartialEq for MetadataKey<VE> {
    fn eq(&self, other: &MetadataKey<VE>) -> bool {
        self.name == other.name
    }
}

impl<VE> Eq for MetadataKey<VE> {}

impl<VE> Hash for MetadataKey<VE> {
    // As `str` hashes, so that a set of keys can be searched by `&str`.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl<VE> fmt::Debug for MetadataKey<VE> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl<VE> fmt::Display for MetadataKey<VE> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<VE> AsRef<str> for MetadataKey<VE> {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl<VE> AsRef<[u8]> for MetadataKey<VE> {
    fn as_ref(&self) -> &[u8] {
        &self.name
    }
}

impl<VE> Borrow<str> for MetadataKey<VE> {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl<VE: ValueEncoding> FromStr for MetadataKey<VE> {
    type Err = InvalidMetadataKey;

    fn from_str(src: &str) -> Result<MetadataKey<VE>, InvalidMetadataKey> {
        MetadataKey::from_bytes(src.as_bytes())
    }
}

impl<'a, VE> From<&'a MetadataKey<VE>> for MetadataKey<VE> {
    fn from(key: &'a MetadataKey<VE>) -> MetadataKey<VE> {
        key.clone()
    }
}

impl<VE> From<MetadataKey<VE>> for Bytes {
    fn from(key: MetadataKey<VE>) -> Bytes {
        key.into_bytes()
    }
}

impl<VE> PartialEq<str> for MetadataKey<VE> {
    /// Ignores case.
    fn eq(&self, other: &str) -> bool {
        self.name.eq_ignore_ascii_case(other.as_bytes())
    }
}

impl<'a, VE> PartialEq<&'a str> for MetadataKey<VE> {
    /// Ignores case.
    fn eq(&self, other: &&'a str) -> bool {
        *self == **other
    }
}

impl<VE> PartialEq<MetadataKey<VE>> for str {
    /// Ignores case.
    fn eq(&self, other: &MetadataKey<VE>) -> bool {
        other == self
    }
}

impl<VE> PartialEq<MetadataKey<VE>> for &str {
    /// Ignores case.
    fn eq(&self, other: &MetadataKey<VE>) -> bool {
        other == *self
    }
}

/// Why a metadata key is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidMetadataKey(Reason);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    Empty,
    TooLong { len: usize },
    BadByte { offset: usize, byte: u8 },
    NotBinary,
    NotAscii,
}

impl InvalidMetadataKey {
    /// Where in the key the trouble is, in bytes.
    pub(super) fn offset(&self) -> usize {
        if let Reason::BadByte { offset, .. } = self.0 { offset } else { 0 }
    }
}

impl fmt::Display for InvalidMetadataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Reason::Empty => f.write_str("the key is empty"),
            Reason::TooLong { len } => {
                write!(f, "the key has {len} bytes, more than {MAX_METADATA_KEY_BYTES}")
            }
            Reason::BadByte { offset, byte } => {
                write!(f, "byte {offset} of the key is {byte:#04x}, not one of 0-9 a-z _ - .")
            }
            Reason::NotBinary => f.write_str("the key of a binary value must end in \"-bin\""),
            Reason::NotAscii => f.write_str("the key of a text value must not end in \"-bin\""),
        }
    }
}

impl Error for InvalidMetadataKey {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_and_case() {
        let key: AsciiMetadataKey = "X-Request_Id.0".parse().unwrap();
        assert_eq!(key.as_str(), "x-request_id.0");
        assert_eq!(key, "X-REQUEST_ID.0");
        assert_eq!(key, AsciiMetadataKey::from_static("x-request_id.0"));
        for bad in ["a b", "a:b", ":a", "a/b", "a\0", "a\u{e9}", "a!", "a\r\n"] {
            let error = bad.parse::<AsciiMetadataKey>().unwrap_err();
            assert!(error.to_string().contains("byte "), "{bad:?}: {error}");
        }
        let error = "ab cd".parse::<AsciiMetadataKey>().unwrap_err();
        assert_eq!(error.to_string(), "byte 2 of the key is 0x20, not one of 0-9 a-z _ - .");
    }

    #[test]
    fn lengths() {
        assert!("".parse::<AsciiMetadataKey>().is_err());
        assert!("k".repeat(255).parse::<AsciiMetadataKey>().is_ok());
        let error = "k".repeat(256).parse::<AsciiMetadataKey>().unwrap_err();
        assert_eq!(error.to_string(), "the key has 256 bytes, more than 255");
    }

    #[test]
    fn the_suffix_names_the_kind() {
        assert!("trace-bin".parse::<BinaryMetadataKey>().is_ok());
        assert!("TRACE-BIN".parse::<BinaryMetadataKey>().is_ok());
        assert!("trace".parse::<BinaryMetadataKey>().is_err());
        assert!("trace-bin".parse::<AsciiMetadataKey>().is_err());
        assert!("TRACE-BIN".parse::<AsciiMetadataKey>().is_err());
        assert!(Ascii::is_valid_key("bin") && !Ascii::is_valid_key("a-bin"));
        assert!(Binary::is_valid_key("a-bin") && !Binary::is_valid_key("bin"));
    }

    #[test]
    #[should_panic(expected = "is no metadata key: byte 0 of the key is 0x41")]
    fn static_keys_are_lower_case() {
        AsciiMetadataKey::from_static("A");
    }

    #[test]
    fn a_set_of_keys_is_searched_by_text() {
        let set = std::collections::HashSet::from([AsciiMetadataKey::from_static("one")]);
        assert!(set.contains("one") && !set.contains("two"));
    }
}
