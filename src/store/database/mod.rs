//! Access to the database of either engine, in the form of rusqlite: connections, cached statements, rows. Statements are
//! written once, in SQL that both engines read; [`dialect`] translates what differs in spelling.
//!
//! Calls block, so they run on threads of the store. Imports nothing of the store but [`StoreError`].

mod dialect;
mod error;
mod many_rows;
mod params;
mod posted_rows;
mod postgres;
mod postgres_server;
mod postgres_session;
mod postgres_tls;
mod postgres_values;
pub(in crate::store) mod query_threads;
mod rows;
pub(in crate::store) mod time_limit;

use std::ops::Deref;
use std::time::Duration;

pub(in crate::store) use error::{DatabaseError, OptionalExtension, Result, unreadable};
pub(in crate::store) use params::{Params, params, params_from_iter};
use posted_rows::PostOrder;
pub(in crate::store) use postgres::PostgresConnection;
pub(in crate::store) use postgres_server::{PostgresServer, SessionRole, Signals};
pub(in crate::store) use rows::{ColumnIndex, MappedRows, Row, Rows};
pub(in crate::store) use rusqlite::types::{
    FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, Value, ValueRef,
};

/// The advisory lock of PostgreSQL that transactions hold which write.
pub(in crate::store) const WRITER_LOCK: i64 = 0x7069_6c6c_6172;

/// What runs at the same time as a transaction that writes, in all processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum WriterLock {
    /// Others with this lock.
    Shared,
    /// None.
    Exclusive,
}

impl WriterLock {
    fn statement(self) -> &'static str {
        match self {
            Self::Shared => {
                "SELECT pg_advisory_xact_lock_shared(?1),
                        set_config('pillarbox.slot', CAST(CAST(?2 AS BIGINT) AS TEXT), TRUE)"
            }
            Self::Exclusive => {
                "SELECT pg_advisory_xact_lock(?1),
                        set_config('pillarbox.slot', CAST(CAST(?2 AS BIGINT) AS TEXT), TRUE)"
            }
        }
    }
}

/// What [`ToSql::to_sql`] returns.
pub(in crate::store) type ToSqlResult<'a> = rusqlite::Result<ToSqlOutput<'a>>;

/// What stores the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Engine {
    Sqlite,
    Postgres,
}

/// A connection to the database. It belongs to one thread at a time.
pub(in crate::store) enum Connection {
    /// A file in the data directory.
    Sqlite(rusqlite::Connection),
    /// A session with a server.
    Postgres(PostgresConnection),
}

impl From<rusqlite::Connection> for Connection {
    fn from(connection: rusqlite::Connection) -> Self {
        Self::Sqlite(connection)
    }
}

impl Connection {
    /// The engine that it is connected to.
    pub(in crate::store) fn engine(&self) -> Engine {
        match self {
            Self::Sqlite(_) => Engine::Sqlite,
            Self::Postgres(_) => Engine::Postgres,
        }
    }

    /// A statement, prepared once for each connection.
    pub(in crate::store) fn prepare_cached(&self, sql: &str) -> Result<Statement<'_>> {
        match self {
            Self::Sqlite(connection) => Ok(Statement::Sqlite(connection.prepare_cached(sql)?)),
            Self::Postgres(connection) => Ok(Statement::Postgres(PostgresStatement {
                connection,
                prepared: connection.prepare(sql)?,
                sql: sql.to_owned(),
            })),
        }
    }

    /// Executes a statement once; returns the number of rows that it changed.
    pub(in crate::store) fn execute(&self, sql: &str, params: impl Params) -> Result<usize> {
        self.prepare_cached(sql)?.execute(params)
    }

    /// Reads the first row of a query. Fails with [`DatabaseError::NoRows`].
    pub(in crate::store) fn query_row<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> Result<T>,
    ) -> Result<T> {
        self.prepare_cached(sql)?.query_row(params, read)
    }

    /// Executes statements without parameters, separated by semicolons.
    pub(in crate::store) fn execute_batch(&self, sql: &str) -> Result<()> {
        match self {
            Self::Sqlite(connection) => Ok(connection.execute_batch(sql)?),
            Self::Postgres(connection) => connection.execute_batch(sql),
        }
    }

    /// The number of rows that statements of this connection have changed.
    pub(in crate::store) fn total_changes(&self) -> u64 {
        match self {
            Self::Sqlite(connection) => connection.total_changes(),
            Self::Postgres(connection) => connection.total_changes(),
        }
    }

    /// Begins a transaction that writes and runs alone. It is rolled back unless it is committed.
    pub(in crate::store) fn transaction(&self) -> Result<Transaction<'_>> {
        self.begin(WriterLock::Exclusive)?;
        Ok(Transaction { connection: self, is_open: true })
    }

    /// Begins a transaction that writes, and that no lane has. On SQLite, one runs at a time.
    pub(in crate::store) fn begin(&self, lock: WriterLock) -> Result<()> {
        self.begin_in_slot(lock, 0)
    }

    /// Begins a transaction of the lane with this slot, whose rows it and the triggers of PostgreSQL use.
    pub(in crate::store) fn begin_in_slot(&self, lock: WriterLock, slot: i64) -> Result<()> {
        self.prepare_cached("BEGIN IMMEDIATE")?.post([])?;
        if let Self::Postgres(_) = self {
            self.prepare_cached(lock.statement())?.post([WRITER_LOCK, slot])?;
        }
        Ok(())
    }

    /// Commits a transaction. After a failure, [`TransactionState::Failed`] says that a statement of it had failed.
    pub(in crate::store) fn commit(&self) -> Result<()> {
        match self {
            Self::Sqlite(_) => self.execute("COMMIT", []).map(drop),
            Self::Postgres(connection) => connection.commit(),
        }
    }

    /// Runs statements of a transaction that goes on if one of them fails. PostgreSQL would refuse all later ones, so what
    /// they have done is rolled back there.
    pub(in crate::store) fn attempt<T, E: From<DatabaseError>>(
        &self,
        run: impl FnOnce() -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        if self.engine() == Engine::Sqlite {
            return run();
        }
        self.execute("SAVEPOINT attempt", [])?;
        let ran = run().and_then(|value| {
            // Fails if a posted statement has.
            self.execute("RELEASE attempt", [])?;
            Ok(value)
        });
        if ran.is_err() && self.transaction_state() != TransactionState::None {
            self.execute("ROLLBACK TO attempt", [])?;
            self.execute("RELEASE attempt", [])?;
        }
        ran
    }

    /// Rolls a transaction back, unless an error has ended it.
    pub(in crate::store) fn roll_back(&self) -> Result<()> {
        let rolled_back = match self.transaction_state() {
            TransactionState::None => Ok(()),
            TransactionState::Usable | TransactionState::Failed => self.execute("ROLLBACK", []).map(drop),
        };
        if let (Self::Postgres(connection), TransactionState::None) = (self, self.transaction_state()) {
            connection.forget_transaction();
        }
        rolled_back
    }

    /// Sets whether [`Statement::post`] returns before the server has answered. SQLite answers at once.
    pub(in crate::store) fn set_pipelining(&self, pipelines: bool) {
        if let Self::Postgres(connection) = self {
            connection.set_pipelining(pipelines);
        }
    }

    /// Gives a server up earlier that does not answer a lane; `None` for the usual time.
    pub(in crate::store) fn limit_answers(&self, limit: Option<Duration>) {
        if let Self::Postgres(connection) = self {
            connection.limit_answers(limit);
        }
    }

    /// Begins a transaction in which all queries see the same state.
    pub(in crate::store) fn snapshot(&self) -> Result<Transaction<'_>> {
        match self {
            Self::Sqlite(_) => self.execute("BEGIN", [])?,
            Self::Postgres(_) => self.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", [])?,
        };
        Ok(Transaction { connection: self, is_open: true })
    }

    /// What is left of a transaction after an error.
    pub(in crate::store) fn transaction_state(&self) -> TransactionState {
        match self {
            // After a full disk or an I/O error, SQLite rolls back the whole transaction.
            Self::Sqlite(connection) if connection.is_autocommit() => TransactionState::None,
            Self::Sqlite(_) => TransactionState::Usable,
            Self::Postgres(connection) => connection.transaction_state(),
        }
    }
}

/// A transaction on a connection.
pub(in crate::store) struct Transaction<'a> {
    connection: &'a Connection,
    is_open: bool,
}

impl Transaction<'_> {
    pub(in crate::store) fn commit(mut self) -> Result<()> {
        self.connection.commit()?;
        self.is_open = false;
        Ok(())
    }
}

impl Deref for Transaction<'_> {
    type Target = Connection;
    fn deref(&self) -> &Connection {
        self.connection
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if self.is_open
            && let Err(error) = self.roll_back()
        {
            tracing::error!(%error, "a transaction could not be rolled back");
        }
    }
}

/// Whether statements can be added to a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum TransactionState {
    /// There is none.
    None,
    /// There is one.
    Usable,
    /// There is one, in which PostgreSQL refuses all statements but a rollback.
    Failed,
}

/// A prepared statement.
pub(in crate::store) enum Statement<'a> {
    Sqlite(rusqlite::CachedStatement<'a>),
    Postgres(PostgresStatement<'a>),
}

/// A statement that a server has prepared.
pub(in crate::store) struct PostgresStatement<'a> {
    connection: &'a PostgresConnection,
    prepared: tokio_postgres::Statement,
    sql: String,
}

impl Statement<'_> {
    /// Executes it; returns the number of rows that it changed.
    pub(in crate::store) fn execute(&mut self, params: impl Params) -> Result<usize> {
        params.with(|params| match self {
            Self::Sqlite(statement) => Ok(statement.execute(params)?),
            Self::Postgres(PostgresStatement { connection, prepared, sql }) => {
                connection.execute(prepared, sql, params)
            }
        })
    }

    /// Executes it, without waiting for the answer if the connection [pipelines](Connection::set_pipelining): then it fails
    /// with the commit. PostgreSQL may execute posted rows of one statement together, and statements in the order of their
    /// first rows: so rows of one statement in one transaction have different keys, and none depends on another row of the
    /// same statement, or on one of a statement that is posted first after it. All are executed before anything that is not
    /// posted.
    pub(in crate::store) fn post(&mut self, params: impl Params) -> Result<()> {
        self.post_in(PostOrder::Usual, params)
    }

    /// Like [`Self::post`], for rows that depend on rows of statements that other jobs of the transaction may post first
    /// after them: PostgreSQL executes it after all others.
    pub(in crate::store) fn post_last(&mut self, params: impl Params) -> Result<()> {
        self.post_in(PostOrder::Last, params)
    }

    fn post_in(&mut self, order: PostOrder, params: impl Params) -> Result<()> {
        params.with(|params| match self {
            Self::Sqlite(statement) => Ok(statement.execute(params).map(drop)?),
            Self::Postgres(PostgresStatement { connection, prepared, sql }) => {
                connection.post(prepared, sql, order, params)
            }
        })
    }

    /// Runs the query.
    pub(in crate::store) fn query(&mut self, params: impl Params) -> Result<Rows<'_>> {
        params.with(|params| match self {
            Self::Sqlite(statement) => Ok(Rows::Sqlite(statement.query(params)?)),
            Self::Postgres(PostgresStatement { connection, prepared, sql }) => {
                Ok(Rows::of_postgres(connection.query(prepared, sql, params)?))
            }
        })
    }

    /// Reads the first row. Fails with [`DatabaseError::NoRows`].
    pub(in crate::store) fn query_row<T>(
        &mut self,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> Result<T>,
    ) -> Result<T> {
        read(&self.query(params)?.next()?.ok_or(DatabaseError::NoRows)?)
    }

    /// Reads all rows, one after the other.
    pub(in crate::store) fn query_map<T, F: FnMut(&Row<'_>) -> Result<T>>(
        &mut self,
        params: impl Params,
        read: F,
    ) -> Result<MappedRows<'_, F>> {
        Ok(MappedRows::new(self.query(params)?, read))
    }

    /// Whether there is a row.
    pub(in crate::store) fn exists(&mut self, params: impl Params) -> Result<bool> {
        Ok(self.query(params)?.next()?.is_some())
    }
}
