//! The metadata database: the pool, its deadlines and its errors. One file per table holds the
//! table's rows and queries.
//!
//! Queries are the same for every kind of database; the little that differs (the clock, how times
//! are kept) stands in `dialect.rs` and is written `{now}` or `{ms:column}` in a query.

mod breaker;
pub mod broker;
pub mod broker_group;
pub mod broker_liveness;
pub mod client_meta_info;
pub mod client_offline_state;
pub mod datasource_config;
mod dialect;
pub mod heard_client;
mod lease;
mod migration;
pub mod readonly_setting;
pub mod removed_group;
pub mod subject_info;
pub mod subject_route;
mod url;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use sqlx::any::{AnyArguments, AnyPoolOptions, AnyRow};
use sqlx::query::Query;
use sqlx::{Any, AnyConnection, AnyPool, AssertSqlSafe, Connection, Row};
use tokio::sync::Semaphore;

pub use url::{DatabaseUrl, DatabaseUrlError};

use breaker::Breaker;
use dialect::Dialect;
use lease::Lease;

/// Longest wait for one statement, turn and connection included. Brokers wait 2 s for an answer.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Longest wait for reading a whole table, or a long stretch of one.
const SCAN_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for the first connection of all.
const FIRST_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for a connection of the pool.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why the database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// A row with one of these keys is there already.
    #[error("a row with the same key exists")]
    Duplicate,
    /// Longer than its column is wide. Nothing is cut.
    #[error("{column} is longer than its column, which holds {max} characters")]
    TooLong {
        /// What it is.
        column: &'static str,
        /// Characters that fit.
        max: usize,
    },
    /// No answer in time.
    #[error("the database did not answer in time")]
    Timeout,
    /// It did not answer a moment ago, and nobody waits for it again so soon.
    #[error("the database is away")]
    Away,
    /// Anything else.
    #[error("database: {0}")]
    Failed(sqlx::Error),
    /// The database was written by a later version.
    #[error("the database has schema version {found}, this program knows versions up to {known}")]
    NewerSchema {
        /// Version in the database.
        found: i64,
        /// Latest version this program knows.
        known: i64,
    },
}

impl From<sqlx::Error> for DbError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(database) if database.is_unique_violation() => Self::Duplicate,
            sqlx::Error::PoolTimedOut => Self::Timeout,
            _ => Self::Failed(error),
        }
    }
}

/// What a query returns.
pub type DbResult<T> = Result<T, DbError>;

/// A handle on the database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Db {
    pool: AnyPool,
    dialect: &'static Dialect,
    /// Turns of statements that write.
    writers: Arc<Semaphore>,
    breaker: Arc<Breaker>,
    widths: Widths,
}

/// How much the columns hold that are narrower in old databases than what may have to go in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Widths {
    /// Names of the groups of a route, as JSON. Unit: characters.
    pub route_json: usize,
    /// Name of a group in a readonly mark. Unit: characters.
    pub readonly_group: usize,
}

impl Widths {
    /// Where columns have no width. Ten thousand groups, and the longest name of one.
    const FREE: Self = Self {
        route_json: 330_000,
        readonly_group: broker::GROUP_MAX,
    };

    async fn read(pool: &AnyPool, dialect: &Dialect) -> DbResult<Self> {
        let mut widths = Self::FREE;
        let Some(query) = dialect.widths else {
            return Ok(widths);
        };
        let rows = async { Ok(sqlx::query(query).fetch_all(pool).await?) };
        for row in within(STATEMENT_TIMEOUT, rows).await? {
            let (column, width): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
            let width = usize::try_from(width).unwrap_or(0);
            match column.as_str() {
                "broker_group_json" => widths.route_json = width.min(Self::FREE.route_json),
                _ => widths.readonly_group = width.min(Self::FREE.readonly_group),
            }
        }
        Ok(widths)
    }
}

impl Db {
    /// Opens the database, creates what is missing and applies migrations.
    ///
    /// # Errors
    /// When it cannot be opened, or was written by a later version.
    pub async fn open(url: &DatabaseUrl, connections_max: u32) -> DbResult<Self> {
        sqlx::any::install_default_drivers();
        let dialect = url.dialect();
        // A pool only says that it waited in vain; a single connection says what is wrong.
        let first = async {
            let first = AnyConnection::connect(&url.connect_url()).await?;
            Ok(first.close().await?)
        };
        within(FIRST_CONNECT_TIMEOUT, first).await?;
        let options = AnyPoolOptions::new()
            .max_connections(connections_max)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .after_connect(move |connection, _| Box::pin(dialect.prepare(connection)));
        let pool = options.connect(&url.connect_url()).await?;
        migration::run(&pool, dialect).await?;
        let widths = Widths::read(&pool, dialect).await?;
        Ok(Self {
            pool,
            dialect,
            writers: Arc::new(Semaphore::new(dialect.writers_max)),
            breaker: Arc::default(),
            widths,
        })
    }

    /// Closes every connection; later queries fail.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// What the narrow columns hold.
    #[must_use]
    pub const fn widths(&self) -> Widths {
        self.widths
    }

    /// The clock all metaservers share, ms.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn now_ms(&self) -> DbResult<i64> {
        let row = self.fetch_optional(self.query("SELECT {now_ms}")).await?;
        let row = row.ok_or(DbError::Failed(sqlx::Error::RowNotFound))?;
        Ok(row.try_get(0)?)
    }

    /// A query whose text holds `{now}`, `{now_ms}`, `{time_of_ms}` or `{ms:column}` where dialects
    /// differ.
    fn query(&self, text: &'static str) -> Query<'static, Any, AnyArguments> {
        sqlx::query(AssertSqlSafe(self.dialect.expand(text)))
    }

    /// A query that ends with something for each of several rows.
    fn query_on_each(
        &self,
        text: &'static str,
        each: &'static str,
        separator: &'static str,
        rows: usize,
    ) -> Query<'static, Any, AnyArguments> {
        let text = self.dialect.expand(text);
        let all = vec![self.dialect.expand(each); rows].join(separator);
        sqlx::query(AssertSqlSafe(text + &all))
    }

    /// A query that ends with `IN` and the values of a column in several rows.
    fn query_in(&self, text: &'static str, values: usize) -> Query<'static, Any, AnyArguments> {
        let places = vec!["?"; values].join(", ");
        let text = self.dialect.expand(text);
        sqlx::query(AssertSqlSafe(format!("{text} IN ({places})")))
    }

    /// Whether the last statement was answered, be it with an error.
    #[must_use]
    pub fn answers(&self) -> bool {
        self.breaker.is_closed()
    }

    async fn lease(&self) -> DbResult<Lease<'_>> {
        Lease::take(&self.pool, &self.breaker).await
    }

    /// Reads a row.
    async fn fetch_optional(
        &self,
        query: Query<'static, Any, AnyArguments>,
    ) -> DbResult<Option<AnyRow>> {
        let row = async {
            let mut lease = self.lease().await?;
            let row = query.fetch_optional(lease.connection()).await;
            lease.settle(row)
        };
        within(STATEMENT_TIMEOUT, row).await
    }

    /// Reads a few rows.
    async fn fetch_all(&self, query: Query<'static, Any, AnyArguments>) -> DbResult<Vec<AnyRow>> {
        within(STATEMENT_TIMEOUT, self.rows(query)).await
    }

    /// Reads a whole table, or a long stretch of one.
    async fn scan(&self, query: Query<'static, Any, AnyArguments>) -> DbResult<Vec<AnyRow>> {
        within(SCAN_TIMEOUT, self.rows(query)).await
    }

    async fn rows(&self, query: Query<'static, Any, AnyArguments>) -> DbResult<Vec<AnyRow>> {
        let mut lease = self.lease().await?;
        let rows = query.fetch_all(lease.connection()).await;
        lease.settle(rows)
    }

    /// Runs a statement that writes, when it is its turn; returns the number of rows it matched.
    async fn execute(&self, query: Query<'static, Any, AnyArguments>) -> DbResult<u64> {
        let result = async {
            let _turn = self.writers.acquire().await;
            let mut lease = self.lease().await?;
            let result = query.execute(lease.connection()).await;
            lease.settle(result)
        };
        Ok(within(STATEMENT_TIMEOUT, result).await?.rows_affected())
    }

    /// Inserts a row; `false` when a row with the same key exists.
    async fn insert(&self, query: Query<'static, Any, AnyArguments>) -> DbResult<bool> {
        match self.execute(query).await {
            Ok(_) => Ok(true),
            Err(DbError::Duplicate) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = DbResult<T>>) -> DbResult<T> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(DbError::Timeout),
    }
}

#[cfg(test)]
mod tests {
    use qmq_daemon::admin::Readiness;
    use qmq_daemon::metrics::Metrics;
    use qmq_model::BrokerState;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::metrics::Counters;
    use crate::snapshot::{Alarm, Snapshots};

    /// A clock that stands in a table.
    static SET_BY_HAND: Dialect = dialect::with_clock("(SELECT ms FROM clock)");

    async fn set_clock(db: &Db, ms: i64) {
        let query = sqlx::query("UPDATE clock SET ms = ?").bind(ms);
        query.execute(&db.pool).await.unwrap();
    }

    /// The on/off table carries this time, and clients ignore an older one: after a step back no
    /// switch would have any effect.
    #[tokio::test]
    async fn the_time_of_a_snapshot_never_goes_back() {
        let folder = tempfile::tempdir().unwrap();
        let url = DatabaseUrl::of_file(&folder.path().join("meta.db"));
        let db = Db {
            dialect: &SET_BY_HAND,
            ..Db::open(&url, 2).await.unwrap()
        };
        for statement in [
            "CREATE TABLE clock (ms INTEGER)",
            "INSERT INTO clock VALUES (1000)",
        ] {
            sqlx::query(statement).execute(&db.pool).await.unwrap();
        }
        let snapshots = Arc::new(Snapshots::load(db.clone()).await.unwrap());
        assert_eq!(snapshots.current().time_ms, 1000);
        let stop = CancellationToken::new();
        let counters = Counters::new(&Metrics::default());
        let alarm = Alarm {
            errors: counters.refresh_errors,
            away: counters.database_away,
            readiness: Readiness::default(),
        };
        let (kept, stopped) = (Arc::clone(&snapshots), stop.clone());
        let keeper = tokio::spawn(async move {
            let period = Duration::from_secs(3600);
            kept.keep_fresh(period, alarm, stopped).await;
        });
        for (clock, expected) in [(900, 1000), (999, 1000), (1001, 1001), (0, 1001)] {
            set_clock(&db, clock).await;
            let before = snapshots.changes();
            snapshots.refresh_soon();
            let mut changes = before;
            changes.changed().await.unwrap();
            assert_eq!(snapshots.current().time_ms, expected, "clock at {clock}");
        }
        stop.cancel();
        keeper.await.unwrap();
    }

    /// A database that hung does late what it was told: by then nobody could say that it was heard.
    #[tokio::test]
    async fn a_group_is_not_marked_away_too_late() {
        let folder = tempfile::tempdir().unwrap();
        let url = DatabaseUrl::of_file(&folder.path().join("meta.db"));
        let db = Db::open(&url, 2).await.unwrap();
        let (kind, state) = (broker_group::GroupKind::Normal, BrokerState::ReadWrite);
        db.put_group("g1", kind, "10.0.0.1:1", state).await.unwrap();
        let now_ms = db.now_ms().await.unwrap();
        let (hour, later) = (3_600_000, now_ms + 3_600_000);
        let mark = |silence, until_ms| db.mark_silent_group_away("g1", silence, until_ms);
        assert!(!mark(-hour, later).await.unwrap(), "it was never heard");
        db.note_heard("g1").await.unwrap();
        assert!(!mark(hour, later).await.unwrap(), "it was heard");
        assert!(db.groups_silent_for(hour).await.unwrap().is_empty());
        let silent = db.groups_silent_for(-hour).await.unwrap();
        assert!(silent.contains("g1") && silent.len() == 1);
        assert!(!mark(-hour, now_ms).await.unwrap(), "too late");
        assert!(mark(-hour, later).await.unwrap(), "silent for so long");
        db.note_gone("g1", hour).await.unwrap();
        assert_eq!(db.groups_silent_for(-hour).await.unwrap().len(), 1);
        db.note_gone("g1", -hour).await.unwrap();
        assert!(db.groups_silent_for(-hour).await.unwrap().is_empty());
        db.close().await;
    }

    /// A statement that never ends.
    #[tokio::test]
    async fn a_statement_has_a_deadline() {
        let limit = Duration::from_millis(1);
        let never = std::future::pending::<DbResult<()>>();
        assert!(matches!(within(limit, never).await, Err(DbError::Timeout)));
    }
}
