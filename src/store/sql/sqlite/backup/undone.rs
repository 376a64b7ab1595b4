//! Compares a restored database with the one that it replaces: what was changed since the backup, and the restored one lacks.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use rusqlite::{Connection, OpenFlags};

use super::BackupError;
use crate::mail::Timestamp;
use crate::model::EventId;
use crate::store::sql::sql_types::us;
use crate::store::sql::sqlite::open::log_of;

/// Lines of each kind.
const LINES_MAX: usize = 50;

/// What a restored database lacks.
#[derive(Debug, Default)]
pub(in crate::store::sql) struct Undone {
    /// Keys that were revoked since the backup, with the time in microseconds.
    pub(in crate::store::sql) revoked_keys: Vec<(String, i64)>,
    /// Its last event.
    pub(in crate::store::sql) last_event: Option<EventId>,
    /// Erasures of recipients that were noted or completed since the backup.
    pub(in crate::store::sql) erasures: Vec<NotedErasure>,
    /// The rest in words: `tenant acme was suspended, and is active again`.
    pub(in crate::store::sql) other: Vec<String>,
}

/// An erasure of a recipient as it is stored.
#[derive(Debug)]
pub(in crate::store::sql) struct NotedErasure {
    pub(in crate::store::sql) id: String,
    pub(in crate::store::sql) tenant_id: Option<String>,
    pub(in crate::store::sql) digest: Vec<u8>,
    pub(in crate::store::sql) keeps_suppression: bool,
    pub(in crate::store::sql) created_us: i64,
}

/// Queries for changes, each of which is a line of text.
const CHANGES: &[&str] = &[
    "SELECT 'tenant ' || old.slug || ' was ' || old.status || ', and is ' || tenant.status || ' again'
     FROM replaced.tenant old JOIN main.tenant ON tenant.id = old.id WHERE old.status <> tenant.status",
    "SELECT 'tenant ' || slug || ' was created' FROM replaced.tenant old
     WHERE NOT EXISTS (SELECT 1 FROM main.tenant WHERE id = old.id)",
    "SELECT 'tenant ' || slug || ' was deleted, and is there again' FROM main.tenant
     WHERE NOT EXISTS (SELECT 1 FROM replaced.tenant old WHERE old.id = tenant.id)",
    "SELECT 'tenant ' || old.slug || ' had other rate limits'
     FROM replaced.tenant old JOIN main.tenant ON tenant.id = old.id WHERE old.rate_limit <> tenant.rate_limit",
    "SELECT 'domain ' || name || ' was added' FROM replaced.domain old
     WHERE NOT EXISTS (SELECT 1 FROM main.domain WHERE id = old.id)",
    "SELECT 'domain ' || name || ' was deleted, and is there again' FROM main.domain
     WHERE NOT EXISTS (SELECT 1 FROM replaced.domain old WHERE old.id = domain.id)",
    "SELECT 'DKIM key ' || old.selector || ' of ' || domain.name || ' was created'
     FROM replaced.dkim_key old JOIN main.domain ON domain.id = old.domain_id
     WHERE NOT EXISTS (SELECT 1 FROM main.dkim_key WHERE id = old.id)",
    "SELECT 'key ' || old.id || ' was created' FROM replaced.key old
     WHERE NOT EXISTS (SELECT 1 FROM main.key WHERE id = old.id)",
    "SELECT 'key ' || old.id || ' was rotated, and has its former secret again'
     FROM replaced.key old JOIN main.key ON key.id = old.id WHERE old.digest <> key.digest",
    "SELECT 'suppressions of '
         || coalesce((SELECT slug FROM replaced.tenant WHERE id = old.tenant_id), 'the platform')
         || ' since then: ' || count(*)
     FROM replaced.suppression old WHERE NOT EXISTS (SELECT 1 FROM main.suppression WHERE id = old.id)
     GROUP BY old.tenant_id",
    "SELECT 'messages since then: ' || count(*) FROM replaced.message old
     WHERE NOT EXISTS (SELECT 1 FROM main.message WHERE id = old.id) HAVING count(*) > 0",
];

/// The name by which SQLite changes nothing in a database that nobody has open. Otherwise it would write the log of a server that
/// crashed into the database, the only copy of the newest mail.
fn read_only_name(database: &Path) -> String {
    let path = percent_encode(database.as_os_str().as_bytes(), NON_ALPHANUMERIC);
    let has_log = log_of(database).metadata().is_ok_and(|log| log.len() > 0);
    // To read a log, it makes an index of the log beside it.
    format!("file:{path}?{}", if has_log { "mode=ro" } else { "immutable=1" })
}

/// The fingerprint of the master key of a database that nobody has open, if it has one and can be read.
pub fn fingerprint_in_database(database: &Path) -> Option<String> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(read_only_name(database), flags).ok()?;
    connection.query_row("SELECT fingerprint FROM seal_check WHERE id = 1", [], |row| row.get(0)).ok()?
}

/// The connection must take names of the form `file:`.
pub(in crate::store::sql) fn compare(
    restored: &Connection,
    old: &Path,
    taken_at: Timestamp,
) -> Result<Undone, BackupError> {
    restored.execute("ATTACH DATABASE ?1 AS replaced", [read_only_name(old)])?;
    let undone = read(restored, us(taken_at));
    restored.execute_batch("DETACH DATABASE replaced")?;
    Ok(undone?)
}

fn read(restored: &Connection, taken_us: i64) -> rusqlite::Result<Undone> {
    let mut undone = Undone::default();
    let mut statement = restored.prepare("SELECT id, revoked_us FROM replaced.key WHERE revoked_us > ?1")?;
    let keys = statement.query_map([taken_us], |row| Ok((row.get(0)?, row.get(1)?)))?;
    undone.revoked_keys = keys.collect::<rusqlite::Result<_>>()?;
    undone.last_event = restored.query_row("SELECT max(id) FROM replaced.event", [], |row| row.get(0))?;
    undone.erasures = read_erasures(restored, taken_us)?;
    for sql in CHANGES {
        let mut statement = restored.prepare(&format!("{sql} ORDER BY 1 LIMIT {}", LINES_MAX + 1))?;
        let lines = statement.query_map([], |row| row.get(0))?;
        let mut lines: Vec<String> = lines.collect::<rusqlite::Result<_>>()?;
        if lines.len() > LINES_MAX {
            lines[LINES_MAX] = "more of this kind".into();
        }
        undone.other.append(&mut lines);
    }
    Ok(undone)
}

/// A database of an earlier version has none.
fn read_erasures(restored: &Connection, taken_us: i64) -> rusqlite::Result<Vec<NotedErasure>> {
    let has_table = "SELECT 1 FROM replaced.sqlite_master WHERE type = 'table' AND name = 'erasure'";
    if !restored.prepare(has_table)?.exists([])? {
        return Ok(Vec::new());
    }
    let sql = "SELECT id, tenant_id, digest, keeps_suppression, created_us FROM replaced.erasure
               WHERE applied_us IS NULL OR applied_us > ?1";
    let mut statement = restored.prepare(sql)?;
    let erasures = statement.query_map([taken_us], |row| {
        Ok(NotedErasure {
            id: row.get(0)?,
            tenant_id: row.get(1)?,
            digest: row.get(2)?,
            keeps_suppression: row.get(3)?,
            created_us: row.get(4)?,
        })
    })?;
    erasures.collect()
}
