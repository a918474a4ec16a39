//! Table `broker`: one row per broker process, written by AddBroker.

use std::net::Ipv4Addr;

use qmq_model::BrokerRole;
use sqlx::any::{AnyArguments, AnyRow};
use sqlx::query::Query;
use sqlx::{Any, AnyConnection, Connection, Row};
use tracing::warn;

use super::{Db, DbResult, STATEMENT_TIMEOUT, within};

/// Longest name of a group, in characters: the width of the column on MySQL.
pub const GROUP_MAX: usize = 30;
/// Longest host name, in characters: the width of the column on MySQL.
pub const HOSTNAME_MAX: usize = 50;

/// One broker process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerRow {
    /// Its group.
    pub group: String,
    /// What it is within the group.
    pub role: BrokerRole,
    /// Host name it is looked up by.
    pub hostname: String,
    /// Address clients use.
    pub ip: Ipv4Addr,
    /// Port clients use.
    pub serve_port: i32,
    /// Port slaves use; -1 for backups.
    pub sync_port: i32,
}

impl BrokerRow {
    /// Where clients reach it.
    #[must_use]
    pub fn serve_address(&self) -> String {
        format!("{}:{}", self.ip, self.serve_port)
    }

    /// Where slaves reach it.
    #[must_use]
    pub fn sync_address(&self) -> String {
        format!("{}:{}", self.ip, self.sync_port)
    }

    fn read(row: &AnyRow) -> sqlx::Result<Option<Self>> {
        let group: String = row.try_get(0)?;
        let role: i64 = row.try_get(1)?;
        let ip: i64 = row.try_get(3)?;
        let role = i32::try_from(role).ok().and_then(BrokerRole::from_code);
        let ip = u32::try_from(ip).ok().map(Ipv4Addr::from_bits);
        let (Some(role), Some(ip)) = (role, ip) else {
            warn!(
                group,
                "a row of table broker has an unknown role or address: skipped"
            );
            return Ok(None);
        };
        let port = |index| {
            row.try_get::<i64, _>(index)
                .map(|n| i32::try_from(n).unwrap_or(-1))
        };
        let (serve_port, sync_port) = (port(4)?, port(5)?);
        let hostname = row.try_get(2)?;
        Ok(Some(Self {
            group,
            role,
            hostname,
            ip,
            serve_port,
            sync_port,
        }))
    }
}

impl Db {
    /// The broker with this host name and serve port.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn broker_at(&self, hostname: &str, port: i32) -> DbResult<Option<BrokerRow>> {
        let query = self.query(
            "SELECT group_name, CAST(role AS SIGNED), hostname, CAST(ip AS SIGNED), \
             CAST(serve_port AS SIGNED), CAST(sync_port AS SIGNED) FROM broker \
             WHERE hostname = ? AND serve_port = ?",
        );
        let query = query.bind(hostname.to_owned()).bind(port);
        let row = self.fetch_optional(query).await?;
        Ok(row.as_ref().map(BrokerRow::read).transpose()?.flatten())
    }

    /// The brokers of a group in the order they were added.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn brokers_of(&self, group: &str) -> DbResult<Vec<BrokerRow>> {
        let query = self.query(
            "SELECT group_name, CAST(role AS SIGNED), hostname, CAST(ip AS SIGNED), \
             CAST(serve_port AS SIGNED), CAST(sync_port AS SIGNED) FROM broker \
             WHERE group_name = ? ORDER BY id",
        );
        let rows = self.fetch_all(query.bind(group.to_owned())).await?;
        read_all(&rows)
    }

    /// All brokers in the order they were added.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn brokers(&self) -> DbResult<Vec<BrokerRow>> {
        let query = self.query(
            "SELECT group_name, CAST(role AS SIGNED), hostname, CAST(ip AS SIGNED), \
             CAST(serve_port AS SIGNED), CAST(sync_port AS SIGNED) FROM broker ORDER BY id",
        );
        read_all(&self.scan(query).await?)
    }

    /// Adds a broker; `false` when its role in the group, or its host name and port, are taken.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn add_broker(&self, broker: &BrokerRow) -> DbResult<bool> {
        let query = self.query(
            "INSERT INTO broker (group_name, hostname, ip, role, serve_port, sync_port, \
             create_time, update_time) VALUES (?, ?, ?, ?, ?, ?, {now}, {now})",
        );
        let query = query
            .bind(broker.group.clone())
            .bind(broker.hostname.clone())
            .bind(i64::from(broker.ip.to_bits()))
            .bind(broker.role.code())
            .bind(broker.serve_port)
            .bind(broker.sync_port);
        self.insert(query).await
    }

    /// Puts `new` in the place of `old` if that still stands as it was read; `false` when it has
    /// changed. Group and role stay.
    ///
    /// # Errors
    /// When another broker has the new host name and port, or the database fails.
    pub async fn replace_broker(&self, old: &BrokerRow, new: &BrokerRow) -> DbResult<bool> {
        Ok(self.execute(self.replacement(old, new)).await? > 0)
    }

    /// Exchanges hosts and ports of two brokers of a group, at once for everybody; `false`, and
    /// nothing done, when one of them has changed since it was read.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn swap_brokers(&self, one: &BrokerRow, other: &BrokerRow) -> DbResult<bool> {
        // No two brokers may have one place, not even in between: one is parked where none can be.
        let parked = BrokerRow {
            hostname: one.group.clone(),
            serve_port: -1,
            ..one.clone()
        };
        let steps = [
            self.replacement(one, &parked),
            self.replacement(other, one),
            self.replacement(&parked, other),
        ];
        let work = async {
            let _turn = self.writers.acquire().await;
            let mut lease = self.lease().await?;
            let done = all_or_none(lease.connection(), self.dialect.begin, steps).await;
            lease.settle(done)
        };
        within(STATEMENT_TIMEOUT, work).await
    }

    /// The place of `to` for the broker that `from` describes.
    fn replacement(&self, from: &BrokerRow, to: &BrokerRow) -> Query<'static, Any, AnyArguments> {
        let query = self.query(
            "UPDATE broker SET hostname = ?, ip = ?, serve_port = ?, sync_port = ?, \
             update_time = {now} WHERE group_name = ? AND role = ? AND hostname = ? \
             AND serve_port = ?",
        );
        query
            .bind(to.hostname.clone())
            .bind(i64::from(to.ip.to_bits()))
            .bind(to.serve_port)
            .bind(to.sync_port)
            .bind(from.group.clone())
            .bind(from.role.code())
            .bind(from.hostname.clone())
            .bind(from.serve_port)
    }
}

/// Runs statements in one transaction; `false`, and nothing done, when one of them matches no row.
async fn all_or_none(
    connection: &mut AnyConnection,
    begin: &'static str,
    steps: impl IntoIterator<Item = Query<'static, Any, AnyArguments>>,
) -> sqlx::Result<bool> {
    let mut transaction = connection.begin_with(begin).await?;
    for step in steps {
        if step.execute(&mut *transaction).await?.rows_affected() == 0 {
            transaction.rollback().await?;
            return Ok(false);
        }
    }
    transaction.commit().await?;
    Ok(true)
}

fn read_all(rows: &[AnyRow]) -> DbResult<Vec<BrokerRow>> {
    let rows = rows
        .iter()
        .filter_map(|row| BrokerRow::read(row).transpose());
    Ok(rows.collect::<sqlx::Result<_>>()?)
}
