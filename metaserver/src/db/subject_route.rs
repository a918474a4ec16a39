//! Table `subject_route`: which groups serve a subject, changed by compare-and-set.

use sqlx::Row;
use sqlx::any::AnyRow;
use tracing::warn;

use super::{Db, DbError, DbResult};
use crate::routing::Route;

fn read(row: &AnyRow) -> sqlx::Result<Option<(String, Route)>> {
    let subject: String = row.try_get(0)?;
    let json: String = row.try_get(1)?;
    match serde_json::from_str(&json) {
        Ok(groups) => Ok(Some((
            subject,
            Route {
                groups,
                version: row.try_get(2)?,
            },
        ))),
        Err(error) => {
            // Old databases hold lists that were cut off at 300 characters.
            warn!(subject, %error, "a row of table subject_route holds no list of groups: skipped");
            Ok(None)
        }
    }
}

impl Db {
    /// All routes.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn routes(&self) -> DbResult<Vec<(String, Route)>> {
        let query = self.query(
            "SELECT subject_info, broker_group_json, CAST(version AS SIGNED) FROM subject_route",
        );
        let rows = self.scan(query).await?;
        let rows = rows.iter().filter_map(|row| read(row).transpose());
        Ok(rows.collect::<sqlx::Result<_>>()?)
    }

    /// The route of one subject. A row that cannot be read counts as an empty route of its version.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn route(&self, subject: &str) -> DbResult<Option<Route>> {
        let query = self.query(
            "SELECT subject_info, broker_group_json, CAST(version AS SIGNED) FROM subject_route \
             WHERE subject_info = ?",
        );
        let row = self.fetch_optional(query.bind(subject.to_owned())).await?;
        let Some(row) = row else { return Ok(None) };
        match read(&row)? {
            Some((_, route)) => Ok(Some(route)),
            None => Ok(Some(Route {
                groups: Vec::new(),
                version: row.try_get(2)?,
            })),
        }
    }

    /// Creates a route with version 1; `false` when there is one already.
    ///
    /// # Errors
    /// When the database fails, or the list is too long for its column.
    pub async fn insert_route(&self, subject: &str, groups: &[String]) -> DbResult<bool> {
        let query = self.query(
            "INSERT INTO subject_route (subject_info, broker_group_json, version, create_time, \
             update_time) VALUES (?, ?, 1, {now}, {now})",
        );
        let json = self.json(groups)?;
        self.insert(query.bind(subject.to_owned()).bind(json)).await
    }

    /// Replaces a route if it still has `version`; `false` when it has not.
    ///
    /// # Errors
    /// When the database fails, or the list is too long for its column.
    pub async fn update_route(
        &self,
        subject: &str,
        groups: &[String],
        version: i64,
    ) -> DbResult<bool> {
        let query = self.query(
            "UPDATE subject_route SET broker_group_json = ?, version = version + 1, \
             update_time = {now} WHERE subject_info = ? AND version = ?",
        );
        let query = query
            .bind(self.json(groups)?)
            .bind(subject.to_owned())
            .bind(version);
        Ok(self.execute(query).await? > 0)
    }

    fn json(&self, groups: &[String]) -> DbResult<String> {
        let json = serde_json::to_string(groups).expect("a list of strings is always JSON");
        let max = self.widths().route_json;
        if json.chars().count() > max {
            let column = "the list of groups";
            return Err(DbError::TooLong { column, max });
        }
        Ok(json)
    }
}
