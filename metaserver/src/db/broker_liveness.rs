//! Table `qmq_broker_liveness`: when any metaserver last heard the master of a group.

use super::{Db, DbResult};

impl Db {
    /// Notes that a group was heard now, by the clock of the database.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn note_heard(&self, group: &str) -> DbResult<()> {
        if self.touch(group).await? {
            return Ok(());
        }
        let query = self.query(
            "INSERT INTO qmq_broker_liveness (group_name, last_seen_ms) VALUES (?, {now_ms})",
        );
        if !self.insert(query.bind(group.to_owned())).await? {
            self.touch(group).await?;
        }
        Ok(())
    }

    async fn touch(&self, group: &str) -> DbResult<bool> {
        let query = self
            .query("UPDATE qmq_broker_liveness SET last_seen_ms = {now_ms} WHERE group_name = ?");
        Ok(self.execute(query.bind(group.to_owned())).await? > 0)
    }
}
