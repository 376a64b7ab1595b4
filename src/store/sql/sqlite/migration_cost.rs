//! About how long the migrations of a database take. Most change only the schema; what counts is the rows that the others
//! rewrite or put into an index.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::leftovers;
use super::open::DATABASE_FILE;
use super::schema::known;
use crate::store::OpenError;

/// The migrations that touch every row of a table that grows with the mail: their number, and the table.
const REWRITES: &[(u32, &str)] = &[
    (12, "delivery"),
    (21, "suppression"),
    (23, "message"),
    (24, "event"),
    (25, "suppression"),
    (26, "event"),
    (26, "webhook_delivery"),
    (30, "rejection"),
    (31, "message"),
    (32, "usage"),
    (36, "suppression"),
    (38, "message"),
    (39, "webhook_delivery"),
    (41, "suppression"),
    (43, "suppression"),
    (45, "usage"),
    (46, "event"),
];
/// Rows that a migration rewrites in a second on a slow disk.
const ROWS_PER_SECOND: u64 = 200_000;

/// What brings a database to this program's schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PendingMigrations {
    /// The schema of the database.
    pub from: u32,
    /// The schema that this program knows.
    pub to: u32,
    /// About how many seconds it takes; at least one.
    pub seconds: u64,
}

/// What the database of a data directory needs, which a server may be using. `None` if it needs nothing, or is new.
///
/// # Errors
/// It cannot be read, or is newer than this program.
pub(in crate::store::sql) fn pending_migrations(
    data_dir: &Path,
) -> Result<Option<PendingMigrations>, OpenError> {
    let database = data_dir.join(DATABASE_FILE);
    let fault = |message: String| OpenError::Failed { path: data_dir.to_owned(), message };
    if leftovers::is_missing(&database).map_err(|error| fault(error.to_string()))? {
        return Ok(None);
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let pending =
        Connection::open_with_flags(database, flags).and_then(|connection| find_pending(&connection));
    match pending.map_err(|error| fault(error.to_string()))? {
        Some(PendingMigrations { from, to, .. }) if from > to => {
            Err(OpenError::Newer { found: from, known: to })
        }
        pending => Ok(pending),
    }
}

/// What a database needs. `None` if it needs nothing, or is new. Of a newer database, `from` is greater than `to`.
pub(in crate::store::sql) fn find_pending(
    connection: &Connection,
) -> rusqlite::Result<Option<PendingMigrations>> {
    let from: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let to = known();
    if from == 0 || from == to {
        return Ok(None);
    }
    let mut rows = 0;
    for (_, table) in REWRITES.iter().filter(|(number, _)| *number > from) {
        rows += count(connection, table)?;
    }
    Ok(Some(PendingMigrations { from, to, seconds: estimate(rows) }))
}

/// The rows of a table; none if the database does not have it yet.
fn count(connection: &Connection, table: &str) -> rusqlite::Result<u64> {
    let exists = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1";
    if connection.query_row(exists, [table], |_| Ok(())).optional()?.is_none() {
        return Ok(0);
    }
    let rows: i64 = connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))?;
    Ok(rows.unsigned_abs())
}

fn estimate(rows: u64) -> u64 {
    rows.div_ceil(ROWS_PER_SECOND).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sql::sqlite::schema::MIGRATIONS;

    /// Tables that grow with the mail.
    const LARGE: [&str; 11] = [
        "message",
        "body",
        "delivery",
        "attempt",
        "event",
        "suppression",
        "usage",
        "usage_part",
        "webhook_delivery",
        "rejection",
        "audit",
    ];

    #[test]
    fn every_migration_that_touches_all_rows_of_a_large_table_has_a_cost() {
        let mut missing = Vec::new();
        for (number, sql) in (1..).zip(MIGRATIONS) {
            let text = sql.lines().map(|line| line.split("--").next().unwrap_or_default().trim());
            let text = text.collect::<Vec<_>>().join(" ");
            for table in LARGE.iter().filter(|table| !text.contains(&format!("CREATE TABLE {table} ("))) {
                let forms = [
                    format!("UPDATE {table} "),
                    format!("DELETE FROM {table} "),
                    format!(" ON {table} ("),
                    format!("ALTER TABLE {table} DROP "),
                ];
                if forms.iter().any(|form| text.contains(form)) && !REWRITES.contains(&(number, *table)) {
                    missing.push((number, *table));
                }
            }
        }
        assert!(missing.is_empty(), "add to REWRITES: {missing:?}");
    }

    #[test]
    fn an_estimate_grows_with_the_rows() {
        assert_eq!([0, 1, 200_000, 200_001, 2_000_000].map(estimate), [1, 1, 1, 2, 10]);
    }

    #[test]
    fn a_new_database_needs_nothing_and_an_old_one_what_its_tables_have() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(pending_migrations(dir.path()).unwrap(), None);
        let connection = Connection::open(dir.path().join(DATABASE_FILE)).unwrap();
        connection.execute_batch("CREATE TABLE usage (n INTEGER)").unwrap();
        let rows = "WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r LIMIT 400001)
                    INSERT INTO usage SELECT n FROM r";
        connection.execute_batch(rows).unwrap();
        let to = known();
        for (version, seconds) in [(to, None), (44, Some(3)), (1, Some(5)), (0, None)] {
            connection.pragma_update(None, "user_version", version).unwrap();
            let pending = seconds.map(|seconds| PendingMigrations { from: version, to, seconds });
            assert_eq!(pending_migrations(dir.path()).unwrap(), pending, "{version}");
        }
        connection.pragma_update(None, "user_version", 9999).unwrap();
        let newer = pending_migrations(dir.path());
        assert!(matches!(newer, Err(OpenError::Newer { found: 9999, .. })), "{newer:?}");
    }
}
