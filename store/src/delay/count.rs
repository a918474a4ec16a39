//! Counts messages without reading more of the index than it must.

use std::ops::{Bound, Range};
use std::sync::Arc;

use qmq_model::{Subject, UnixMillis};

use crate::delay::book::{Book, State as Fate};
use crate::delay::entry::{DelaySubject, EntryState, Key};
use crate::delay::reader::DelayReader;
use crate::delay::run::DelayRun;
use crate::delay::run::walk::Entries;
use crate::delay::table::Table;
use crate::error::Error;

/// What is counted.
#[derive(Clone, Copy)]
struct Wanted {
    /// Of all subjects if there is none.
    subject: Option<DelaySubject>,
    from: Key,
    until: Key,
}

impl Wanted {
    fn takes(&self, book: &Book, subject: DelaySubject, sequence: u64) -> bool {
        self.subject.is_none_or(|wanted| wanted == subject) && is_not_done(book.state(sequence))
    }

    fn in_table(&self, book: &Book, table: &Table) -> u64 {
        let within = table.from(Bound::Included(self.from));
        let within = within.take_while(|row| row.key < self.until);
        let taken = within.filter(|row| self.takes(book, row.spot.subject, row.key.sequence));
        taken.count() as u64
    }
}

/// Whether a message waits or is being sent.
pub(crate) fn is_not_done(state: Fate) -> bool {
    matches!(
        state,
        Fate::Is(EntryState::Pending | EntryState::Dispatching)
    )
}

impl DelayReader {
    /// How many messages are not done, of one subject or of all, due in `due`. Reads the index of
    /// that range where it must look at each of them: for one subject, and where some are done.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn count(&self, subject: Option<&Subject>, due: Range<UnixMillis>) -> Result<u64, Error> {
        let subject = match subject.map(|name| self.subject(name)) {
            // Nothing of it was ever stored.
            Some(None) => return Ok(0),
            known => known.flatten(),
        };
        let wanted = Wanted {
            subject,
            from: Key::first_at(due.start),
            until: Key::first_at(due.end),
        };
        // Together, so that no message is seen in two places.
        let (mut count, frozen, runs) = {
            let state = self.shared.read();
            let count = wanted.in_table(&state.book, &state.table);
            (count, state.frozen.clone(), state.runs.clone())
        };
        for table in frozen {
            count += wanted.in_table(&self.shared.read().book, &table);
        }
        for (run, _) in runs.iter() {
            count += self.count_run(run, wanted)?;
        }
        Ok(count)
    }

    fn count_run(&self, run: &Arc<DelayRun>, wanted: Wanted) -> Result<u64, Error> {
        if *run.due().end() < wanted.from.due || *run.due().start() >= wanted.until.due {
            return Ok(0);
        }
        let cache = &self.shared.cache;
        let first = run.rank(wanted.from, cache)?;
        let is_whole = self.shared.read().book.holds_all(run.sequences());
        if wanted.subject.is_none() && is_whole {
            return Ok(run.rank(wanted.until, cache)?.saturating_sub(first));
        }
        let mut count = 0;
        let mut entries = Entries::new(run, first);
        while let Some(entry) = entries.next_readable()?.filter(|at| at.key < wanted.until) {
            let book = &self.shared.read().book;
            count += u64::from(wanted.takes(book, entry.subject, entry.key.sequence));
        }
        Ok(count)
    }
}
