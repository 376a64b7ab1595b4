//! Moves the write-ahead log into the database, and returns free pages to the file system.

use std::time::Duration;

/// How long a transaction waits for another process; also set when the connection is opened.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum of pages returned to the file system at once.
const VACUUM_PAGES: u32 = 2000;

/// Returns free pages to the file system, and moves the log into the database.
pub(in crate::store::sql) fn checkpoint(connection: &rusqlite::Connection) -> rusqlite::Result<()> {
    // Each step of the statement frees one page.
    let mut vacuum = connection.prepare_cached(&format!("PRAGMA incremental_vacuum({VACUUM_PAGES})"))?;
    let mut freed = vacuum.raw_query();
    while freed.next()?.is_some() {}
    drop(freed);
    drop(vacuum);
    move_log(connection)
}

/// Moves the log into the database without waiting for readers, because a slow one must not delay commits: the part of the
/// log that it still needs stays until the next checkpoint.
fn move_log(connection: &rusqlite::Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::ZERO)?;
    let moved = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    connection.busy_timeout(BUSY_TIMEOUT)?;
    moved
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Whether SQLite wanted to wait.
    static WAITS: AtomicBool = AtomicBool::new(false);

    fn refuse_to_wait(_times: i32) -> bool {
        WAITS.store(true, Ordering::Relaxed);
        false
    }

    #[test]
    fn a_checkpoint_does_not_wait_for_a_slow_reader() {
        let dir = tempfile::tempdir().unwrap();
        let open = || rusqlite::Connection::open(dir.path().join("x.db")).unwrap();
        let (writer, reader) = (open(), open());
        writer.pragma_update(None, "journal_mode", "wal").unwrap();
        writer.execute_batch("CREATE TABLE t (x)").unwrap();
        reader.execute_batch("BEGIN; SELECT count(*) FROM t;").unwrap();
        writer.execute_batch("INSERT INTO t VALUES (1)").unwrap();
        writer.busy_handler(Some(refuse_to_wait)).unwrap();
        writer.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        assert!(WAITS.swap(false, Ordering::Relaxed), "the reader is in the way of a checkpoint");
        move_log(&writer).unwrap();
        assert!(!WAITS.load(Ordering::Relaxed));
        let timeout: u32 = writer.pragma_query_value(None, "busy_timeout", |row| row.get(0)).unwrap();
        assert_eq!(Duration::from_millis(timeout.into()), BUSY_TIMEOUT);
    }
}
