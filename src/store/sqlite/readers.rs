//! The pool of read-only connections. Queries run off the I/O threads, never more at a time than connections.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::Semaphore;

use crate::store::{Result, StoreError};

/// How long a query may wait for its turn.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct Readers {
    pool: r2d2::Pool<SqliteConnectionManager>,
    turns: Arc<Semaphore>,
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
            .connection_timeout(TURN_TIMEOUT)
            .build(manager)?;
        Ok(Self { pool, turns: Arc::new(Semaphore::new(connections as usize)) })
    }

    /// Runs a query on one of the connections.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let turn = tokio::time::timeout(TURN_TIMEOUT, Arc::clone(&self.turns).acquire_owned())
            .await
            .map_err(|_| StoreError::Failed("no connection became free in time".into()))?
            .map_err(|_| StoreError::Closed)?;
        let pool = self.pool.clone();
        let done = tokio::task::spawn_blocking(move || {
            let connection = pool.get().map_err(|error| StoreError::Failed(error.to_string()))?;
            let answer = query(&connection);
            drop(connection);
            drop(turn);
            answer
        });
        done.await.map_err(|error| StoreError::Failed(error.to_string()))?
    }

    /// Takes no more queries.
    pub(super) fn close(&self) {
        self.turns.close();
    }
}
