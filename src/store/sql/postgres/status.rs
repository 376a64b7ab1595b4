//! Looks at a database in PostgreSQL without changing it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{PostgresOptions, connect, refused, schema};
use crate::store::database::{self, Connection, PostgresServer, SessionRole};
use crate::store::{DatabaseSettings, DatabaseStatus, OpenError, PendingMigrations};

/// What there is of the database. Refuses servers that [`crate::store::Store::open`] refuses.
///
/// # Errors
/// [`OpenError::Database`].
pub async fn database_status(options: PostgresOptions) -> Result<DatabaseStatus, OpenError> {
    let look = move || {
        let server = Arc::new(PostgresServer::new(options.config.clone(), options.tls.clone()));
        let connection = connect::connect_first(&server, SessionRole::Reader, options.is_unsafe_allowed)?;
        read(&connection, server.name()).map_err(refused)
    };
    run_blocking(look).await
}

/// What brings the database to this program's schema; `None` if it needs nothing, or is new.
///
/// # Errors
/// [`OpenError::Database`], [`OpenError::Newer`].
pub(in crate::store::sql) async fn pending_migrations(
    options: PostgresOptions,
) -> Result<Option<PendingMigrations>, OpenError> {
    let look = move || {
        let server = Arc::new(PostgresServer::new(options.config, options.tls));
        let found = schema::version(&connect::connect(&server, SessionRole::Reader)?).map_err(refused)?;
        let known = schema::known();
        match found {
            found if found > known => Err(OpenError::Newer { found, known }),
            found if found == 0 || found == known => Ok(None),
            // Migrations of PostgreSQL read no rows, which takes no time.
            found => Ok(Some(PendingMigrations { from: found, to: known, seconds: 1 })),
        }
    };
    run_blocking(look).await
}

/// Runs what waits for the server on a thread that may.
async fn run_blocking<T: Send + 'static>(
    look: impl FnOnce() -> Result<T, OpenError> + Send + 'static,
) -> Result<T, OpenError> {
    let looked = tokio::task::spawn_blocking(look).await;
    looked.unwrap_or_else(|error| Err(OpenError::Database(error.to_string())))
}

fn read(connection: &Connection, name: String) -> database::Result<DatabaseStatus> {
    let version: String =
        connection.query_row("SELECT split_part(current_setting('server_version'), ' ', 1)", [], |row| {
            row.get(0)
        })?;
    let settings = read_settings(connection)?;
    let has_tables = schema::version(connection)? > 0;
    let mut ping = connection.prepare_cached("SELECT 1")?;
    ping.query_row([], |_| Ok(()))?;
    let begun = Instant::now();
    ping.query_row([], |_| Ok(()))?;
    Ok(DatabaseStatus { name, version, round_trip: begun.elapsed(), has_tables, settings })
}

fn read_settings(connection: &Connection) -> database::Result<DatabaseSettings> {
    // In their units: MB and s.
    let number = |name: &str| -> database::Result<u64> {
        let sql = "SELECT CAST(setting AS BIGINT) FROM pg_settings WHERE name = ?1";
        let found: i64 = connection.query_row(sql, [name], |row| row.get(0))?;
        Ok(u64::try_from(found).unwrap_or(0))
    };
    let compression: String =
        connection.query_row("SELECT current_setting('wal_compression')", [], |row| row.get(0))?;
    Ok(DatabaseSettings {
        max_wal_octets: number("max_wal_size")?.saturating_mul(1024 * 1024),
        checkpoint_timeout: Duration::from_secs(number("checkpoint_timeout")?),
        is_wal_compressed: compression != "off",
        autovacuum_naptime: Duration::from_secs(number("autovacuum_naptime")?),
    })
}
