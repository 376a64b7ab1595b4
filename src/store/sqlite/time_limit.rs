//! Ends queries that run too long.

use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};

use crate::store::Result;

/// Steps of the database engine between two looks at the clock; some take microseconds.
const STEPS_BETWEEN_LOOKS: i32 = 500;

/// Interrupts statements of a connection from a time on, until it is dropped.
pub(super) struct TimeLimit<'a>(&'a Connection);

impl<'a> TimeLimit<'a> {
    pub(super) fn new(connection: &'a Connection, limit: Duration) -> Result<Self> {
        let end = Instant::now() + limit;
        connection.progress_handler(STEPS_BETWEEN_LOOKS, Some(move || Instant::now() >= end))?;
        Ok(Self(connection))
    }
}

impl Drop for TimeLimit<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.progress_handler(0, None::<fn() -> bool>) {
            tracing::error!(%error, "the time limit of a query was not removed");
        }
    }
}

/// Whether SQLite interrupted a statement.
pub(super) fn is_interruption(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted)
}
