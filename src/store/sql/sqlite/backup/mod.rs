//! The database of a backup: copied beside a running server, checked, and prepared for a new life. These functions open
//! connections of their own; the store of a running server is not involved.

mod check;
mod copy;
mod fold;
mod restored;
mod undone;

pub use check::{DatabaseReport, check_database};
pub use copy::{CopiedDatabase, CopyProgress, copy_database};
pub use restored::{NewLife, PreparedDatabase, prepare_restored};
pub use undone::fingerprint_in_database;

use crate::store::database::DatabaseError;

/// Why a database cannot be copied, checked or prepared.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is no database.
    #[error("there is no database at {0}")]
    Absent(std::path::PathBuf),
    /// It is newer than the program.
    #[error(
        "the database has schema {found}, but this program knows schemas up to {known}: use a newer pillarbox"
    )]
    Newer {
        /// The version in the file.
        found: u32,
        /// The newest version that this program knows.
        known: u32,
    },
    /// The caller gave up the copy.
    #[error("given up")]
    GivenUp,
    /// Another error of SQLite or the operating system.
    #[error("{0}")]
    Failed(String),
}

impl From<DatabaseError> for BackupError {
    fn from(error: DatabaseError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<rusqlite::Error> for BackupError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<std::io::Error> for BackupError {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}
