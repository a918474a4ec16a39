//! Table `client_meta_info`: the clients that came online, and when they were last heard of.

use sqlx::any::AnyArguments;
use sqlx::query::Query;
use sqlx::{Any, AssertSqlSafe, Row};

use super::{Db, DbResult};

/// Longest room, in characters: the width of the column on MySQL.
pub const ROOM_MAX: usize = 20;

/// A client of a subject.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientRow {
    /// As the client named it: may be a retry or dead-letter subject.
    pub subject: String,
    /// As the client sent it, low byte.
    pub client_type: i8,
    /// Empty for producers.
    pub consumer_group: String,
    /// Unique per process.
    pub client_id: String,
    /// Name of the application.
    pub app_code: String,
    /// Logical data centre.
    pub room: String,
}

impl Db {
    /// Adds a client; `false` when it is known already.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn add_client(&self, client: &ClientRow) -> DbResult<bool> {
        let query = self.query(
            "INSERT INTO client_meta_info (subject_info, client_type, consumer_group, client_id, \
             app_code, room, create_time, update_time) VALUES (?, ?, ?, ?, ?, ?, {now}, {now})",
        );
        let query = query
            .bind(client.subject.clone())
            .bind(i32::from(client.client_type))
            .bind(client.consumer_group.clone())
            .bind(client.client_id.clone())
            .bind(client.app_code.clone())
            .bind(client.room.clone());
        self.insert(query).await
    }

    /// Notes that these clients are alive, those that have a row. One statement: a few hundred at
    /// most.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn touch_clients(&self, clients: &[&ClientRow]) -> DbResult<()> {
        if clients.is_empty() {
            return Ok(());
        }
        let client =
            "subject_info = ? AND client_type = ? AND consumer_group = ? AND client_id = ?";
        let update = "UPDATE client_meta_info SET update_time = {now} WHERE";
        let mut query = self.query_on_each(update, client, clients.len());
        for client in clients {
            query = query
                .bind(client.subject.clone())
                .bind(i32::from(client.client_type))
                .bind(client.consumer_group.clone())
                .bind(client.client_id.clone());
        }
        self.execute(query).await.map(drop)
    }

    /// Deletes up to `rows_max` clients, a few hundred at most, that were not heard of since
    /// `since_ms` by the clock of the database, from those behind the row with this id. Returns the
    /// id of the last; none when there are no more.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn drop_silent_clients(
        &self,
        since_ms: i64,
        id: i64,
        rows_max: usize,
    ) -> DbResult<Option<i64>> {
        let query = self.query(
            "SELECT CAST(id AS SIGNED) FROM client_meta_info \
             WHERE update_time < {time_of_ms} AND id > ? ORDER BY id LIMIT ?",
        );
        let rows_max = i64::try_from(rows_max).unwrap_or(i64::MAX);
        let rows = self.scan(query.bind(since_ms).bind(id).bind(rows_max));
        let ids = rows.await?;
        let ids = ids.iter().map(|row| row.try_get(0));
        let ids = ids.collect::<sqlx::Result<Vec<i64>>>()?;
        let Some(&last) = ids.last() else {
            return Ok(None);
        };
        // One that was touched in between stays.
        let delete = "DELETE FROM client_meta_info WHERE update_time < {time_of_ms} AND";
        let query = self.query_on_each(delete, "id = ?", ids.len());
        let query = ids.into_iter().fold(query.bind(since_ms), Query::bind);
        self.execute(query).await?;
        Ok(Some(last))
    }

    /// A query with a condition for each of several rows.
    fn query_on_each(
        &self,
        text: &'static str,
        condition: &'static str,
        rows: usize,
    ) -> Query<'static, Any, AnyArguments> {
        let conditions = vec![condition; rows].join(" OR ");
        let text = self.dialect.expand(text);
        sqlx::query(AssertSqlSafe(format!("{text} ({conditions})")))
    }

    /// The consumers of exactly this subject, by group and client id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn consumers_of(&self, subject: &str) -> DbResult<Vec<ClientRow>> {
        let query = self.query(
            "SELECT subject_info, CAST(client_type AS SIGNED), consumer_group, client_id, \
             app_code, room FROM client_meta_info WHERE subject_info = ? AND client_type = 2 \
             ORDER BY consumer_group, client_id",
        );
        let rows = self.scan(query.bind(subject.to_owned())).await?;
        let rows = rows.iter().map(|row| {
            Ok(ClientRow {
                subject: row.try_get(0)?,
                client_type: i8::try_from(row.try_get::<i64, _>(1)?).unwrap_or_default(),
                consumer_group: row.try_get(2)?,
                client_id: row.try_get(3)?,
                app_code: row.try_get(4)?,
                room: row.try_get(5)?,
            })
        });
        Ok(rows.collect::<sqlx::Result<_>>()?)
    }
}
