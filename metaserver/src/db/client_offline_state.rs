//! Table `client_offline_state`: consumers that an operator switched off.

use sqlx::any::AnyArguments;
use sqlx::query::Query;
use sqlx::{Any, Row};

use super::{Db, DbError, DbResult};
use crate::routing::ANY;

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

/// Whom a switch is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch<'a> {
    /// A client id, or [`ANY`].
    pub client_id: &'a str,
    /// A real subject, or [`ANY`].
    pub subject: &'a str,
    /// A consumer group, or [`ANY`].
    pub consumer_group: &'a str,
}

impl Switch<'_> {
    fn bind_to(
        self,
        query: Query<'static, Any, AnyArguments>,
    ) -> Query<'static, Any, AnyArguments> {
        query
            .bind(self.client_id.to_owned())
            .bind(self.subject.to_owned())
            .bind(self.consumer_group.to_owned())
    }
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

    /// The state of exactly this switch; none when there is no such switch.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn offline_state(&self, switch: &Switch<'_>) -> DbResult<Option<bool>> {
        let query = self.query(
            "SELECT CAST(state AS SIGNED) FROM client_offline_state \
             WHERE client_id = ? AND subject_info = ? AND consumer_group = ?",
        );
        let row = self.fetch_optional(switch.bind_to(query)).await?;
        let state = row.map(|row| row.try_get::<i64, _>(0)).transpose();
        Ok(state.map_err(DbError::Failed)?.map(|state| state != 0))
    }

    /// Switches off.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn switch_off(&self, switch: &Switch<'_>) -> DbResult<()> {
        if self.set_off(switch).await? {
            return Ok(());
        }
        let query = self.query(
            "INSERT INTO client_offline_state (client_id, subject_info, consumer_group, state) \
             VALUES (?, ?, ?, 1)",
        );
        if !self.insert(switch.bind_to(query)).await? {
            self.set_off(switch).await?;
        }
        Ok(())
    }

    async fn set_off(&self, switch: &Switch<'_>) -> DbResult<bool> {
        let query = self.query(
            "UPDATE client_offline_state SET state = 1 \
             WHERE client_id = ? AND subject_info = ? AND consumer_group = ?",
        );
        Ok(self.execute(switch.bind_to(query)).await? > 0)
    }

    /// Takes switches away: this one or, for [`ANY`] client, all of the group, those of single
    /// clients included.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn switch_on(&self, switch: &Switch<'_>) -> DbResult<()> {
        if switch.client_id == ANY {
            let query = self.query(
                "DELETE FROM client_offline_state WHERE subject_info = ? AND consumer_group = ?",
            );
            let query = query.bind(switch.subject.to_owned());
            let query = query.bind(switch.consumer_group.to_owned());
            return self.execute(query).await.map(drop);
        }
        let query = self.query(
            "DELETE FROM client_offline_state \
             WHERE client_id = ? AND subject_info = ? AND consumer_group = ?",
        );
        self.execute(switch.bind_to(query)).await.map(drop)
    }
}
