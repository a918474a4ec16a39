//! Messages that only the write-ahead log holds, in memory: by due time and by id.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, Range};

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
#[derive(Debug)]
pub(crate) struct Table {
    /// The stretch; it ends behind the last message until the table is complete.
    pub(crate) range: Range<u64>,
    /// Lowest sequence.
    first: u64,
    entries: BTreeMap<Key, Spot>,
    /// Hashes of ids with the keys they belong to. Clients choose ids, and may give all messages the
    /// same one: a tree does not mind, where a hash table would look at all of them each time.
    ids: BTreeSet<(u64, Key)>,
}

impl Table {
    /// An empty one for what stands in the write-ahead log from `begin` on.
    pub(crate) fn at(begin: u64) -> Self {
        Self {
            range: begin..begin,
            first: u64::MAX,
            entries: BTreeMap::new(),
            ids: BTreeSet::new(),
        }
    }

    pub(crate) fn insert(&mut self, key: Key, spot: Spot, id_hash: u64) {
        self.range.end = self.range.end.max(spot.offset + u64::from(spot.bytes));
        self.first = self.first.min(key.sequence);
        self.entries.insert(key, spot);
        self.ids.insert((id_hash, key));
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Lowest sequence; the highest there is when it is empty.
    pub(crate) fn first_sequence(&self) -> u64 {
        self.first
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

    /// Hashes of ids with the keys they belong to, ascending.
    pub(crate) fn ids(&self) -> impl Iterator<Item = (u64, Key)> {
        self.ids.iter().copied()
    }
}

impl Spot {
    /// The record, in the stretch of the log that begins at `start`.
    pub(crate) fn record_in<'a>(&self, log: &'a [u8], start: u64) -> &'a [u8] {
        let begin = usize::try_from(self.offset - start).expect("within the stretch");
        &log[begin..begin + self.bytes as usize]
    }

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
