//! Watches the processor time that queries take: lowers the priority of those that take long, ends those that take too
//! long. Time in which a query waits for the processor does not count, because others cause it.

use std::cell::Cell;
use std::marker::PhantomData;
use std::time::Duration;

use rusqlite::Connection;
use rustix::time::{ClockId, clock_gettime};

use super::query_threads::lower_priority;

/// Steps of the database engine between two readings of the clock; some take microseconds.
const STEPS_PER_READING: i32 = 500;

/// The processor times of a thread at which something happens to its query.
#[derive(Clone, Copy, Default)]
struct Limits {
    lower_priority_at: Option<Duration>,
    end_at: Option<Duration>,
}

thread_local! {
    static LIMITS: Cell<Limits> = const { Cell::new(Limits { lower_priority_at: None, end_at: None }) };
}

/// The processor time that this thread has taken.
fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// Makes the limits of a thread hold for the statements of a connection to SQLite.
pub(in crate::store) fn watch(connection: &Connection) -> rusqlite::Result<()> {
    connection.progress_handler(
        STEPS_PER_READING,
        Some(|| {
            let limits = LIMITS.get();
            if limits.lower_priority_at.is_none() && limits.end_at.is_none() {
                return false;
            }
            let now = processor_time();
            if limits.lower_priority_at.is_some_and(|at| now >= at) {
                lower_priority();
            }
            limits.end_at.is_some_and(|end| now >= end)
        }),
    )
}

/// A limit for the statements that this thread runs until the value is dropped.
pub(in crate::store) struct TimeLimit {
    outer: Limits,
    /// The limit belongs to one thread.
    _not_send: PhantomData<*const ()>,
}

impl TimeLimit {
    /// Ends statements once this thread has taken so much more processor time.
    pub(in crate::store) fn end_after(time: Duration) -> Self {
        Self::begin(None, Some(time))
    }

    /// Lowers the priority of the thread and ends its statements, each once the thread has taken so much more processor
    /// time. One value has both limits, so that they end together.
    pub(in crate::store) fn begin(
        lower_priority_after: Option<Duration>,
        end_after: Option<Duration>,
    ) -> Self {
        let outer = LIMITS.get();
        let now = processor_time();
        let earliest = |new: Option<Duration>, outer: Option<Duration>| {
            [new.map(|time| now + time), outer].into_iter().flatten().min()
        };
        LIMITS.set(Limits {
            lower_priority_at: earliest(lower_priority_after, outer.lower_priority_at),
            end_at: earliest(end_after, outer.end_at),
        });
        Self { outer, _not_send: PhantomData }
    }

    /// How much longer a statement of this thread may run. A server does its work elsewhere, so that the time that it takes
    /// counts as if it were this thread's.
    pub(super) fn rest() -> Option<Duration> {
        LIMITS.get().end_at.map(|end| end.saturating_sub(processor_time()))
    }
}

impl Drop for TimeLimit {
    fn drop(&mut self) {
        LIMITS.set(self.outer);
    }
}
