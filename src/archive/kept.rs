//! The backups that `--keep` makes in a directory, each named by its time. What people made there by hand, and what other servers
//! made, is left alone.

use std::path::{Path, PathBuf};

use super::contents::read_manifest;
use super::create::CreateError;
use super::directory::{WorkDirectory, parent_of};
use super::manifest::Manifest;
use crate::mail::Timestamp;

/// The name of a backup: its time in UTC.
const NAME_FORMAT: &str = "%Y-%m-%dT%H-%M-%SZ";

/// Where a new backup is made in a directory.
pub fn kept_path(directory: &Path, now: Timestamp) -> PathBuf {
    directory.join(now.strftime(NAME_FORMAT).to_string())
}

/// The newest complete backup of a host in a directory, if there is one.
pub fn newest_in(directory: &Path, hostname: &str) -> Option<PathBuf> {
    let backups = backups_in(directory, hostname).ok()?;
    backups.into_iter().max_by_key(|(_, manifest)| manifest.taken_at).map(|(path, _)| path)
}

/// Deletes all but the newest complete backups of a host beside the one that was just made. That one is never deleted, whatever
/// the clock says. Those that lack bodies are not counted, so that they take the place of no whole one.
///
/// # Errors
/// [`CreateError::File`].
pub fn keep_newest(made: &Path, count: usize, hostname: &str) -> Result<(), CreateError> {
    let fault = |path: &Path, source| CreateError::File { path: path.to_owned(), source };
    let directory = parent_of(made);
    let mut others = backups_in(directory, hostname).map_err(|error| fault(directory, error))?;
    others.retain(|(path, _)| path.file_name() != made.file_name());
    others.sort_by_key(|(_, manifest)| std::cmp::Reverse(manifest.taken_at));
    let mut whole = 1;
    for (path, manifest) in others {
        if whole >= count {
            WorkDirectory::take(&path)
                .and_then(WorkDirectory::delete)
                .map_err(|error| fault(&path, error))?;
        } else {
            whole += usize::from(manifest.missing_bodies.is_empty());
        }
    }
    Ok(())
}

fn backups_in(directory: &Path, hostname: &str) -> std::io::Result<Vec<(PathBuf, Manifest)>> {
    let mut backups = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let has_time = |name: &str| jiff::civil::DateTime::strptime(NAME_FORMAT, name).is_ok();
        if entry.file_type()?.is_dir()
            && entry.file_name().to_str().is_some_and(has_time)
            && let Ok(manifest) = read_manifest(&entry.path())
            && manifest.hostname == hostname
        {
            backups.push((entry.path(), manifest));
        }
    }
    Ok(backups)
}
