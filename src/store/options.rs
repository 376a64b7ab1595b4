//! How a store is opened, and why it may fail to open.

use std::path::PathBuf;

use super::{PostgresOptions, SqliteOptions};

/// The engine that stores the data, with its options.
#[derive(Debug, Clone)]
pub enum StoreOptions {
    /// SQLite in a data directory, for one process.
    Sqlite(SqliteOptions),
    /// PostgreSQL, for several processes.
    Postgres(Box<PostgresOptions>),
}

impl From<PostgresOptions> for StoreOptions {
    fn from(options: PostgresOptions) -> Self {
        Self::Postgres(Box::new(options))
    }
}

impl From<SqliteOptions> for StoreOptions {
    fn from(options: SqliteOptions) -> Self {
        Self::Sqlite(options)
    }
}

impl StoreOptions {
    /// The database in PostgreSQL, if it is one.
    pub fn postgres(&self) -> Option<&PostgresOptions> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(options) => Some(options),
        }
    }
}

/// Who else may have the store open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The server: no other process serves this store.
    Serve,
    /// The key commands: a server may be running. Messages can neither be enqueued nor claimed. The store must exist.
    Manage,
    /// As [`Access::Manage`], and the store is created if it does not exist.
    Initialize,
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process serves the data directory.
    #[error("{0} is in use by another process; stop that one, or choose another data_dir")]
    InUse(PathBuf),
    /// Another process serves the data directory with an older schema, which must not change while it runs.
    #[error(
        "{0} is in use by a server of an older version; restart the server with this version first, then try again"
    )]
    OlderServer(PathBuf),
    /// There is no store, and this access does not create one.
    #[error(
        "there is no database in the data directory {0}; name the right one with --config or --data-dir, or create it \
         with: pillarbox key create --init"
    )]
    Absent(PathBuf),
    /// The database is missing, but files that belong to it exist.
    #[error(
        "{database} is missing or empty, but {} belongs to it; restore the database from a backup, \
         or move all of {} away to start with an empty one",
        list(.leftovers), .database.parent().unwrap_or(.database).display()
    )]
    DatabaseMissing {
        /// The expected path.
        database: PathBuf,
        /// The files that belong to it.
        leftovers: Vec<PathBuf>,
    },
    /// The database is newer than the program.
    #[error(
        "the database has schema {found}, but this program knows schemas up to {known}: use a newer pillarbox"
    )]
    Newer {
        /// The version in the file.
        found: u32,
        /// The newest version that this program knows.
        known: u32,
    },
    /// The master key is missing, unreadable, or not the one that encrypted the secrets in the database.
    #[error("master key {path}: {message}")]
    MasterKey {
        /// The file.
        path: PathBuf,
        /// The fault.
        message: String,
    },
    /// The data was moved by `pillarbox store copy`.
    #[error(
        "the data of {place} was moved to {to}: let the configuration name that place; to use this one again as it was then, \
         drop its table moved_store"
    )]
    Moved {
        /// The store.
        place: String,
        /// Where the data is.
        to: String,
    },
    /// A copy by `pillarbox store copy` is not complete.
    #[error(
        "{place} has an incomplete copy of {from}: finish it with the same `pillarbox store copy`, or delete it"
    )]
    Incomplete {
        /// The store.
        place: String,
        /// The source of the copy.
        from: String,
    },
    /// An option cannot be used.
    #[error("{option}: {message}")]
    Option {
        /// The dotted key.
        option: &'static str,
        /// What is wrong, and what to do.
        message: String,
    },
    /// The database of a server cannot be used.
    #[error("cannot open the database in PostgreSQL: {0}")]
    Database(String),
    /// Any other error.
    #[error("cannot open the store in {path} (data_dir): {message}")]
    Failed {
        /// The data directory.
        path: PathBuf,
        /// The error of the engine or the operating system.
        message: String,
    },
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" and ")
}

impl OpenError {
    pub(super) fn of_older_server(self) -> Self {
        match self {
            Self::InUse(path) => Self::OlderServer(path),
            other => other,
        }
    }
}
