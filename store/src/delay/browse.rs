//! Goes through the messages of a store in the order in which they are due, wherever they stand.

use std::ops::Bound;
use std::sync::Arc;

use crate::delay::entry::{Key, Pending};
use crate::delay::run::DelayRun;
use crate::delay::run::walk::Entries;
use crate::delay::shared::Shared;
use crate::delay::table::{Row, Table};
use crate::error::Error;
use crate::run::cache::BlockCache;

/// Most messages that are copied out of a table at a time, while the lock is held.
const COPIED_MAX: usize = 4096;

/// Messages in front of some due time, beginning somewhere, done ones included.
pub(crate) struct Browse<'a> {
    shared: &'a Shared,
    next: Bound<Key>,
    until: i64,
    sources: Vec<Source>,
}

/// Messages of one place, ascending.
struct Source {
    head: Option<Pending>,
    rest: Rest,
}

enum Rest {
    /// Of a table that is complete: rank of the next one.
    Table(Arc<Table>, usize),
    /// Of the table that grows.
    Copied {
        messages: std::vec::IntoIter<Pending>,
        /// There may be more behind the last one.
        is_cut: bool,
    },
    /// Of a run.
    Run(Box<Entries>),
}

impl Source {
    fn of_complete(table: &Arc<Table>, from: Bound<Key>, until: i64) -> Self {
        let mut rank = table.rank(from);
        Self {
            head: take_ranked(table, &mut rank, until),
            rest: Rest::Table(table.clone(), rank),
        }
    }

    fn of_table(table: &Table, from: Bound<Key>, until: i64) -> Self {
        let within = table.from(from).take_while(|row| row.key.due < until);
        let messages: Vec<Pending> = within.take(COPIED_MAX).map(Row::pending).collect();
        let is_cut = messages.len() == COPIED_MAX;
        let mut messages = messages.into_iter();
        Self {
            head: messages.next(),
            rest: Rest::Copied { messages, is_cut },
        }
    }

    /// `None` when the run holds nothing there.
    fn of_run(
        run: &Arc<DelayRun>,
        from: Bound<Key>,
        until: i64,
        cache: &BlockCache,
    ) -> Result<Option<Self>, Error> {
        let (Bound::Included(first) | Bound::Excluded(first)) = from else {
            unreachable!("a browse begins somewhere");
        };
        if *run.due().end() < first.due || *run.due().start() >= until {
            return Ok(None);
        }
        let rank = match run.rank(first, cache) {
            // Where to begin is in a damaged block: everything is looked at.
            Err(Error::Corrupt { .. }) => 0,
            rank => rank?,
        };
        let mut source = Self {
            head: None,
            rest: Rest::Run(Box::new(Entries::new(run, rank))),
        };
        loop {
            source.advance(until)?;
            let is_before = match from {
                Bound::Excluded(first) => source.head.is_some_and(|head| head.key() <= first),
                _ => source.head.is_some_and(|head| head.key() < first),
            };
            if !is_before {
                return Ok(Some(source));
            }
        }
    }

    /// Goes on; `true` when there may be more that was not copied.
    fn advance(&mut self, until: i64) -> Result<bool, Error> {
        match &mut self.rest {
            Rest::Copied { messages, is_cut } => {
                self.head = messages.next();
                Ok(self.head.is_none() && *is_cut)
            }
            Rest::Table(table, rank) => {
                self.head = take_ranked(table, rank, until);
                Ok(false)
            }
            Rest::Run(entries) => {
                let next = entries.next_readable()?;
                let next = next.filter(|entry| entry.key.due < until);
                self.head = next.map(|entry| entry.pending());
                Ok(false)
            }
        }
    }
}

/// The message of a complete table with this rank, if it is due in front of `until`; goes on to the
/// next.
fn take_ranked(table: &Table, rank: &mut usize, until: i64) -> Option<Pending> {
    let row = table.ranked(*rank).filter(|row| row.key.due < until)?;
    *rank += 1;
    Some(row.pending())
}

impl<'a> Browse<'a> {
    pub(crate) fn new(shared: &'a Shared, from: Bound<Key>, until: i64) -> Result<Self, Error> {
        let mut browse = Self {
            shared,
            next: from,
            until,
            sources: Vec::new(),
        };
        browse.fill()?;
        Ok(browse)
    }

    fn fill(&mut self) -> Result<(), Error> {
        let (from, until) = (self.next, self.until);
        let runs = {
            let state = self.shared.read();
            let complete = state.frozen.iter();
            let complete = complete.map(|table| Source::of_complete(table, from, until));
            self.sources = complete
                .chain([Source::of_table(&state.table, from, until)])
                .collect();
            state.runs.clone()
        };
        for (run, _) in runs.iter() {
            let source = Source::of_run(run, from, until, &self.shared.cache)?;
            self.sources.extend(source);
        }
        Ok(())
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
        let is_cut = first.advance(self.until)?;
        self.next = Bound::Excluded(found.key());
        if is_cut {
            self.fill()?;
        }
        Ok(Some(found))
    }
}
