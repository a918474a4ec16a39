//! Table `client_meta_info`: every client that was ever online.

use super::{Db, DbResult};

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
}
