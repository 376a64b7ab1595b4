//! A session on a PostgreSQL server, and the runtime that drives it while a call waits.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::task::{AbortHandle, yield_now};
use tokio::time::timeout;
use tokio_postgres::Client;

use super::postgres_server::{BegunSession, PostgresServer, SessionRole, Signals};
use super::{DatabaseError, Result};

/// Turns of the runtime after which the task of a session has learned of what has come from the network: at least one for the
/// reading and one for the task.
const DRIVEN_TURNS: u32 = 3;
/// How long a session may take to begin.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(5);

/// A runtime that may be dropped by a task of another one.
pub(super) struct DrivingRuntime(Option<Runtime>);

impl DrivingRuntime {
    pub(super) fn build() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(Self(Some(runtime.map_err(|error| DatabaseError::Lost(error.to_string()))?)))
    }

    pub(super) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        match &self.0 {
            Some(runtime) => runtime.block_on(future),
            None => unreachable!("it is taken only when it is dropped"),
        }
    }

    pub(super) fn enter(&self) -> Option<tokio::runtime::EnterGuard<'_>> {
        self.0.as_ref().map(Runtime::enter)
    }

    /// Lets the task of a session learn what has come from the network since it was last driven.
    pub(super) fn drive(&self) {
        self.block_on(async {
            for _ in 0..DRIVEN_TURNS {
                yield_now().await;
            }
        });
    }
}

impl Drop for DrivingRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// A session, which ends with its connection or when the client gives it up.
pub(super) struct Session {
    pub(super) client: Arc<Client>,
    pub(super) name: String,
    task: AbortHandle,
    pub(super) signals: Arc<Signals>,
    /// Whether the client has given it up.
    is_left: Cell<bool>,
    pub(super) statements: HashMap<String, tokio_postgres::Statement>,
    /// Posted statements by the statement for one row; `None` if it has no form for many rows.
    pub(super) for_many_rows: HashMap<String, Option<tokio_postgres::Statement>>,
}

impl Session {
    /// Blocks.
    pub(super) fn begin(
        runtime: &DrivingRuntime,
        server: &PostgresServer,
        role: SessionRole,
    ) -> Result<Self> {
        let begun = runtime.block_on(async { timeout(BEGIN_TIMEOUT, server.connect(role)).await });
        let begun = begun.map_err(|_| DatabaseError::Lost("the server did not answer in time".into()))?;
        let BegunSession { client, name, task, signals } = begun.map_err(DatabaseError::Postgres)?;
        Ok(Self {
            client: Arc::new(client),
            name,
            task,
            signals,
            is_left: Cell::new(false),
            statements: HashMap::new(),
            for_many_rows: HashMap::new(),
        })
    }

    pub(super) fn has_ended(&self) -> bool {
        self.is_left.get() || self.client.is_closed()
    }

    pub(super) fn forget_statements(&mut self) {
        self.statements.clear();
        self.for_many_rows.clear();
    }

    /// Ends it without waiting for answers.
    pub(super) fn leave(&self) {
        self.is_left.set(true);
        self.task.abort();
    }
}
