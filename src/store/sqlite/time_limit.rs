//! Watches the time that queries take: lowers the priority of those that take long, ends those that take too long.

use std::cell::Cell;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};

use super::query_threads::lower_priority;

/// Steps of the database engine between two looks at the clock; some take microseconds.
const STEPS_BETWEEN_LOOKS: i32 = 500;

/// The times at which something happens to the query of a thread.
#[derive(Clone, Copy, Default)]
struct Limits {
    lower_priority_at: Option<Instant>,
    end_at: Option<Instant>,
}

thread_local! {
    static LIMITS: Cell<Limits> = const { Cell::new(Limits { lower_priority_at: None, end_at: None }) };
}

/// Makes the limits of a thread hold for the statements of a connection.
pub(super) fn watch(connection: &Connection) -> rusqlite::Result<()> {
    connection.progress_handler(
        STEPS_BETWEEN_LOOKS,
        Some(|| {
            let limits = LIMITS.get();
            if limits.lower_priority_at.is_none() && limits.end_at.is_none() {
                return false;
            }
            let now = Instant::now();
            if limits.lower_priority_at.is_some_and(|at| now >= at) {
                lower_priority();
            }
            limits.end_at.is_some_and(|end| now >= end)
        }),
    )
}

/// A limit for the statements that this thread runs until the value is dropped.
pub(super) struct TimeLimit {
    outer: Limits,
    /// The limit belongs to one thread.
    _not_send: PhantomData<*const ()>,
}

impl TimeLimit {
    /// Ends statements once this time has passed.
    pub(super) fn end_after(limit: Duration) -> Self {
        let end = Instant::now() + limit;
        Self::narrow(|outer| Limits {
            end_at: Some(outer.end_at.map_or(end, |earlier| earlier.min(end))),
            ..outer
        })
    }

    /// Lowers the priority of the thread once this time has passed.
    pub(super) fn lower_priority_after(time: Duration) -> Self {
        let at = Instant::now() + time;
        Self::narrow(|outer| Limits { lower_priority_at: Some(at), ..outer })
    }

    fn narrow(limits: impl FnOnce(Limits) -> Limits) -> Self {
        let outer = LIMITS.get();
        LIMITS.set(limits(outer));
        Self { outer, _not_send: PhantomData }
    }
}

impl Drop for TimeLimit {
    fn drop(&mut self) {
        LIMITS.set(self.outer);
    }
}

/// Whether SQLite interrupted a statement.
pub(super) fn is_interruption(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted)
}
