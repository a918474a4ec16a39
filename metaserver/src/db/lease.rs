//! One statement's use of a connection. One whose statement was given up is closed: it would keep
//! its place in the pool until the database answers, which may be never.

use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{Any, AnyConnection, AnyPool};
use tokio::time::Instant;

use super::breaker::Breaker;
use super::{DbError, DbResult};

/// A database that works answers within this: it waits for a lock no longer than a second.
const ANSWER_MAX: Duration = Duration::from_millis(1_100);

/// A connection while a statement is under way.
pub(super) struct Lease<'a> {
    connection: Option<PoolConnection<Any>>,
    breaker: &'a Breaker,
    began: Instant,
}

impl<'a> Lease<'a> {
    /// Takes a connection; fails at once while the database is away.
    pub(super) async fn take(pool: &AnyPool, breaker: &'a Breaker) -> DbResult<Self> {
        if !breaker.admits(Instant::now()) {
            return Err(DbError::Away);
        }
        match pool.acquire().await {
            Ok(connection) => Ok(Self {
                connection: Some(connection),
                breaker,
                began: Instant::now(),
            }),
            // Others use all of them: that says nothing about the database.
            Err(sqlx::Error::PoolTimedOut)
                if pool.num_idle() == 0 && pool.size() >= pool.options().get_max_connections() =>
            {
                Err(DbError::Timeout)
            }
            Err(error) => {
                breaker.unanswered(Instant::now());
                Err(error.into())
            }
        }
    }

    pub(super) fn connection(&mut self) -> &mut AnyConnection {
        self.connection
            .as_mut()
            .expect("a lease has its connection until it is settled")
    }

    /// Gives the connection back when the database answered, be it with an error.
    pub(super) fn settle<T>(mut self, result: sqlx::Result<T>) -> DbResult<T> {
        let is_lost = matches!(
            result,
            Err(sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::Protocol(_)
                | sqlx::Error::WorkerCrashed)
        );
        if is_lost {
            self.breaker.unanswered(Instant::now());
        } else {
            self.breaker.answered();
            drop(self.connection.take());
        }
        Ok(result?)
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        drop(connection.detach());
        // One that asked may have gone away before; then nothing is known.
        if self.began.elapsed() >= ANSWER_MAX {
            self.breaker.unanswered(Instant::now());
        }
    }
}
