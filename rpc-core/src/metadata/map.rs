//! The metadata map: a multimap in insertion order.

use std::fmt;

use thin_vec::ThinVec;

use super::encoding::{Ascii, Binary, ValueEncoding};
use super::entry::Entry;
use super::iter::{GetAll, Iter, IterMut, KeyAndValueRef, KeyRef, Keys, Values, ValuesMut};
use super::key::{InvalidMetadataKey, MetadataKey};
use super::value::MetadataValue;

/// Text and binary values under keys, any number of values for a key: what gRPC sends as
/// headers and trailers beside messages.
///
/// Values stay in the order in which they were added. A map holds a handful of entries, so it
/// is a plain list that is searched from the front; empty, it is one word and owns no memory.
/// Keys given as text are found whatever their case.
///
/// The map itself has no limit; what may travel has: see [`MetadataMap::checked_encoded_len`].
///
/// ```
/// use rdma_rpc_core::metadata::{MetadataMap, MetadataValue};
///
/// let mut map = MetadataMap::new();
/// map.insert("x-user", "ann".parse().unwrap());
/// map.append_bin("trace-bin", MetadataValue::from_bytes(&[0, 1]));
/// assert_eq!(map.get("X-User").unwrap(), "ann");
/// assert_eq!(map.get_bin("trace-bin").unwrap().as_bytes(), [0, 1]);
/// assert!(map.get("trace-bin").is_none()); // not text
/// ```
#[derive(Clone, Default)]
pub struct MetadataMap {
    pub(super) slots: ThinVec<Slot>,
}

const _: () = assert!(size_of::<MetadataMap>() == 8);

/// One key with one of its values.
#[derive(Clone, Debug)]
pub enum Slot {
    /// Text.
    Ascii(MetadataKey<Ascii>, MetadataValue<Ascii>),
    /// Bytes.
    Binary(MetadataKey<Binary>, MetadataValue<Binary>),
}

impl Slot {
    pub(super) fn key_bytes(&self) -> &[u8] {
        match self {
            Slot::Ascii(key, _) => key.as_bytes(),
            Slot::Binary(key, _) => key.as_bytes(),
        }
    }

    pub(super) fn value_bytes(&self) -> &[u8] {
        match self {
            Slot::Ascii(_, value) => value.as_bytes(),
            Slot::Binary(_, value) => value.as_bytes(),
        }
    }

    pub(super) fn is_named(&self, name: &str) -> bool {
        self.key_bytes().eq_ignore_ascii_case(name.as_bytes())
    }
}

impl MetadataMap {
    /// An empty map; allocates nothing.
    pub const fn new() -> MetadataMap {
        MetadataMap { slots: ThinVec::new() }
    }

    /// An empty map with room for `capacity` values.
    pub fn with_capacity(capacity: usize) -> MetadataMap {
        MetadataMap { slots: ThinVec::with_capacity(capacity) }
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// How many different keys there are.
    pub fn keys_len(&self) -> usize {
        self.keys().count()
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Removes everything; keeps the memory.
    pub fn clear(&mut self) {
        self.slots.clear();
    }

    /// How many values fit without another allocation.
    pub fn capacity(&self) -> usize {
        self.slots.capacity()
    }

    /// Makes room for `additional` more values.
    pub fn reserve(&mut self, additional: usize) {
        self.slots.reserve(additional);
    }

    /// The first text value under a key.
    pub fn get<K: AsMetadataKey<Ascii>>(&self, key: K) -> Option<&MetadataValue<Ascii>> {
        self.first(key.name())
    }

    /// The first binary value under a key.
    pub fn get_bin<K: AsMetadataKey<Binary>>(&self, key: K) -> Option<&MetadataValue<Binary>> {
        self.first(key.name())
    }

    /// The first text value under a key, to change.
    pub fn get_mut<K: AsMetadataKey<Ascii>>(
        &mut self,
        key: K,
    ) -> Option<&mut MetadataValue<Ascii>> {
        self.first_mut(key.name())
    }

    /// The first binary value under a key, to change.
    pub fn get_bin_mut<K: AsMetadataKey<Binary>>(
        &mut self,
        key: K,
    ) -> Option<&mut MetadataValue<Binary>> {
        self.first_mut(key.name())
    }

    /// All text values under a key, in the order they were added.
    pub fn get_all<K: AsMetadataKey<Ascii>>(&self, key: K) -> GetAll<'_, Ascii> {
        GetAll::new(&self.slots, key.name())
    }

    /// All binary values under a key, in the order they were added.
    pub fn get_all_bin<K: AsMetadataKey<Binary>>(&self, key: K) -> GetAll<'_, Binary> {
        GetAll::new(&self.slots, key.name())
    }

    /// Whether there is a value under a key, of either kind.
    pub fn contains_key<K: AsEncodingAgnosticMetadataKey>(&self, key: K) -> bool {
        self.slots.iter().any(|slot| slot.is_named(key.any_name()))
    }

    /// All keys with their values.
    pub fn iter(&self) -> Iter<'_> {
        Iter::new(&self.slots)
    }

    /// All keys with their values, to change.
    pub fn iter_mut(&mut self) -> IterMut<'_> {
        IterMut::new(&mut self.slots)
    }

    /// All keys, each once.
    pub fn keys(&self) -> Keys<'_> {
        Keys::new(&self.slots)
    }

    /// All values.
    pub fn values(&self) -> Values<'_> {
        Values::new(&self.slots)
    }

    /// All values, to change.
    pub fn values_mut(&mut self) -> ValuesMut<'_> {
        ValuesMut::new(&mut self.slots)
    }

    /// A key of text values, there or not yet.
    pub fn entry<K: AsMetadataKey<Ascii>>(
        &mut self,
        key: K,
    ) -> Result<Entry<'_, Ascii>, InvalidMetadataKey> {
        Ok(Entry::new(self, key.name().parse()?))
    }

    /// A key of binary values, there or not yet.
    pub fn entry_bin<K: AsMetadataKey<Binary>>(
        &mut self,
        key: K,
    ) -> Result<Entry<'_, Binary>, InvalidMetadataKey> {
        Ok(Entry::new(self, key.name().parse()?))
    }

    /// Puts a text value in the place of all values under the key; gives back the first of
    /// those.
    ///
    /// # Panics
    ///
    /// If the key is a string that is no key of text values, or has upper case.
    pub fn insert<K: IntoMetadataKey<Ascii>>(
        &mut self,
        key: K,
        value: MetadataValue<Ascii>,
    ) -> Option<MetadataValue<Ascii>> {
        self.replace(key.into_key(), value)
    }

    /// Puts a binary value in the place of all values under the key; gives back the first of
    /// those.
    ///
    /// # Panics
    ///
    /// If the key is a string that is no key of binary values, or has upper case.
    pub fn insert_bin<K: IntoMetadataKey<Binary>>(
        &mut self,
        key: K,
        value: MetadataValue<Binary>,
    ) -> Option<MetadataValue<Binary>> {
        self.replace(key.into_key(), value)
    }

    /// Adds a text value under a key; says whether the key was there before.
    ///
    /// # Panics
    ///
    /// If the key is a string that is no key of text values, or has upper case.
    pub fn append<K: IntoMetadataKey<Ascii>>(
        &mut self,
        key: K,
        value: MetadataValue<Ascii>,
    ) -> bool {
        self.push(key.into_key(), value)
    }

    /// Adds a binary value under a key; says whether the key was there before.
    ///
    /// # Panics
    ///
    /// If the key is a string that is no key of binary values, or has upper case.
    pub fn append_bin<K: IntoMetadataKey<Binary>>(
        &mut self,
        key: K,
        value: MetadataValue<Binary>,
    ) -> bool {
        self.push(key.into_key(), value)
    }

    /// Removes all values under a key of text values; gives back the first.
    pub fn remove<K: AsMetadataKey<Ascii>>(&mut self, key: K) -> Option<MetadataValue<Ascii>> {
        self.take(key.name())
    }

    /// Removes all values under a key of binary values; gives back the first.
    pub fn remove_bin<K: AsMetadataKey<Binary>>(
        &mut self,
        key: K,
    ) -> Option<MetadataValue<Binary>> {
        self.take(key.name())
    }

    /// Takes over everything in `other`; its values replace those under the same keys.
    pub fn merge(&mut self, other: MetadataMap) {
        self.slots.retain(|ours| !other.slots.iter().any(|other| is_same_key(ours, other)));
        self.slots.extend(other.slots);
    }

    fn first<VE: ValueEncoding>(&self, name: &str) -> Option<&MetadataValue<VE>> {
        let slot = self.slots.iter().find(|slot| slot.is_named(name))?;
        VE::parts(slot).map(|(_, value)| value)
    }

    fn first_mut<VE: ValueEncoding>(&mut self, name: &str) -> Option<&mut MetadataValue<VE>> {
        VE::value_mut(self.slots.iter_mut().find(|slot| slot.is_named(name))?)
    }

    fn replace<VE: ValueEncoding>(
        &mut self,
        key: MetadataKey<VE>,
        value: MetadataValue<VE>,
    ) -> Option<MetadataValue<VE>> {
        let old = self.take(key.as_str());
        self.slots.push(VE::into_slot(key, value));
        old
    }

    fn push<VE: ValueEncoding>(&mut self, key: MetadataKey<VE>, value: MetadataValue<VE>) -> bool {
        let slot = VE::into_slot(key, value);
        let known = self.slots.iter().any(|old| is_same_key(old, &slot));
        self.slots.push(slot);
        known
    }

    fn take<VE: ValueEncoding>(&mut self, name: &str) -> Option<MetadataValue<VE>> {
        // A name is of one kind only, so a first slot of the other kind means no slot of ours.
        let at = self.slots.iter().position(|slot| slot.is_named(name))?;
        VE::parts(&self.slots[at])?;
        let (_, first) = VE::into_parts(self.slots.remove(at))?;
        self.slots.retain(|slot| !slot.is_named(name));
        Some(first)
    }
}

/// Keys hold lower case only.
pub(super) fn is_same_key(a: &Slot, b: &Slot) -> bool {
    a.key_bytes() == b.key_bytes()
}

impl fmt::Debug for MetadataMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_map();
        for entry in self {
            match entry {
                KeyAndValueRef::Ascii(key, value) => out.entry(key, value),
                KeyAndValueRef::Binary(key, value) => out.entry(key, value),
            };
        }
        out.finish()
    }
}

impl PartialEq for MetadataMap {
    /// Equal if the same keys have the same values in the same order; the order of keys does
    /// not matter.
    fn eq(&self, other: &MetadataMap) -> bool {
        self.len() == other.len()
            && self.keys().all(|key| match key {
                KeyRef::Ascii(key) => self.get_all(key) == other.get_all(key),
                KeyRef::Binary(key) => self.get_all_bin(key) == other.get_all_bin(key),
            })
    }
}

impl Eq for MetadataMap {}

impl<'a> IntoIterator for &'a MetadataMap {
    type Item = KeyAndValueRef<'a>;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

pub use self::arguments::{AsEncodingAgnosticMetadataKey, AsMetadataKey, IntoMetadataKey};

/// What may stand for a key in the arguments of the map's methods.
mod arguments {
    use super::*;

    /// A key to store under: a [`MetadataKey`], owned or lent, or a string of the program in
    /// lower case.
    pub trait IntoMetadataKey<VE>: Sealed {
        /// The key itself.
        #[doc(hidden)]
        fn into_key(self) -> MetadataKey<VE>;
    }

    /// A key to look for: a [`MetadataKey`] or any text. Text that is no valid key finds
    /// nothing.
    pub trait AsMetadataKey<VE>: Sealed {
        /// Its text.
        #[doc(hidden)]
        fn name(&self) -> &str;
    }

    /// A key to look for, of either kind.
    pub trait AsEncodingAgnosticMetadataKey: Sealed {
        /// Its text.
        #[doc(hidden)]
        fn any_name(&self) -> &str;
    }

    /// Keeps the traits ours.
    pub trait Sealed {}

    impl<VE> Sealed for MetadataKey<VE> {}
    impl<VE> Sealed for &MetadataKey<VE> {}
    impl Sealed for &str {}
    impl Sealed for String {}
    impl Sealed for &String {}

    impl<VE> IntoMetadataKey<VE> for MetadataKey<VE> {
        fn into_key(self) -> MetadataKey<VE> {
            self
        }
    }

    impl<VE> IntoMetadataKey<VE> for &MetadataKey<VE> {
        fn into_key(self) -> MetadataKey<VE> {
            self.clone()
        }
    }

    impl<VE: ValueEncoding> IntoMetadataKey<VE> for &'static str {
        fn into_key(self) -> MetadataKey<VE> {
            MetadataKey::from_static(self)
        }
    }

    macro_rules! names {
        ($([$($generics:tt)*] $kind:ty, $key:ty;)*) => {$(
            impl<$($generics)*> AsMetadataKey<$kind> for $key {
                fn name(&self) -> &str {
                    self.as_ref()
                }
            }

            impl<$($generics)*> AsEncodingAgnosticMetadataKey for $key {
                fn any_name(&self) -> &str {
                    self.as_ref()
                }
            }
        )*};
    }

    names! {
        [VE] VE, MetadataKey<VE>;
        [VE] VE, &MetadataKey<VE>;
    }

    macro_rules! text_names {
        ($($key:ty)*) => {$(
            impl<VE> AsMetadataKey<VE> for $key {
                fn name(&self) -> &str {
                    self
                }
            }

            impl AsEncodingAgnosticMetadataKey for $key {
                fn any_name(&self) -> &str {
                    self
                }
            }
        )*};
    }

    text_names!(&str String &String);
}
