//! One of the two stores of a copy: opened without a server, and locked against one.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;

use bytes::Bytes;
use parking_lot::Mutex;

use super::body_row::{BodyRow, read_file};
use super::marks::{self, INCOMPLETE, MOVED};
use super::rows::quoted;
use super::tables::{Table, names, stored_name};
use super::{Result, StoreCopyError};
use crate::durable_file::{create_directory, parent_of, replace, sync_directory};
use crate::mail::Content;
use crate::model::MessageId;
use crate::store::database::{self, Connection, DatabaseError, Engine, OptionalExtension, Value};
use crate::store::sql::blob_store::body_path;
use crate::store::sql::body_pieces::{self, BodyPieces};
use crate::store::sql::postgres;
use crate::store::sql::sqlite::leftovers::has_data;
use crate::store::sql::sqlite::open::{DATABASE_FILE, connect, lock_data_dir, migrate_dir};
use crate::store::{OpenError, PostgresOptions, SqliteOptions, StoreOptions};

/// What a store is for a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Source,
    Destination,
}

/// A store that nothing else uses.
pub(super) struct StorePlace {
    pub(super) connection: Connection,
    kind: Kind,
    missing_bodies: Mutex<BTreeSet<String>>,
}

enum Kind {
    DataDir {
        path: PathBuf,
        inline_octets_max: u64,
        /// Unlocks the directory when it is closed.
        _lock: File,
    },
    Postgres {
        name: String,
    },
}

impl StorePlace {
    /// Opens a store with the newest schema, and locks it.
    ///
    /// # Errors
    /// [`StoreCopyError::Open`], [`StoreCopyError::InUse`], [`StoreCopyError::NotEmpty`].
    pub(super) fn open(options: &StoreOptions, role: Role) -> Result<Self> {
        match options {
            StoreOptions::Sqlite(options) => Self::open_data_dir(options, role),
            StoreOptions::Postgres(options) => Self::open_postgres(options, role),
        }
    }

    fn open_data_dir(options: &SqliteOptions, role: Role) -> Result<Self> {
        let given = &options.data_dir;
        let failed =
            |error: &dyn ToString| OpenError::Failed { path: given.clone(), message: error.to_string() };
        let has_store = has_data(given).map_err(|error| failed(&error))?;
        match role {
            Role::Source if !has_store => return Err(OpenError::Absent(given.clone()).into()),
            Role::Source => {}
            Role::Destination => create_directory(given, 0o700).map_err(|error| failed(&error))?,
        }
        // Marks name it, and the same directory has the same name in another run.
        let path = given.canonicalize().map_err(|error| failed(&error))?;
        let lock = lock_data_dir(&path)?;
        let mut connection = connect(&path.join(DATABASE_FILE)).map_err(|error| failed(&error))?;
        if role == Role::Destination {
            let empty = Connection::from(connection);
            require_empty(&empty, has_store, &path.display().to_string())?;
            drop(empty);
            connection = connect(&path.join(DATABASE_FILE)).map_err(|error| failed(&error))?;
        }
        migrate_dir(&path, &mut connection)?;
        sync_directory(&path).map_err(|error| failed(&error))?;
        let inline_octets_max = options.inline_body_bytes_max;
        Self::new(connection.into(), Kind::DataDir { path, inline_octets_max, _lock: lock }, role)
    }

    fn open_postgres(options: &PostgresOptions, role: Role) -> Result<Self> {
        // Nothing is entrusted to the source.
        let is_unsafe_allowed = options.is_unsafe_allowed || role == Role::Source;
        let (connection, name) =
            postgres::open_for_copy(&PostgresOptions { is_unsafe_allowed, ..options.clone() })?;
        let failed =
            |error: DatabaseError| StoreCopyError::Failed { place: name.clone(), message: error.to_string() };
        if let Some(user) = postgres::find_user(&connection).map_err(failed)? {
            return Err(StoreCopyError::InUse { place: name, user });
        }
        let has_store = !names(&connection).map_err(failed)?.is_empty();
        match role {
            Role::Source => postgres::require_tables(&connection, &name)?,
            Role::Destination => require_empty(&connection, has_store, &name)?,
        }
        postgres::migrate(&connection)?;
        connection.set_pipelining(true);
        Self::new(connection, Kind::Postgres { name }, role)
    }

    fn new(connection: Connection, kind: Kind, role: Role) -> Result<Self> {
        let place = Self { connection, kind, missing_bodies: Mutex::default() };
        if role == Role::Source {
            let name = place.name();
            marks::refuse_marked(&place.connection, &name, |error| OpenError::Database(error.to_string()))?;
        }
        Ok(place)
    }

    /// What people call it.
    pub(super) fn name(&self) -> String {
        match &self.kind {
            Kind::DataDir { path, .. } => path.display().to_string(),
            Kind::Postgres { name } => name.clone(),
        }
    }

    /// The name of the table whose rows are written for a table that is copied.
    pub(super) fn stored_name(&self, table: &Table) -> String {
        stored_name(self.connection.engine(), &table.name)
    }

    /// The fingerprint of the master key.
    pub(super) fn fingerprint(&self) -> Result<Option<String>> {
        let sql = "SELECT fingerprint FROM seal_check WHERE id = 1";
        let found = self.connection.query_row(sql, [], |row| row.get::<_, Option<String>>(0)).optional();
        Ok(found.map_err(|error| self.failed(error))?.flatten())
    }

    pub(super) fn count(&self, table: &Table) -> Result<u64> {
        let sql = format!("SELECT count(*) FROM {}", quoted(&table.name));
        let count: i64 =
            self.connection.query_row(&sql, [], |row| row.get(0)).map_err(|error| self.failed(error))?;
        Ok(count.unsigned_abs())
    }

    /// Begins a copy, or goes on with one of the same source. What a new schema contains is replaced by the rows of the source.
    pub(super) fn begin(&self, source: &str, tables: &[Table]) -> Result<()> {
        let other = marks::read(&self.connection, INCOMPLETE).map_err(|error| self.failed(error))?;
        match other {
            Some(other) if other == source => Ok(()),
            Some(other) if !other.is_empty() => Err(StoreCopyError::OtherCopy { place: self.name(), other }),
            _ => self.empty(source, tables).map_err(|error| self.failed(error)),
        }
    }

    fn empty(&self, source: &str, tables: &[Table]) -> database::Result<()> {
        let transaction = self.connection.transaction()?;
        for table in tables.iter().rev() {
            transaction.execute(&format!("DELETE FROM {}", quoted(&self.stored_name(table))), [])?;
        }
        transaction.execute(&format!("UPDATE {INCOMPLETE} SET place = ?1"), [source])?;
        transaction.commit()
    }

    /// Makes what follows from the copied rows.
    pub(super) fn complete(&self, tables: &[Table]) -> Result<()> {
        if self.connection.engine() == Engine::Postgres {
            postgres::complete_copy(&self.connection, tables.iter().map(|table| table.name.as_str()))
                .map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    /// The copy is whole and may be opened.
    pub(super) fn end(&self) -> Result<()> {
        marks::remove(&self.connection, INCOMPLETE).map_err(|error| self.failed(error))?;
        self.flush()
    }

    /// Nobody opens the store at its old place any more.
    pub(super) fn mark_moved(&self, to: &str) -> Result<()> {
        marks::set(&self.connection, MOVED, to).map_err(|error| self.failed(error))?;
        self.flush()
    }

    /// Moves the write-ahead log into the database.
    fn flush(&self) -> Result<()> {
        if self.connection.engine() == Engine::Sqlite {
            let flushed = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
            flushed.map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    /// A row of a body with its octets, wherever those are.
    pub(super) fn with_octets(&self, table: &Table, row: Vec<Value>) -> Result<Vec<Value>> {
        let mut body = self.body(table, row)?;
        let Some(prefix_octets) = body.prefix_octets_elsewhere() else { return Ok(body.into_values()) };
        let id = body.id();
        let octets = match &self.kind {
            Kind::DataDir { path, .. } => read_file(&path.join(body_path(&id)), prefix_octets)
                .map_err(|error| self.fault(format!("the body of {id}: {error}")))?,
            Kind::Postgres { .. } => {
                let content = body_pieces::read(&self.connection, &id, prefix_octets);
                let Content { prefix, submitted } = content.map_err(|error| self.failed(error))?;
                Some([prefix.to_vec(), submitted.to_vec()])
            }
        };
        match octets {
            Some([prefix, submitted]) => body.set_octets(prefix, submitted),
            None => {
                self.missing_bodies.lock().insert(id);
                body.set_missing();
            }
        }
        Ok(body.into_values())
    }

    /// A row of a body as this store keeps it. If its octets are elsewhere, they are written there.
    pub(super) fn place_octets(&self, table: &Table, row: Vec<Value>) -> Result<Vec<Value>> {
        let mut body = self.body(table, row)?;
        let id = body.id();
        match &self.kind {
            Kind::DataDir { path, inline_octets_max, .. } => {
                let octets = body.octets().concat();
                if octets.len() as u64 > *inline_octets_max {
                    let file = path.join(body_path(&id));
                    let written = create_directory(parent_of(&file), 0o700)
                        .and_then(|()| replace(&file, 0o600, &octets));
                    written.map_err(|error| self.fault(format!("the body of {id}: {error}")))?;
                    body.set_elsewhere();
                }
            }
            Kind::Postgres { .. } => {
                let [prefix, submitted] = body.octets().map(Bytes::copy_from_slice);
                let content = Content { prefix, submitted };
                if BodyPieces::is_large(&content) {
                    let written = body_pieces::insert(&self.connection, self.message(&id)?, &content);
                    written.map_err(|error| self.failed(error))?;
                    body.set_elsewhere();
                }
            }
        }
        Ok(body.into_values())
    }

    fn message(&self, id: &str) -> Result<MessageId> {
        id.parse().map_err(|_| self.fault(format!("{id} is not the id of a message")))
    }

    fn body(&self, table: &Table, row: Vec<Value>) -> Result<BodyRow> {
        let body = BodyRow::of(table, row);
        body.ok_or_else(|| StoreCopyError::Schema(format!("{} has other columns", table.name)))
    }

    /// Messages whose body has no file.
    pub(super) fn missing_bodies(&self) -> Vec<String> {
        self.missing_bodies.lock().iter().cloned().collect()
    }

    /// An error of this store.
    pub(super) fn failed(&self, error: DatabaseError) -> StoreCopyError {
        self.fault(error.to_string())
    }

    fn fault(&self, message: String) -> StoreCopyError {
        StoreCopyError::Failed { place: self.name(), message }
    }
}

/// Marks an empty store as a copy that is not complete. Refuses one that has data, unless it is such a copy.
fn require_empty(connection: &Connection, has_store: bool, name: &str) -> Result<()> {
    let failed =
        |error: DatabaseError| StoreCopyError::Failed { place: name.to_owned(), message: error.to_string() };
    match marks::read(connection, INCOMPLETE).map_err(failed)? {
        Some(_) => Ok(()),
        None if has_store => Err(StoreCopyError::NotEmpty(name.to_owned())),
        // Its source is written when its tables are there.
        None => marks::set(connection, INCOMPLETE, "").map_err(failed),
    }
}
