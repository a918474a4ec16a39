//! Table `client_offline_state`: consumers that an operator switched off.

use sqlx::Row;

use super::{Db, DbResult};

/// One switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfflineRow {
    /// A client id, or `*`.
    pub client_id: String,
    /// A real subject, or `*`.
    pub subject: String,
    /// A consumer group, or `*`.
    pub consumer_group: String,
    /// Whether such clients shall not consume.
    pub offline: bool,
}

impl Db {
    /// All switches.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn offline_states(&self) -> DbResult<Vec<OfflineRow>> {
        let query = self.query(
            "SELECT client_id, subject_info, consumer_group, CAST(state AS SIGNED) \
             FROM client_offline_state",
        );
        let rows = self.scan(query).await?;
        let rows = rows.iter().map(|row| {
            Ok(OfflineRow {
                client_id: row.try_get(0)?,
                subject: row.try_get(1)?,
                consumer_group: row.try_get(2)?,
                offline: row.try_get::<i64, _>(3)? != 0,
            })
        });
        Ok(rows.collect::<sqlx::Result<_>>()?)
    }
}
