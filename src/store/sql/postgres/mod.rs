//! What belongs to PostgreSQL alone: how its database is opened and what schema it has.

mod schema;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use super::blob_store::BodyFiles;
use super::readers::ReaderManager;
use super::secret_encryption::MasterKeyFile;
use super::sqlite::open::{Opened, start, unlock};
use super::{Bounds, SqliteOptions, Store};
use crate::store::database::{Connection, DatabaseError, PostgresConnection, PostgresServer};
use crate::store::{Access, OpenError};

/// The oldest version that has all that is used: 13.
const SERVER_VERSION_MIN: i64 = 130_000;

/// How a database in PostgreSQL is opened.
#[derive(Clone)]
pub struct PostgresOptions {
    /// Host, user, password and database.
    pub config: tokio_postgres::Config,
    /// TLS, with which the certificate of the server is verified; `None` for sockets and loopback.
    pub tls: Option<tokio_rustls::TlsConnector>,
    /// The directory of the master key.
    pub data_dir: PathBuf,
    /// The file with the key that encrypts secrets. By default `master.key` in the data directory, created if absent.
    pub master_key_file: Option<PathBuf>,
    /// Connections for queries.
    pub read_connections: u32,
    /// Memory for accepted messages until their immediate delivery, with 1 KiB for each recipient.
    pub hot_queue_bytes_max: u64,
    /// Whether this process serves the spool.
    pub access: Access,
    /// Bounds of the work of a step and of stored rows.
    pub bounds: Bounds,
}

impl std::fmt::Debug for PostgresOptions {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresOptions").field("hosts", &self.config.get_hosts()).finish_non_exhaustive()
    }
}

/// Opens the database; migrates it if necessary. Blocks.
pub(super) fn open(options: &PostgresOptions) -> Result<Store, OpenError> {
    let server = Arc::new(PostgresServer::new(options.config.clone(), options.tls.clone()));
    let connection = PostgresConnection::open(Arc::clone(&server)).map(Connection::Postgres);
    let connection = connection.map_err(refused)?;
    check_server(&connection)?;
    schema::migrate(&connection)?;
    let key_file = MasterKeyFile::new(options.master_key_file.clone(), &options.data_dir);
    let sealer = unlock(&connection, &key_file, OpenError::Database)?;
    // All bodies are rows.
    let bodies = BodyFiles::new(&options.data_dir, u64::MAX);
    let opened = Opened { connection, readers: ReaderManager::Postgres(server), sealer, bodies, lock: None };
    start(&options.of_process(), opened).map_err(|error| OpenError::Database(error.to_string()))
}

impl PostgresOptions {
    /// What concerns the process and not its database.
    fn of_process(&self) -> SqliteOptions {
        SqliteOptions {
            master_key_file: self.master_key_file.clone(),
            read_connections: self.read_connections,
            hot_queue_bytes_max: self.hot_queue_bytes_max,
            access: self.access,
            bounds: self.bounds,
            ..SqliteOptions::at(&self.data_dir)
        }
    }
}

pub(super) fn refused(error: DatabaseError) -> OpenError {
    OpenError::Database(error.to_string())
}

/// Refuses servers that lack what the store relies on.
fn check_server(connection: &Connection) -> Result<(), OpenError> {
    let sql = "SELECT CAST(current_setting('server_version_num') AS BIGINT), version(),
                      current_setting('server_encoding')";
    let read = connection.query_row(sql, [], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?))
    });
    let (number, version, encoding) = read.map_err(refused)?;
    // Those have the protocol of PostgreSQL, but not its locks and notifications.
    if !version.starts_with("PostgreSQL") || version.contains("YB") {
        return Err(OpenError::Database(format!("the server must be PostgreSQL, not {version}")));
    }
    if number < SERVER_VERSION_MIN {
        return Err(OpenError::Database(format!("PostgreSQL 13 or later is necessary, not {version}")));
    }
    if encoding != "UTF8" {
        return Err(OpenError::Database(format!(
            "the encoding of the database must be UTF8, not {encoding}; create it with ENCODING 'UTF8' TEMPLATE template0"
        )));
    }
    Ok(())
}
