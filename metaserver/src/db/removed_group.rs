//! Table `qmq_removed_group`, ours: groups that an operator took from the route of a subject.

use sqlx::Row;

use super::{Db, DbResult};

impl Db {
    /// The first `rows_max`, as subject and group, of the subjects after `subject`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn removed_groups_after(
        &self,
        subject: &str,
        rows_max: usize,
    ) -> DbResult<Vec<(String, String)>> {
        let query = self.query(
            "SELECT subject, group_name FROM qmq_removed_group WHERE subject > ? \
             ORDER BY subject, group_name LIMIT ?",
        );
        let rows_max = i64::try_from(rows_max).unwrap_or(i64::MAX);
        let rows = self.scan(query.bind(subject.to_owned()).bind(rows_max));
        let rows = rows.await?;
        let rows = rows
            .iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
        Ok(rows.collect::<sqlx::Result<_>>()?)
    }

    /// Those of one subject.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn groups_removed_from(&self, subject: &str) -> DbResult<Vec<String>> {
        let query = self.query("SELECT group_name FROM qmq_removed_group WHERE subject = ?");
        let rows = self.fetch_all(query.bind(subject.to_owned())).await?;
        let rows = rows.iter().map(|row| row.try_get(0));
        Ok(rows.collect::<sqlx::Result<_>>()?)
    }

    /// Notes that a group was removed. This comes before the route is written: who reads a route
    /// without the group and then the removed groups finds it here.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn note_removed(&self, subject: &str, group: &str) -> DbResult<()> {
        let query = self.query("INSERT INTO qmq_removed_group (subject, group_name) VALUES (?, ?)");
        let query = query.bind(subject.to_owned()).bind(group.to_owned());
        self.insert(query).await.map(drop)
    }

    /// Forgets that a group was removed.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn forget_removed(&self, subject: &str, group: &str) -> DbResult<()> {
        let query =
            self.query("DELETE FROM qmq_removed_group WHERE subject = ? AND group_name = ?");
        let query = query.bind(subject.to_owned()).bind(group.to_owned());
        self.execute(query).await.map(drop)
    }
}
