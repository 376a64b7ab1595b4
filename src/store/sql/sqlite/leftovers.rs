//! Detects a data directory that has lost its database. A new database must not be created there.

use std::fs::{DirEntry, Metadata};
use std::io::{ErrorKind, Result};
use std::path::{Path, PathBuf};

use super::open::{DATABASE_FILE, log_of};
use crate::store::sql::blob_store::BODIES_DIRECTORY;

/// Whether a data directory has a database, a part of one, or a body.
///
/// # Errors
/// Those of the file system.
pub fn has_data(data_dir: &Path) -> Result<bool> {
    let has_file = |name: String| data_dir.join(name).symlink_metadata().is_ok();
    if ["", "-wal", "-shm"].iter().any(|suffix| has_file(format!("{DATABASE_FILE}{suffix}"))) {
        return Ok(true);
    }
    holds_a_file(&data_dir.join(BODIES_DIRECTORY))
}

/// The files that only an earlier database can have left.
pub(in crate::store::sql) fn find(
    database: &Path,
    master_key: Option<&Path>,
    bodies: &Path,
) -> Result<Vec<PathBuf>> {
    let log = log_of(database);
    let files = [Some(log.as_path()), master_key].into_iter().flatten();
    let mut found = Vec::new();
    for file in files {
        if !is_missing(file)? {
            found.push(file.to_owned());
        }
    }
    if holds_a_file(bodies)? {
        found.push(bodies.to_owned());
    }
    Ok(found)
}

/// Whether the file is missing or empty.
pub(in crate::store::sql) fn is_missing(file: &Path) -> Result<bool> {
    Ok(look_at(file)?.is_none_or(|metadata| metadata.len() == 0))
}

/// Whether there is a file in the directory or in its subdirectories.
fn holds_a_file(bodies: &Path) -> Result<bool> {
    for entry in entries(bodies)? {
        if !entry.file_type()?.is_dir() || !entries(&entry.path())?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn entries(directory: &Path) -> Result<Vec<DirEntry>> {
    match std::fs::read_dir(directory) {
        Ok(entries) => entries.collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// `None` only if the file certainly does not exist.
fn look_at(path: &Path) -> Result<Option<Metadata>> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
