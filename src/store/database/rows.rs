//! Rows of queries.

use std::fmt::Display;

use rusqlite::types::{FromSql, FromSqlError, ValueRef};

use super::postgres_values::Stored;
use super::{DatabaseError, Result};

/// A column, by its number from 0 or by its name.
pub(in crate::store) trait ColumnIndex: Display + Copy {
    /// The number of the column in a row.
    fn number(self, row: &Row<'_>) -> Result<usize>;
}

impl ColumnIndex for usize {
    fn number(self, _row: &Row<'_>) -> Result<usize> {
        Ok(self)
    }
}

impl ColumnIndex for &str {
    fn number(self, row: &Row<'_>) -> Result<usize> {
        match row {
            Row::Sqlite(row) => Ok(row.as_ref().column_index(self)?),
            Row::Postgres(row) => {
                let found = row.columns().iter().position(|column| column.name() == self);
                let missing = || FromSqlError::Other("the query has no such column".into());
                found.ok_or_else(|| DatabaseError::Column { column: self.to_owned(), error: missing() })
            }
        }
    }
}

/// One row.
pub(in crate::store) enum Row<'a> {
    Sqlite(&'a rusqlite::Row<'a>),
    Postgres(&'a tokio_postgres::Row),
}

impl Row<'_> {
    /// A value of the row. Fails with [`DatabaseError::Column`].
    pub(in crate::store) fn get<I: ColumnIndex, T: FromSql>(&self, column: I) -> Result<T> {
        let value = self.get_ref(column)?;
        T::column_result(value).map_err(|error| DatabaseError::Column { column: column.to_string(), error })
    }

    /// A value of the row as it is stored.
    pub(in crate::store) fn get_ref(&self, column: impl ColumnIndex) -> Result<ValueRef<'_>> {
        let number = column.number(self)?;
        match self {
            Self::Sqlite(row) => Ok(row.get_ref(number)?),
            Self::Postgres(row) => {
                let stored: Option<Stored<'_>> = row.try_get(number).map_err(DatabaseError::Postgres)?;
                let value = stored.map_or(Ok(ValueRef::Null), |stored| stored.value());
                value.map_err(|error| DatabaseError::Column {
                    column: column.to_string(),
                    error: FromSqlError::Other(error),
                })
            }
        }
    }

    /// The number of columns.
    pub(in crate::store) fn column_count(&self) -> usize {
        match self {
            Self::Sqlite(row) => row.as_ref().column_count(),
            Self::Postgres(row) => row.len(),
        }
    }
}

/// The rows of a query.
pub(in crate::store) enum Rows<'a> {
    Sqlite(rusqlite::Rows<'a>),
    Postgres { rows: std::vec::IntoIter<tokio_postgres::Row>, current: Option<tokio_postgres::Row> },
}

impl Rows<'_> {
    pub(super) fn of_postgres(rows: Vec<tokio_postgres::Row>) -> Self {
        Self::Postgres { rows: rows.into_iter(), current: None }
    }

    /// The next row.
    pub(in crate::store) fn next(&mut self) -> Result<Option<Row<'_>>> {
        match self {
            Self::Sqlite(rows) => Ok(rows.next()?.map(Row::Sqlite)),
            Self::Postgres { rows, current } => {
                *current = rows.next();
                Ok(current.as_ref().map(Row::Postgres))
            }
        }
    }
}

/// The rows of a query, each converted.
pub(in crate::store) struct MappedRows<'a, F> {
    rows: Rows<'a>,
    read: F,
}

impl<'a, F> MappedRows<'a, F> {
    pub(super) fn new(rows: Rows<'a>, read: F) -> Self {
        Self { rows, read }
    }
}

impl<T, F: FnMut(&Row<'_>) -> Result<T>> Iterator for MappedRows<'_, F> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Result<T>> {
        self.rows.next().transpose().map(|row| (self.read)(&row?))
    }
}
