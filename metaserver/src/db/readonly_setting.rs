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
}
