//! Prepares a restored database: what was open waits, what was revoked since stays revoked.

use std::path::Path;

use rusqlite::OpenFlags;
use serde::Serialize;
use ulid::Ulid;

use super::BackupError;
use super::undone::{self, NotedErasure, Undone};
use crate::mail::Timestamp;
use crate::model::{EventId, EventKind};
use crate::store::database::{Connection, params};
use crate::store::memory::EventClock;
use crate::store::sql::events;
use crate::store::sql::sql_types::{count, us};
use crate::store::sql::sqlite::open::WRITER_PRAGMAS;
use crate::store::sql::sqlite::schema::{MigrationError, migrate};
use crate::store::{Erasure, RESTORED_US};

/// Where a restored database comes from.
#[derive(Debug, Clone, Copy)]
pub struct NewLife<'a> {
    /// The time of the backup.
    pub taken_at: Timestamp,
    /// The database that it replaces, which nobody writes.
    pub replaced: Option<&'a Path>,
    /// Erasures of recipients that were exported, with the same master key.
    pub erasures: &'a [Erasure],
    /// The time.
    pub now: Timestamp,
}

/// What was done, and what the replaced database had.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PreparedDatabase {
    /// Open deliveries, which wait.
    pub paused: u64,
    /// Keys that were revoked since the backup, and are revoked again.
    pub revoked_keys: Vec<String>,
    /// Erasures that the server applies again.
    pub erasures: u64,
    /// What else the replaced database had and this one lacks, in words.
    pub undone: Vec<String>,
    /// What was not compared, and why.
    pub skipped: Vec<String>,
}

/// The data of the event.
#[derive(Serialize)]
struct RestoredData {
    taken_at: Timestamp,
    deliveries: u64,
}

/// Migrates a restored database, makes its open deliveries wait, revokes keys again and appends the event. Needs no master key.
///
/// # Errors
/// [`BackupError`].
pub fn prepare_restored(database: &Path, life: NewLife<'_>) -> Result<PreparedDatabase, BackupError> {
    // The replaced database has a name of the form `file:`.
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let mut connection = rusqlite::Connection::open_with_flags(database, flags)?;
    connection.execute_batch(WRITER_PRAGMAS)?;
    migrate(&mut connection).map_err(|error| match error {
        MigrationError::Newer { found, known } => BackupError::Newer { found, known },
        MigrationError::Failed(error) => error.into(),
    })?;
    let mut prepared = PreparedDatabase::default();
    let undone = match life.replaced.map(|old| undone::compare(&connection, old, life.taken_at)) {
        None => Undone::default(),
        Some(Ok(undone)) => undone,
        Some(Err(error)) => {
            prepared.skipped.push(format!("the replaced database was not compared: {error}"));
            Undone::default()
        }
    };
    let connection = Connection::from(connection);
    let transaction = connection.transaction()?;
    prepared.paused = pause_all(&transaction, life)?;
    // Some of them have ended since.
    transaction.execute("DELETE FROM sign_in", [])?;
    prepared.revoked_keys = revoke_again(&transaction, &undone)?;
    prepared.erasures = erase_again(&transaction, &undone.erasures, life)?;
    prepared.undone = undone.other;
    append_event(&transaction, life, prepared.paused, undone.last_event)?;
    transaction.commit()?;
    // One file again, with nothing beside it; the server turns the log on.
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    Ok(prepared)
}

fn pause_all(connection: &Connection, life: NewLife<'_>) -> Result<u64, BackupError> {
    let sql = "UPDATE delivery SET next_attempt_us = ?1 WHERE next_attempt_us IS NOT NULL";
    let paused = connection.execute(sql, [RESTORED_US])?;
    connection.execute("DELETE FROM restoration", [])?;
    if paused > 0 {
        let sql = "INSERT INTO restoration (id, taken_us, restored_us, deliveries) VALUES (1, ?1, ?2, ?3)";
        connection.execute(sql, params![us(life.taken_at), us(life.now), paused as i64])?;
    }
    Ok(paused as u64)
}

fn revoke_again(connection: &Connection, undone: &Undone) -> Result<Vec<String>, BackupError> {
    let mut update =
        connection.prepare_cached("UPDATE key SET revoked_us = ?2 WHERE id = ?1 AND revoked_us IS NULL")?;
    let mut revoked = Vec::new();
    for (id, revoked_us) in &undone.revoked_keys {
        if update.execute(params![id, revoked_us])? > 0 {
            revoked.push(id.clone());
        }
    }
    Ok(revoked)
}

/// Notes erasures that were applied since the backup, or are not applied. The server applies them when it starts. Earlier ones stay
/// as they are: what came for their recipients afterwards was not erased. Returns the number.
fn erase_again(
    connection: &Connection,
    replaced: &[NotedErasure],
    life: NewLife<'_>,
) -> Result<u64, BackupError> {
    let sql = "INSERT INTO erasure (id, tenant_id, digest, keeps_suppression, created_us) VALUES (?1, ?2, ?3, ?4, ?5)
               ON CONFLICT (id) DO UPDATE SET applied_us = NULL";
    let mut note = connection.prepare_cached(sql)?;
    for erasure in replaced {
        let NotedErasure { id, tenant_id, digest, keeps_suppression, created_us } = erasure;
        note.execute(params![id, tenant_id, digest, keeps_suppression, created_us])?;
    }
    let is_undone = |erasure: &&Erasure| erasure.applied_at.is_none_or(|at| at > life.taken_at);
    for erasure in life.erasures.iter().filter(is_undone) {
        let Erasure { id, tenant_id, digest, keeps_suppression, requested_at, .. } = erasure;
        note.execute(params![id, tenant_id, digest, keeps_suppression, us(*requested_at)])?;
    }
    let pending = "SELECT count(*) FROM erasure WHERE applied_us IS NULL";
    Ok(connection.query_row(pending, [], |row| count(row, 0))?)
}

/// Appends `store.restored`. Its id is greater than those of all events of this database and of the replaced one.
fn append_event(
    connection: &Connection,
    life: NewLife<'_>,
    deliveries: u64,
    replaced: Option<EventId>,
) -> Result<(), BackupError> {
    let last = events::open_clock(connection)?.last();
    let replaced = replaced.map_or(0, |id| u128::from(Ulid::from(id)));
    let id = EventId::from(EventClock::behind(last.max(replaced)).next(life.now));
    let data = RestoredData { taken_at: life.taken_at, deliveries };
    let data = serde_json::to_string(&data).map_err(|error| BackupError::Failed(error.to_string()))?;
    let sql = "INSERT INTO event (id, kind, data, created_us, environment) VALUES (?1, ?2, ?3, ?4, NULL)";
    connection.execute(sql, params![id, EventKind::StoreRestored, data, us(life.now)])?;
    Ok(())
}
