//! The tables that are followed: routes, tags, groups that were removed, and broker groups.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::db::broker_group::GroupRow;
use crate::db::{Db, DbResult};
use crate::routing::Route;

use super::follow::{Follow, Stretch};
use super::subject_table::SubjectTable;

/// A million routes are passed in two minutes.
impl Follow for SubjectTable<Route> {
    type Row = (String, Route);
    type Place = i64;

    const STRETCHES_MAX: usize = 40;

    fn begin_query(&self) -> u64 {
        self.next_query()
    }

    async fn changed_since(db: &Db, since_ms: i64) -> DbResult<Vec<Self::Row>> {
        db.routes_changed_since(since_ms).await
    }

    async fn behind(db: &Db, id: i64, rows_max: usize) -> DbResult<Stretch<Self::Row, i64>> {
        Ok(by_id(db.routes_behind_row(id, rows_max).await?, rows_max))
    }

    fn take(&self, (subject, route): Self::Row, query: u64) {
        self.put(&subject, route, query);
    }

    async fn sweep(&self, since: u64) {
        self.forget_before(since).await;
    }
}

/// Tags of subjects. A million are passed in four minutes.
impl Follow for SubjectTable<Box<str>> {
    type Row = (String, Box<str>);
    type Place = i64;

    const STRETCHES_MAX: usize = 20;

    fn begin_query(&self) -> u64 {
        self.next_query()
    }

    async fn changed_since(db: &Db, since_ms: i64) -> DbResult<Vec<Self::Row>> {
        db.tags_changed_since(since_ms).await
    }

    async fn behind(db: &Db, id: i64, rows_max: usize) -> DbResult<Stretch<Self::Row, i64>> {
        Ok(by_id(db.tags_behind_row(id, rows_max).await?, rows_max))
    }

    fn take(&self, (subject, tag): Self::Row, query: u64) {
        self.put(&subject, tag, query);
    }

    async fn sweep(&self, since: u64) {
        self.forget_before(since).await;
    }
}

/// Groups that an operator took from subjects. They only spare a look into the database, which is
/// asked before a group is added to a route: that others changed them may be seen late.
impl Follow for SubjectTable<HashSet<String>> {
    type Row = (String, HashSet<String>);
    type Place = String;

    const STRETCHES_MAX: usize = 10;

    fn begin_query(&self) -> u64 {
        self.next_query()
    }

    async fn changed_since(_: &Db, _: i64) -> DbResult<Vec<Self::Row>> {
        Ok(Vec::new())
    }

    async fn behind(
        db: &Db,
        subject: String,
        rows_max: usize,
    ) -> DbResult<Stretch<Self::Row, String>> {
        let rows = db.removed_groups_after(&subject, rows_max).await?;
        let is_last = rows.len() < rows_max;
        let mut subjects: Vec<Self::Row> = Vec::new();
        for (subject, group) in rows {
            match subjects.last_mut() {
                Some((last, groups)) if *last == subject => drop(groups.insert(group)),
                _ => subjects.push((subject, HashSet::from([group]))),
            }
        }
        if is_last {
            let rows = subjects;
            return Ok(Stretch { rows, next: None });
        }
        // The last subject may go on behind the limit. It comes again, unless it is all there is.
        if subjects.len() > 1 {
            subjects.pop();
        }
        let next = subjects.last().map(|(subject, _)| subject.clone());
        let rows = subjects;
        Ok(Stretch { rows, next })
    }

    fn take(&self, (subject, groups): Self::Row, query: u64) {
        self.put(&subject, groups, query);
    }

    async fn sweep(&self, since: u64) {
        self.forget_before(since).await;
    }
}

/// Broker groups by name. What is handed out stays as it is; with a change, a new copy is made.
#[derive(Debug, Default)]
pub(super) struct GroupTable(Mutex<Groups>);

#[derive(Debug, Default)]
struct Groups {
    rows: Arc<BTreeMap<String, GroupRow>>,
    /// Number of the query that saw a group last.
    seen: HashMap<String, u64>,
    queries: u64,
}

impl GroupTable {
    /// All groups as they are known now.
    pub(super) fn rows(&self) -> Arc<BTreeMap<String, GroupRow>> {
        Arc::clone(&self.lock().rows)
    }

    fn lock(&self) -> MutexGuard<'_, Groups> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ten thousand groups are passed in ten regular refreshes.
impl Follow for GroupTable {
    type Row = GroupRow;
    type Place = i64;

    const STRETCHES_MAX: usize = 1;

    fn begin_query(&self) -> u64 {
        let mut groups = self.lock();
        groups.queries += 1;
        groups.queries
    }

    async fn changed_since(db: &Db, since_ms: i64) -> DbResult<Vec<GroupRow>> {
        db.groups_changed_since(since_ms).await
    }

    async fn behind(db: &Db, id: i64, rows_max: usize) -> DbResult<Stretch<GroupRow, i64>> {
        Ok(by_id(db.groups_behind_row(id, rows_max).await?, rows_max))
    }

    fn take(&self, row: GroupRow, query: u64) {
        let mut groups = self.lock();
        groups.seen.insert(row.name.clone(), query);
        if groups.rows.get(&row.name) != Some(&row) {
            Arc::make_mut(&mut groups.rows).insert(row.name.clone(), row);
        }
    }

    async fn sweep(&self, since: u64) {
        let mut groups = self.lock();
        let Groups { rows, seen, .. } = &mut *groups;
        let count = seen.len();
        seen.retain(|_, query| *query >= since);
        if seen.len() < count {
            Arc::make_mut(rows).retain(|name, _| seen.contains_key(name));
        }
    }
}

/// Rows as read by id, those that cannot be understood included.
fn by_id<R>(rows: Vec<(i64, Option<R>)>, rows_max: usize) -> Stretch<R, i64> {
    let is_last = rows.len() < rows_max;
    let next = rows.last().map(|(id, _)| *id).filter(|_| !is_last);
    let rows = rows.into_iter().filter_map(|(_, row)| row).collect();
    Stretch { rows, next }
}
