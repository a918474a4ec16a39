//! Table `qmq_broker_liveness`: when any metaserver last heard the master of a group.

use std::collections::HashSet;

use sqlx::any::AnyArguments;
use sqlx::query::Query;
use sqlx::{Any, Row};

use super::{Db, DbResult};

type Bound = Query<'static, Any, AnyArguments>;

impl Db {
    /// Notes that a group was heard now, by the clock of the database.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn note_heard(&self, group: &str) -> DbResult<()> {
        if self.touch(group).await? {
            return Ok(());
        }
        let query = self.query(
            "INSERT INTO qmq_broker_liveness (group_name, last_seen_ms) VALUES (?, {now_ms})",
        );
        if !self.insert(query.bind(group.to_owned())).await? {
            self.touch(group).await?;
        }
        Ok(())
    }

    /// Notes the same of several groups, a few hundred at most.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn note_all_heard(&self, groups: &[&str]) -> DbResult<()> {
        let update = "UPDATE qmq_broker_liveness SET last_seen_ms = {now_ms} WHERE group_name";
        let query = self.query_in(update, groups.len());
        let bind = |query: Bound, group: &&str| query.bind((*group).to_owned());
        let touched = self.execute(groups.iter().fold(query, bind)).await?;
        // One that was never heard has no row yet.
        if usize::try_from(touched) != Ok(groups.len()) {
            for group in groups {
                self.note_heard(group).await?;
            }
        }
        Ok(())
    }

    /// The groups that some metaserver heard within the last `silence_ms`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn groups_heard_within(&self, silence_ms: i64) -> DbResult<HashSet<String>> {
        let query = self
            .query("SELECT group_name FROM qmq_broker_liveness WHERE last_seen_ms > {now_ms} - ?");
        let rows = self.scan(query.bind(silence_ms)).await?;
        let names = rows.iter().map(|row| row.try_get(0));
        Ok(names.collect::<sqlx::Result<_>>()?)
    }

    async fn touch(&self, group: &str) -> DbResult<bool> {
        let query = self
            .query("UPDATE qmq_broker_liveness SET last_seen_ms = {now_ms} WHERE group_name = ?");
        Ok(self.execute(query.bind(group.to_owned())).await? > 0)
    }
}
