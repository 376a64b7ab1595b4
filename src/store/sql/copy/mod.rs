//! Copies a whole store into an empty one, from one engine to the other or between two of the same kind.
//!
//! Rows go in the order of their keys, some thousand in a transaction, so a copy that was interrupted goes on behind the last row
//! that is there. In the end both stores are read whole and compared. Nothing else may use them meanwhile.

mod body_row;
mod marks;
mod place;
mod rows;
mod tables;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;
use std::path::PathBuf;

pub(super) use self::marks::refuse_marked;
use self::place::{Role, StorePlace};
use self::rows::{Digest, PageSize, digest, insert, last_key, read_page};
use self::tables::{Table, common_tables};
use super::secret_encryption::master_key_fingerprint;
use crate::store::{OpenError, StoreOptions};

/// What is copied where.
#[derive(Debug, Clone)]
pub struct CopyOptions {
    /// The store to read.
    pub from: StoreOptions,
    /// An empty place, or one with a copy of the same store that was interrupted.
    pub to: StoreOptions,
    /// Files that must have the master key of the store.
    pub master_keys: Vec<PathBuf>,
    /// Whether the store can be opened at its old place afterwards.
    pub keeps_source: bool,
}

/// How far a copy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreCopyProgress {
    /// What is done with the table.
    pub step: CopyStep,
    /// The table.
    pub table: String,
    /// Its rows that are copied or compared.
    pub rows: u64,
    /// All its rows.
    pub rows_total: u64,
    /// The octets that were read since the copy began.
    pub octets: u64,
}

/// A part of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyStep {
    /// Rows are read and written.
    Copy,
    /// Both stores are read and compared.
    Compare,
}

/// What was copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopiedStore {
    /// Rows of each table.
    pub tables: Vec<(String, u64)>,
    /// The fingerprint of the master key of the store.
    pub master_key: Option<String>,
    /// Messages whose body is missing in the source. They are damaged in the copy, too.
    pub missing_bodies: Vec<String>,
}

/// Why a store was not copied.
#[derive(Debug, thiserror::Error)]
pub enum StoreCopyError {
    /// One of the two places cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The destination has data.
    #[error("{0} is not empty; name an empty database, or a directory without one")]
    NotEmpty(String),
    /// The destination has a part of another store.
    #[error("{place} has an incomplete copy of {other}; finish that one, or delete it")]
    OtherCopy {
        /// The destination.
        place: String,
        /// The source of the copy that is there.
        other: String,
    },
    /// Both places are the same.
    #[error("--from and --to are the same place")]
    SamePlace,
    /// A server uses the store.
    #[error("{place} is in use by {user}; stop it first")]
    InUse {
        /// The store.
        place: String,
        /// What uses it.
        user: String,
    },
    /// A file has another master key.
    #[error(
        "{file} is not the master key of {place}, without which the copied secrets cannot be decrypted; that one has the fingerprint {fingerprint}"
    )]
    OtherKey {
        /// The file.
        file: String,
        /// The source.
        place: String,
        /// Of the right key.
        fingerprint: String,
    },
    /// The schemas do not go together.
    #[error("{0}")]
    Schema(String),
    /// The copy differs from the source.
    #[error("the copy differs from the source in {}; delete the copy and begin anew", .0.join(", "))]
    Differs(Vec<String>),
    /// The caller did not want to go on.
    #[error("the copy was interrupted; the same command goes on with it")]
    Interrupted,
    /// A statement failed.
    #[error("{place}: {message}")]
    Failed {
        /// The store.
        place: String,
        /// The error of the engine or the file system.
        message: String,
    },
}

type Result<T> = std::result::Result<T, StoreCopyError>;

/// Copies a store. `report` is called after each page of rows, and may end the copy; another call then goes on with it. Blocks.
///
/// # Errors
/// [`StoreCopyError`].
pub fn copy_store(
    options: &CopyOptions,
    report: &mut dyn FnMut(&StoreCopyProgress) -> ControlFlow<()>,
) -> Result<CopiedStore> {
    let from = StorePlace::open(&options.from, Role::Source)?;
    let to = StorePlace::open(&options.to, Role::Destination)?;
    if from.name() == to.name() {
        return Err(StoreCopyError::SamePlace);
    }
    let master_key = check_keys(&from, &options.master_keys)?;
    let tables = common_tables(&from, &to)?;
    to.begin(&from.name(), &tables)?;
    let mut copy = StoreCopy { from: &from, to: &to, report, octets: 0 };
    for table in &tables {
        copy.copy(table)?;
    }
    to.complete(&tables)?;
    let mut copied = CopiedStore { tables: Vec::new(), master_key, missing_bodies: from.missing_bodies() };
    let mut differing = Vec::new();
    for table in &tables {
        match copy.compare(table)? {
            Some(rows) => copied.tables.push((table.name.clone(), rows)),
            None => differing.push(table.name.clone()),
        }
    }
    if !differing.is_empty() {
        return Err(StoreCopyError::Differs(differing));
    }
    to.end()?;
    if !options.keeps_source {
        from.mark_moved(&to.name())?;
    }
    Ok(copied)
}

/// Compares the files with the master key of the source. Returns the fingerprint of that.
fn check_keys(from: &StorePlace, files: &[PathBuf]) -> Result<Option<String>> {
    let wanted = from.fingerprint()?;
    for file in files {
        let found = master_key_fingerprint(file)?;
        if let Some(fingerprint) = wanted.as_ref().filter(|wanted| **wanted != found) {
            return Err(StoreCopyError::OtherKey {
                file: file.display().to_string(),
                place: from.name(),
                fingerprint: fingerprint.clone(),
            });
        }
    }
    Ok(wanted)
}

struct StoreCopy<'a> {
    from: &'a StorePlace,
    to: &'a StorePlace,
    report: &'a mut dyn FnMut(&StoreCopyProgress) -> ControlFlow<()>,
    octets: u64,
}

impl StoreCopy<'_> {
    /// Copies the rows that are not there yet.
    fn copy(&mut self, table: &Table) -> Result<()> {
        let rows_total = self.from.count(table)?;
        if table.key.is_empty() {
            // Such tables are small, and one transaction has all their rows.
            return if self.to.count(table)? == 0 {
                self.copy_page(table, &None, 0).map(drop)
            } else {
                Ok(())
            };
        }
        let mut rows = self.to.count(table)?;
        let mut after = last_key(&self.to.connection, table).map_err(|error| self.to.failed(error))?;
        while rows < rows_total {
            let Some((copied, last)) = self.copy_page(table, &after, rows)? else { break };
            rows += copied;
            after = Some(last);
            self.report(CopyStep::Copy, table, rows, rows_total)?;
        }
        Ok(())
    }

    /// Copies the next rows in one transaction. Returns their number and the last key; `None` if there are none.
    fn copy_page(
        &mut self,
        table: &Table,
        after: &Option<rows::Key>,
        rows_before: u64,
    ) -> Result<Option<(u64, rows::Key)>> {
        let page = read_page(self.from, table, after, PageSize::default())?;
        let Some(last) = page.last_key(table) else { return Ok(None) };
        let rows = page.rows.len() as u64;
        self.octets += page.octets;
        insert(self.to, table, page, rows_before)?;
        Ok(Some((rows, last)))
    }

    /// The number of rows, if the table is the same in both stores.
    fn compare(&mut self, table: &Table) -> Result<Option<u64>> {
        let rows_total = self.from.count(table)?;
        let of_source = self.digest(self.from, table, rows_total)?;
        let of_copy = self.digest(self.to, table, rows_total)?;
        Ok((of_source == of_copy).then_some(of_source.rows))
    }

    fn digest(&mut self, place: &StorePlace, table: &Table, rows_total: u64) -> Result<Digest> {
        digest(place, table, |rows, octets| {
            self.octets += octets;
            self.report(CopyStep::Compare, table, rows, rows_total)
        })
    }

    fn report(&mut self, step: CopyStep, table: &Table, rows: u64, rows_total: u64) -> Result<()> {
        let progress =
            StoreCopyProgress { step, table: table.name.clone(), rows, rows_total, octets: self.octets };
        match (self.report)(&progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(StoreCopyError::Interrupted),
        }
    }
}
