//! Keeps what is in memory like a table of the database: each refresh reads the rows that changed
//! and goes on with a slow pass over all of them, which also sees what was deleted. A table that
//! one statement reads is read anew each time.
//!
//! A change is found by `update_time`, which the Java metaserver, and MySQL itself, keep as ours
//! does. What changes without it (by hand, on SQLite) is seen by the pass.

use std::future::Future;

use tokio::sync::Mutex;

use crate::db::{Db, DbResult};

/// Rows read by one statement of the pass over all of them.
const STRETCH_ROWS: usize = 1_000;
/// How far back a look for changes goes beyond the last one: a statement is seen later than the
/// time it writes down, and that time may be a whole second.
const CHANGE_OVERLAP_MS: i64 = 10_000;

/// How far a refresh goes on with the pass over all rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effort {
    /// To its end: nothing is known yet.
    Whole,
    /// As far as is due every few seconds.
    Regular,
    /// One statement: somebody waits.
    Least,
}

/// Rows of a pass over a table.
#[derive(Debug)]
pub(super) struct Stretch<R, P> {
    /// Those that can be understood.
    pub(super) rows: Vec<R>,
    /// Behind which place the next one begins; none at the end of the table.
    pub(super) next: Option<P>,
}

/// A table in memory.
pub(super) trait Follow: Sync {
    /// One of its rows.
    type Row: Send;
    /// A place between rows; the default is before the first.
    type Place: Clone + Default + PartialEq + Send;

    /// Statements of the pass within a regular refresh.
    const STRETCHES_MAX: usize;

    /// The number of a query that begins now: one more than that of the last.
    fn begin_query(&self) -> u64;

    /// Reads the rows written at `since_ms` or later, by the clock of the database.
    fn changed_since(
        db: &Db,
        since_ms: i64,
    ) -> impl Future<Output = DbResult<Vec<Self::Row>>> + Send;

    /// Reads up to `rows_max` rows behind `place`.
    fn behind(
        db: &Db,
        place: Self::Place,
        rows_max: usize,
    ) -> impl Future<Output = DbResult<Stretch<Self::Row, Self::Place>>> + Send;

    /// Takes over a row that query number `query` read.
    fn take(&self, row: Self::Row, query: u64);

    /// Forgets what no query from `since` on has seen.
    fn sweep(&self, since: u64) -> impl Future<Output = ()> + Send;
}

/// How far reading a table has come.
#[derive(Debug, Default)]
struct Progress<P> {
    /// Clock of the database at the last refresh, ms.
    refreshed_ms: i64,
    /// Number of the query with which the pass over all rows began.
    pass: u64,
    /// Where the pass goes on.
    place: P,
    /// The last pass took more than one statement.
    is_long: bool,
}

/// A table in memory, and how far reading it has come.
#[derive(Debug, Default)]
pub(super) struct Followed<T: Follow> {
    table: T,
    progress: Mutex<Progress<T::Place>>,
}

impl<T: Follow> Followed<T> {
    /// What is in memory.
    pub(super) const fn table(&self) -> &T {
        &self.table
    }

    /// Reads the rows that changed, and a few stretches of all of them.
    ///
    /// # Errors
    /// When the database fails. What was read until then is kept.
    pub(super) async fn refresh(&self, db: &Db, clock_ms: i64, effort: Effort) -> DbResult<()> {
        let mut progress = self.progress.lock().await;
        if progress.is_long || progress.place != T::Place::default() {
            let since_ms = progress.refreshed_ms.min(clock_ms) - CHANGE_OVERLAP_MS;
            let query = self.table.begin_query();
            for row in T::changed_since(db, since_ms).await? {
                self.table.take(row, query);
            }
        }
        progress.refreshed_ms = clock_ms;
        let stretches_max = match effort {
            Effort::Whole => usize::MAX,
            Effort::Regular => T::STRETCHES_MAX,
            Effort::Least => 1,
        };
        for _ in 0..stretches_max {
            if self.pass_stretch(db, &mut progress).await? {
                break;
            }
        }
        Ok(())
    }

    /// Reads the next stretch of all rows; `true` when it was the last of a pass.
    async fn pass_stretch(&self, db: &Db, progress: &mut Progress<T::Place>) -> DbResult<bool> {
        let query = self.table.begin_query();
        let is_first = progress.place == T::Place::default();
        if is_first {
            progress.pass = query;
        }
        let stretch = T::behind(db, progress.place.clone(), STRETCH_ROWS).await?;
        for row in stretch.rows {
            self.table.take(row, query);
        }
        let is_last = stretch.next.is_none();
        progress.place = stretch.next.unwrap_or_default();
        if is_last {
            self.table.sweep(progress.pass).await;
            progress.is_long = !is_first;
        }
        Ok(is_last)
    }
}
