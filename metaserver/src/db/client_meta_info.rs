//! Table `client_meta_info`: the clients that came online.

use sqlx::Row;

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

    /// The ids of the rows of these clients, those that have one. A few hundred at most.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn client_ids(&self, clients: &[&ClientRow]) -> DbResult<Vec<i64>> {
        if clients.is_empty() {
            return Ok(Vec::new());
        }
        let client =
            "(subject_info = ? AND client_type = ? AND consumer_group = ? AND client_id = ?)";
        let select = "SELECT CAST(id AS SIGNED) FROM client_meta_info WHERE ";
        let mut query = self.query_on_each(select, client, " OR ", clients.len());
        for client in clients {
            query = query
                .bind(client.subject.clone())
                .bind(i32::from(client.client_type))
                .bind(client.consumer_group.clone())
                .bind(client.client_id.clone());
        }
        let rows = self.fetch_all(query).await?;
        let ids = rows.iter().map(|row| row.try_get(0));
        Ok(ids.collect::<sqlx::Result<_>>()?)
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
