//! What differs between databases: the clock, how times are kept, how a connection is prepared.
//!
//! Another kind needs a [`Dialect`], its folder of migrations under `sql/`, and a branch in
//! `url.rs`; no query changes.

use sqlx::{AnyConnection, Executor};

use super::migration::Migration;

/// How to talk to one kind of database.
#[derive(Debug)]
pub(super) struct Dialect {
    /// The time now, ms since 1970, as a number.
    now_ms: &'static str,
    /// The time now as it is kept in `create_time` and `update_time`.
    now: &'static str,
    /// Makes ms of such a column: what stands before and after its name.
    column_ms: (&'static str, &'static str),
    /// Makes what is kept in such a column of a placeholder for ms.
    time_of_ms: &'static str,
    /// Run on each new connection.
    connection_setup: &'static str,
    /// Statements that may write at the same time; others wait in the order they came.
    pub(super) writers_max: usize,
    /// How a transaction begins that will write.
    pub(super) begin: &'static str,
    /// How a change of the schema begins: a second metaserver waits here. Whatever is open when the
    /// connection is closed is undone.
    pub(super) lock: &'static str,
    /// How it ends.
    pub(super) unlock: &'static str,
    /// The widths of two columns, as a query; `None` where columns have none.
    pub(super) widths: Option<&'static str>,
    /// In the order of their numbers.
    pub(super) migrations: &'static [Migration],
}

/// The embedded database. A committed change survives a power cut (`synchronous`), readers and the
/// one writer do not block each other (`WAL`), and a second metaserver on the same file waits its
/// turn (`busy_timeout`, below the statement's own deadline).
pub(super) static SQLITE: Dialect = Dialect {
    now_ms: "CAST(unixepoch('subsec') * 1000 AS INTEGER)",
    now: "CAST(unixepoch('subsec') * 1000 AS INTEGER)",
    column_ms: ("", ""),
    time_of_ms: "?",
    connection_setup: "PRAGMA busy_timeout = 1000; PRAGMA journal_mode = WAL; \
                       PRAGMA synchronous = FULL;",
    // It has one writer. Left to itself, it lets connections that wait try again now and then, in
    // no order: of a hundred new subjects some would be refused.
    writers_max: 1,
    begin: "BEGIN IMMEDIATE",
    lock: "BEGIN IMMEDIATE",
    unlock: "COMMIT",
    widths: None,
    migrations: &[
        Migration {
            number: 1,
            name: "tables",
            text: include_str!("../../../sql/sqlite/0001_tables.sql"),
        },
        Migration {
            number: 2,
            name: "removed groups",
            text: include_str!("../../../sql/sqlite/0002_removed_groups.sql"),
        },
        Migration {
            number: 3,
            name: "indexes",
            text: include_str!("../../../sql/sqlite/0003_indexes.sql"),
        },
        Migration {
            number: 4,
            name: "changes",
            text: include_str!("../../../sql/sqlite/0004_changes.sql"),
        },
        Migration {
            number: 5,
            name: "heard clients",
            text: include_str!("../../../sql/sqlite/0005_heard_clients.sql"),
        },
    ],
};

/// MySQL from 5.7 and MariaDB from 10.3. Statements see what was committed before them, a value
/// that does not fit its column is an error and not cut, and a row that somebody else holds is
/// waited for no longer than a statement may take. Times are kept as `TIMESTAMP`, whose seconds do
/// not depend on the time zone of a session.
pub(super) static MYSQL: Dialect = Dialect {
    now_ms: "CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)",
    now: "NOW()",
    time_of_ms: "FROM_UNIXTIME(FLOOR(? / 1000))",
    column_ms: ("CAST(COALESCE(UNIX_TIMESTAMP(", "), 0) * 1000 AS SIGNED)"),
    connection_setup: "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; \
                       SET SESSION sql_mode = 'STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION', \
                       time_zone = '+00:00', innodb_lock_wait_timeout = 1, lock_wait_timeout = 1",
    // As many as there are connections.
    writers_max: 1_000,
    begin: "BEGIN",
    // Statements on tables commit by themselves, so a transaction would not keep others out. The
    // name counts for the whole server, hence the database in it; 64 characters at most.
    lock: "SELECT CAST(GET_LOCK(CONCAT('qmq_schema.', MD5(DATABASE())), 240) AS SIGNED)",
    unlock: "DO RELEASE_LOCK(CONCAT('qmq_schema.', MD5(DATABASE())))",
    widths: Some(
        "SELECT column_name, CAST(character_maximum_length AS SIGNED) \
         FROM information_schema.columns WHERE table_schema = DATABASE() AND (\
         table_name = 'subject_route' AND column_name = 'broker_group_json' OR \
         table_name = 'readonly_broker_group_setting' AND column_name = 'broker_group')",
    ),
    migrations: &[
        Migration {
            number: 1,
            name: "tables",
            text: include_str!("../../../sql/mysql/0001_tables.sql"),
        },
        Migration {
            number: 2,
            name: "removed groups",
            text: include_str!("../../../sql/mysql/0002_removed_groups.sql"),
        },
        Migration {
            number: 3,
            name: "indexes",
            text: include_str!("../../../sql/mysql/0003_indexes.sql"),
        },
        Migration {
            number: 4,
            name: "changes",
            text: include_str!("../../../sql/mysql/0004_changes.sql"),
        },
        Migration {
            number: 5,
            name: "heard clients",
            text: include_str!("../../../sql/mysql/0005_heard_clients.sql"),
        },
    ],
};

/// SQLite with another clock.
#[cfg(test)]
pub(super) const fn with_clock(now_ms: &'static str) -> Dialect {
    Dialect {
        now_ms,
        now: now_ms,
        column_ms: SQLITE.column_ms,
        time_of_ms: SQLITE.time_of_ms,
        connection_setup: SQLITE.connection_setup,
        begin: SQLITE.begin,
        lock: SQLITE.lock,
        unlock: SQLITE.unlock,
        widths: SQLITE.widths,
        writers_max: SQLITE.writers_max,
        migrations: SQLITE.migrations,
    }
}

impl Dialect {
    pub(super) async fn prepare(&'static self, connection: &mut AnyConnection) -> sqlx::Result<()> {
        connection
            .execute(sqlx::raw_sql(self.connection_setup))
            .await
            .map(drop)
    }

    /// Fills in `{now}`, `{now_ms}`, `{time_of_ms}` and `{ms:column}`.
    pub(super) fn expand(&self, text: &str) -> String {
        let text = text
            .replace("{now}", self.now)
            .replace("{now_ms}", self.now_ms)
            .replace("{time_of_ms}", self.time_of_ms);
        let mut parts = text.split("{ms:");
        let mut out = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (column, rest) = part
                .split_once('}')
                .expect("the brace is closed in our queries");
            let (before, after) = self.column_ms;
            out.extend([before, column, after, rest]);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_in_what_differs() {
        let dialect = Dialect {
            now_ms: "N",
            now: "T",
            column_ms: ("f(", ")"),
            ..SQLITE
        };
        let text = "SELECT {ms:a}, {ms:b} WHERE x < {now_ms} AND y = {now}";
        assert_eq!(
            dialect.expand(text),
            "SELECT f(a), f(b) WHERE x < N AND y = T"
        );
    }
}
