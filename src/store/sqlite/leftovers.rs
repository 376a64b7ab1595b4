//! Whether a data directory without a database is a new one, or has lost its database: then nothing may be made anew
//! in silence.

use std::fs::{DirEntry, Metadata};
use std::io::{ErrorKind, Result};
use std::path::{Path, PathBuf};

/// What only a database that was there leaves behind, as far as it is found.
pub(super) fn find(database: &Path, master_key: Option<&Path>, bodies: &Path) -> Result<Vec<PathBuf>> {
    let mut log = database.as_os_str().to_owned();
    log.push("-wal");
    let files = [Some(Path::new(&log)), master_key].into_iter().flatten();
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

/// Whether there is no such file, or nothing in it.
pub(super) fn is_missing(file: &Path) -> Result<bool> {
    Ok(look_at(file)?.is_none_or(|metadata| metadata.len() == 0))
}

/// Whether there is a file in the directory or in those right below it.
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

/// `None` only if it is certain that there is nothing of that name.
fn look_at(path: &Path) -> Result<Option<Metadata>> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
