//! Marks of stores that must not be opened: one that was moved elsewhere, and an incomplete copy. Each is a table of its own,
//! which no migration knows.

use crate::store::OpenError;
use crate::store::database::{self, Connection, Engine};

/// Has the place that a store was moved to.
pub(super) const MOVED: &str = "moved_store";
/// Has the source of a copy until it is complete.
pub(super) const INCOMPLETE: &str = "incomplete_copy";

/// Refuses a store that was moved or is not complete.
///
/// # Errors
/// [`OpenError::Moved`], [`OpenError::Incomplete`], or what `fault` makes of an error of the database.
pub(in crate::store::sql) fn refuse_marked(
    connection: &Connection,
    place: &str,
    fault: impl Fn(database::DatabaseError) -> OpenError,
) -> Result<(), OpenError> {
    let place = place.to_owned();
    if let Some(to) = read(connection, MOVED).map_err(&fault)? {
        return Err(OpenError::Moved { place, to });
    }
    match read(connection, INCOMPLETE).map_err(&fault)? {
        Some(from) => Err(OpenError::Incomplete { place, from }),
        None => Ok(()),
    }
}

/// What a mark names; `None` without the mark.
pub(super) fn read(connection: &Connection, mark: &str) -> database::Result<Option<String>> {
    if !has_table(connection, mark)? {
        return Ok(None);
    }
    let sql = format!("SELECT place FROM {mark}");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query([])?;
    Ok(match rows.next()? {
        Some(row) => Some(row.get(0)?),
        None => Some("an unknown place".to_owned()),
    })
}

/// Makes a mark.
pub(super) fn set(connection: &Connection, mark: &str, place: &str) -> database::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(&format!("CREATE TABLE {mark} (place TEXT NOT NULL)"))?;
    transaction.execute(&format!("INSERT INTO {mark} (place) VALUES (?1)"), [place])?;
    transaction.commit()
}

/// Removes a mark.
pub(super) fn remove(connection: &Connection, mark: &str) -> database::Result<()> {
    connection.execute_batch(&format!("DROP TABLE {mark}"))
}

/// Whether there is a table of this name.
pub(super) fn has_table(connection: &Connection, name: &str) -> database::Result<bool> {
    let sql = match connection.engine() {
        Engine::Sqlite => "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1",
        Engine::Postgres => "SELECT 1 WHERE to_regclass(?1) IS NOT NULL",
    };
    connection.prepare_cached(sql)?.exists([name])
}
