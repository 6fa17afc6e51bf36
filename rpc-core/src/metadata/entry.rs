//! One key of a map, there or not yet.

use super::encoding::ValueEncoding;
use super::iter::{GetAll, ValueIter};
use super::key::MetadataKey;
use super::map::MetadataMap;
use super::value::MetadataValue;

/// One key of a map, there or not yet; made by [`MetadataMap::entry`] and
/// [`MetadataMap::entry_bin`].
#[derive(Debug)]
pub enum Entry<'a, VE: ValueEncoding> {
    /// The key has a value.
    Occupied(OccupiedEntry<'a, VE>),
    /// The key has no value.
    Vacant(VacantEntry<'a, VE>),
}

/// A key that has no value.
#[derive(Debug)]
pub struct VacantEntry<'a, VE: ValueEncoding> {
    map: &'a mut MetadataMap,
    key: MetadataKey<VE>,
}

/// A key that has at least one value.
#[derive(Debug)]
pub struct OccupiedEntry<'a, VE: ValueEncoding> {
    map: &'a mut MetadataMap,
    key: MetadataKey<VE>,
    /// Where the key's first value is.
    at: usize,
}

impl<'a, VE: ValueEncoding> Entry<'a, VE> {
    pub(super) fn new(map: &'a mut MetadataMap, key: MetadataKey<VE>) -> Entry<'a, VE> {
        match map.slots.iter().position(|slot| slot.is_named(key.as_str())) {
            Some(at) => Entry::Occupied(OccupiedEntry { map, key, at }),
            None => Entry::Vacant(VacantEntry { map, key }),
        }
    }

    /// The first value; puts `default` there first if there is none.
    pub fn or_insert(self, default: MetadataValue<VE>) -> &'a mut MetadataValue<VE> {
        self.or_insert_with(|| default)
    }

    /// The first value; makes one first if there is none.
    pub fn or_insert_with(
        self,
        make: impl FnOnce() -> MetadataValue<VE>,
    ) -> &'a mut MetadataValue<VE> {
        match self {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(make()),
        }
    }

    /// The key.
    pub fn key(&self) -> &MetadataKey<VE> {
        match self {
            Entry::Occupied(entry) => &entry.key,
            Entry::Vacant(entry) => &entry.key,
        }
    }
}

impl<'a, VE: ValueEncoding> VacantEntry<'a, VE> {
    /// The key.
    pub fn key(&self) -> &MetadataKey<VE> {
        &self.key
    }

    /// Takes the key back.
    pub fn into_key(self) -> MetadataKey<VE> {
        self.key
    }

    /// Adds a value.
    pub fn insert(self, value: MetadataValue<VE>) -> &'a mut MetadataValue<VE> {
        self.insert_entry(value).into_mut()
    }

    /// Adds a value; gives the entry that now is there.
    pub fn insert_entry(self, value: MetadataValue<VE>) -> OccupiedEntry<'a, VE> {
        let at = self.map.slots.len();
        self.map.slots.push(VE::into_slot(self.key.clone(), value));
        OccupiedEntry { map: self.map, key: self.key, at }
    }
}

/// `at` names a slot of the entry's own kind: a name ends in `-bin` or it does not.
const OF_THIS_KIND: &str = "a key has values of its own kind only";

impl<'a, VE: ValueEncoding> OccupiedEntry<'a, VE> {
    /// The key.
    pub fn key(&self) -> &MetadataKey<VE> {
        &self.key
    }

    /// The first value.
    pub fn get(&self) -> &MetadataValue<VE> {
        VE::parts(&self.map.slots[self.at]).expect(OF_THIS_KIND).1
    }

    /// The first value, to change.
    pub fn get_mut(&mut self) -> &mut MetadataValue<VE> {
        VE::value_mut(&mut self.map.slots[self.at]).expect(OF_THIS_KIND)
    }

    /// The first value, to change, for as long as the map is lent.
    pub fn into_mut(self) -> &'a mut MetadataValue<VE> {
        VE::value_mut(&mut self.map.slots[self.at]).expect(OF_THIS_KIND)
    }

    /// Puts a value in the place of all values under the key; gives back the first of those.
    pub fn insert(&mut self, value: MetadataValue<VE>) -> MetadataValue<VE> {
        let old = std::mem::replace(self.get_mut(), value);
        let mut seen = false;
        let name = self.key.as_str();
        // All but the first.
        self.map.slots.retain(|slot| !slot.is_named(name) || !std::mem::replace(&mut seen, true));
        old
    }

    /// Adds a value under the key.
    pub fn append(&mut self, value: MetadataValue<VE>) {
        self.map.slots.push(VE::into_slot(self.key.clone(), value));
    }

    /// Removes all values under the key; gives back the first.
    pub fn remove(self) -> MetadataValue<VE> {
        self.remove_entry().1
    }

    /// Removes all values under the key; gives back the key and the first value.
    pub fn remove_entry(self) -> (MetadataKey<VE>, MetadataValue<VE>) {
        let first = VE::into_parts(self.map.slots.remove(self.at)).expect(OF_THIS_KIND);
        let name = self.key.as_str();
        self.map.slots.retain(|slot| !slot.is_named(name));
        first
    }

    /// The values under the key, in the order they were added.
    pub fn iter(&self) -> ValueIter<'_, VE> {
        GetAll::new(&self.map.slots, self.key.as_str()).iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::{AsciiMetadataValue, BinaryMetadataValue};

    fn text(value: &'static str) -> AsciiMetadataValue {
        AsciiMetadataValue::from_static(value)
    }

    #[test]
    fn values_are_made_where_there_are_none() {
        let mut map = MetadataMap::new();
        assert_eq!(*map.entry("Hops").unwrap().or_insert(text("1")), "1");
        assert_eq!(*map.entry("hops").unwrap().or_insert_with(|| unreachable!()), "1");
        *map.entry("hops").unwrap().or_insert(text("1")) = text("2");
        assert_eq!(map.get("hops").unwrap(), "2");
        let value = BinaryMetadataValue::from_bytes(&[0]);
        assert_eq!(*map.entry_bin("t-bin").unwrap().or_insert(value), "\0");
        assert_eq!(map.entry("hops").unwrap().key(), "hops");
    }

    #[test]
    fn keys_are_checked() {
        let mut map = MetadataMap::new();
        assert!(map.entry("not a key").is_err());
        assert!(map.entry("t-bin").is_err());
        assert!(map.entry_bin("t").is_err());
        assert!(map.is_empty());
    }

    #[test]
    fn an_occupied_entry_has_all_values() {
        let mut map = MetadataMap::new();
        map.append("other", text("0"));
        let Entry::Vacant(entry) = map.entry("k").unwrap() else { panic!("there is no value") };
        let mut entry = entry.insert_entry(text("1"));
        entry.append(text("2"));
        entry.append(text("3"));
        assert_eq!(entry.get(), &"1");
        assert_eq!(entry.iter().collect::<Vec<_>>(), ["1", "2", "3"]);
        assert_eq!(entry.insert(text("4")), "1");
        assert_eq!(entry.iter().collect::<Vec<_>>(), ["4"]);
        entry.append(text("5"));
        *entry.get_mut() = text("6");
        let (key, first) = entry.remove_entry();
        assert_eq!((key.as_str(), first), ("k", text("6")));
        assert_eq!(map.len(), 1);
        assert_eq!(map.get("other").unwrap(), "0");
    }
}
