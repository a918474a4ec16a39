//! Table `readonly_broker_group_setting`: groups that producers shall not use.

use sqlx::Row;

use super::{Db, DbResult};
impl Db {
    /// All marks: a subject or `*`, and a group.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn readonly_marks(&self) -> DbResult<Vec<(String, String)>> {
        let query = self.query("SELECT subject, broker_group FROM readonly_broker_group_setting");
        let rows = self.scan(query).await?;
        let rows = rows
            .iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
        Ok(rows.collect::<sqlx::Result<_>>()?)
    }

    /// Marks a group; `false` when it is marked already.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn mark_readonly(&self, subject: &str, group: &str) -> DbResult<bool> {
        let query = self.query(
            "INSERT INTO readonly_broker_group_setting (subject, broker_group, create_time) \
             VALUES (?, ?, {now})",
        );
        self.insert(query.bind(subject.to_owned()).bind(group.to_owned()))
            .await
    }

    /// Takes exactly this mark away; `false` when there is none.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn unmark_readonly(&self, subject: &str, group: &str) -> DbResult<bool> {
        let query = self.query(
            "DELETE FROM readonly_broker_group_setting WHERE subject = ? AND broker_group = ?",
        );
        let query = query.bind(subject.to_owned()).bind(group.to_owned());
        Ok(self.execute(query).await? > 0)
    }
}
