//! Table `subject_info`: the tags of subjects.

use sqlx::Row;

use super::{Db, DbResult};

impl Db {
    /// All subjects that have a row, with their tags.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn subject_tags(&self) -> DbResult<Vec<(String, String)>> {
        let query = self.query("SELECT name, tag FROM subject_info");
        let rows = self.scan(query).await?;
        let rows = rows
            .iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
        Ok(rows.collect::<sqlx::Result<_>>()?)
    }
}
