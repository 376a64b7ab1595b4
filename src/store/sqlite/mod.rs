//! SQLite behind the traits: one writer on its own thread that commits everything waiting in one transaction, and a
//! pool of readers.

mod blob_store;
mod checksum;
mod delivery_rows;
mod directory;
mod events;
mod journal;
mod keyset;
mod leftovers;
mod message_rows;
mod open;
mod outbox;
mod policies;
mod probe;
mod queue;
mod readers;
mod schema;
mod secret_encryption;
mod spool;
mod sql_types;
#[cfg(test)]
pub(super) mod tests;
mod tls_results;
mod unit_of_work;
mod usage;
mod writer;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rusqlite::Connection;
use tokio::sync::watch;

use self::blob_store::BodyFiles;
use self::journal::retention;
use self::probe::Probe;
use self::queue::StatsCache;
use self::readers::Readers;
pub use self::secret_encryption::check_master_key;
use self::spool::FreeSpace;
use self::unit_of_work::Tx;
use self::writer::Writer;
use super::memory::{CommitCounters, DirectoryVersion, WebhookDueIndex, lock};
use super::{Conflict, JournalCursor, Result, SpoolFeed, StoreError};

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Made if absent.
    pub data_dir: PathBuf,
    /// The file with the key that seals secrets; `master.key` in the data directory, made if absent, by default.
    pub master_key_file: Option<PathBuf>,
    /// Connections that read.
    pub readers: u32,
    /// Octets above which a body goes to a file of its own.
    pub inline_body_bytes_max: u64,
    /// Octets that the file system must have free for anything to be accepted.
    pub free_disk_bytes_min: u64,
    /// Octets of accepted messages kept in memory for immediate delivery, with 1 KiB for each of their recipients.
    pub hot_queue_bytes_max: u64,
    /// Whether this process serves the spool.
    pub access: Access,
}

impl StoreOptions {
    /// A small store that this process serves, whatever room the disk has.
    pub fn at(data_dir: &Path) -> Self {
        Self {
            data_dir: data_dir.to_owned(),
            master_key_file: None,
            readers: 2,
            inline_body_bytes_max: 256 * 1024,
            free_disk_bytes_min: 0,
            hot_queue_bytes_max: 1024 * 1024,
            access: Access::Serve,
        }
    }
}

/// Who else may have the data directory open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nobody else serves it: the server.
    Serve,
    /// A server may be running: the key commands. Nothing may be enqueued or claimed.
    Manage,
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process serves the data directory.
    #[error("{0} is in use by another process; stop that one, or choose another data_dir")]
    InUse(PathBuf),
    /// Another process serves the data directory with an older schema, which must not change under it.
    #[error(
        "{0} is in use by a server of an older version; restart the server with this version first, then try again"
    )]
    OlderServer(PathBuf),
    /// The database is gone, and what belongs to it is there.
    #[error(
        "{database} is missing or empty, but there is {}, which only goes with it; restore the database from a backup, \
         or move all of {} away to begin anew",
        list(.leftovers), .database.parent().unwrap_or(.database).display()
    )]
    DatabaseMissing {
        /// Where it should be.
        database: PathBuf,
        /// What belongs to it.
        leftovers: Vec<PathBuf>,
    },
    /// The database is newer than the program.
    #[error("the database has schema {found}, this program knows up to {known}: use a newer pillarbox")]
    Newer {
        /// In the file.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// The master key is missing, unreadable or another one than the database was sealed with.
    #[error("master key {path}: {message}")]
    MasterKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// Anything else.
    #[error("cannot open the store in {path} (data_dir): {message}")]
    Failed {
        /// The data directory.
        path: PathBuf,
        /// What SQLite or the system says.
        message: String,
    },
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" and ")
}

impl OpenError {
    fn of_older_server(self) -> Self {
        match self {
            Self::InUse(path) => Self::OlderServer(path),
            other => other,
        }
    }
}

/// The store in one data directory: one writer, several readers.
pub struct SqliteStore {
    writer: Writer,
    readers: Readers,
    /// See [`super::Spool::feed`].
    feed: Arc<SpoolFeed>,
    stats_cache: StatsCache,
    probe: Probe,
    /// Held by who brings the index of messages up to date.
    indexing: tokio::sync::Mutex<()>,
    retention: Mutex<retention::Progress>,
    bodies: Arc<BodyFiles>,
    free_space: FreeSpace,
    sealer: Arc<secret_encryption::Sealer>,
    access: Access,
    /// See [`super::Journal::counts`].
    counters: Arc<CommitCounters>,
    /// See [`super::Journal::watch_events`].
    last_event: watch::Receiver<JournalCursor>,
    /// Which webhooks have something to be sent.
    webhooks_due: Arc<WebhookDueIndex>,
    /// See [`super::Directory::directory_version`].
    directory_version: DirectoryVersion,
    /// Held while this process serves the data directory.
    lock: Mutex<Option<File>>,
}

impl SqliteStore {
    /// Opens the data directory, making or migrating it as needed.
    pub fn open(options: StoreOptions) -> std::result::Result<Self, OpenError> {
        open::open(options)
    }

    /// Writes what waits, moves the log into the database and closes.
    pub async fn close(&self) {
        if let Err(error) = self.writer.checkpoint().await {
            tracing::warn!(%error, "the write-ahead log was not moved into the database");
        }
        self.readers.close();
        self.writer.close().await;
        // Said outright: a child of this process that has yet to exec may hold a copy of the descriptor.
        if let Some(held) = lock(&self.lock).take()
            && let Err(error) = held.unlock()
        {
            tracing::warn!(%error, "the data directory was not unlocked");
        }
    }

    /// Runs a job on the writer; answers after its commit.
    async fn write<T: Send + 'static>(
        &self,
        work: impl Fn(&Tx<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.write_then(work, |value| value).await
    }

    /// Runs a job on the writer, then after its commit and before the answer what memory has to know of it.
    async fn write_then<T: Send + 'static>(
        &self,
        work: impl Fn(&Tx<'_>) -> Result<T> + Send + 'static,
        after: impl FnOnce(T) -> T + Send + 'static,
    ) -> Result<T> {
        self.writer.run((), move |(), tx| work(tx), |(), value| after(value)).await
    }

    /// Runs a query on a reader.
    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.readers.run(query).await
    }

    /// Runs a query that may take long on a reader.
    async fn read_at_leisure<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.readers.run_at_leisure(query).await
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error() {
            Some(fault) if fault.code == rusqlite::ErrorCode::DiskFull => Self::DiskFull,
            // The only references that a caller can get wrong are those to a tenant.
            Some(fault) if fault.extended_code == rusqlite::ffi::SQLITE_CONSTRAINT_FOREIGNKEY => {
                Self::Conflict(Conflict::NoTenant)
            }
            _ => Self::Failed(error.to_string()),
        }
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
