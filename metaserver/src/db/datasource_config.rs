//! Table `datasource_config`: databases of applications, for the watchdog that sends what they left.

use sqlx::Row;
use sqlx::any::AnyRow;

use super::{Db, DbResult};

/// Longest URL, in characters: the width of the column on MySQL.
pub const URL_MAX: usize = 128;
/// Longest user name and password, in characters: the width of their columns on MySQL.
pub const CREDENTIAL_MAX: usize = 100;

/// A database of an application.
#[derive(Clone, PartialEq, Eq)]
pub struct DatasourceRow {
    /// `type://host:port`.
    pub url: String,
    /// Who the watchdog is there.
    pub user_name: String,
    /// In clear, because the watchdog reads it.
    pub password: String,
    /// 0 when the watchdog shall look there, -1 when not.
    pub status: i64,
    /// Which watchdogs look there.
    pub room: String,
}

// By hand, so that no log shows a password.
impl std::fmt::Debug for DatasourceRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DatasourceRow")
            .field("url", &self.url)
            .field("user_name", &self.user_name)
            .field("status", &self.status)
            .field("room", &self.room)
            .finish_non_exhaustive()
    }
}

fn read(row: &AnyRow) -> sqlx::Result<DatasourceRow> {
    Ok(DatasourceRow {
        url: row.try_get(0)?,
        user_name: row.try_get(1)?,
        password: row.try_get(2)?,
        status: row.try_get(3)?,
        room: row.try_get(4)?,
    })
}

impl Db {
    /// The first `limit` databases whose URLs come after `after`, by URL.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn datasources_after(&self, after: &str, limit: i64) -> DbResult<Vec<DatasourceRow>> {
        let query = self.query(
            "SELECT url, user_name, password, CAST(status AS SIGNED), room \
             FROM datasource_config WHERE url > ? ORDER BY url LIMIT ?",
        );
        let rows = self.scan(query.bind(after.to_owned()).bind(limit)).await?;
        Ok(rows.iter().map(read).collect::<sqlx::Result<_>>()?)
    }

    /// One database.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn datasource(&self, url: &str) -> DbResult<Option<DatasourceRow>> {
        let query = self.query(
            "SELECT url, user_name, password, CAST(status AS SIGNED), room \
             FROM datasource_config WHERE url = ?",
        );
        let row = self.fetch_optional(query.bind(url.to_owned())).await?;
        Ok(row.as_ref().map(read).transpose()?)
    }

    /// Adds a database, switched on; `false` when its URL is there already.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn add_datasource(&self, row: &DatasourceRow) -> DbResult<bool> {
        let query = self.query(
            "INSERT INTO datasource_config (url, user_name, password, status, room, create_time, \
             update_time) VALUES (?, ?, ?, 0, ?, {now}, {now})",
        );
        let query = query
            .bind(row.url.clone())
            .bind(row.user_name.clone())
            .bind(row.password.clone())
            .bind(row.room.clone());
        self.insert(query).await
    }

    /// Changes user, password and room of a database; `false` when there is none with its URL.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn update_datasource(&self, row: &DatasourceRow) -> DbResult<bool> {
        let query = self.query(
            "UPDATE datasource_config SET user_name = ?, password = ?, room = ?, \
             update_time = {now} WHERE url = ?",
        );
        let query = query
            .bind(row.user_name.clone())
            .bind(row.password.clone())
            .bind(row.room.clone())
            .bind(row.url.clone());
        Ok(self.execute(query).await? > 0)
    }
}
