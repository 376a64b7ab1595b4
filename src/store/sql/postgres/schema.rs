//! Migrations of PostgreSQL: numbered files, each applied in a transaction of its own. Processes of one version earlier may
//! run meanwhile, so they find all tables and columns as before.

use std::time::Instant;

use super::refused;
use crate::store::OpenError;
use crate::store::database::{self, Connection, params};

/// In order; the first is number 1. A released one never changes.
const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_initial.sql"),
    include_str!("migrations/0002_quota.sql"),
    include_str!("migrations/0003_partitions.sql"),
    include_str!("migrations/0004_changed_deliveries.sql"),
    include_str!("migrations/0005_sign_in.sql"),
    include_str!("migrations/0006_response_usage.sql"),
];

const CREATE_VERSION: &str = "CREATE TABLE IF NOT EXISTS schema_version (version BIGINT PRIMARY KEY)";

/// The newest version that this program knows.
pub(super) fn known() -> u32 {
    u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX)
}

/// The version of a database; 0 without tables.
pub(super) fn version(connection: &Connection) -> database::Result<u32> {
    if !has_table(connection, "schema_version")? {
        return Ok(0);
    }
    connection.query_row("SELECT coalesce(max(version), 0) FROM schema_version", [], |row| row.get(0))
}

/// Whether there is a table of this name.
pub(super) fn has_table(connection: &Connection, name: &str) -> database::Result<bool> {
    connection.prepare_cached("SELECT 1 WHERE to_regclass(?1) IS NOT NULL")?.exists([name])
}

/// Applies what is missing.
///
/// # Errors
/// [`OpenError::Newer`], [`OpenError::Database`].
pub(in crate::store::sql) fn migrate(connection: &Connection) -> Result<(), OpenError> {
    let known = known();
    loop {
        let found = match migrate_once(connection).map_err(refused)? {
            Migrated::All => return Ok(()),
            Migrated::One => continue,
            Migrated::Newer(found) => found,
        };
        return Err(OpenError::Newer { found, known });
    }
}

enum Migrated {
    /// There was nothing to apply.
    All,
    /// The next one was applied.
    One,
    /// The database has a version that this program does not know.
    Newer(u32),
}

fn migrate_once(connection: &Connection) -> database::Result<Migrated> {
    let begun = Instant::now();
    // Other processes that write or migrate wait.
    let transaction = connection.transaction()?;
    transaction.execute_batch(CREATE_VERSION)?;
    let found: u32 =
        transaction
            .query_row("SELECT coalesce(max(version), 0) FROM schema_version", [], |row| row.get(0))?;
    let Some(migration) = MIGRATIONS.get(found as usize) else {
        transaction.commit()?;
        return Ok(if found as usize > MIGRATIONS.len() { Migrated::Newer(found) } else { Migrated::All });
    };
    transaction.execute_batch(migration)?;
    transaction.execute("INSERT INTO schema_version (version) VALUES (?1)", params![found + 1])?;
    transaction.commit()?;
    let seconds = begun.elapsed().as_secs_f64();
    tracing::info!("the database has schema {} now, after {seconds:.1} s", found + 1);
    Ok(Migrated::One)
}
