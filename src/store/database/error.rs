//! Errors of the database.

use rusqlite::ErrorCode;
use rusqlite::types::FromSqlError;
use tokio_postgres::error::SqlState;

use crate::store::StoreError;

/// The result of a statement.
pub(in crate::store) type Result<T> = std::result::Result<T, DatabaseError>;

/// Why a statement failed.
#[derive(Debug, thiserror::Error)]
pub(in crate::store) enum DatabaseError {
    /// A query for one row found none.
    #[error("the query found no row")]
    NoRows,
    /// A value of a row cannot be read.
    #[error("column {column}: {error}")]
    Column {
        /// Its number or name.
        column: String,
        /// The fault.
        error: FromSqlError,
    },
    /// An error of SQLite.
    #[error("{}", words_of(.0))]
    Sqlite(rusqlite::Error),
    /// An error of PostgreSQL.
    #[error("{}", message_of(.0))]
    Postgres(tokio_postgres::Error),
    /// PostgreSQL commits no transaction in which a statement failed.
    #[error("an earlier statement of the transaction failed")]
    Aborted,
    /// Whether a transaction was committed is not known: the server did not answer, or warned that it did not wait for its
    /// standby.
    #[error("the server did not say whether the transaction was committed")]
    Unanswered {
        /// The name of the session, which the client has left.
        session: String,
    },
    /// There is no session with the server of the database.
    #[error("no session with the database: {0}")]
    Lost(String),
}

/// PostgreSQL's own words, without those of the library.
fn message_of(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |fault| fault.message().to_owned())
}

/// SQLite's own words; for an error of the disk also the files, what failed, and what to do.
fn words_of(error: &rusqlite::Error) -> String {
    use rusqlite::ffi;
    let Some(fault) = error.sqlite_error() else { return error.to_string() };
    let failed = match (fault.code, fault.extended_code) {
        // SQLite also takes what it cannot read for damage.
        (ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase, _) => "is damaged or cannot be read",
        (ErrorCode::CannotOpen, _) => "cannot be opened",
        (ErrorCode::SystemIoFailure, ffi::SQLITE_IOERR_READ | ffi::SQLITE_IOERR_SHORT_READ) => {
            "cannot be read"
        }
        (ErrorCode::SystemIoFailure, ffi::SQLITE_IOERR_WRITE) => "cannot be written",
        (ErrorCode::SystemIoFailure, ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC) => {
            "cannot be synced"
        }
        (ErrorCode::SystemIoFailure, ffi::SQLITE_IOERR_TRUNCATE) => "cannot be truncated",
        (ErrorCode::SystemIoFailure, _) => "cannot be used",
        _ => return error.to_string(),
    };
    format!(
        "{error} {}: pillarbox.db or pillarbox.db-wal in data_dir {failed}; look for errors of the disk in the log of the kernel",
        fault.extended_code
    )
}

impl From<rusqlite::Error> for DatabaseError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::Error;
        match error {
            Error::QueryReturnedNoRows => Self::NoRows,
            Error::FromSqlConversionFailure(column, _, error) => {
                Self::Column { column: column.to_string(), error: FromSqlError::Other(error) }
            }
            error => Self::Sqlite(error),
        }
    }
}

impl From<FromSqlError> for DatabaseError {
    fn from(error: FromSqlError) -> Self {
        Self::Column { column: "?".into(), error }
    }
}

impl DatabaseError {
    /// Whether a value of a row cannot be read. Other errors concern the statement or the database.
    pub(in crate::store) fn is_damage(&self) -> bool {
        use rusqlite::Error;
        match self {
            Self::Column { .. } => true,
            Self::Sqlite(error) => matches!(
                error,
                Error::IntegralValueOutOfRange(..) | Error::InvalidColumnType(..) | Error::Utf8Error(..)
            ),
            Self::NoRows | Self::Postgres(_) | Self::Aborted | Self::Unanswered { .. } | Self::Lost(_) => {
                false
            }
        }
    }

    /// Whether the row violates a constraint of its table.
    pub(in crate::store) fn is_constraint(&self) -> bool {
        match self {
            Self::Sqlite(error) => error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation),
            // Class 23: integrity constraint violation.
            Self::Postgres(error) => error.code().is_some_and(|state| state.code().starts_with("23")),
            _ => false,
        }
    }

    /// Whether the row refers to one that does not exist. Where a foreign key would cost too much, the statement looks the
    /// reference up, and finds nothing for a column that must have a value.
    pub(in crate::store) fn is_missing_reference(&self) -> bool {
        match self {
            Self::Sqlite(error) => error.sqlite_error().is_some_and(|fault| {
                use rusqlite::ffi::{SQLITE_CONSTRAINT_FOREIGNKEY, SQLITE_CONSTRAINT_NOTNULL};
                [SQLITE_CONSTRAINT_FOREIGNKEY, SQLITE_CONSTRAINT_NOTNULL].contains(&fault.extended_code)
            }),
            error => {
                error.has_state(&SqlState::FOREIGN_KEY_VIOLATION)
                    || error.has_state(&SqlState::NOT_NULL_VIOLATION)
            }
        }
    }

    /// Whether the statement was ended because it took too long.
    fn is_interruption(&self) -> bool {
        match self {
            Self::Sqlite(error) => error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted),
            error => error.has_state(&SqlState::QUERY_CANCELED),
        }
    }

    /// Whether the statement gave up waiting for a lock.
    pub(in crate::store) fn is_lock_timeout(&self) -> bool {
        self.has_state(&SqlState::LOCK_NOT_AVAILABLE)
    }

    fn is_full_disk(&self) -> bool {
        match self {
            Self::Sqlite(error) => error.sqlite_error_code() == Some(ErrorCode::DiskFull),
            error => error.has_state(&SqlState::DISK_FULL),
        }
    }

    pub(super) fn has_state(&self, state: &SqlState) -> bool {
        matches!(self, Self::Postgres(error) if error.code() == Some(state))
    }
}

impl From<DatabaseError> for StoreError {
    fn from(error: DatabaseError) -> Self {
        match error {
            error if error.is_full_disk() => Self::DiskFull,
            error if error.is_interruption() => Self::TooSlow,
            DatabaseError::Unanswered { .. } => Self::OutcomeUnknown,
            error => Self::Failed(error.to_string()),
        }
    }
}

/// A value that cannot be read.
pub(in crate::store) fn unreadable(error: impl std::error::Error + Send + Sync + 'static) -> FromSqlError {
    FromSqlError::Other(Box::new(error))
}

/// For queries that may find no row.
pub(in crate::store) trait OptionalExtension<T> {
    /// `None` instead of [`DatabaseError::NoRows`].
    fn optional(self) -> Result<Option<T>>;
}

impl<T> OptionalExtension<T> for Result<T> {
    fn optional(self) -> Result<Option<T>> {
        match self {
            Err(DatabaseError::NoRows) => Ok(None),
            result => result.map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_disk_names_the_files_and_what_to_do() {
        let of = |code| {
            DatabaseError::from(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None))
                .to_string()
        };
        let said = of(rusqlite::ffi::SQLITE_IOERR_FSYNC);
        for part in ["disk I/O error", "pillarbox.db-wal", "cannot be synced", "log of the kernel"] {
            assert!(said.contains(part), "`{part}` is not in: {said}");
        }
        let said = of(rusqlite::ffi::SQLITE_CORRUPT);
        assert!(said.contains("pillarbox.db-wal in data_dir is damaged or cannot be read"), "{said}");
        assert!(!of(rusqlite::ffi::SQLITE_BUSY).contains("pillarbox.db"));
    }
}
