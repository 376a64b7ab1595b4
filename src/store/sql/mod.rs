//! The traits of the store in SQL that both engines read: lanes that write (SQLite has one), each of which commits all waiting
//! jobs in one transaction, and a pool of readers. What belongs to one engine alone is in `sqlite` and `postgres`.

mod acme_accounts;
mod audit;
mod blob_store;
mod body_pieces;
mod bounds;
mod brakes;
mod bundles;
mod checksum;
mod commit_outcome;
mod copy;
mod delivery_rows;
mod directory;
mod duties;
mod erasures;
mod events;
mod inboxes;
mod job;
mod job_queue;
mod journal;
mod keyset;
mod lane;
mod message_rows;
mod outbox;
mod postgres;
mod probe;
mod queue;
mod readers;
mod report_keys;
mod reports;
mod secret_encryption;
mod sign_ins;
mod slices;
mod spool;
mod sql_types;
mod sqlite;
mod sts_policies;
mod suspicious_sites;
#[cfg(test)]
pub(super) mod tests;
mod tls_results;
mod unit_of_work;
mod usage;
mod writer;

use parking_lot::Mutex;
use std::fs::File;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use self::blob_store::BodyFiles;
pub use self::blob_store::{body_path, hold_bodies};
use self::body_pieces::BodyPieces;
pub use self::bounds::Bounds;
pub use self::copy::{CopiedStore, CopyOptions, CopyStep, StoreCopyError, StoreCopyProgress, copy_store};
use self::directory::suppressed_addresses;
use self::journal::{follow, idempotent_responses, retention};
pub use self::postgres::{PostgresOptions, database_status};
use self::probe::Probe;
use self::queue::StatsCache;
use self::readers::Readers;
pub use self::secret_encryption::{check_master_key, master_key_fingerprint};
pub use self::sqlite::backup::{
    BackupError, CopiedDatabase, CopyProgress, DatabaseReport, NewLife, PreparedDatabase, check_database,
    copy_database, fingerprint_in_database, prepare_restored,
};
pub use self::sqlite::leftovers::has_data;
pub use self::sqlite::migration_cost::PendingMigrations;
pub use self::sqlite::open::{DATABASE_FILE, lock_data_dir};
pub use self::sqlite::quick_check::quick_check;
use self::unit_of_work::Tx;
use self::writer::{HotJob, Writer};
use super::memory::{
    ChangeCount, CommitCounters, DirectoryVersions, JournalEnd, KeyUses, MinuteSeries, NodeLease,
    SuppressedAddresses, SuppressionTimes, WebhookDueIndex,
};
use super::{
    Access, AnnouncedBackoff, AnnouncedCancellation, AuditTrail, ObjectVersion, OpenError, Requester,
    ResponseRecorder, Result, SpoolFeed, StoreError, StoreOptions,
};
use crate::blocking;
use crate::limits::auth_limiter::BanChange;
use crate::store::database::{Connection, Engine};
use crate::store::free_space::FreeSpace;

/// What the store needs before it can be opened, which a server may be using. `None` if it needs nothing, or is new.
///
/// # Errors
/// It cannot be read, or is newer than this program.
pub async fn pending_migrations(
    options: StoreOptions,
) -> std::result::Result<Option<PendingMigrations>, OpenError> {
    match options {
        StoreOptions::Postgres(options) => postgres::pending_migrations(*options).await,
        StoreOptions::Sqlite(SqliteOptions { data_dir, .. }) => {
            let path = data_dir.clone();
            let looked =
                tokio::task::spawn_blocking(move || sqlite::migration_cost::pending_migrations(&data_dir));
            looked.await.unwrap_or_else(|error| Err(OpenError::Failed { path, message: error.to_string() }))
        }
    }
}

/// How a data directory is opened.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// Created if absent.
    pub data_dir: PathBuf,
    /// The file with the key that encrypts secrets. By default `master.key` in the data directory, created if absent.
    pub master_key_file: Option<PathBuf>,
    /// Connections for queries.
    pub read_connections: u32,
    /// Larger bodies are stored in files of their own.
    pub inline_body_bytes_max: u64,
    /// With less free space in the file system, no mail is accepted.
    pub free_disk_bytes_min: u64,
    /// Memory for accepted messages until their immediate delivery, with 1 KiB for each recipient.
    pub hot_queue_bytes_max: u64,
    /// Whether this process serves the spool.
    pub access: Access,
    /// Bounds of the work of a step and of stored rows.
    pub bounds: Bounds,
}

impl SqliteOptions {
    /// A small store that this process serves and that needs no free space.
    pub fn at(data_dir: &Path) -> Self {
        Self {
            data_dir: data_dir.to_owned(),
            master_key_file: None,
            read_connections: 2,
            inline_body_bytes_max: 256 * 1024,
            free_disk_bytes_min: 0,
            hot_queue_bytes_max: 1024 * 1024,
            access: Access::Serve,
            bounds: Bounds::default(),
        }
    }
}

/// The store, in SQLite or PostgreSQL. It implements all traits. A clone is another handle of the same store.
#[derive(Clone)]
pub struct Store {
    database: Arc<OpenDatabase>,
    /// Who asks through this handle.
    requester: Requester,
    /// Renders the response that changes through this handle store with them.
    recorder: Option<Arc<ResponseRecorder>>,
    /// The entry of the audit log that changes through this handle store with them.
    trail: Option<Arc<AuditTrail>>,
    /// The version that an object must have for changes through this handle.
    expected: Option<Arc<ObjectVersion>>,
}

/// What belongs to the request that makes a change: its transaction checks and stores it.
#[derive(Clone)]
struct ChangeContext {
    recorder: Option<Arc<ResponseRecorder>>,
    trail: Option<Arc<AuditTrail>>,
    expected: Option<Arc<ObjectVersion>>,
}

impl Deref for Store {
    type Target = OpenDatabase;
    fn deref(&self) -> &OpenDatabase {
        &self.database
    }
}

/// An open database: one writer, several readers.
pub struct OpenDatabase {
    engine: Engine,
    writer: Writer,
    readers: Readers,
    /// See [`super::Spool::feed`].
    feed: Arc<SpoolFeed>,
    stats_cache: StatsCache,
    probe: Probe,
    /// Locked while the search index is updated.
    indexing: tokio::sync::Mutex<()>,
    /// Locked while recipients are erased.
    erasing: tokio::sync::Mutex<()>,
    retention: Mutex<retention::PruneProgress>,
    bodies: Arc<BodyFiles>,
    /// On PostgreSQL, in place of the files.
    body_pieces: Option<BodyPieces>,
    free_space: FreeSpace,
    sealer: Arc<secret_encryption::Sealer>,
    /// The keys of report addresses and unsubscribe links.
    report_keys: Arc<ArcSwap<report_keys::ReportKeys>>,
    access: Access,
    bounds: Bounds,
    /// See [`super::Journal::counts`].
    counters: Arc<CommitCounters>,
    /// See [`super::Journal::watch_events`].
    journal_end: Arc<JournalEnd>,
    /// See [`Store::watch_changes`].
    changes: Arc<ChangeCount>,
    /// On PostgreSQL, the task that keeps the end of the journal up to date; on SQLite, the one that reads the suppressed addresses.
    following: Mutex<Option<AbortOnDropHandle<()>>>,
    /// The due times of webhooks.
    webhooks_due: Arc<WebhookDueIndex>,
    /// See [`super::Directory::directory_version`].
    directory_versions: DirectoryVersions,
    /// See [`super::Directory::touch_key`].
    key_uses: KeyUses,
    /// See [`super::Directory::may_have_suppressed_since`].
    suppression_times: SuppressionTimes,
    /// The addresses of all suppressions, if they are known.
    suppressed_addresses: SuppressedAddresses,
    /// See [`super::Ledger::usage_by_minute`].
    minutes: Arc<MinuteSeries>,
    /// Limits that hold for all nodes, in a database that several processes serve.
    quota_table: Option<postgres::quota_table::QuotaTable>,
    /// See [`super::Spool::take_ban_feed`].
    ban_feed: Mutex<Option<mpsc::Receiver<BanChange>>>,
    /// See [`super::Spool::take_backoff_feed`].
    backoff_feed: Mutex<Option<mpsc::Receiver<AnnouncedBackoff>>>,
    /// See [`super::Queue::take_cancellation_feed`].
    cancellation_feed: Mutex<Option<mpsc::Receiver<AnnouncedCancellation>>>,
    /// The right to serve the spool.
    lease: NodeLease,
    /// Whether another process has changed webhooks since the writer has read their subscriptions.
    outdated: Arc<AtomicBool>,
    /// The heartbeat of this node, in a database that several processes serve.
    heartbeat: Mutex<Option<postgres::node::Heartbeat>>,
    /// The lock of the data directory while this process serves it.
    lock: Mutex<Option<File>>,
}

impl Store {
    /// Opens the store; creates or migrates it if necessary.
    pub async fn open(options: impl Into<StoreOptions>) -> std::result::Result<Self, OpenError> {
        let options = options.into();
        let path = match &options {
            StoreOptions::Sqlite(options) => options.data_dir.clone(),
            StoreOptions::Postgres(options) => options.data_dir.clone(),
        };
        let to_join = match &options {
            StoreOptions::Sqlite(_) => None,
            StoreOptions::Postgres(options) => Some(options.clone()),
        };
        let opened = blocking::run(|| match options {
            StoreOptions::Sqlite(options) => sqlite::open::open(options),
            StoreOptions::Postgres(options) => postgres::open(&options),
        });
        let opened = opened.await;
        let store =
            opened.unwrap_or_else(|error| Err(OpenError::Failed { path, message: error.to_string() }))?;
        if let Some(options) = to_join {
            postgres::join(&store, &options).await?;
        }
        if store.access == Access::Serve {
            let database = Arc::downgrade(&store.database);
            let following = match store.engine {
                Engine::Sqlite => tokio::spawn(suppressed_addresses::keep_known(database)),
                Engine::Postgres => tokio::spawn(follow::follow(database)),
            };
            *store.following.lock() = Some(AbortOnDropHandle::new(following));
        }
        Ok(store)
    }

    fn new(database: OpenDatabase) -> Self {
        Self::of_database(Arc::new(database))
    }

    /// A handle of the server itself.
    fn of_database(database: Arc<OpenDatabase>) -> Self {
        Self { database, requester: Requester::Server, recorder: None, trail: None, expected: None }
    }

    /// A handle whose changes also store the response that `recorder` renders from their result, in their transaction.
    pub fn recording(&self, recorder: ResponseRecorder) -> Self {
        Self { recorder: Some(Arc::new(recorder)), ..self.clone() }
    }

    /// A handle whose changes also store an entry of the audit log, in their transactions.
    pub fn auditing(&self, trail: Arc<AuditTrail>) -> Self {
        Self { trail: Some(trail), ..self.clone() }
    }

    /// A handle whose changes fail with [`Conflict::Changed`](super::Conflict::Changed) if another request has changed the
    /// object since it had this version.
    pub fn unless_changed(&self, version: ObjectVersion) -> Self {
        Self { expected: Some(Arc::new(version)), ..self.clone() }
    }

    /// A handle whose queries are those of `requester`, which shares the connections fairly with others. Other handles are
    /// those of the server itself.
    pub fn for_requester(&self, requester: Requester) -> Self {
        Self { requester, ..self.clone() }
    }

    /// A handle of the server itself, for work that others wait for.
    fn of_server(&self) -> Self {
        Self::of_database(Arc::clone(&self.database))
    }

    /// Writes pending changes and closes. Later calls fail with [`StoreError::Closed`].
    pub async fn close(&self) {
        if let Err(error) = self.writer.checkpoint().await {
            tracing::warn!(%error, "the write-ahead log was not moved into the database");
        }
        self.readers.close();
        self.writer.close().await;
        let heartbeat = self.heartbeat.lock().take();
        if let Some(heartbeat) = heartbeat {
            heartbeat.end().await;
        }
        // Unlocked explicitly, because a child process before its exec may have a copy of the descriptor.
        if let Some(file) = self.lock.lock().take()
            && let Err(error) = file.unlock()
        {
            tracing::warn!(%error, "the data directory was not unlocked");
        }
    }

    /// Drops the store without closing it, as the end of its process does.
    #[cfg(test)]
    pub(crate) async fn crash(self) {
        let database = Arc::downgrade(&self.database);
        drop(self);
        // Its tasks may be in the middle of a query.
        while database.strong_count() > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }

    /// Whether claims of this process have ended, of which the database does not know yet.
    #[cfg(test)]
    pub(crate) fn has_given_back(&self) -> bool {
        self.lease.has_given_back()
    }

    /// Runs a job on the writer; returns after its commit.
    async fn write<T: Send + 'static>(
        &self,
        work: impl Fn(&Tx<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.write_then(work, |value| value).await
    }

    /// Runs a job on the writer, and after its commit `after`, which updates memory before this returns.
    async fn write_then<T: Send + 'static>(
        &self,
        work: impl Fn(&Tx<'_>) -> Result<T> + Send + 'static,
        after: impl FnOnce(T) -> T + Send + 'static,
    ) -> Result<T> {
        self.write_with((), move |(), tx| work(tx), |(), value| after(value)).await
    }

    /// Runs a job on the writer as [`Writer::run`] does. Its transaction also stores the response to the
    /// request and the entry of the audit log, if it changed something.
    async fn write_with<S, T, U, W, A>(&self, state: S, work: W, after: A) -> Result<U>
    where
        S: Send + 'static,
        T: Send + 'static,
        U: Send + 'static,
        W: Fn(&S, &Tx<'_>) -> Result<T> + Send + 'static,
        A: FnOnce(S, T) -> U + Send + 'static,
    {
        self.write_as(None, state, work, after).await
    }

    /// Runs a job that only enqueues, claims or records, at the same time as those of other lanes; see [`Writer::run_hot`].
    /// With an entry of the audit log in its transaction, or a version that it requires, it runs alone. So it does with a
    /// response and without a key of its own, by which no other job stores that response.
    async fn write_hot<S, T, U, W, A>(&self, hot: HotJob, state: S, work: W, after: A) -> Result<U>
    where
        S: Send + 'static,
        T: Send + 'static,
        U: Send + 'static,
        W: Fn(&S, &Tx<'_>) -> Result<T> + Send + 'static,
        A: FnOnce(S, T) -> U + Send + 'static,
    {
        let runs_alone = self.trail.is_some()
            || self.expected.is_some()
            || self.recorder.is_some() && hot.rows.shared_keys.is_none();
        self.write_as((!runs_alone).then_some(hot), state, work, after).await
    }

    /// Runs a job that is hot, or alone, with what the request stores in its transaction.
    async fn write_as<S, T, U, W, A>(&self, hot: Option<HotJob>, state: S, work: W, after: A) -> Result<U>
    where
        S: Send + 'static,
        T: Send + 'static,
        U: Send + 'static,
        W: Fn(&S, &Tx<'_>) -> Result<T> + Send + 'static,
        A: FnOnce(S, T) -> U + Send + 'static,
    {
        let Some(context) = self.change_context() else { return self.run_as(hot, state, work, after).await };
        let work = move |(state, context): &(S, ChangeContext), tx: &Tx<'_>| {
            let ChangeContext { recorder, trail, expected } = context;
            if let Some(expected) = expected {
                audit::require_unchanged(tx, expected, trail.as_ref().map(|trail| trail.entry().id))?;
            }
            let changes_before = tx.total_changes();
            let result = work(state, tx)?;
            let is_changed = tx.total_changes() != changes_before;
            let is_stored = match recorder {
                Some(recorder) => idempotent_responses::record(tx, recorder, &result)?,
                None => false,
            };
            if let Some(trail) = trail.as_ref().filter(|_| is_changed) {
                audit::write(tx, trail.entry())?;
            }
            Ok((result, is_stored, is_changed))
        };
        let after = move |(state, context): (S, ChangeContext),
                          (result, is_stored, is_changed): (T, bool, bool)| {
            if let Some(recorder) = context.recorder.filter(|_| is_stored) {
                recorder.note_stored();
            }
            if let Some(trail) = context.trail.filter(|_| is_changed) {
                trail.note_written();
            }
            after(state, result)
        };
        self.run_as(hot, (state, context), work, after).await
    }

    /// What belongs to the request of this handle, if anything.
    fn change_context(&self) -> Option<ChangeContext> {
        let Self { recorder, trail, expected, .. } = self.clone();
        let has_any = recorder.is_some() || trail.is_some() || expected.is_some();
        has_any.then_some(ChangeContext { recorder, trail, expected })
    }

    async fn run_as<S, T, U, W, A>(&self, hot: Option<HotJob>, state: S, work: W, after: A) -> Result<U>
    where
        S: Send + 'static,
        T: Send + 'static,
        U: Send + 'static,
        W: Fn(&S, &Tx<'_>) -> Result<T> + Send + 'static,
        A: FnOnce(S, T) -> U + Send + 'static,
    {
        match hot {
            Some(hot) => self.writer.run_hot(hot, state, work, after).await,
            None => self.writer.run(state, work, after).await,
        }
    }

    /// Runs a query on a reader.
    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.readers.run(self.requester, query).await
    }

    /// Runs a query that may be slow on a reader.
    async fn read_slow<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.readers.run_slow(self.requester, query).await
    }
}

impl From<std::io::Error> for StoreError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::DiskFull,
            _ => Self::Failed(error.to_string()),
        }
    }
}
