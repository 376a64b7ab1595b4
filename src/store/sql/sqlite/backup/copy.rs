//! Copies a database beside the process that writes it.
//!
//! The copy runs within one read transaction. Without it, SQLite's backup begins anew at every commit of the other process, so
//! it never ends beside a busy server. The transaction keeps the write-ahead log from being emptied, so the log grows meanwhile.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::BackupError;
use crate::mail::Timestamp;
use crate::store::sql::sqlite::open::{log_of, private_file};
use crate::store::sql::sqlite::schema;

/// Octets of a step, whatever the size of a page.
const STEP_OCTETS: u64 = 4 * 1024 * 1024;
/// How long a step may wait for a lock.
const BUSY_WAIT: Duration = Duration::from_millis(50);

/// How far a copy is.
#[derive(Debug, Clone, Copy)]
pub struct CopyProgress {
    /// Octets that the last step copied.
    pub step_octets: u64,
    /// The size of the write-ahead log.
    pub log_octets: u64,
}

/// What was copied.
#[derive(Debug, Clone)]
pub struct CopiedDatabase {
    /// The number of the last migration.
    pub schema: u32,
    /// What was committed until this time is in the copy; of what came later, nothing is sure.
    pub taken_at: Timestamp,
    /// The last event.
    pub last_event: Option<String>,
    /// The fingerprint of the master key.
    pub master_key: Option<String>,
    /// Rows of each table.
    pub rows: BTreeMap<String, u64>,
    /// Deliveries that were not finished.
    pub open_deliveries: u64,
    /// Messages whose body is in a file.
    pub body_files: Vec<String>,
}

/// Copies a database into a new file. Asks before each step whether to go on; the caller may rest then.
///
/// # Errors
/// [`BackupError`].
pub fn copy_database(
    database: &Path,
    target: &Path,
    now: fn() -> Timestamp,
    before_step: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
) -> Result<CopiedDatabase, BackupError> {
    if !database.is_file() {
        return Err(BackupError::Absent(database.to_owned()));
    }
    // A reader of a database with a log needs write access to the index of the log.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let source = Connection::open_with_flags(database, flags)?;
    source.execute_batch("PRAGMA busy_timeout = 5000; PRAGMA query_only = ON; BEGIN")?;
    // Before the transaction: whatever was acknowledged until then is in the copy.
    let taken_at = now();
    // The first read begins the transaction.
    let schema: u32 = source.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    source.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    if schema > schema::known() {
        return Err(BackupError::Newer { found: schema, known: schema::known() });
    }
    // SQLite would create it with the mode of the process.
    private_file(target)?;
    let mut copy = Connection::open(target)?;
    let (written, log) = (File::open(target)?, log_of(database));
    run(&source, &mut copy, &mut |step_octets| {
        // Synced after each step: one long sync at the end would make the commits of the server wait. The caller measures the
        // work of the disk by that, too.
        written.sync_data()?;
        let log_octets = std::fs::metadata(&log).map_or(0, |metadata| metadata.len());
        let progress = CopyProgress { step_octets, log_octets };
        if before_step(progress).is_break() { Err(BackupError::GivenUp) } else { Ok(()) }
    })?;
    copy.close().map_err(|(_, error)| error)?;
    // The transaction ends, so that the log can be emptied while the copy is read.
    drop(source);
    let copy = Connection::open(target)?;
    // One file, with nothing beside it.
    let mode: String = copy.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get(0))?;
    if mode != "delete" {
        return Err(BackupError::Failed(format!("the copy has the journal mode {mode}")));
    }
    let copied = describe(&copy, schema, taken_at)?;
    copy.close().map_err(|(_, error)| error)?;
    File::open(target)?.sync_all()?;
    Ok(copied)
}

/// Copies in steps. Before each, it calls a function with the octets of the last one.
fn run(
    source: &Connection,
    copy: &mut Connection,
    before_step: &mut dyn FnMut(u64) -> Result<(), BackupError>,
) -> Result<(), BackupError> {
    let page_octets: u32 = source.query_row("PRAGMA page_size", [], |row| row.get(0))?;
    let step_pages = i32::try_from(STEP_OCTETS / u64::from(page_octets.max(512))).unwrap_or(i32::MAX);
    let backup = Backup::new(source, copy)?;
    let mut step_octets = 0;
    loop {
        before_step(step_octets)?;
        step_octets = match backup.step(step_pages)? {
            StepResult::Done => return Ok(()),
            StepResult::More => STEP_OCTETS,
            _ => {
                std::thread::sleep(BUSY_WAIT);
                0
            }
        };
    }
}

fn describe(copy: &Connection, schema: u32, taken_at: Timestamp) -> Result<CopiedDatabase, BackupError> {
    let text = |sql: &str| -> rusqlite::Result<Option<String>> {
        Ok(copy.query_row(sql, [], |row| row.get::<_, Option<String>>(0)).optional()?.flatten())
    };
    let count = |of: &str| -> rusqlite::Result<u64> {
        let count: i64 = copy.query_row(&format!("SELECT count(*) FROM {of}"), [], |row| row.get(0))?;
        Ok(count.unsigned_abs())
    };
    // The tables of the search index are not counted: they follow from the others.
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'
                   AND name NOT LIKE 'message_search%' ORDER BY name";
    let mut statement = copy.prepare(sql)?;
    let names = statement.query_map([], |row| row.get::<_, String>(0))?;
    let mut rows = BTreeMap::new();
    for name in names {
        let name = name?;
        let number = count(&format!("\"{name}\""))?;
        rows.insert(name, number);
    }
    // Databases of earlier versions have no such column.
    let has_fingerprint = copy.prepare("SELECT fingerprint FROM seal_check").is_ok();
    let sql = "SELECT message_id FROM body WHERE file_prefix_octets IS NOT NULL ORDER BY message_id";
    let mut statement = copy.prepare(sql)?;
    let body_files = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    Ok(CopiedDatabase {
        schema,
        taken_at,
        last_event: text("SELECT max(id) FROM event")?,
        master_key: if has_fingerprint {
            text("SELECT fingerprint FROM seal_check WHERE id = 1")?
        } else {
            None
        },
        rows,
        open_deliveries: count("delivery WHERE next_attempt_us IS NOT NULL")?,
        body_files,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_asks_before_each_step_whether_to_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("pillarbox.db");
        let connection = Connection::open(&database).unwrap();
        // Of two steps.
        let sql =
            "CREATE TABLE filling (octets BLOB); INSERT INTO filling VALUES (zeroblob(6 * 1024 * 1024))";
        connection.execute_batch(sql).unwrap();
        connection.close().unwrap();
        let mut steps = Vec::new();
        let mut before_step = |progress: CopyProgress| {
            steps.push(progress.step_octets);
            if steps.len() == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let copied = copy_database(&database, &dir.path().join("copy"), Timestamp::now, &mut before_step);
        assert!(matches!(copied, Err(BackupError::GivenUp)), "{steps:?}");
        assert_eq!(steps, [0, STEP_OCTETS]);
    }
}
