//! Values of any type that travel with a request or response inside one process.

use std::any::{Any, TypeId};
use std::fmt;

/// At most one value of each type, for interceptors and handlers to leave things for each
/// other. Nothing here goes over the wire.
///
/// One pointer big, and allocates nothing while empty.
///
/// ```
/// use rdma_rpc_core::Extensions;
///
/// #[derive(Debug, PartialEq)]
/// struct UserId(u64);
///
/// let mut extensions = Extensions::new();
/// extensions.insert(UserId(7));
/// assert_eq!(extensions.get::<UserId>(), Some(&UserId(7)));
/// ```
#[derive(Default)]
pub struct Extensions {
    slots: Option<Box<Slots>>,
}

/// Few types are ever stored: a search from the front beats hashing.
#[derive(Default)]
struct Slots {
    values: Vec<(TypeId, Box<dyn Any + Send + Sync>)>,
}

const _: () = assert!(size_of::<Extensions>() == size_of::<usize>());

impl Drop for Extensions {
    /// There are hardly ever any: this much is worth being in line with what every call drops.
    #[inline]
    fn drop(&mut self) {
        if let Some(slots) = self.slots.take() {
            drop_slots(slots);
        }
    }
}

#[cold]
fn drop_slots(slots: Box<Slots>) {
    drop(slots);
}

impl Extensions {
    /// No values.
    pub const fn new() -> Extensions {
        Extensions { slots: None }
    }

    /// Stores a value; gives back the one of the same type that was there.
    pub fn insert<T: Send + Sync + 'static>(&mut self, value: T) -> Option<T> {
        if let Some(old) = self.get_mut::<T>() {
            return Some(std::mem::replace(old, value));
        }
        let slots = self.slots.get_or_insert_default();
        slots.values.push((TypeId::of::<T>(), Box::new(value)));
        None
    }

    /// The value of this type.
    pub fn get<T: Send + Sync + 'static>(&self) -> Option<&T> {
        let (_, value) = self.slots.as_ref()?.values.iter().find(is_of::<T, _>)?;
        value.downcast_ref()
    }

    /// The value of this type, to change.
    pub fn get_mut<T: Send + Sync + 'static>(&mut self) -> Option<&mut T> {
        let values = &mut self.slots.as_mut()?.values;
        let (_, value) = values.iter_mut().find(|(id, _)| *id == TypeId::of::<T>())?;
        value.downcast_mut()
    }

    /// The value of this type; puts `value` there first if there is none.
    pub fn get_or_insert<T: Send + Sync + 'static>(&mut self, value: T) -> &mut T {
        self.get_or_insert_with(|| value)
    }

    /// The value of this type; makes one first if there is none.
    pub fn get_or_insert_with<T: Send + Sync + 'static>(
        &mut self,
        make: impl FnOnce() -> T,
    ) -> &mut T {
        let values = &mut self.slots.get_or_insert_default().values;
        let at = values.iter().position(|slot| is_of::<T, _>(&slot)).unwrap_or_else(|| {
            values.push((TypeId::of::<T>(), Box::new(make())));
            values.len() - 1
        });
        values[at].1.downcast_mut().expect("each value is stored under its own type")
    }

    /// The value of this type; puts the type's default there first if there is none.
    pub fn get_or_insert_default<T: Default + Send + Sync + 'static>(&mut self) -> &mut T {
        self.get_or_insert_with(T::default)
    }

    /// Takes the value of this type out.
    pub fn remove<T: Send + Sync + 'static>(&mut self) -> Option<T> {
        let values = &mut self.slots.as_mut()?.values;
        let at = values.iter().position(|slot| is_of::<T, _>(&slot))?;
        let (_, value) = values.remove(at);
        value.downcast().ok().map(|value| *value)
    }

    /// Drops all values.
    pub fn clear(&mut self) {
        self.slots = None;
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.slots.as_ref().map_or(0, |slots| slots.values.len())
    }

    /// Takes over all values of `other`, replacing those of the same types.
    pub fn extend(&mut self, mut other: Extensions) {
        let Some(theirs) = other.slots.take() else { return };
        let Some(ours) = &mut self.slots else {
            self.slots = Some(theirs);
            return;
        };
        for (id, value) in theirs.values {
            match ours.values.iter_mut().find(|(ours, _)| *ours == id) {
                Some(slot) => slot.1 = value,
                None => ours.values.push((id, value)),
            }
        }
    }
}

fn is_of<T: 'static, V>(slot: &&(TypeId, V)) -> bool {
    slot.0 == TypeId::of::<T>()
}

impl fmt::Debug for Extensions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Extensions").field("len", &self.len()).finish()
    }
}

/// The method a request is for. The client puts it into the request's extensions before
/// interceptors run; the server before the handler runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GrpcMethod<'a> {
    service: &'a str,
    method: &'a str,
}

impl<'a> GrpcMethod<'a> {
    /// Names a method: `("kv.v1.Kv", "Get")`.
    pub const fn new(service: &'a str, method: &'a str) -> GrpcMethod<'a> {
        GrpcMethod { service, method }
    }

    /// The service's full name, such as `kv.v1.Kv`.
    pub fn service(&self) -> &str {
        self.service
    }

    /// The method's name, such as `Get`.
    pub fn method(&self) -> &str {
        self.method
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_of_each_type() {
        let mut extensions = Extensions::new();
        assert!(extensions.is_empty());
        assert_eq!(extensions.get::<u32>(), None);
        assert_eq!(extensions.remove::<u32>(), None);
        assert_eq!(extensions.insert(1u32), None);
        assert_eq!(extensions.insert("text"), None);
        assert_eq!(extensions.insert(2u32), Some(1));
        assert_eq!(extensions.len(), 2);
        *extensions.get_mut::<u32>().unwrap() += 1;
        assert_eq!(extensions.remove::<u32>(), Some(3));
        assert_eq!(extensions.get::<u32>(), None);
        assert_eq!(extensions.get::<&str>(), Some(&"text"));
        extensions.clear();
        assert!(extensions.is_empty());
    }

    #[test]
    fn values_are_made_once() {
        let mut extensions = Extensions::new();
        *extensions.get_or_insert_default::<u64>() += 5;
        *extensions.get_or_insert_with(|| -> u64 { unreachable!("there is a value") }) += 1;
        assert_eq!(*extensions.get_or_insert(0u64), 6);
        assert!(*extensions.get_or_insert(true));
    }

    #[test]
    fn extend_replaces() {
        let mut ours = Extensions::new();
        let mut theirs = Extensions::new();
        theirs.insert(1u8);
        ours.extend(theirs);
        ours.insert("kept");
        let mut theirs = Extensions::new();
        theirs.insert(2u8);
        theirs.insert(3u16);
        ours.extend(theirs);
        ours.extend(Extensions::new());
        assert_eq!(ours.len(), 3);
        assert_eq!(ours.get::<u8>(), Some(&2));
        assert_eq!(ours.get::<u16>(), Some(&3));
        assert_eq!(ours.get::<&str>(), Some(&"kept"));
    }

    #[test]
    fn values_need_not_be_clone() {
        struct OnlyOne(std::sync::Mutex<u8>);
        let mut extensions = Extensions::new();
        extensions.insert(OnlyOne(std::sync::Mutex::new(9)));
        assert_eq!(*extensions.get::<OnlyOne>().unwrap().0.lock().unwrap(), 9);
    }
}
