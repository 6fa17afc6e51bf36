//! Walking through a metadata map.

use std::iter::FusedIterator;
use std::slice;

use super::encoding::{Ascii, Binary, ValueEncoding};
use super::key::MetadataKey;
use super::map::{Slot, is_same_key};
use super::value::MetadataValue;

/// A key of either kind.
#[derive(Debug)]
pub enum KeyRef<'a> {
    /// A key of text values.
    Ascii(&'a MetadataKey<Ascii>),
    /// A key of binary values.
    Binary(&'a MetadataKey<Binary>),
}

/// A value of either kind.
#[derive(Debug)]
pub enum ValueRef<'a> {
    /// A text value.
    Ascii(&'a MetadataValue<Ascii>),
    /// A binary value.
    Binary(&'a MetadataValue<Binary>),
}

/// A value of either kind, to change.
#[derive(Debug)]
pub enum ValueRefMut<'a> {
    /// A text value.
    Ascii(&'a mut MetadataValue<Ascii>),
    /// A binary value.
    Binary(&'a mut MetadataValue<Binary>),
}

/// A key with one of its values.
#[derive(Debug)]
pub enum KeyAndValueRef<'a> {
    /// A text value.
    Ascii(&'a MetadataKey<Ascii>, &'a MetadataValue<Ascii>),
    /// A binary value.
    Binary(&'a MetadataKey<Binary>, &'a MetadataValue<Binary>),
}

/// A key with one of its values, to change.
#[derive(Debug)]
pub enum KeyAndMutValueRef<'a> {
    /// A text value.
    Ascii(&'a MetadataKey<Ascii>, &'a mut MetadataValue<Ascii>),
    /// A binary value.
    Binary(&'a MetadataKey<Binary>, &'a mut MetadataValue<Binary>),
}

/// An iterator that gives something for each slot of a map.
macro_rules! over_slots {
    ($(#[$doc:meta])* $name:ident, $slots:ty, $iter:ty, $item:ty, $slot:pat => $make:expr) => {
        $(#[$doc])*
        pub struct $name<'a> {
            slots: $iter,
        }

        impl<'a> $name<'a> {
            pub(super) fn new(slots: $slots) -> $name<'a> {
                $name { slots: slots.into_iter() }
            }
        }

        impl<'a> Iterator for $name<'a> {
            type Item = $item;

            fn next(&mut self) -> Option<$item> {
                self.slots.next().map(|$slot| $make)
            }

            fn size_hint(&self) -> (usize, Option<usize>) {
                self.slots.size_hint()
            }
        }

        impl DoubleEndedIterator for $name<'_> {
            fn next_back(&mut self) -> Option<Self::Item> {
                self.slots.next_back().map(|$slot| $make)
            }
        }

        impl ExactSizeIterator for $name<'_> {}
        impl FusedIterator for $name<'_> {}

        impl std::fmt::Debug for $name<'_> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).field("left", &self.slots.len()).finish()
            }
        }
    };
}

over_slots! {
    /// All keys with their values.
    Iter, &'a [Slot], slice::Iter<'a, Slot>, KeyAndValueRef<'a>,
    slot => match slot {
        Slot::Ascii(key, value) => KeyAndValueRef::Ascii(key, value),
        Slot::Binary(key, value) => KeyAndValueRef::Binary(key, value),
    }
}

over_slots! {
    /// All keys with their values, to change.
    IterMut, &'a mut [Slot], slice::IterMut<'a, Slot>, KeyAndMutValueRef<'a>,
    slot => match slot {
        Slot::Ascii(key, value) => KeyAndMutValueRef::Ascii(key, value),
        Slot::Binary(key, value) => KeyAndMutValueRef::Binary(key, value),
    }
}

over_slots! {
    /// All values.
    Values, &'a [Slot], slice::Iter<'a, Slot>, ValueRef<'a>,
    slot => match slot {
        Slot::Ascii(_, value) => ValueRef::Ascii(value),
        Slot::Binary(_, value) => ValueRef::Binary(value),
    }
}

over_slots! {
    /// All values, to change.
    ValuesMut, &'a mut [Slot], slice::IterMut<'a, Slot>, ValueRefMut<'a>,
    slot => match slot {
        Slot::Ascii(_, value) => ValueRefMut::Ascii(value),
        Slot::Binary(_, value) => ValueRefMut::Binary(value),
    }
}

/// All keys, each once, in the order in which they were first added.
pub struct Keys<'a> {
    slots: &'a [Slot],
    next: usize,
}

impl<'a> Keys<'a> {
    pub(super) fn new(slots: &'a [Slot]) -> Keys<'a> {
        Keys { slots, next: 0 }
    }
}

impl<'a> Iterator for Keys<'a> {
    type Item = KeyRef<'a>;

    fn next(&mut self) -> Option<KeyRef<'a>> {
        while let Some(slot) = self.slots.get(self.next) {
            let before = &self.slots[..self.next];
            self.next += 1;
            if !before.iter().any(|other| is_same_key(other, slot)) {
                return Some(match slot {
                    Slot::Ascii(key, _) => KeyRef::Ascii(key),
                    Slot::Binary(key, _) => KeyRef::Binary(key),
                });
            }
        }
        None
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.slots.len() - self.next))
    }
}

impl FusedIterator for Keys<'_> {}

impl std::fmt::Debug for Keys<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(Keys { slots: self.slots, next: self.next }).finish()
    }
}

/// All values under one key.
pub struct GetAll<'a, VE> {
    /// From the first slot with the key to the end; empty if there is none.
    slots: &'a [Slot],
    kind: std::marker::PhantomData<VE>,
}

impl<'a, VE: ValueEncoding> GetAll<'a, VE> {
    pub(super) fn new(slots: &'a [Slot], name: &str) -> GetAll<'a, VE> {
        let first = slots.iter().position(|slot| slot.is_named(name)).unwrap_or(slots.len());
        GetAll { slots: &slots[first..], kind: std::marker::PhantomData }
    }

    /// The values, in the order they were added.
    pub fn iter(&self) -> ValueIter<'a, VE> {
        ValueIter { key: self.slots.first(), slots: self.slots.iter(), kind: self.kind }
    }
}

impl<VE: ValueEncoding> PartialEq for GetAll<'_, VE> {
    fn eq(&self, other: &GetAll<'_, VE>) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<'a, VE: ValueEncoding> IntoIterator for GetAll<'a, VE> {
    type Item = &'a MetadataValue<VE>;
    type IntoIter = ValueIter<'a, VE>;

    fn into_iter(self) -> ValueIter<'a, VE> {
        self.iter()
    }
}

impl<'a, VE: ValueEncoding> IntoIterator for &GetAll<'a, VE> {
    type Item = &'a MetadataValue<VE>;
    type IntoIter = ValueIter<'a, VE>;

    fn into_iter(self) -> ValueIter<'a, VE> {
        self.iter()
    }
}

impl<VE: ValueEncoding> std::fmt::Debug for GetAll<'_, VE> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

/// The values under one key, in the order they were added.
pub struct ValueIter<'a, VE> {
    key: Option<&'a Slot>,
    slots: slice::Iter<'a, Slot>,
    kind: std::marker::PhantomData<VE>,
}

impl<'a, VE: ValueEncoding> Iterator for ValueIter<'a, VE> {
    type Item = &'a MetadataValue<VE>;

    fn next(&mut self) -> Option<&'a MetadataValue<VE>> {
        let key = self.key?;
        let slot = self.slots.find(|slot| is_same_key(slot, key))?;
        VE::parts(slot).map(|(_, value)| value)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.slots.len()))
    }
}

impl<'a, VE: ValueEncoding> DoubleEndedIterator for ValueIter<'a, VE> {
    fn next_back(&mut self) -> Option<&'a MetadataValue<VE>> {
        let key = self.key?;
        let slot = self.slots.rfind(|slot| is_same_key(slot, key))?;
        VE::parts(slot).map(|(_, value)| value)
    }
}

impl<VE> std::fmt::Debug for ValueIter<'_, VE> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ValueIter").field("slots_left", &self.slots.len()).finish()
    }
}
