//! A database in PostgreSQL as one of the two stores of a copy.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{PostgresOptions, connect, refused, schema};
use crate::store::OpenError;
use crate::store::database::{self, Connection, PostgresServer, SessionRole, WRITER_LOCK};

/// Connects to a database as the only writer, whose transactions others wait for. Returns its name for people, too.
pub(in crate::store::sql) fn open_for_copy(
    options: &PostgresOptions,
) -> Result<(Connection, String), OpenError> {
    let server = Arc::new(PostgresServer::new(options.config.clone(), options.tls.clone()));
    let connection = connect::connect_first(&server, SessionRole::Lane, options.is_unsafe_allowed)?;
    Ok((connection, server.name()))
}

/// What uses the database besides this session. After it has said that nothing does, whatever wants to write waits. Blocks.
pub(in crate::store::sql) fn find_user(connection: &Connection) -> database::Result<Option<String>> {
    let end = Instant::now() + SESSION_END_MAX;
    loop {
        let user = find_user_now(connection)?;
        if user.is_none() || Instant::now() > end {
            return Ok(user);
        }
        std::thread::sleep(SESSION_POLL_INTERVAL);
    }
}

fn find_user_now(connection: &Connection) -> database::Result<Option<String>> {
    // Of the session, until its end: the transactions of the copy take the lock once more.
    let is_taken: bool =
        connection.query_row("SELECT pg_try_advisory_lock(?1)", [WRITER_LOCK], |row| row.get(0))?;
    if !is_taken {
        return Ok(Some("another process, which writes".to_owned()));
    }
    let name = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, Option<String>>(0));
    match name(SESSIONS)? {
        None if schema::has_table(connection, "node")? => name(NODES),
        found => Ok(found),
    }
}

/// Other sessions of Pillarbox. Also a server that waits for mail has some.
const SESSIONS: &str = "SELECT 'a server or command of Pillarbox from '
        || string_agg(DISTINCT coalesce(CAST(client_addr AS TEXT), 'this machine'), ', ')
    FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
        AND application_name LIKE 'pillarbox%'";
/// Nodes that may have mail in memory without a session: until the end of their leases, they try to connect.
const NODES: &str = "SELECT 'the node ' || string_agg(name, ', ') || ', whose lease ends within seconds'
    FROM node WHERE state = 'live' AND lease_until > clock_timestamp()";
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
        if schema::has_table(&transaction, table)? {
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
