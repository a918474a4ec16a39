//! Table `broker_group`: what clients are told about a group.

use qmq_model::BrokerState;
use sqlx::Row;
use sqlx::any::AnyRow;
use tracing::warn;

use super::{Db, DbResult};

/// What a group is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GroupKind {
    /// Realtime messages.
    Normal,
    /// Delayed messages.
    Delay,
}

impl GroupKind {
    const fn from_code(code: i64) -> Option<Self> {
        Some(match code {
            1 => Self::Normal,
            2 => Self::Delay,
            _ => return None,
        })
    }

    const fn code(self) -> i32 {
        match self {
            Self::Normal => 1,
            Self::Delay => 2,
        }
    }
}

/// A group that has been online.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRow {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub kind: GroupKind,
    /// `ip:port` clients use.
    pub master: String,
    /// What clients may do with it.
    pub state: BrokerState,
    /// Subjects with the same tag are assigned to it.
    pub tag: String,
    /// When the row changed last, ms.
    pub updated_ms: i64,
}

impl GroupRow {
    /// `None`, with a warning, for a row that a human or a later version wrote.
    fn read(row: &AnyRow) -> sqlx::Result<Option<Self>> {
        let name: String = row.try_get(0)?;
        let kind = GroupKind::from_code(row.try_get(1)?);
        let state: i64 = row.try_get(3)?;
        let state = i32::try_from(state).ok().and_then(BrokerState::from_code);
        let (Some(kind), Some(state)) = (kind, state) else {
            warn!(
                group = name,
                "a row of table broker_group has an unknown kind or state: skipped"
            );
            return Ok(None);
        };
        let (master, tag, updated_ms) = (row.try_get(2)?, row.try_get(4)?, row.try_get(5)?);
        Ok(Some(Self {
            name,
            kind,
            master,
            state,
            tag,
            updated_ms,
        }))
    }
}

impl Db {
    /// Up to `rows_max` groups behind the row with this id, by id. A row that cannot be read counts
    /// and has no group.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn groups_behind_row(
        &self,
        id: i64,
        rows_max: usize,
    ) -> DbResult<Vec<(i64, Option<GroupRow>)>> {
        let query = self.query(
            "SELECT group_name, CAST(kind AS SIGNED), master_address, \
             CAST(broker_state AS SIGNED), tag, {ms:update_time}, CAST(id AS SIGNED) \
             FROM broker_group WHERE id > ? ORDER BY id LIMIT ?",
        );
        let rows_max = i64::try_from(rows_max).unwrap_or(i64::MAX);
        let rows = self.scan(query.bind(id).bind(rows_max)).await?;
        let rows = rows
            .iter()
            .map(|row| Ok((row.try_get(6)?, GroupRow::read(row)?)));
        Ok(rows.collect::<sqlx::Result<_>>()?)
    }

    /// The groups written at `since_ms` or later, by the clock of the database.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn groups_changed_since(&self, since_ms: i64) -> DbResult<Vec<GroupRow>> {
        let query = self.query(
            "SELECT group_name, CAST(kind AS SIGNED), master_address, \
             CAST(broker_state AS SIGNED), tag, {ms:update_time} FROM broker_group \
             WHERE update_time >= {time_of_ms}",
        );
        let rows = self.scan(query.bind(since_ms.max(0))).await?;
        let rows = rows
            .iter()
            .filter_map(|row| GroupRow::read(row).transpose());
        Ok(rows.collect::<sqlx::Result<_>>()?)
    }

    /// The first `limit` groups whose names come after `after`, by name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn groups_after(&self, after: &str, limit: i64) -> DbResult<Vec<GroupRow>> {
        let query = self.query(
            "SELECT group_name, CAST(kind AS SIGNED), master_address, \
             CAST(broker_state AS SIGNED), tag, {ms:update_time} FROM broker_group \
             WHERE group_name > ? ORDER BY group_name LIMIT ?",
        );
        let query = query.bind(after.to_owned()).bind(limit);
        let rows = self.scan(query).await?;
        let rows = rows
            .iter()
            .filter_map(|row| GroupRow::read(row).transpose());
        Ok(rows.collect::<sqlx::Result<_>>()?)
    }

    /// One group.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn group(&self, name: &str) -> DbResult<Option<GroupRow>> {
        let query = self.query(
            "SELECT group_name, CAST(kind AS SIGNED), master_address, \
             CAST(broker_state AS SIGNED), tag, {ms:update_time} FROM broker_group \
             WHERE group_name = ?",
        );
        let row = self.fetch_optional(query.bind(name.to_owned())).await?;
        Ok(row.as_ref().map(GroupRow::read).transpose()?.flatten())
    }

    /// Sets address and state of a group, which is created if need be. Its kind never changes.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn put_group(
        &self,
        name: &str,
        kind: GroupKind,
        master: &str,
        state: BrokerState,
    ) -> DbResult<()> {
        if self.update_group(name, master, state).await? {
            return Ok(());
        }
        let query = self.query(
            "INSERT INTO broker_group (group_name, kind, master_address, broker_state, tag, \
             create_time, update_time) VALUES (?, ?, ?, ?, '', {now}, {now})",
        );
        let query = query
            .bind(name.to_owned())
            .bind(kind.code())
            .bind(master.to_owned())
            .bind(i32::from(state.code()));
        if !self.insert(query).await? {
            // Another metaserver created it in between.
            self.update_group(name, master, state).await?;
        }
        Ok(())
    }

    async fn update_group(&self, name: &str, master: &str, state: BrokerState) -> DbResult<bool> {
        let query = self.query(
            "UPDATE broker_group SET master_address = ?, broker_state = ?, update_time = {now} \
             WHERE group_name = ?",
        );
        let query = query
            .bind(master.to_owned())
            .bind(i32::from(state.code()))
            .bind(name.to_owned());
        Ok(self.execute(query).await? > 0)
    }

    /// Marks a group as away if a metaserver of ours once heard it and none has for `silence_ms`;
    /// `true` when this call did it. One statement, so that a heartbeat in between is not overruled. A database that hung
    /// does not do it after `until_ms` by its clock: while it hung it heard nobody.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn mark_silent_group_away(
        &self,
        name: &str,
        silence_ms: i64,
        until_ms: i64,
    ) -> DbResult<bool> {
        let query = self.query(
            "UPDATE broker_group SET broker_state = 4, update_time = {now} \
             WHERE group_name = ? AND broker_state <> 4 AND {now_ms} < ? AND EXISTS (\
             SELECT 1 FROM qmq_broker_liveness l WHERE l.group_name = broker_group.group_name \
             AND l.last_seen_ms >= 0 AND l.last_seen_ms <= {now_ms} - ?)",
        );
        let query = query.bind(name.to_owned()).bind(until_ms).bind(silence_ms);
        Ok(self.execute(query).await? > 0)
    }
}
