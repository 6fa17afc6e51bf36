//! The store: a sorted map behind one lock.
//!
//! The lock is held for a map operation and never while bytes are copied or sent: values are
//! `Bytes`, whose clones share the memory. Changes are published under the same lock, so that
//! watchers see them in the order of their versions.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rdma_rpc::{BulkBuffer, Status};
use tokio::sync::broadcast;

use crate::proto::{Change, Entry, PutRequest, change};

/// The longest key.
pub const MAX_KEY_BYTES: usize = 1024;
/// The longest value.
pub const MAX_VALUE_BYTES: usize = 64 << 20;
/// The most entries one scan gives.
pub const MAX_SCAN: usize = 10_000;
/// How many changes a watcher may be behind.
const MAX_LAG: usize = 1024;
/// What an entry is counted for besides its key, its client's name and its value.
const ENTRY_BYTES: usize = 128;

/// Entries, their memory bound, and whoever watches them.
#[derive(Debug)]
pub struct Store {
    state: Mutex<State>,
    max_bytes: usize,
}

#[derive(Debug)]
struct State {
    entries: BTreeMap<String, Stored>,
    /// What all entries are counted for.
    bytes: usize,
    version: u64,
    /// `None` once the store is closed to watchers.
    changes: Option<broadcast::Sender<Change>>,
}

#[derive(Debug)]
struct Stored {
    value: Bytes,
    version: u64,
    client: String,
}

impl Stored {
    fn bytes(&self, key: &str) -> usize {
        ENTRY_BYTES + key.len() + self.client.len() + self.value.len()
    }

    fn entry(&self, key: &str, value: Bytes) -> Entry {
        let client = self.client.clone();
        Entry { key: key.to_owned(), value, version: self.version, client }
    }
}

/// A page of a scan.
#[derive(Debug)]
pub struct Page {
    pub entries: Vec<Entry>,
    pub more: bool,
}

impl Store {
    /// An empty store that never holds more than this.
    pub fn new(max_bytes: usize) -> Store {
        let state = State {
            entries: BTreeMap::new(),
            bytes: 0,
            version: 0,
            changes: Some(broadcast::Sender::new(MAX_LAG)),
        };
        Store { state: Mutex::new(state), max_bytes }
    }

    pub fn get(&self, key: &str) -> Result<Entry, Status> {
        let state = self.lock();
        let stored = state.entries.get(key).ok_or_else(|| no_key(key))?;
        Ok(stored.entry(key, stored.value.clone()))
    }

    /// Puts one entry; gives its version.
    pub fn put(&self, put: PutRequest, client: &str) -> Result<u64, Status> {
        let PutRequest { key, value, if_version } = put;
        check_key(&key)?;
        if value.len() > MAX_VALUE_BYTES {
            let text = format!("a value of {} bytes; {MAX_VALUE_BYTES} may be", value.len());
            return Err(Status::invalid_argument(text));
        }
        // A decoded value shares the memory it arrived in, which belongs to the connection (over
        // a ring, to its pool for long messages). What is kept for long is copied out of there, to
        // where whoever asks for it reads it fast.
        let value = BulkBuffer::copy_from_slice(&value).freeze();

        let mut state = self.lock();
        let old = state.entries.get(&key);
        if let Some(wanted) = if_version {
            let present = old.map_or(0, |old| old.version);
            if present != wanted {
                let text = format!("key {key:?} has version {present}, not {wanted}");
                return Err(Status::failed_precondition(text));
            }
        }
        let freed = old.map_or(0, |old| old.bytes(&key));
        let version = state.version + 1;
        let put_bytes = value.len() as u64;
        let stored = Stored { value, version, client: client.to_owned() };
        let bytes = state.bytes - freed + stored.bytes(&key);
        if bytes > self.max_bytes {
            return Err(Status::resource_exhausted(format!(
                "{} bytes more do not fit: {} of {} are in use",
                stored.bytes(&key),
                state.bytes,
                self.max_bytes
            )));
        }
        state.bytes = bytes;
        state.entries.insert(key.clone(), stored);
        state.publish(key, version, client, change::What::PutBytes(put_bytes));
        Ok(version)
    }

    /// Deletes one entry; gives the version of the change.
    pub fn delete(&self, key: &str, client: &str) -> Result<u64, Status> {
        let mut state = self.lock();
        let old = state.entries.remove(key).ok_or_else(|| no_key(key))?;
        state.bytes -= old.bytes(key);
        let version = state.version + 1;
        state.publish(key.to_owned(), version, client, change::What::Deleted(true));
        Ok(version)
    }

    /// Entries with this prefix behind the key `after`, as they are at this moment.
    pub fn scan(&self, prefix: &str, after: &str, limit: usize, keys_only: bool) -> Page {
        // The first key that can match: behind `after`, but not before `prefix`.
        let from = if after < prefix { Bound::Included(prefix) } else { Bound::Excluded(after) };
        let state = self.lock();
        let mut found = state
            .entries
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix));
        let entries = found
            .by_ref()
            .take(limit)
            .map(|(key, stored)| {
                let value = if keys_only { Bytes::new() } else { stored.value.clone() };
                stored.entry(key, value)
            })
            .collect();
        Page { entries, more: found.next().is_some() }
    }

    /// All changes from now on; `None` once the store is closed.
    pub fn watch(&self) -> Option<broadcast::Receiver<Change>> {
        self.lock().changes.as_ref().map(broadcast::Sender::subscribe)
    }

    /// Ends all watches, which would never end by themselves: without this, a server that lets
    /// open calls finish would wait for them for ever.
    pub fn close(&self) {
        self.lock().changes = None;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under this lock panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn publish(&mut self, key: String, version: u64, client: &str, what: change::What) {
        self.version = version;
        if let Some(changes) = &self.changes {
            // A full channel forgets its oldest change, and the watchers that were that slow
            // learn it: writers never wait for watchers. An error means nobody watches.
            let client = client.to_owned();
            let _ = changes.send(Change { key, version, client, what: Some(what) });
        }
    }
}

pub fn check_key(key: &str) -> Result<(), Status> {
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        let text = format!("a key of {} bytes; 1 to {MAX_KEY_BYTES} may be", key.len());
        return Err(Status::invalid_argument(text));
    }
    Ok(())
}

fn no_key(key: &str) -> Status {
    Status::not_found(format!("no key {key:?}"))
}
