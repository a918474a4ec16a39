//! Table `subject_info`: the tags of subjects.

use sqlx::Row;

use super::{Db, DbError, DbResult};

/// Longest tag, in characters: the width of the column on MySQL.
pub const TAG_MAX: usize = 30;

/// A subject that an operator added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectRow {
    /// Its name.
    pub name: String,
    /// Groups with the same tag serve it.
    pub tag: String,
    /// When the row changed last, ms.
    pub updated_ms: i64,
}

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

    /// One subject.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn subject(&self, name: &str) -> DbResult<Option<SubjectRow>> {
        let query =
            self.query("SELECT name, tag, {ms:update_time} FROM subject_info WHERE name = ?");
        let row = self.fetch_optional(query.bind(name.to_owned())).await?;
        let read = |row: &sqlx::any::AnyRow| {
            Ok(SubjectRow {
                name: row.try_get(0)?,
                tag: row.try_get(1)?,
                updated_ms: row.try_get(2)?,
            })
        };
        row.as_ref().map(read).transpose().map_err(DbError::Failed)
    }

    /// Adds a subject; `false` when it is there already.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn add_subject(&self, name: &str, tag: &str) -> DbResult<bool> {
        let query = self.query(
            "INSERT INTO subject_info (name, tag, create_time, update_time) \
             VALUES (?, ?, {now}, {now})",
        );
        self.insert(query.bind(name.to_owned()).bind(tag.to_owned()))
            .await
    }
}
