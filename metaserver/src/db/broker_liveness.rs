//! Table `qmq_broker_liveness`: when any metaserver of ours last heard the master of a group; -1 once
//! the group went away. A group without a row was never heard by ours, but maybe by a Java
//! metaserver on the same database, which leaves no trace of that.

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

    /// Notes that a group went away, unless it was heard within the last `silence_ms`. Until one of
    /// ours hears it again it is nobody's business here: somebody else may bring it back.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn note_gone(&self, group: &str, silence_ms: i64) -> DbResult<()> {
        let query = self.query(
            "UPDATE qmq_broker_liveness SET last_seen_ms = -1 \
             WHERE group_name = ? AND last_seen_ms <= {now_ms} - ?",
        );
        let query = query.bind(group.to_owned()).bind(silence_ms);
        self.execute(query).await.map(drop)
    }

    /// The groups that some metaserver of ours heard, that did not go away since, and that none has
    /// heard within the last `silence_ms`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn groups_silent_for(&self, silence_ms: i64) -> DbResult<HashSet<String>> {
        let query = self.query(
            "SELECT group_name FROM qmq_broker_liveness \
             WHERE last_seen_ms >= 0 AND last_seen_ms <= {now_ms} - ?",
        );
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
