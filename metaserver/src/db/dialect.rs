//! What differs between databases: the clock, how times are kept, how a connection is prepared.
//!
//! SQLite is the only one so far. Another needs a [`Dialect`], its folder of migrations under
//! `sql/`, and a branch in [`DatabaseUrl::parse`]; no query changes.

use std::path::{Path, PathBuf};
use std::str::FromStr;

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
    /// Run on each new connection.
    connection_setup: &'static str,
    /// Statements that may write at the same time; others wait in the order they came.
    pub(super) writers_max: usize,
    /// How a transaction begins that will write.
    pub(super) begin: &'static str,
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
    connection_setup: "PRAGMA busy_timeout = 1000; PRAGMA journal_mode = WAL; \
                       PRAGMA synchronous = FULL;",
    // It has one writer. Left to itself, it lets connections that wait try again now and then, in
    // no order: of a hundred new subjects some would be refused.
    writers_max: 1,
    begin: "BEGIN IMMEDIATE",
    migrations: &[Migration {
        number: 1,
        name: "tables",
        text: include_str!("../../../sql/sqlite/0001_tables.sql"),
    }],
};

/// SQLite with another clock.
#[cfg(test)]
pub(super) const fn with_clock(now_ms: &'static str) -> Dialect {
    Dialect {
        now_ms,
        now: now_ms,
        column_ms: SQLITE.column_ms,
        connection_setup: SQLITE.connection_setup,
        begin: SQLITE.begin,
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

    /// Fills in `{now}`, `{now_ms}` and `{ms:column}`.
    pub(super) fn expand(&self, text: &str) -> String {
        let text = text
            .replace("{now}", self.now)
            .replace("{now_ms}", self.now_ms);
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

/// The setting `jdbc.url`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseUrl {
    path: PathBuf,
}

/// Why a `jdbc.url` cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatabaseUrlError {
    /// A kind of database this version cannot talk to.
    #[error("{0} databases are not supported by this version; use sqlite:PATH")]
    Unsupported(String),
    /// Not `kind:place`.
    #[error("not a database URL; use sqlite:PATH")]
    Malformed,
}

impl DatabaseUrl {
    /// The embedded database in a file.
    #[must_use]
    pub fn of_file(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn dialect(&self) -> &'static Dialect {
        &SQLITE
    }

    pub(super) fn connect_url(&self) -> String {
        // The driver cuts the URL at the first question mark and un-escapes percent signs.
        let path = self
            .path
            .to_string_lossy()
            .replace('%', "%25")
            .replace('?', "%3F");
        format!("sqlite:{path}?mode=rwc")
    }
}

impl FromStr for DatabaseUrl {
    type Err = DatabaseUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.strip_prefix("jdbc:").unwrap_or(text);
        let (kind, place) = text.split_once(':').ok_or(DatabaseUrlError::Malformed)?;
        if kind != "sqlite" {
            return Err(DatabaseUrlError::Unsupported(kind.to_owned()));
        }
        let path = match place.strip_prefix("//") {
            Some(path) => path,
            None => place,
        };
        if path.is_empty() || path.contains('?') {
            return Err(DatabaseUrlError::Malformed);
        }
        Ok(Self { path: path.into() })
    }
}

impl std::fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "sqlite:{}", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_urls() {
        let path = |text: &str| text.parse::<DatabaseUrl>().map(|url| url.path);
        assert_eq!(path("sqlite:data/m.db"), Ok("data/m.db".into()));
        assert_eq!(path("jdbc:sqlite:/d/m.db"), Ok("/d/m.db".into()));
        assert_eq!(path("sqlite:///d/m.db"), Ok("/d/m.db".into()));
        let unsupported = |kind: &str| Err(DatabaseUrlError::Unsupported(kind.into()));
        assert_eq!(path("jdbc:mysql://h:3306/qmq?a=b"), unsupported("mysql"));
        assert_eq!(path("mysql://h/qmq"), unsupported("mysql"));
        assert_eq!(path("sqlite:"), Err(DatabaseUrlError::Malformed));
        assert_eq!(path("m.db"), Err(DatabaseUrlError::Malformed));
    }

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
