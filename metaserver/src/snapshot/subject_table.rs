//! Something that is known of each of many subjects, in memory. Many threads look it up while rows
//! are taken over and old ones swept: each lock covers one part of the table, for as long as a few
//! rows take.
//!
//! Every query has a number, taken before it began. An entry remembers the number under which it was
//! learnt, so that the result of a query that began earlier does not undo it.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::routing::Route;

/// Parts of the table. With a million subjects one has 4 000, which are swept in a millisecond.
const PARTS: usize = 256;
/// Names that a database which ignores case takes for another one. Beyond it all are forgotten, and
/// each costs one query again.
const ALIASES_MAX: usize = 10_000;

type Part<V> = HashMap<Box<str>, Entry<V>>;

/// What may be known of a subject.
pub(super) trait Value: PartialEq {
    /// Whether this is certainly later than `other`, whichever was read first.
    fn is_newer_than(&self, other: &Self) -> bool;
}

impl Value for Route {
    fn is_newer_than(&self, other: &Self) -> bool {
        self.version > other.version
    }
}

/// The tag of a subject.
impl Value for Box<str> {
    fn is_newer_than(&self, _: &Self) -> bool {
        false
    }
}

/// Groups that were taken from a subject.
impl Value for HashSet<String> {
    fn is_newer_than(&self, _: &Self) -> bool {
        false
    }
}

#[derive(Debug)]
struct Entry<V> {
    value: Arc<V>,
    /// Number of the query that saw it last, or of the latest one when it was learnt otherwise.
    query: u64,
}

/// Values by subject.
#[derive(Debug)]
pub(super) struct SubjectTable<V> {
    parts: Vec<RwLock<Part<V>>>,
    /// Names under which the database finds the row of another subject.
    aliases: RwLock<HashMap<String, Box<str>>>,
    hasher: RandomState,
    queries: AtomicU64,
}

impl<V> Default for SubjectTable<V> {
    fn default() -> Self {
        Self {
            parts: (0..PARTS).map(|_| RwLock::default()).collect(),
            aliases: RwLock::default(),
            hasher: RandomState::new(),
            queries: AtomicU64::new(0),
        }
    }
}

impl<V: Value> SubjectTable<V> {
    /// The number of a query that begins now.
    pub(super) fn next_query(&self) -> u64 {
        self.queries.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// What is known of a subject.
    pub(super) fn get(&self, subject: &str) -> Option<Arc<V>> {
        if let Some(entry) = read(self.part(subject)).get(subject) {
            return Some(Arc::clone(&entry.value));
        }
        let aliases = read(&self.aliases);
        let subject: &str = aliases.get(subject)?;
        let part = read(self.part(subject));
        part.get(subject).map(|entry| Arc::clone(&entry.value))
    }

    /// Takes over what was just read or written; something older changes nothing. `stored`
    /// is the name in its row, which differs from the name asked for where a database ignores case.
    pub(super) fn learn(&self, subject: &str, stored: &str, value: V) {
        let query = self.queries.load(Ordering::SeqCst);
        {
            let mut part = write(self.part(stored));
            let known = part.get(stored);
            if known.is_none_or(|entry| !entry.value.is_newer_than(&value)) {
                let value = Arc::new(value);
                part.insert(stored.into(), Entry { value, query });
            }
        }
        if subject != stored {
            let mut aliases = write(&self.aliases);
            if aliases.len() >= ALIASES_MAX {
                aliases.clear();
            }
            aliases.insert(subject.to_owned(), stored.into());
        }
    }

    /// Takes over a row that query number `query` read.
    pub(super) fn put(&self, subject: &str, value: V, query: u64) {
        let mut part = write(self.part(subject));
        let Some(entry) = part.get_mut(subject) else {
            let value = Arc::new(value);
            part.insert(subject.into(), Entry { value, query });
            return;
        };
        if entry.query >= query && entry.value.is_newer_than(&value) {
            return;
        }
        entry.query = entry.query.max(query);
        if *entry.value != value {
            entry.value = Arc::new(value);
        }
    }

    /// Forgets what no query from `since` on has seen.
    pub(super) async fn forget_before(&self, since: u64) {
        for part in &self.parts {
            write(part).retain(|_, entry| entry.query >= since);
            tokio::task::yield_now().await;
        }
    }

    fn part(&self, subject: &str) -> &RwLock<Part<V>> {
        let number = self.hasher.hash_one(subject) % PARTS as u64;
        &self.parts[usize::try_from(number).unwrap_or(0)]
    }
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(version: i64) -> Route {
        Route {
            groups: vec![format!("g{version}")],
            version,
        }
    }

    fn version(table: &SubjectTable<Route>, subject: &str) -> Option<i64> {
        table.get(subject).map(|route| route.version)
    }

    #[tokio::test]
    async fn a_query_that_began_earlier_undoes_nothing() {
        let table = SubjectTable::<Route>::default();
        let query = table.next_query();
        table.learn("a", "a", route(3));
        table.learn("b", "b", route(1));
        table.put("a", route(2), query);
        table.forget_before(query).await;
        assert_eq!(
            (version(&table, "a"), version(&table, "b")),
            (Some(3), Some(1))
        );
        // One that begins later is believed: the row was made anew by hand, the other is gone.
        let query = table.next_query();
        table.put("a", route(1), query);
        table.forget_before(query).await;
        assert_eq!(
            (version(&table, "a"), version(&table, "b")),
            (Some(1), None)
        );
    }

    #[test]
    fn an_older_version_is_not_learnt() {
        let table = SubjectTable::<Route>::default();
        table.learn("a", "a", route(2));
        table.learn("a", "a", route(1));
        assert_eq!(version(&table, "a"), Some(2));
    }

    #[tokio::test]
    async fn a_name_that_differs_in_case_follows_the_row_it_shares() {
        let table = SubjectTable::<Route>::default();
        table.learn("order", "Order", route(1));
        let query = table.next_query();
        table.put("Order", route(2), query);
        table.forget_before(query).await;
        assert_eq!(
            (version(&table, "order"), version(&table, "ORDER")),
            (Some(2), None)
        );
        table.forget_before(table.next_query()).await;
        assert_eq!(version(&table, "order"), None);
    }
}
