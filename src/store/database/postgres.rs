//! A connection to PostgreSQL that is used like one to SQLite: calls block, one thread at a time.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt, MaybeDone, join, join_all, maybe_done};
use rusqlite::types::ToSql;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::dialect::for_postgres;
use super::many_rows::for_many_rows;
use super::posted_rows::{PostOrder, PostedRows, StatementRows};
use super::postgres_server::{PostgresServer, SessionRole};
use super::postgres_session::{DrivingRuntime, Session};
use super::postgres_values::{OwnedParameter, Parameter};
use super::time_limit::TimeLimit;
use super::{DatabaseError, Result, TransactionState};

/// Prepared statements of a session; beyond it all are prepared again. Filters of lists make many.
const STATEMENTS_MAX: usize = 500;
/// How long a cancelled statement may take to end.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection that writes waits for an answer. A server that does not answer is given up with the session.
const LANE_ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// The same for a commit, after which another session asks for the outcome.
const COMMIT_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to PostgreSQL. Outside of a transaction it begins a new session if the server ended the last one.
pub(in crate::store) struct PostgresConnection {
    server: Arc<PostgresServer>,
    role: SessionRole,
    /// Drives the session while a call waits for it.
    runtime: DrivingRuntime,
    session: RefCell<Session>,
    /// Rows of statements that are not sent yet.
    rows: RefCell<PostedRows>,
    /// Statements that were sent and not answered yet, in order.
    posted: RefCell<Vec<MaybeDone<Posted>>>,
    /// Whether [`Self::post`] returns before the answer.
    pipelines: Cell<bool>,
    changes: Cell<u64>,
    state: Cell<TransactionState>,
    /// How long a connection that writes waits for an answer.
    answer_timeout: Cell<Duration>,
}

/// The answer to a statement: the number of changed rows.
type Posted = BoxFuture<'static, std::result::Result<u64, tokio_postgres::Error>>;

impl PostgresConnection {
    /// Opens a connection. Blocks.
    pub(in crate::store) fn open(server: Arc<PostgresServer>, role: SessionRole) -> Result<Self> {
        let runtime = DrivingRuntime::build()?;
        let session = RefCell::new(Session::begin(&runtime, &server, role)?);
        Ok(Self {
            server,
            role,
            runtime,
            session,
            rows: RefCell::default(),
            posted: RefCell::default(),
            pipelines: Cell::new(false),
            changes: Cell::new(0),
            state: Cell::new(TransactionState::None),
            answer_timeout: Cell::new(LANE_ANSWER_TIMEOUT),
        })
    }

    pub(super) fn prepare(&self, sql: &str) -> Result<tokio_postgres::Statement> {
        self.ensure_session()?;
        if let Some(statement) = self.session.borrow().statements.get(sql) {
            return Ok(statement.clone());
        }
        let client = self.client();
        let statement = self.note(self.run(&client, client.prepare(&for_postgres(sql))))?;
        let statements = &mut self.session.borrow_mut().statements;
        if statements.len() >= STATEMENTS_MAX {
            statements.clear();
        }
        statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    /// The statement for many rows of a posted statement, prepared once for each session.
    fn prepare_for_many_rows(
        &self,
        sql: &str,
        one: &tokio_postgres::Statement,
    ) -> Result<Option<tokio_postgres::Statement>> {
        if let Some(known) = self.session.borrow().for_many_rows.get(sql) {
            return Ok(known.clone());
        }
        let client = self.client();
        let prepared = match for_many_rows(sql, one.params()) {
            Some(many) => Some(self.note(self.run(&client, client.prepare(&many)))?),
            None => None,
        };
        let statements = &mut self.session.borrow_mut().for_many_rows;
        if statements.len() >= STATEMENTS_MAX {
            statements.clear();
        }
        statements.insert(sql.to_owned(), prepared.clone());
        Ok(prepared)
    }

    pub(super) fn execute(
        &self,
        statement: &tokio_postgres::Statement,
        sql: &str,
        params: &[&dyn ToSql],
    ) -> Result<usize> {
        if sql.starts_with("ROLLBACK") {
            self.rows.borrow_mut().clear();
            // Their answers come before that of the rollback.
            drop(self.first_error_of_posted());
        }
        self.send_rows()?;
        let params = parameters(params)?;
        let client = self.client();
        let executed = self.run(&client, client.execute_raw(statement, &params));
        let changed = self.note(executed)?;
        self.follow(sql);
        if sql.starts_with("SELECT") {
            return Ok(0);
        }
        self.changes.set(self.changes.get() + changed);
        Ok(usize::try_from(changed).unwrap_or(usize::MAX))
    }

    /// Executes a statement without waiting for its answer. If it fails, so does the commit. Waits unless the connection
    /// [pipelines](Self::set_pipelining).
    pub(super) fn post(
        &self,
        statement: &tokio_postgres::Statement,
        sql: &str,
        order: PostOrder,
        params: &[&dyn ToSql],
    ) -> Result<()> {
        if !self.pipelines.get() {
            return self.execute(statement, sql, params).map(drop);
        }
        let row =
            params.iter().map(|value| OwnedParameter::of(*value)).collect::<rusqlite::Result<Vec<_>>>()?;
        if self.prepare_for_many_rows(sql, statement)?.is_some() {
            if self.rows.borrow().is_full() {
                self.send_rows()?;
            }
            self.rows.borrow_mut().add(sql, order, row);
        } else {
            self.send_rows()?;
            self.send(statement.clone(), row)?;
        }
        self.changes.set(self.changes.get() + 1);
        self.follow(sql);
        Ok(())
    }

    /// Sends the collected rows.
    fn send_rows(&self) -> Result<()> {
        let statements = self.rows.borrow_mut().take();
        for StatementRows { sql, order, mut rows } in statements {
            let one = self.prepare(&sql)?;
            match self.prepare_for_many_rows(&sql, &one)? {
                Some(many) if rows.len() > 1 => {
                    self.send(many, StatementRows { sql, order, rows }.into_columns())?;
                }
                _ => rows.drain(..).try_for_each(|row| self.send(one.clone(), row))?,
            }
        }
        Ok(())
    }

    /// Sends a statement.
    fn send<P>(&self, statement: tokio_postgres::Statement, params: Vec<P>) -> Result<()>
    where
        P: tokio_postgres::types::ToSql + Send + Sync + 'static,
    {
        let client = self.client();
        let mut answer: Posted = async move { client.execute_raw(&statement, params).await }.boxed();
        // The first poll sends it.
        let _entered = self.runtime.enter();
        match (&mut answer).now_or_never() {
            Some(answered) => drop(self.note(answered.map_err(DatabaseError::Postgres))?),
            None => self.posted.borrow_mut().push(maybe_done(answer)),
        }
        Ok(())
    }

    /// Gives a server up earlier that does not answer a lane; `None` for the usual time.
    pub(super) fn limit_answers(&self, limit: Option<Duration>) {
        self.answer_timeout.set(limit.map_or(LANE_ANSWER_TIMEOUT, |limit| limit.min(LANE_ANSWER_TIMEOUT)));
    }

    /// Sets whether statements are sent without waiting for the answers of earlier ones.
    pub(super) fn set_pipelining(&self, pipelines: bool) {
        self.pipelines.set(pipelines);
    }

    /// Commits. If a statement of the transaction failed, it is not committed, and its state is
    /// [`TransactionState::Failed`].
    ///
    /// # Errors
    /// [`DatabaseError::Unanswered`] if nobody knows whether it was committed.
    pub(super) fn commit(&self) -> Result<()> {
        if self.state.get() == TransactionState::Failed {
            // The server would roll it back and report success.
            return Err(DatabaseError::Aborted);
        }
        let commit = self.prepare("COMMIT")?;
        self.send_rows()?;
        self.session.borrow().signals.is_warned.store(false, Ordering::Relaxed);
        let (client, posted) = (self.client(), self.posted.take());
        let limit = self.answer_timeout.get();
        self.answer_timeout.set(limit.min(COMMIT_ANSWER_TIMEOUT));
        // Answers are taken while later ones come.
        let answers = self.run(&client, async {
            let none: [&(dyn tokio_postgres::types::ToSql + Sync); 0] = [];
            let (committed, posted) =
                join(client.execute_raw(&commit, none), join_all(posted.into_iter().map(answer_of))).await;
            Ok((committed, posted))
        });
        self.answer_timeout.set(limit);
        let failed = match answers {
            Ok((committed, posted)) => posted
                .into_iter()
                .flatten()
                .find_map(std::result::Result::err)
                .map(DatabaseError::Postgres)
                .or_else(|| committed.err().map(DatabaseError::Postgres)),
            Err(error) => Some(error),
        };
        let session = self.session.borrow();
        if session.has_ended() || failed.is_none() && session.signals.is_warned.load(Ordering::Relaxed) {
            session.leave();
            self.state.set(TransactionState::None);
            return Err(DatabaseError::Unanswered { session: session.name.clone() });
        }
        match failed {
            None => self.state.set(TransactionState::None),
            Some(error) => {
                self.state.set(TransactionState::Failed);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Waits for the answers to all posted statements.
    fn first_error_of_posted(&self) -> Option<DatabaseError> {
        let posted = self.posted.take().into_iter().map(answer_of);
        let answers = self.run(&self.client(), join_all(posted).map(Ok)).unwrap_or_default();
        answers.into_iter().flatten().find_map(std::result::Result::err).map(DatabaseError::Postgres)
    }

    /// The error of the posted statement that made a later one fail.
    fn cause_of(&self, error: DatabaseError) -> DatabaseError {
        match error.has_state(&SqlState::IN_FAILED_SQL_TRANSACTION) {
            true => self.first_error_of_posted().unwrap_or(error),
            false => error,
        }
    }

    pub(super) fn query(
        &self,
        statement: &tokio_postgres::Statement,
        sql: &str,
        params: &[&dyn ToSql],
    ) -> Result<Vec<tokio_postgres::Row>> {
        self.send_rows()?;
        let params = parameters(params)?;
        let params: Vec<_> =
            params.iter().map(|value| value as &(dyn tokio_postgres::types::ToSql + Sync)).collect();
        let client = self.client();
        let query = |statement| self.note(self.run(&client, client.query(statement, &params)));
        let rows = match query(statement) {
            Err(error) if is_outdated(&error) && self.state.get() == TransactionState::None => {
                query(&self.prepare(sql)?)?
            }
            rows => rows?,
        };
        // A statement that changes rows returns them here.
        if !sql.trim_start().starts_with("SELECT") && !sql.trim_start().starts_with("WITH") {
            self.changes.set(self.changes.get() + rows.len() as u64);
        }
        Ok(rows)
    }

    pub(super) fn execute_batch(&self, sql: &str) -> Result<()> {
        self.ensure_session()?;
        self.send_rows()?;
        let client = self.client();
        self.note(self.run(&client, client.batch_execute(sql)))
    }

    /// The first value of the answer to statements that are not prepared.
    pub(in crate::store) fn query_unprepared(&self, sql: &str) -> Result<Option<String>> {
        self.ensure_session()?;
        let client = self.client();
        let answers = self.note(self.run(&client, client.simple_query(sql)))?;
        Ok(answers.iter().find_map(|answer| match answer {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        }))
    }

    fn client(&self) -> Arc<Client> {
        Arc::clone(&self.session.borrow().client)
    }

    pub(super) fn total_changes(&self) -> u64 {
        self.changes.get()
    }

    pub(super) fn transaction_state(&self) -> TransactionState {
        if self.session.borrow().has_ended() { TransactionState::None } else { self.state.get() }
    }

    /// Forgets a transaction that ended with its session.
    pub(super) fn forget_transaction(&self) {
        self.rows.borrow_mut().clear();
        self.posted.borrow_mut().clear();
        self.state.set(TransactionState::None);
    }

    /// Begins a new session if the server ended the last one. A transaction ends with its session.
    fn ensure_session(&self) -> Result<()> {
        if self.state.get() == TransactionState::None {
            // The task of the session has not run since the last call, and learns now what has come since.
            self.runtime.drive();
        }
        if !self.session.borrow().has_ended() {
            return Ok(());
        }
        let state = self.state.get();
        self.forget_transaction();
        if state != TransactionState::None {
            return Err(DatabaseError::Lost("the server ended the session".into()));
        }
        self.session.replace(Session::begin(&self.runtime, &self.server, self.role)?);
        Ok(())
    }

    /// Waits for an answer of the server, up to the limit of this thread.
    fn run<T>(
        &self,
        client: &Client,
        answer: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>,
    ) -> Result<T> {
        let answered = self.runtime.block_on(async {
            let mut answer = std::pin::pin!(answer);
            // The session passes answers on in order, and waits until each has been read.
            let answer = poll_fn(|context| {
                let answered = answer.as_mut().poll(context);
                if answered.is_pending() {
                    self.posted.borrow_mut().iter_mut().for_each(|posted| {
                        let _ = posted.poll_unpin(context);
                    });
                }
                answered
            });
            let mut answer = std::pin::pin!(answer);
            if self.role != SessionRole::Reader {
                return timeout(self.answer_timeout.get(), answer).await.ok();
            }
            let Some(mut limit) = TimeLimit::rest() else { return Some(answer.await) };
            loop {
                if let Ok(answer) = timeout(limit, &mut answer).await {
                    return Some(answer);
                }
                if let Err(error) = timeout(CANCEL_TIMEOUT, self.server.cancel(client)).await {
                    tracing::debug!(%error, "a statement was not cancelled");
                }
                // A request that comes before its statement cancels nothing.
                limit = CANCEL_TIMEOUT;
            }
        });
        match answered {
            Some(answer) => answer.map_err(DatabaseError::Postgres),
            None => {
                self.session.borrow().leave();
                Err(DatabaseError::Lost("the server did not answer in time".into()))
            }
        }
    }

    /// An error ends a transaction, as far as PostgreSQL is concerned.
    fn note<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| {
            let error = self.cause_of(error);
            if is_outdated(&error) {
                self.session.borrow_mut().forget_statements();
            }
            if self.state.get() == TransactionState::Usable {
                self.state.set(TransactionState::Failed);
            }
            error
        })
    }

    /// Follows the transaction.
    fn follow(&self, sql: &str) {
        if sql.starts_with("BEGIN") {
            self.rows.borrow_mut().clear();
        }
        if sql.starts_with("BEGIN") || sql.starts_with("ROLLBACK TO") {
            self.state.set(TransactionState::Usable);
        } else if sql.starts_with("COMMIT") || sql.starts_with("ROLLBACK") {
            self.state.set(TransactionState::None);
        }
    }
}

async fn answer_of(mut posted: MaybeDone<Posted>) -> Option<std::result::Result<u64, tokio_postgres::Error>> {
    (&mut posted).await;
    Pin::new(&mut posted).take_output()
}

/// Whether a prepared statement has other columns than when it was prepared: a node of a newer version has added one. A transaction
/// has to be repeated then.
fn is_outdated(error: &DatabaseError) -> bool {
    error.has_state(&SqlState::FEATURE_NOT_SUPPORTED)
}

fn parameters<'a>(params: &'a [&'a dyn ToSql]) -> Result<Vec<Parameter<'a>>> {
    Ok(params.iter().map(|value| value.to_sql().map(Parameter)).collect::<rusqlite::Result<_>>()?)
}
