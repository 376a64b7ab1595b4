//! Opening a data directory: its lock, its database, its master key.

use std::error::Error;
use std::fmt::Display;
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::leftovers;
use super::migration_cost::{PendingMigrations, find_pending};
use super::schema::{MigrationError, is_current, migrate};
use crate::durable_file::{create_directory, inherit_owner, remove_unfinished, sync_directory, write_again};
use crate::mail::Timestamp;
use crate::store::database::{self, DatabaseError, Engine, OptionalExtension};
use crate::store::free_space::FreeSpace;
use crate::store::memory::{
    ChangeCount, CommitCounters, DirectoryVersions, JournalEnd, KeyUses, MinuteSeries, NodeLease,
    SuppressedAddresses, SuppressionTimes, WebhookDueIndex, WebhookSubscriptions,
};
use crate::store::sql::blob_store::BodyFiles;
use crate::store::sql::body_pieces::BodyPieces;
use crate::store::sql::copy::refuse_marked;
use crate::store::sql::journal::commit_order;
use crate::store::sql::lane::{CommitHooks, WriterState};
use crate::store::sql::postgres::quota_table::QuotaTable;
use crate::store::sql::readers::{ReaderManager, Readers};
use crate::store::sql::secret_encryption::{MasterKeyFile, SealedColumn, Sealer};
use crate::store::sql::spool::due_rows;
use crate::store::sql::writer::Writer;
use crate::store::sql::{OpenDatabase, SqliteOptions, Store};
use crate::store::sql::{events, outbox, report_keys};
use crate::store::{Access, OpenError, SpoolFeed};

/// The name of the database in the data directory.
pub const DATABASE_FILE: &str = "pillarbox.db";
const LOCK_FILE: &str = "lock";
const CHECK_PLACE: SealedColumn<'_> = SealedColumn { column: "seal_check.sealed", row: "1" };
const CHECK_TEXT: &[u8] = b"pillarbox";

// `page_size` and `auto_vacuum` take effect only before the first table. A checkpoint every 500 pages keeps the longest
// commit short at nearly full speed. `synchronous = FULL`: committed data survives a power cut. `secure_delete = ON`: what
// is deleted is overwritten, also in pages that become free.
// `cache_size` in KiB: pages of new bodies push older pages out, so more is memory without use, also beside a million open
// deliveries.
pub(in crate::store::sql) const WRITER_PRAGMAS: &str = "
    PRAGMA page_size = 8192;
    PRAGMA auto_vacuum = INCREMENTAL;
    PRAGMA busy_timeout = 5000;
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    PRAGMA secure_delete = ON;
    PRAGMA wal_autocheckpoint = 500;
    PRAGMA journal_size_limit = 67108864;
    PRAGMA temp_store = MEMORY;
    PRAGMA cache_size = -16384;
    PRAGMA foreign_keys = ON;";

pub(in crate::store::sql) fn open(options: SqliteOptions) -> Result<Store, OpenError> {
    let dir = DataDir(&options.data_dir);
    let key_file = MasterKeyFile::new(options.master_key_file.clone(), dir.0);
    let bodies = BodyFiles::new(dir.0, options.inline_body_bytes_max);
    // Nothing is made before these checks.
    dir.check(&key_file, &bodies, options.access)?;
    let lock = dir.prepare(options.access)?;
    let mut connection = connect(&dir.database()).map_err(|error| dir.fault(error))?;
    if options.access == Access::Serve {
        dir.renew_log(&mut connection).map_err(|error| dir.fault(error))?;
    }
    dir.migrate(&mut connection, options.access)?;
    sync_directory(dir.0).map_err(|error| dir.fault(error))?;
    let connection = database::Connection::from(connection);
    refuse_marked(&connection, &dir.0.display().to_string(), |error| dir.fault(error))?;
    let sealer = unlock(&connection, &key_file, |error| dir.fault(error))?;
    let readers = ReaderManager::of_sqlite(&dir.database());
    let lease = NodeLease::unshared();
    let opened = Opened {
        connection,
        lanes: Vec::new(),
        readers,
        sealer,
        bodies,
        body_pieces: None,
        lock,
        lease,
        quota_table: None,
    };
    start(&options, opened).map_err(|error| dir.fault(error))
}

/// The parts from which the store is made.
pub(in crate::store) struct Opened {
    /// The connection of the first lane of the writer.
    pub(in crate::store) connection: database::Connection,
    /// Those of the other lanes.
    pub(in crate::store) lanes: Vec<database::Connection>,
    pub(in crate::store) readers: ReaderManager,
    pub(in crate::store) sealer: Sealer,
    pub(in crate::store) bodies: BodyFiles,
    pub(in crate::store) body_pieces: Option<BodyPieces>,
    pub(in crate::store) lock: Option<File>,
    pub(in crate::store) lease: NodeLease,
    pub(in crate::store) quota_table: Option<QuotaTable>,
}

/// Reads what the store keeps in memory, and starts the readers and the writer.
pub(in crate::store) fn start(options: &SqliteOptions, opened: Opened) -> Result<Store, Box<dyn Error>> {
    let Opened { connection, mut lanes, readers, sealer, bodies, body_pieces, lock, lease, quota_table } =
        opened;
    let sealer = Arc::new(sealer);
    let data_dir = &options.data_dir;
    let report_keys = report_keys::read(&connection, &sealer, Timestamp::now())?;
    let clock = events::open_clock(&connection)?;
    let feed = SpoolFeed::new(options.hot_queue_bytes_max, options.access == Access::Serve);
    due_rows::begin_feed(&connection, &feed)?;
    let end = match connection.engine() {
        Engine::Sqlite => events::end_of_journal(&clock),
        Engine::Postgres => commit_order::end(&connection)?,
    };
    let journal_end = Arc::new(JournalEnd::at(end));
    let changes = Arc::new(ChangeCount::new());
    let webhooks_due = Arc::new(WebhookDueIndex::new(outbox::deliveries::first_due(&connection)?));
    let counters = Arc::new(CommitCounters::new());
    let directory_versions = DirectoryVersions::default();
    let suppression_times = SuppressionTimes::new(events::time_behind(&clock).max(Timestamp::now()));
    let suppressed_addresses = SuppressedAddresses::default();
    let minutes = Arc::new(MinuteSeries::new(Timestamp::now()));
    let hooks = CommitHooks {
        journal_end: Arc::clone(&journal_end),
        changes: Arc::clone(&changes),
        webhooks_due: Arc::clone(&webhooks_due),
        counters: Arc::clone(&counters),
        directory_versions: directory_versions.clone(),
        minutes: Arc::clone(&minutes),
    };
    let outdated = Arc::default();
    let readers = Readers::open(readers, options.read_connections.max(1), lease.clone())?;
    let state = WriterState {
        clock,
        sealer: Arc::clone(&sealer),
        subscriptions: WebhookSubscriptions::default(),
        suppression_times: suppression_times.clone(),
        suppressed_addresses: suppressed_addresses.clone(),
        usage_parts: Default::default(),
        known_backlogs: Default::default(),
        bounds: options.bounds,
        lease: lease.clone(),
        outdated: Arc::clone(&outdated),
    };
    let engine = connection.engine();
    lanes.insert(0, connection);
    Ok(Store::new(OpenDatabase {
        counters,
        engine,
        writer: Writer::start(lanes, state, hooks)?,
        readers,
        feed: Arc::new(feed),
        stats_cache: Default::default(),
        probe: Default::default(),
        indexing: Default::default(),
        erasing: Default::default(),
        retention: Default::default(),
        bodies: Arc::new(bodies),
        body_pieces,
        free_space: FreeSpace::new(data_dir, options.free_disk_bytes_min),
        sealer,
        report_keys: Arc::new(ArcSwap::from_pointee(report_keys)),
        access: options.access,
        bounds: options.bounds,
        journal_end,
        changes,
        following: Default::default(),
        webhooks_due,
        directory_versions,
        key_uses: KeyUses::default(),
        suppression_times,
        suppressed_addresses,
        minutes,
        lock: Mutex::new(lock),
        lease,
        quota_table,
        ban_feed: Mutex::default(),
        backoff_feed: Mutex::default(),
        cancellation_feed: Mutex::default(),
        outdated,
        heartbeat: Mutex::default(),
    }))
}

/// The data directory that is being opened.
struct DataDir<'a>(&'a Path);

impl DataDir<'_> {
    fn fault(&self, error: impl Display) -> OpenError {
        OpenError::Failed { path: self.0.to_owned(), message: error.to_string() }
    }

    fn database(&self) -> PathBuf {
        self.0.join(DATABASE_FILE)
    }

    /// Checks that the database exists or may be made.
    fn check(&self, key_file: &MasterKeyFile, bodies: &BodyFiles, access: Access) -> Result<(), OpenError> {
        self.refuse_leftovers(key_file, bodies)?;
        let is_new = leftovers::is_missing(&self.database()).map_err(|error| self.fault(error))?;
        if is_new && access == Access::Manage {
            return Err(OpenError::Absent(self.0.to_owned()));
        }
        key_file.require_named(is_new)
    }

    /// Refuses to create a database in place of a lost one. Checks for the database last, because another process may be
    /// creating it and its key.
    fn refuse_leftovers(&self, key_file: &MasterKeyFile, bodies: &BodyFiles) -> Result<(), OpenError> {
        let database = self.database();
        let find = || -> std::io::Result<Vec<PathBuf>> {
            let leftovers = leftovers::find(&database, key_file.made_here(), bodies.directory())?;
            Ok(if leftovers::is_missing(&database)? { leftovers } else { Vec::new() })
        };
        let leftovers = find().map_err(|error| self.fault(error))?;
        if leftovers.is_empty() { Ok(()) } else { Err(OpenError::DatabaseMissing { database, leftovers }) }
    }

    /// Creates the directory, if it is absent. The process that serves it gets its lock, and removes what a crash left.
    fn prepare(&self, access: Access) -> Result<Option<File>, OpenError> {
        create_directory(self.0, 0o700).map_err(|error| self.fault(error))?;
        if access != Access::Serve {
            return Ok(None);
        }
        let lock = self.take_lock()?;
        if let Err(error) = remove_unfinished(self.0) {
            tracing::warn!(%error, "cannot remove the files that a crash left unfinished in the data directory");
        }
        Ok(Some(lock))
    }

    /// Writes the log that an earlier process has left to the disk again. If a sync has failed there, SQLite finds commits in it
    /// that are in the memory of the kernel only, and what would be added behind them would be lost with them in a power cut.
    fn renew_log(&self, connection: &mut Connection) -> Result<(), Box<dyn Error>> {
        // Meanwhile, no other process adds to it.
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let log = log_of(&self.database());
        write_again(&log).map_err(|error| {
            format!("{}: {error}; look for errors of the disk in the log of the kernel", log.display())
        })?;
        Ok(transaction.rollback()?)
    }

    /// The lock ends when the file is closed, so a process that dies leaves no stale lock.
    fn take_lock(&self) -> Result<File, OpenError> {
        let file = private_file(&self.0.join(LOCK_FILE)).map_err(|error| self.fault(error))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse(self.0.to_owned())),
            Err(TryLockError::Error(error)) => Err(self.fault(error)),
        }
    }

    /// Migrates the database. A server of an older version, which would not know its tables afterwards, must not run
    /// meanwhile.
    fn migrate(&self, connection: &mut Connection, access: Access) -> Result<(), OpenError> {
        let is_current = is_current(connection).map_err(|error| self.fault(error))?;
        let _lock = match access {
            Access::Manage | Access::Initialize if !is_current => {
                Some(self.take_lock().map_err(OpenError::of_older_server)?)
            }
            _ => None,
        };
        if !is_current
            && let Some(PendingMigrations { from, to, seconds }) =
                find_pending(connection).map_err(|error| self.fault(error))?
        {
            tracing::info!("migrating the database from schema {from} to {to}, about {seconds} s");
        }
        migrate(connection).map_err(|error| match error {
            MigrationError::Newer { found, known } => OpenError::Newer { found, known },
            MigrationError::Failed(error) => self.fault(error),
        })
    }
}

/// Loads the master key and checks that it decrypts the text that was stored when the database was created.
pub(in crate::store) fn unlock(
    connection: &database::Connection,
    key_file: &MasterKeyFile,
    fault: impl Fn(String) -> OpenError,
) -> Result<Sealer, OpenError> {
    let failed = |error: DatabaseError| fault(error.to_string());
    let transaction = connection.transaction().map_err(failed)?;
    let check: Option<Vec<u8>> = transaction
        .query_row("SELECT sealed FROM seal_check WHERE id = 1", [], |row| row.get(0))
        .optional()
        .map_err(failed)?;
    let sealer = key_file.load(check.is_none())?;
    match check {
        Some(sealed) => {
            sealer.open(CHECK_PLACE, &sealed).map_err(|_| key_file.is_another())?;
        }
        None => {
            let sealed = sealer.seal(CHECK_PLACE, CHECK_TEXT).map_err(|error| fault(error.to_string()))?;
            transaction
                .execute("INSERT INTO seal_check (id, sealed) VALUES (1, ?1)", [sealed])
                .map_err(failed)?;
        }
    }
    // Rewritten only if it changes: most commands open an existing database.
    let note = "UPDATE seal_check SET fingerprint = ?1 WHERE id = 1 AND fingerprint IS DISTINCT FROM ?1";
    transaction.execute(note, [sealer.fingerprint()]).map_err(failed)?;
    transaction.commit().map_err(failed)?;
    Ok(sealer)
}

/// Locks a data directory as the process that serves it does, until the file is closed.
///
/// # Errors
/// [`OpenError::InUse`] if a server runs.
pub fn lock_data_dir(data_dir: &Path) -> Result<File, OpenError> {
    DataDir(data_dir).take_lock()
}

/// Migrates the database of a data directory whose lock the caller holds.
pub(in crate::store::sql) fn migrate_dir(
    data_dir: &Path,
    connection: &mut Connection,
) -> Result<(), OpenError> {
    DataDir(data_dir).migrate(connection, Access::Serve)
}

/// The write-ahead log of a database.
pub(in crate::store::sql) fn log_of(database: &Path) -> PathBuf {
    let mut log = database.as_os_str().to_owned();
    log.push("-wal");
    log.into()
}

/// Opens a file for its owner alone. SQLite gives its log and index the owner of the database.
pub(in crate::store::sql) fn private_file(path: &Path) -> std::io::Result<File> {
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    inherit_owner(path)?;
    Ok(file)
}

/// Opens a database, or creates it.
pub(in crate::store::sql) fn connect(database: &Path) -> Result<Connection, Box<dyn Error>> {
    // SQLite creates its log and index with the mode of the database.
    private_file(database)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(database, flags)?;
    connection.set_prepared_statement_cache_capacity(256);
    connection.execute_batch(WRITER_PRAGMAS)?;
    Ok(connection)
}
