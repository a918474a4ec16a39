//! Goes through the messages of a store in the order in which they are due, wherever they stand.

use std::ops::Bound;

use crate::delay::entry::{Key, Pending};
use crate::delay::shared::{Shared, State};
use crate::delay::table::Table;
use crate::error::Error;

/// Most messages that are copied out of a table at a time, while the lock is held.
const COPIED_MAX: usize = 4096;

/// Messages in front of `until`, beginning somewhere, done ones included.
pub(crate) struct Browse<'a> {
    shared: &'a Shared,
    next: Bound<Key>,
    until: i64,
    sources: Vec<Source>,
}

/// Messages of one place, ascending.
struct Source {
    messages: std::vec::IntoIter<Pending>,
    head: Option<Pending>,
    /// There may be more behind the last one.
    is_cut: bool,
}

impl Source {
    fn of(table: &Table, from: Bound<Key>, until: i64) -> Self {
        let within = table.from(from).take_while(|(key, _)| key.due < until);
        let messages: Vec<Pending> = within
            .take(COPIED_MAX)
            .map(|(key, spot)| spot.pending(key))
            .collect();
        let is_cut = messages.len() == COPIED_MAX;
        let mut messages = messages.into_iter();
        Self {
            head: messages.next(),
            messages,
            is_cut,
        }
    }
}

impl<'a> Browse<'a> {
    pub(crate) fn new(shared: &'a Shared, from: Bound<Key>, until: i64) -> Self {
        let mut browse = Self {
            shared,
            next: from,
            until,
            sources: Vec::new(),
        };
        browse.fill();
        browse
    }

    fn fill(&mut self) {
        let state = self.shared.read();
        let State { table, .. } = &*state;
        self.sources = vec![Source::of(table, self.next, self.until)];
    }

    /// The next message, if there is one.
    pub(crate) fn next(&mut self) -> Result<Option<Pending>, Error> {
        let first = self
            .sources
            .iter_mut()
            .filter(|source| source.head.is_some())
            .min_by_key(|source| source.head.map(|head| head.key()));
        let Some((first, found)) = first.and_then(|first| first.head.map(|head| (first, head)))
        else {
            return Ok(None);
        };
        first.head = first.messages.next();
        self.next = Bound::Excluded(found.key());
        if first.head.is_none() && first.is_cut {
            self.fill();
        }
        Ok(Some(found))
    }
}
