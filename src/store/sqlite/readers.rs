//! The pool of read-only connections. Queries run on blocking threads, at most one for each connection.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::store::{Result, StoreError};

/// How long a query waits for a connection.
const PERMIT_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct Readers {
    pool: r2d2::Pool<SqliteConnectionManager>,
    permits: Arc<Semaphore>,
    /// The part of the permits for slow queries.
    slow_query_permits: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn open(database: &Path, connections: u32) -> std::result::Result<Self, r2d2::Error> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let manager = SqliteConnectionManager::file(database).with_flags(flags).with_init(|connection| {
            connection.set_prepared_statement_cache_capacity(128);
            connection.execute_batch(
                "PRAGMA query_only = ON; PRAGMA busy_timeout = 5000; PRAGMA temp_store = MEMORY;
                 PRAGMA cache_size = -8192;",
            )
        });
        let pool = r2d2::Pool::builder()
            .max_size(connections)
            .test_on_check_out(false)
            .idle_timeout(None)
            .max_lifetime(None)
            .connection_timeout(PERMIT_TIMEOUT)
            .build(manager)?;
        let connections = connections as usize;
        Ok(Self {
            pool,
            permits: Arc::new(Semaphore::new(connections)),
            slow_query_permits: Arc::new(Semaphore::new((connections / 2).max(1))),
        })
    }

    /// Runs a query that may be slow. Slow queries get half of the connections, so that lists do not delay acceptance and
    /// delivery.
    pub(super) async fn run_slow<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let permit = take(&self.slow_query_permits).await?;
        self.run(move |connection| {
            let answer = query(connection);
            drop(permit);
            answer
        })
        .await
    }

    /// Runs a query on one of the connections.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let permit = take(&self.permits).await?;
        let pool = self.pool.clone();
        let done = tokio::task::spawn_blocking(move || {
            let connection = pool.get().map_err(|error| StoreError::Failed(error.to_string()))?;
            let answer = query(&connection);
            drop(connection);
            drop(permit);
            answer
        });
        done.await.map_err(|error| StoreError::Failed(error.to_string()))?
    }

    /// Accepts no more queries.
    pub(super) fn close(&self) {
        self.permits.close();
        self.slow_query_permits.close();
    }
}

async fn take(permits: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit> {
    tokio::time::timeout(PERMIT_TIMEOUT, Arc::clone(permits).acquire_owned())
        .await
        .map_err(|_| StoreError::Failed("no connection became free in time".into()))?
        .map_err(|_| StoreError::Closed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test]
    async fn long_queries_leave_connections_to_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("x.db");
        Connection::open(&database).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
        let readers = Arc::new(Readers::open(&database, 2).unwrap());
        let (end, ended) = mpsc::channel::<()>();
        let ended = Arc::new(std::sync::Mutex::new(ended));
        let long: Vec<_> = (0..3)
            .map(|_| {
                let (readers, ended) = (readers.clone(), ended.clone());
                tokio::spawn(async move {
                    readers.run_slow(move |_| Ok(ended.lock().unwrap().recv().is_ok())).await
                })
            })
            .collect();
        while readers.slow_query_permits.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let quick = tokio::time::timeout(Duration::from_secs(5), readers.run(|_| Ok(7))).await;
        // Also if the assertion fails, because a runtime waits for its blocking tasks.
        (0..3).for_each(|_| end.send(()).unwrap());
        assert_eq!(quick.unwrap().unwrap(), 7);
        for query in long {
            assert!(query.await.unwrap().unwrap());
        }
    }
}
