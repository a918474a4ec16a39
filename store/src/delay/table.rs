//! Messages that only the write-ahead log holds, in memory: by due time and by id.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::delay::entry::{DelaySubject, Key, Pending};

/// Where the record of a message stands in the write-ahead log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    pub(crate) offset: u64,
    /// Bytes of the record.
    pub(crate) bytes: u32,
    pub(crate) subject: DelaySubject,
}

/// The messages of one stretch of the write-ahead log.
#[derive(Debug, Default)]
pub(crate) struct Table {
    entries: BTreeMap<Key, Spot>,
    ids: BTreeSet<(u64, Key)>,
}

impl Table {
    pub(crate) fn insert(&mut self, key: Key, spot: Spot, id_hash: u64) {
        self.entries.insert(key, spot);
        self.ids.insert((id_hash, key));
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn get(&self, key: Key) -> Option<Spot> {
        self.entries.get(&key).copied()
    }

    /// Messages with a key from `from` on, ascending.
    pub(crate) fn from(&self, from: Bound<Key>) -> impl Iterator<Item = (Key, Spot)> {
        let range = self.entries.range((from, Bound::Unbounded));
        range.map(|(key, spot)| (*key, *spot))
    }

    /// Messages of which the id has this hash.
    pub(crate) fn with_hash(&self, hash: u64) -> impl Iterator<Item = Key> {
        let low = Key {
            due: 0,
            sequence: 0,
        };
        let with = self.ids.range((hash, low)..);
        with.take_while(move |(found, _)| *found == hash)
            .map(|(_, key)| *key)
    }
}

impl Spot {
    /// The message with this key.
    pub(crate) fn pending(&self, key: Key) -> Pending {
        Pending {
            due: qmq_model::UnixMillis(key.due),
            sequence: crate::delay::entry::AcceptSequence(key.sequence),
            subject: self.subject,
            bytes: self.bytes,
        }
    }
}
