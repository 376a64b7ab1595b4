//! A database in PostgreSQL as one of the two stores of a copy.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{PostgresOptions, connect, refused, schema, server_check};
use crate::store::OpenError;
use crate::store::database::{self, Connection, PostgresServer, Row, SessionRole, WRITER_LOCK};

/// Connects to a database as the only writer, whose transactions others wait for. Returns its name for people, too.
pub(in crate::store::sql) fn open_for_copy(
    options: &PostgresOptions,
) -> Result<(Connection, String), OpenError> {
    let server = Arc::new(PostgresServer::new(options.config.clone(), options.tls.clone()));
    let connection = connect::connect(&server, SessionRole::Lane { slot: 0 })?;
    server_check::require_usable(&connection, options.is_unsafe_allowed)?;
    Ok((connection, server.name()))
}

/// What uses the database besides this session. After it has said that nothing does, whatever wants to write waits. Blocks.
pub(in crate::store::sql) fn find_user(connection: &Connection) -> database::Result<Option<String>> {
    // Of the session, until its end: the transactions of the copy take the lock once more.
    let lock = "SELECT pg_try_advisory_lock(?1)";
    let is_taken = |row: &Row<'_>| row.get::<_, bool>(0);
    let end = Instant::now() + SESSION_END_MAX;
    loop {
        let others = if connection.query_row(lock, [WRITER_LOCK], is_taken)? {
            connection.query_row(SESSIONS, [], |row| row.get::<_, Option<String>>(0))?
        } else {
            Some("another process, which writes".to_owned())
        };
        if others.is_none() || Instant::now() > end {
            return Ok(others);
        }
        std::thread::sleep(SESSION_POLL_INTERVAL);
    }
}

/// Other sessions of Pillarbox. Also a server that waits for mail has some.
const SESSIONS: &str = "SELECT 'a server or command of Pillarbox from '
        || string_agg(DISTINCT coalesce(CAST(client_addr AS TEXT), 'this machine'), ', ')
    FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
        AND application_name LIKE 'pillarbox%'";
/// The sessions of a process that has ended may take so long to end.
const SESSION_END_MAX: Duration = Duration::from_secs(5);
const SESSION_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Refuses a database without the tables of a server.
pub(in crate::store::sql) fn require_tables(connection: &Connection, name: &str) -> Result<(), OpenError> {
    match schema::version(connection).map_err(refused)? {
        0 => Err(OpenError::Database(format!("{name} has no tables of Pillarbox"))),
        _ => Ok(()),
    }
}

/// Tables that follow from copied ones. A copy that was interrupted may have filled them.
const FILLED: &[(&str, &str)] = &[(
    "queue",
    "INSERT INTO queue (id, tenant_id, destination, next_attempt_us, owner)
     SELECT id, tenant_id, destination, next_attempt_us, 0 FROM delivery WHERE next_attempt_us IS NOT NULL
     ON CONFLICT DO NOTHING",
)];

/// Makes what follows from copied rows, and lets numbers go on behind the copied ones.
pub(in crate::store::sql) fn complete_copy<'a>(
    connection: &Connection,
    tables: impl Iterator<Item = &'a str>,
) -> database::Result<()> {
    let transaction = connection.transaction()?;
    for (table, fill) in FILLED {
        let exists = "SELECT 1 WHERE to_regclass(?1) IS NOT NULL";
        if transaction.prepare_cached(exists)?.exists([table])? {
            transaction.execute(fill, [])?;
        }
    }
    for table in tables {
        let sql = "SELECT attname FROM pg_attribute
                   WHERE attrelid = to_regclass(?1) AND attnum > 0 AND NOT attisdropped AND attidentity <> ''";
        let mut statement = transaction.prepare_cached(sql)?;
        let columns = statement.query_map([table], |row| row.get::<_, String>(0))?;
        for column in columns.collect::<database::Result<Vec<_>>>()? {
            let sql = format!(
                "SELECT setval(pg_get_serial_sequence('{table}', '{column}'),
                               (SELECT coalesce(max(\"{column}\"), 0) + 1 FROM \"{table}\"), FALSE)"
            );
            transaction.query_row(&sql, [], |_| Ok(()))?;
        }
    }
    transaction.commit()?;
    connection.execute_batch("ANALYZE")
}
