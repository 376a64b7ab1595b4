//! Finds out whether a transaction was committed whose commit the server did not answer.

use std::cell::RefCell;
use std::fmt::Display;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::store::database::{self, Connection, params};

/// How long the callers of a transaction wait for the outcome.
const WAIT_MAX: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CommitOutcome {
    /// It is durable.
    Committed,
    /// It will never be committed.
    RolledBack,
    /// The server did not say in time.
    Unknown,
}

/// A row that a transaction inserts with a new id: it exists if the transaction was committed. Nothing deletes it within
/// seconds.
#[derive(Default)]
pub(super) struct InsertedRow(RefCell<Option<(&'static str, String)>>);

impl InsertedRow {
    /// Notes the first row of a transaction.
    pub(super) fn note(&self, table: &'static str, id: impl Display) {
        let mut noted = self.0.borrow_mut();
        if noted.is_none() {
            *noted = Some((table, id.to_string()));
        }
    }

    pub(super) fn is_noted(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Forgets the row of a job that was rolled back.
    pub(super) fn forget(&self) {
        self.0.take();
    }

    /// Asks the server about a transaction of a session that the client has left.
    pub(super) fn find_outcome(&self, connection: &Connection, session: &str) -> CommitOutcome {
        let Some((table, id)) = &*self.0.borrow() else { return CommitOutcome::Unknown };
        let end = Instant::now() + WAIT_MAX;
        let mut outcome = CommitOutcome::Unknown;
        while outcome == CommitOutcome::Unknown && Instant::now() < end {
            connection.limit_answers(Some(end.saturating_duration_since(Instant::now())));
            match ask(connection, session, table, id) {
                Ok(Some(found)) => outcome = found,
                Ok(None) => sleep(POLL_INTERVAL),
                Err(error) => {
                    tracing::debug!(%error, "the outcome of a commit is not known yet");
                    sleep(POLL_INTERVAL);
                }
            }
        }
        connection.limit_answers(None);
        outcome
    }
}

/// `None` while the session may still commit.
fn ask(
    connection: &Connection,
    session: &str,
    table: &str,
    id: &str,
) -> database::Result<Option<CommitOutcome>> {
    // Its transaction ends before it leaves this view.
    let sql = "SELECT 1 FROM pg_stat_activity WHERE application_name = ?1";
    if connection.prepare_cached(sql)?.exists([session])? {
        return Ok(None);
    }
    if !connection.prepare_cached(&format!("SELECT 1 FROM {table} WHERE id = ?1"))?.exists([id])? {
        return Ok(Some(CommitOutcome::RolledBack));
    }
    // The session may have ended while it waited for the standby. A later commit that waits for it confirms both.
    let filler: &[u8] = &[];
    connection.begin(database::WriterLock::Shared)?;
    let confirmed = connection
        .execute("INSERT INTO write_test (filler) VALUES (?1)", params![filler])
        .and_then(|_| connection.execute("DELETE FROM write_test", []))
        .and_then(|_| connection.commit());
    if confirmed.is_err() {
        connection.roll_back()?;
    }
    confirmed.map(|()| Some(CommitOutcome::Committed))
}
