//! Table `subject_info`: the tags of subjects.

use sqlx::Row;
use sqlx::any::AnyRow;

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

fn read_tag(row: &AnyRow) -> sqlx::Result<(String, Box<str>)> {
    let tag: String = row.try_get(1)?;
    Ok((row.try_get(0)?, tag.into()))
}

impl Db {
    /// Up to `rows_max` subjects with their tags behind the row with this id, by id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn tags_behind_row(
        &self,
        id: i64,
        rows_max: usize,
    ) -> DbResult<Vec<(i64, Option<(String, Box<str>)>)>> {
        let query = self.query(
            "SELECT name, tag, CAST(id AS SIGNED) FROM subject_info WHERE id > ? \
             ORDER BY id LIMIT ?",
        );
        let rows_max = i64::try_from(rows_max).unwrap_or(i64::MAX);
        let rows = self.scan(query.bind(id).bind(rows_max)).await?;
        let rows = rows
            .iter()
            .map(|row| Ok((row.try_get(2)?, Some(read_tag(row)?))));
        Ok(rows.collect::<sqlx::Result<_>>()?)
    }

    /// Subjects with their tags that were written at `since_ms` or later, by the clock of the
    /// database.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn tags_changed_since(&self, since_ms: i64) -> DbResult<Vec<(String, Box<str>)>> {
        let query =
            self.query("SELECT name, tag FROM subject_info WHERE update_time >= {time_of_ms}");
        let rows = self.scan(query.bind(since_ms.max(0))).await?;
        Ok(rows.iter().map(read_tag).collect::<sqlx::Result<_>>()?)
    }

    /// One subject.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn subject(&self, name: &str) -> DbResult<Option<SubjectRow>> {
        let query =
            self.query("SELECT name, tag, {ms:update_time} FROM subject_info WHERE name = ?");
        let row = self.fetch_optional(query.bind(name.to_owned())).await?;
        let read = |row: &AnyRow| {
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
