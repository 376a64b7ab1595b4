//! What belongs to PostgreSQL alone: how its database is opened and what schema it has.

pub(super) mod announcements;
mod connect;
mod for_copy;
#[cfg(test)]
mod lane_tests;
pub(super) mod node;
#[cfg(test)]
mod opening_tests;
#[cfg(test)]
mod order_tests;
#[cfg(test)]
mod partition_tests;
pub(super) mod partitions;
pub(super) mod quota_table;
mod schema;
mod server_check;
mod status;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;
use ulid::Ulid;

use self::node::Node;
use self::quota_table::QuotaTable;
use super::blob_store::BodyFiles;
use super::body_pieces::BodyPieces;
use super::copy::refuse_marked;
use super::journal::commit_order;
use super::readers::ReaderManager;
use super::secret_encryption::MasterKeyFile;
use super::sqlite::open::{Opened, lock_data_dir, start, unlock};
use super::{Bounds, SqliteOptions, Store};
use crate::durable_file::{self, create_directory};
use crate::mail::Timestamp;
use crate::model::EventId;
use crate::store::database::{Connection, DatabaseError, PostgresServer, SessionRole};
use crate::store::memory::{AnnouncementTargets, NodeLease, Reload};
use crate::store::{Access, OpenError};
pub(super) use for_copy::{complete_copy, find_user, open_for_copy, require_tables};
pub(super) use schema::migrate;
pub use status::database_status;
pub(super) use status::pending_migrations;

/// The file in the data directory that names it in the database.
const NODE_ID_FILE: &str = "node_id";
/// Maximum of announced bans, back-offs, or cancellations that are not applied yet; beyond it they are dropped.
const BANS_WAITING_MAX: usize = 10_000;
const BACKOFFS_WAITING_MAX: usize = 1000;
const CANCELLATIONS_WAITING_MAX: usize = 1000;

/// How a database in PostgreSQL is opened.
#[derive(Clone)]
pub struct PostgresOptions {
    /// Host, user, password and database.
    pub config: tokio_postgres::Config,
    /// TLS, with which the certificate of the server is verified; `None` for sockets and loopback.
    pub tls: Option<tokio_rustls::TlsConnector>,
    /// Whether the server may be one that loses or damages data when its machine crashes.
    pub is_unsafe_allowed: bool,
    /// The directory of the master key.
    pub data_dir: PathBuf,
    /// The file with the key that encrypts secrets. By default `master.key` in the data directory, created if absent.
    pub master_key_file: Option<PathBuf>,
    /// Connections for queries.
    pub read_connections: u32,
    /// Connections that commit accepted mail and results at the same time; at least one is opened.
    pub lanes: u32,
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

/// Opens the database; migrates it if necessary. Blocks. A store that serves the spool cannot do so before [`join`].
pub(super) fn open(options: &PostgresOptions) -> Result<Store, OpenError> {
    let server = Arc::new(PostgresServer::new(options.config.clone(), options.tls.clone()));
    let connection = connect::connect_first(&server, SessionRole::Reader, options.is_unsafe_allowed)?;
    refuse_without_tables(options.access, &server, &connection)?;
    let lock = prepare(options)?;
    schema::migrate(&connection)?;
    // A copy in progress is over when the migration has the lock of writers, and has left its mark.
    refuse_marked(&connection, &server.name(), refused)?;
    commit_order::continue_after_restore(&connection)
        .map_err(|error| OpenError::Database(error.to_string()))?;
    let key_file = MasterKeyFile::new(options.master_key_file.clone(), &options.data_dir);
    let sealer = unlock(&connection, &key_file, OpenError::Database)?;
    // No body is in a file.
    let bodies = BodyFiles::new(&options.data_dir, u64::MAX);
    let lane = || connect::connect(&server, SessionRole::Lane);
    let connection = lane()?;
    let lanes = if options.access == Access::Serve { options.lanes } else { 1 };
    let lanes = (1..lanes).map(|_: u32| lane()).collect::<Result<_, _>>()?;
    let readers = ReaderManager::Postgres(Arc::clone(&server));
    let lease = if options.access == Access::Serve { NodeLease::shared() } else { NodeLease::unshared() };
    let body_pieces = connect::connect(&server, SessionRole::BodyPieces)?;
    let body_pieces = Some(BodyPieces::new(body_pieces, lease.clone()));
    let quota_table = (options.access == Access::Serve).then(|| QuotaTable::new(server));
    let opened = Opened { connection, lanes, readers, sealer, bodies, body_pieces, lock, lease, quota_table };
    start(&options.of_process(), opened).map_err(|error| OpenError::Database(error.to_string()))
}

/// Refuses to make tables for a command that needs those of a server.
fn refuse_without_tables(
    access: Access,
    server: &PostgresServer,
    connection: &Connection,
) -> Result<(), OpenError> {
    if access == Access::Manage && schema::version(connection).map_err(refused)? == 0 {
        return Err(OpenError::Database(format!(
            "{} has no tables of Pillarbox; name the right database in store.url, or create them with: pillarbox key create --init",
            server.name()
        )));
    }
    Ok(())
}

/// Makes the store one of the nodes that serve the database.
pub(super) async fn join(store: &Store, options: &PostgresOptions) -> Result<(), OpenError> {
    if options.access != Access::Serve {
        return Ok(());
    }
    let (bans, ban_feed) = mpsc::channel(BANS_WAITING_MAX);
    *store.ban_feed.lock() = Some(ban_feed);
    let (backoffs, backoff_feed) = mpsc::channel(BACKOFFS_WAITING_MAX);
    *store.backoff_feed.lock() = Some(backoff_feed);
    let (cancellations, cancellation_feed) = mpsc::channel(CANCELLATIONS_WAITING_MAX);
    *store.cancellation_feed.lock() = Some(cancellation_feed);
    let node = Node {
        server: Arc::new(PostgresServer::new(options.config.clone(), options.tls.clone())),
        lease: store.lease.clone(),
        targets: AnnouncementTargets {
            feed: Arc::clone(&store.feed),
            directory_versions: store.directory_versions.clone(),
            suppression_times: store.suppression_times.clone(),
            bans,
            backoffs,
            cancellations,
        },
        reload: Box::new(reload_in(store)),
        node_id: read_node_id(options)?,
    };
    let heartbeat = node.join().await.map_err(|error| OpenError::Database(error.to_string()))?;
    *store.heartbeat.lock() = Some(heartbeat);
    Ok(())
}

/// Reads again what another node has changed. The database must be able to close meanwhile.
fn reload_in(store: &Store) -> impl Fn(Reload) + Send + Sync + 'static {
    let database = Arc::downgrade(&store.database);
    move |reload| {
        let Some(database) = database.upgrade() else { return };
        match reload {
            Reload::Webhooks => database.outdated.store(true, Ordering::Release),
            Reload::ReportKeys => drop(tokio::spawn(async move {
                if let Err(error) = Store::of_database(database).reload_report_keys().await {
                    tracing::warn!(%error, "the keys of report addresses that another node has changed were not read");
                }
            })),
        }
    }
}

/// Makes the data directory and locks it, so that two processes of one machine have two directories.
fn prepare(options: &PostgresOptions) -> Result<Option<File>, OpenError> {
    create_directory(&options.data_dir, 0o700).map_err(|error| options.fault(&error))?;
    if options.access != Access::Serve {
        return Ok(None);
    }
    lock_data_dir(&options.data_dir).map(Some)
}

/// The name of this data directory in the database, made at the first time.
fn read_node_id(options: &PostgresOptions) -> Result<String, OpenError> {
    let path = options.data_dir.join(NODE_ID_FILE);
    let read = || -> std::io::Result<String> {
        match std::fs::read_to_string(&path) {
            Ok(id) if !id.trim().is_empty() => Ok(id.trim().to_owned()),
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => {
                let id = Ulid::from(EventId::generate(Timestamp::now())).to_string();
                durable_file::replace(&path, 0o600, format!("{id}\n").as_bytes())?;
                Ok(id)
            }
        }
    };
    read().map_err(|error| options.fault(&error))
}

impl PostgresOptions {
    fn fault(&self, error: &std::io::Error) -> OpenError {
        OpenError::Failed { path: self.data_dir.clone(), message: error.to_string() }
    }

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
