//! Table `qmq_heard_client`, ours: clients that one of our metaservers heard, and when it last did.
//!
//! Only these are ever dropped from table `client_meta_info`. The Java metaserver does not note that
//! its clients are alive, so of a client that ours never heard nobody can say that it died.

use std::collections::HashSet;

use sqlx::Row;

use super::{Db, DbResult};

/// Stands for the metaservers: while one runs, silence of clients means something.
const OURSELVES: i64 = 0;

impl Db {
    /// Notes that the clients in these rows of `client_meta_info` are alive, a few hundred at most.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn note_clients_heard(&self, ids: &[i64]) -> DbResult<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let update = "UPDATE qmq_heard_client SET last_seen_ms = {now_ms} WHERE id";
        let query = self.query_in(update, ids.len());
        let query = ids.iter().fold(query, |query, id| query.bind(*id));
        if usize::try_from(self.execute(query).await?) == Ok(ids.len()) {
            return Ok(());
        }
        let select = "SELECT CAST(id AS SIGNED) FROM qmq_heard_client WHERE id";
        let query = self.query_in(select, ids.len());
        let query = ids.iter().fold(query, |query, id| query.bind(*id));
        let rows = self.fetch_all(query).await?;
        let known = rows.iter().map(|row| row.try_get(0));
        let known = known.collect::<sqlx::Result<HashSet<i64>>>()?;
        let new: Vec<i64> = ids
            .iter()
            .copied()
            .filter(|id| !known.contains(id))
            .collect();
        if self.insert_heard(&new).await? {
            return Ok(());
        }
        // Another metaserver noted one of them in between.
        for id in new {
            self.insert_heard(&[id]).await?;
        }
        Ok(())
    }

    /// Inserts all of them; none, and `false`, when one is there.
    async fn insert_heard(&self, ids: &[i64]) -> DbResult<bool> {
        if ids.is_empty() {
            return Ok(true);
        }
        let insert = "INSERT INTO qmq_heard_client (id, last_seen_ms) VALUES ";
        let query = self.query_on_each(insert, "(?, {now_ms})", ", ", ids.len());
        let query = ids.iter().fold(query, |query, id| query.bind(*id));
        self.insert(query).await
    }

    /// Notes that a metaserver runs.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn note_metaserver_heard(&self) -> DbResult<()> {
        self.note_clients_heard(&[OURSELVES]).await
    }

    /// When a client or a metaserver was last heard, ms by the clock of the database; none when that
    /// never was.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn last_heard_ms(&self) -> DbResult<Option<i64>> {
        let query = self.query("SELECT MAX(last_seen_ms) FROM qmq_heard_client");
        let row = self.fetch_optional(query).await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?.flatten())
    }

    /// Up to `rows_max` clients, by id, that were heard, but not since `since_ms`, from those behind
    /// the row with this id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn silent_clients(
        &self,
        since_ms: i64,
        id: i64,
        rows_max: usize,
    ) -> DbResult<Vec<i64>> {
        let query = self.query(
            "SELECT CAST(id AS SIGNED) FROM qmq_heard_client \
             WHERE last_seen_ms < ? AND id > ? ORDER BY id LIMIT ?",
        );
        let rows_max = i64::try_from(rows_max).unwrap_or(i64::MAX);
        let query = query.bind(since_ms).bind(id.max(OURSELVES)).bind(rows_max);
        let rows = self.scan(query).await?;
        let ids = rows.iter().map(|row| row.try_get(0));
        Ok(ids.collect::<sqlx::Result<_>>()?)
    }

    /// Deletes these clients, a few hundred at most. One that was heard since `since_ms` stays.
    ///
    /// # Errors
    /// When the database fails. What was deleted by half goes the next time.
    pub async fn drop_silent_clients(&self, since_ms: i64, ids: &[i64]) -> DbResult<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let delete = "DELETE FROM client_meta_info WHERE NOT EXISTS (\
                      SELECT 1 FROM qmq_heard_client heard \
                      WHERE heard.id = client_meta_info.id AND heard.last_seen_ms >= ?) AND id";
        let query = self.query_in(delete, ids.len()).bind(since_ms);
        let query = ids.iter().fold(query, |query, id| query.bind(*id));
        self.execute(query).await?;
        self.forget_heard_clients(since_ms, ids).await
    }

    /// Forgets that these clients, a few hundred at most, were heard, unless they were since
    /// `since_ms`. Their rows in
    /// `client_meta_info` stay for good, until they are heard again.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn forget_heard_clients(&self, since_ms: i64, ids: &[i64]) -> DbResult<()> {
        let delete = "DELETE FROM qmq_heard_client WHERE last_seen_ms < ? AND id";
        let query = self.query_in(delete, ids.len()).bind(since_ms);
        let query = ids.iter().fold(query, |query, id| query.bind(*id));
        self.execute(query).await.map(drop)
    }
}
