//! Opening a data directory: its lock, its database, its master key.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior};
use tokio::sync::watch;

use super::blob_store::BodyFiles;
use super::leftovers;
use super::readers::Readers;
use super::schema::{MigrationError, is_current, migrate};
use super::secret_encryption::{MasterKeyFile, SealedColumn, Sealer};
use super::spool::due_rows;
use super::writer::{CommitHooks, Writer, WriterState};
use super::{OpenDatabase, SqliteOptions, SqliteStore};
use super::{events, outbox};
use crate::durable_file::{create_directory, inherit_owner, remove_unfinished, sync_directory};
use crate::store::free_space::FreeSpace;
use crate::store::memory::{CommitCounters, DirectoryVersion, WebhookDueIndex, WebhookSubscriptions};
use crate::store::{Access, OpenError, SpoolFeed};

pub(super) const DATABASE_FILE: &str = "pillarbox.db";
const LOCK_FILE: &str = "lock";
const CHECK_PLACE: SealedColumn<'_> = SealedColumn { column: "seal_check.sealed", row: "1" };
const CHECK_TEXT: &[u8] = b"pillarbox";

// `page_size` and `auto_vacuum` take effect only before the first table. A checkpoint every 500 pages keeps the longest
// commit short at nearly full speed. `synchronous = FULL`: committed data survives a power cut. `secure_delete = ON`: what
// is deleted is overwritten, also in pages that become free.
const WRITER_PRAGMAS: &str = "
    PRAGMA page_size = 8192;
    PRAGMA auto_vacuum = INCREMENTAL;
    PRAGMA busy_timeout = 5000;
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    PRAGMA secure_delete = ON;
    PRAGMA wal_autocheckpoint = 500;
    PRAGMA journal_size_limit = 67108864;
    PRAGMA temp_store = MEMORY;
    PRAGMA cache_size = -65536;
    PRAGMA foreign_keys = ON;";

pub(super) fn open(options: SqliteOptions) -> Result<SqliteStore, OpenError> {
    let data_dir = options.data_dir.clone();
    let fault = |message: String| OpenError::Failed { path: data_dir.clone(), message };
    let database = data_dir.join(DATABASE_FILE);
    let key_file = MasterKeyFile::new(options.master_key_file, &data_dir);
    let bodies = BodyFiles::new(&data_dir, options.inline_body_bytes_max);
    // Nothing is made before these checks.
    refuse_leftovers(&database, &key_file, &bodies, &fault)?;
    let is_new = leftovers::is_missing(&database).map_err(|error| fault(error.to_string()))?;
    if is_new && options.access == Access::Manage {
        return Err(OpenError::Absent(data_dir));
    }
    key_file.require_named(is_new)?;
    create_directory(&data_dir, 0o700).map_err(|error| fault(error.to_string()))?;
    let lock = match options.access {
        Access::Serve => Some(take_lock(&data_dir)?),
        Access::Manage | Access::Initialize => None,
    };
    if lock.is_some()
        && let Err(error) = remove_unfinished(&data_dir)
    {
        tracing::warn!(%error, "cannot remove the files that a crash left unfinished in the data directory");
    }
    let mut connection = connect(&database).map_err(&fault)?;
    migrate_locked(&mut connection, &data_dir, options.access, &fault)?;
    sync_directory(&data_dir).map_err(|error| fault(error.to_string()))?;
    let sealer = Arc::new(unlock(&mut connection, &key_file, &fault)?);
    let sql = |error: rusqlite::Error| fault(error.to_string());
    let clock = events::open_clock(&connection).map_err(sql)?;
    let feed = SpoolFeed::new(options.hot_queue_bytes_max, options.access == Access::Serve);
    due_rows::begin_feed(&connection, &feed).map_err(sql)?;
    let (sender, last_event) = watch::channel(events::end_of_journal(&clock));
    let webhooks_due = outbox::deliveries::first_due(&connection).map_err(sql)?;
    let webhooks_due = Arc::new(WebhookDueIndex::new(webhooks_due));
    let counters = Arc::new(CommitCounters::new());
    let hooks = CommitHooks {
        last_event: sender,
        webhooks_due: Arc::clone(&webhooks_due),
        counters: Arc::clone(&counters),
    };
    let readers = Readers::open(&database, options.read_connections.max(1))
        .map_err(|error| fault(error.to_string()))?;
    let shared = WriterState {
        clock,
        sealer: Arc::clone(&sealer),
        subscriptions: WebhookSubscriptions::new(options.bounds.webhook_pending_max),
        bounds: options.bounds,
    };
    let writer = Writer::start(connection, shared, hooks).map_err(|error| fault(error.to_string()))?;
    Ok(SqliteStore::new(OpenDatabase {
        counters,
        writer,
        readers,
        feed: Arc::new(feed),
        stats_cache: Default::default(),
        probe: Default::default(),
        indexing: Default::default(),
        retention: Default::default(),
        bodies: Arc::new(bodies),
        free_space: FreeSpace::new(&data_dir, options.free_disk_bytes_min),
        sealer,
        access: options.access,
        bounds: options.bounds,
        last_event,
        webhooks_due,
        directory_version: DirectoryVersion::default(),
        lock: Mutex::new(lock),
    }))
}

/// Migrates the database. A server of an older version, which would not know its tables afterwards, must not run
/// meanwhile.
fn migrate_locked(
    connection: &mut Connection,
    data_dir: &Path,
    access: Access,
    fault: &impl Fn(String) -> OpenError,
) -> Result<(), OpenError> {
    let _lock = match access {
        Access::Manage | Access::Initialize
            if !is_current(connection).map_err(|error| fault(error.to_string()))? =>
        {
            Some(take_lock(data_dir).map_err(OpenError::of_older_server)?)
        }
        _ => None,
    };
    migrate(connection).map_err(|error| match error {
        MigrationError::Newer { found, known } => OpenError::Newer { found, known },
        MigrationError::Failed(error) => fault(error.to_string()),
    })
}

/// Refuses to create a database in place of a lost one. Checks for the database last, because another process may be
/// creating it and its key.
fn refuse_leftovers(
    database: &Path,
    key_file: &MasterKeyFile,
    bodies: &BodyFiles,
    fault: &impl Fn(String) -> OpenError,
) -> Result<(), OpenError> {
    let find = || {
        let leftovers = leftovers::find(database, key_file.made_here(), bodies.directory())?;
        Ok(if leftovers::is_missing(database)? { leftovers } else { Vec::new() })
    };
    let leftovers = find().map_err(|error: std::io::Error| fault(error.to_string()))?;
    if leftovers.is_empty() {
        return Ok(());
    }
    Err(OpenError::DatabaseMissing { database: database.to_owned(), leftovers })
}

/// Opens a file for its owner alone. SQLite gives its log and index the owner of the database.
fn private_file(path: &Path) -> std::io::Result<File> {
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    inherit_owner(path)?;
    Ok(file)
}

/// The lock ends when the file is closed, so a process that dies leaves no stale lock.
fn take_lock(data_dir: &Path) -> Result<File, OpenError> {
    let fault =
        |error: std::io::Error| OpenError::Failed { path: data_dir.to_owned(), message: error.to_string() };
    let file = private_file(&data_dir.join(LOCK_FILE)).map_err(fault)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(data_dir.to_owned())),
        Err(TryLockError::Error(error)) => Err(fault(error)),
    }
}

fn connect(database: &PathBuf) -> Result<Connection, String> {
    // SQLite creates its log and index with the mode of the database.
    private_file(database).map_err(|error| error.to_string())?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connect = || {
        let connection = Connection::open_with_flags(database, flags)?;
        connection.set_prepared_statement_cache_capacity(256);
        connection.execute_batch(WRITER_PRAGMAS)?;
        Ok(connection)
    };
    connect().map_err(|error: rusqlite::Error| error.to_string())
}

/// Loads the master key and checks that it decrypts the text that was stored when the database was created.
fn unlock(
    connection: &mut Connection,
    key_file: &MasterKeyFile,
    fault: &impl Fn(String) -> OpenError,
) -> Result<Sealer, OpenError> {
    let sql = |error: rusqlite::Error| fault(error.to_string());
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql)?;
    let check: Option<Vec<u8>> = transaction
        .query_row("SELECT sealed FROM seal_check WHERE id = 1", [], |row| row.get(0))
        .optional()
        .map_err(sql)?;
    let sealer = key_file.load(check.is_none())?;
    match check {
        Some(sealed) => {
            sealer.open(CHECK_PLACE, &sealed).map_err(|_| key_file.is_another())?;
        }
        None => {
            let sealed = sealer.seal(CHECK_PLACE, CHECK_TEXT).map_err(|error| fault(error.to_string()))?;
            transaction
                .execute("INSERT INTO seal_check (id, sealed) VALUES (1, ?1)", [sealed])
                .map_err(sql)?;
        }
    }
    transaction.commit().map_err(sql)?;
    Ok(sealer)
}
