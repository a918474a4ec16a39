//! Numbered changes of the schema, applied once each, in order, at start.

use std::time::Duration;

use sqlx::{AnyConnection, AnyPool, Connection, Executor, Row};

use super::dialect::Dialect;
use super::{DbError, DbResult};

/// Longest wait for all migrations: a big table may be rewritten, a second metaserver may be at it.
const MIGRATION_TIMEOUT: Duration = Duration::from_secs(300);

/// One file of `sql/`.
#[derive(Debug)]
pub(super) struct Migration {
    pub(super) number: i64,
    pub(super) name: &'static str,
    pub(super) text: &'static str,
}

/// Brings the schema up to date. Safe to run from two metaservers at once.
pub(super) async fn run(pool: &AnyPool, dialect: &Dialect) -> DbResult<()> {
    match tokio::time::timeout(MIGRATION_TIMEOUT, apply(pool, dialect)).await {
        Ok(result) => result,
        Err(_) => Err(DbError::Timeout),
    }
}

async fn apply(pool: &AnyPool, dialect: &Dialect) -> DbResult<()> {
    // Closed at the end, whatever happens: that undoes what is half done and lets others in.
    let mut connection = pool.acquire().await?.detach();
    let result = apply_locked(&mut connection, dialect).await;
    connection.close().await?;
    result
}

async fn apply_locked(connection: &mut AnyConnection, dialect: &Dialect) -> DbResult<()> {
    if let Some(row) = connection.fetch_optional(dialect.lock).await?
        && row.try_get::<Option<i64>, _>(0)? != Some(1)
    {
        return Err(DbError::Timeout);
    }
    let create = "CREATE TABLE IF NOT EXISTS qmq_schema (\
                  version BIGINT NOT NULL PRIMARY KEY, name VARCHAR(100) NOT NULL)";
    connection.execute(create).await?;
    let newest = connection
        .fetch_one("SELECT COALESCE(MAX(version), 0) FROM qmq_schema")
        .await?;
    let found: i64 = newest.try_get(0)?;
    let known = dialect
        .migrations
        .last()
        .map_or(0, |migration| migration.number);
    if found > known {
        return Err(DbError::NewerSchema { found, known });
    }
    for migration in dialect
        .migrations
        .iter()
        .filter(|migration| migration.number > found)
    {
        connection.execute(sqlx::raw_sql(migration.text)).await?;
        let note = sqlx::query("INSERT INTO qmq_schema (version, name) VALUES (?, ?)");
        connection
            .execute(note.bind(migration.number).bind(migration.name))
            .await?;
        tracing::info!(
            number = migration.number,
            name = migration.name,
            "migration applied"
        );
    }
    connection.execute(dialect.unlock).await?;
    Ok(())
}
