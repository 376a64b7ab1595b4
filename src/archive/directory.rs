//! Where a backup is: a directory, a tar file, or the standard output. What is not complete yet is in a work directory.

use std::fs::{DirBuilder, File};
use std::io::Result;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

pub(super) use crate::durable_file::parent_of;
use crate::durable_file::rename_without_replacing;

/// Stands between the name of what is being written and [`RANDOM_DIGITS`] hexadecimal digits.
const MARK: &str = ".partial-";
const RANDOM_DIGITS: usize = 16;
/// A younger work directory may not be locked yet.
const ABANDONED_AGE_MIN: Duration = Duration::from_secs(60);

/// Where a backup is written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupPath {
    /// A directory.
    Directory(PathBuf),
    /// A tar file.
    Tar(PathBuf),
    /// The standard output, as tar.
    Stdout,
}

/// Why a path is no place for a backup.
#[derive(Debug, thiserror::Error)]
pub enum PathError {
    /// It exists.
    #[error("{0} exists; name a new directory or file")]
    Exists(PathBuf),
    /// It is inside of the data directory.
    #[error("{0} is in the data directory; a backup belongs elsewhere")]
    InDataDir(PathBuf),
}

impl BackupPath {
    /// The place that an argument names: `-`, a name that ends in `.tar`, or a directory.
    pub fn of(argument: &Path) -> Self {
        if argument == Path::new("-") {
            Self::Stdout
        } else if argument.extension().is_some_and(|extension| extension == "tar") {
            Self::Tar(argument.to_owned())
        } else {
            Self::Directory(argument.to_owned())
        }
    }

    /// Checks that a backup may be written here.
    pub(super) fn check_new(&self, data_dir: &Path) -> std::result::Result<(), PathError> {
        let (Self::Directory(path) | Self::Tar(path)) = self else { return Ok(()) };
        if path.symlink_metadata().is_ok() {
            return Err(PathError::Exists(path.clone()));
        }
        // The directories between may be new, too.
        let mut above = parent_of(path).ancestors();
        let above = above.find(|above| above.exists()).unwrap_or(Path::new("."));
        let is_inside = match (above.canonicalize(), data_dir.canonicalize()) {
            (Ok(above), Ok(data_dir)) => above.starts_with(data_dir),
            _ => false,
        };
        if is_inside { Err(PathError::InDataDir(path.clone())) } else { Ok(()) }
    }
}

impl std::fmt::Display for BackupPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(path) | Self::Tar(path) => path.display().fmt(f),
            Self::Stdout => f.write_str("-"),
        }
    }
}

/// A directory for what is not complete yet, which is removed at the end. Its maker holds it locked; after a crash it is not
/// locked, and the next work beside it removes it.
pub struct WorkDirectory {
    path: PathBuf,
    _lock: File,
    is_kept: bool,
}

impl WorkDirectory {
    /// Makes it beside what it is for.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn beside(path: &Path) -> Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Self::within(parent_of(path), &name)
    }

    /// Makes it in a directory.
    pub(super) fn within(parent: &Path, name: &str) -> Result<Self> {
        remove_abandoned(parent)?;
        let path = work_path(parent, name);
        DirBuilder::new().mode(0o700).create(&path)?;
        Self::hold(path)
    }

    /// Takes a directory that is to be deleted. What a crash leaves of it is no backup, and is removed later.
    pub(super) fn take(path: &Path) -> Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let work = work_path(parent_of(path), &name);
        std::fs::rename(path, &work)?;
        Self::hold(work)
    }

    fn hold(path: PathBuf) -> Result<Self> {
        let lock = File::open(&path)?;
        // Some file systems cannot lock directories. There, an abandoned one stays.
        let _ = lock.try_lock();
        Ok(Self { path, _lock: lock, is_kept: false })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Deletes it now.
    pub(super) fn delete(self) -> Result<()> {
        std::fs::remove_dir_all(&self.path)
    }

    /// Gives the directory its final name, which must be free.
    pub(super) fn keep_as(mut self, path: &Path) -> Result<()> {
        rename_without_replacing(&self.path, path)?;
        self.is_kept = true;
        Ok(())
    }
}

impl Drop for WorkDirectory {
    fn drop(&mut self) {
        if !self.is_kept {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// Exchanges two directories in one step.
pub(super) fn exchange(one: &Path, other: &Path) -> std::result::Result<(), Errno> {
    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)
}

fn work_path(parent: &Path, name: &str) -> PathBuf {
    parent.join(format!("{name}{MARK}{:0RANDOM_DIGITS$x}", rand::random::<u64>()))
}

/// Whether this is the name of a work directory.
pub(super) fn is_work_directory(name: &str) -> bool {
    name.rsplit_once(MARK).is_some_and(|(_, digits)| {
        digits.len() == RANDOM_DIGITS && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
    })
}

/// Removes the work directories that a crash or an interruption left.
pub(super) fn remove_abandoned(parent: &Path) -> Result<()> {
    for entry in std::fs::read_dir(parent)? {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(is_work_directory) || !entry.file_type()?.is_dir() {
            continue;
        }
        let age = entry
            .metadata()
            .and_then(|found| found.modified())
            .ok()
            .and_then(|at| SystemTime::now().duration_since(at).ok());
        let is_free = || File::open(entry.path()).is_ok_and(|directory| directory.try_lock().is_ok());
        if age.is_some_and(|age| age >= ABANDONED_AGE_MIN) && is_free() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_names_a_directory_a_tar_file_or_the_standard_output() {
        assert_eq!(BackupPath::of(Path::new("-")), BackupPath::Stdout);
        assert_eq!(BackupPath::of(Path::new("a/b.tar")), BackupPath::Tar("a/b.tar".into()));
        assert_eq!(BackupPath::of(Path::new("a/b")), BackupPath::Directory("a/b".into()));
    }

    #[test]
    fn a_directory_that_is_being_deleted_has_the_name_of_a_work_directory() {
        let dir = tempfile::tempdir().unwrap();
        let backup = dir.path().join("2026-11-29T08-00-00Z");
        std::fs::create_dir(&backup).unwrap();
        std::fs::write(backup.join("manifest.json"), "").unwrap();
        let work = WorkDirectory::take(&backup).unwrap();
        let name = work.path().file_name().unwrap().to_str().unwrap();
        assert!(is_work_directory(name) && work.path().join("manifest.json").is_file(), "{name}");
        assert!(!backup.exists());
        work.delete().unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn only_old_work_directories_that_nobody_holds_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let age = |path: &Path| {
            let file = File::open(path).unwrap();
            file.set_modified(SystemTime::now() - 2 * ABANDONED_AGE_MIN).unwrap();
        };
        let held = WorkDirectory::within(dir.path(), "held").unwrap();
        age(held.path());
        for name in [
            "left.partial-0123456789abcdef",
            "other.partial-0123456789abcdeg",
            "young.partial-0123456789abcdef",
        ] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        age(&dir.path().join("left.partial-0123456789abcdef"));
        age(&dir.path().join("other.partial-0123456789abcdeg"));
        let done = WorkDirectory::within(dir.path(), "done").unwrap();
        done.keep_as(&dir.path().join("done")).unwrap();
        let mut left: Vec<String> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left.len(), 4, "{left:?}");
        assert!(held.path().is_dir() && !left.iter().any(|name| name.starts_with("left")), "{left:?}");
        let path = held.path().to_owned();
        drop(held);
        assert!(!path.exists());
    }
}
