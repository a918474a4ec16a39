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

/// A route as it stands in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteRow {
    /// The subject.
    pub subject: String,
    /// Its route.
    pub route: Route,
    /// When the row changed last, ms.
    pub updated_ms: i64,
}

impl RouteRow {
    fn read(row: &AnyRow) -> sqlx::Result<Option<Self>> {
        let Some((subject, route)) = read(row)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            subject,
            route,
            updated_ms: row.try_get(3)?,
        }))
    }
}

/// Some routes of the table, in the order of their subjects.
#[derive(Clone, Debug)]
pub struct RoutePage {
    /// Those that can be read.
    pub rows: Vec<RouteRow>,
    /// The last subject that was looked at, to go on behind it; none at the end of the table.
    pub next: Option<String>,
}

impl Db {
    /// Up to `rows_max` routes behind the row with this id, by id. A row that cannot be read counts
    /// and has no route.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn routes_behind_row(
        &self,
        id: i64,
        rows_max: usize,
    ) -> DbResult<Vec<(i64, Option<(String, Route)>)>> {
        let query = self.query(
            "SELECT subject_info, broker_group_json, CAST(version AS SIGNED), \
             CAST(id AS SIGNED) FROM subject_route WHERE id > ? ORDER BY id LIMIT ?",
        );
        let rows_max = i64::try_from(rows_max).unwrap_or(i64::MAX);
        let rows = self.scan(query.bind(id).bind(rows_max)).await?;
        let rows = rows.iter().map(|row| Ok((row.try_get(3)?, read(row)?)));
        Ok(rows.collect::<sqlx::Result<_>>()?)
    }

    /// The routes written at `since_ms` or later, by the clock of the database.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn routes_changed_since(&self, since_ms: i64) -> DbResult<Vec<(String, Route)>> {
        let query = self.query(
            "SELECT subject_info, broker_group_json, CAST(version AS SIGNED) FROM subject_route \
             WHERE update_time >= {time_of_ms}",
        );
        let rows = self.scan(query.bind(since_ms.max(0))).await?;
        let rows = rows.iter().filter_map(|row| read(row).transpose());
        Ok(rows.collect::<sqlx::Result<_>>()?)
    }

    /// The first `limit` routes whose subjects come after `after`, by subject.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn routes_after(&self, after: &str, limit: i64) -> DbResult<RoutePage> {
        let query = self.query(
            "SELECT subject_info, broker_group_json, CAST(version AS SIGNED), {ms:update_time} \
             FROM subject_route WHERE subject_info > ? ORDER BY subject_info LIMIT ?",
        );
        let rows = self.scan(query.bind(after.to_owned()).bind(limit)).await?;
        let is_full = i64::try_from(rows.len()).is_ok_and(|count| count >= limit);
        let last = rows.last().filter(|_| is_full);
        let next = last.map(|row| row.try_get(0)).transpose()?;
        let rows = rows
            .iter()
            .filter_map(|row| RouteRow::read(row).transpose());
        let rows = rows.collect::<sqlx::Result<_>>()?;
        Ok(RoutePage { rows, next })
    }

    /// The row of one subject; none as well when it cannot be read.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn route_row(&self, subject: &str) -> DbResult<Option<RouteRow>> {
        let query = self.query(
            "SELECT subject_info, broker_group_json, CAST(version AS SIGNED), {ms:update_time} \
             FROM subject_route WHERE subject_info = ?",
        );
        let row = self.fetch_optional(query.bind(subject.to_owned())).await?;
        Ok(row.as_ref().map(RouteRow::read).transpose()?.flatten())
    }

    /// The route of one subject. A row that cannot be read counts as an empty route of its version.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn route(&self, subject: &str) -> DbResult<Option<Route>> {
        let row = self.stored_route(subject).await?;
        Ok(row.map(|(_, route)| route))
    }

    /// The same, with the name in its row: a database that ignores case finds the row of a subject
    /// whose name is written in another way.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn stored_route(&self, subject: &str) -> DbResult<Option<(String, Route)>> {
        let query = self.query(
            "SELECT subject_info, broker_group_json, CAST(version AS SIGNED) FROM subject_route \
             WHERE subject_info = ?",
        );
        let row = self.fetch_optional(query.bind(subject.to_owned())).await?;
        let Some(row) = row else { return Ok(None) };
        match read(&row)? {
            Some(stored) => Ok(Some(stored)),
            None => {
                let (groups, version) = (Vec::new(), row.try_get(2)?);
                Ok(Some((row.try_get(0)?, Route { groups, version })))
            }
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
        let json = json(groups);
        let max = self.widths().route_json;
        if json.chars().count() > max {
            let column = "the list of groups";
            return Err(DbError::TooLong { column, max });
        }
        Ok(json)
    }
}

/// Whether a list of groups fits into a column of `max` characters.
#[must_use]
pub fn fits(groups: &[String], max: usize) -> bool {
    json(groups).chars().count() <= max
}

fn json(groups: &[String]) -> String {
    serde_json::to_string(groups).expect("a list of strings is always JSON")
}
