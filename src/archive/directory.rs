//! Where a backup is: a directory, a tar file, or the standard output. What is not complete yet is in a work directory.

use std::fs::{DirBuilder, File};
use std::io::{Error, Result};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

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
        let is_inside = match (parent_of(path).canonicalize(), data_dir.canonicalize()) {
            (Ok(parent), Ok(data_dir)) => parent.starts_with(data_dir),
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

/// The directory that a path is in; `.` for a path of one component.
pub(super) fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."))
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
        let path = parent.join(format!("{name}{MARK}{:0RANDOM_DIGITS$x}", rand::random::<u64>()));
        DirBuilder::new().mode(0o700).create(&path)?;
        let lock = File::open(&path)?;
        // Some file systems cannot lock directories. There, an abandoned one stays.
        let _ = lock.try_lock();
        Ok(Self { path, _lock: lock, is_kept: false })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the directory its final name, which must be free.
    pub(super) fn keep_as(mut self, path: &Path) -> Result<()> {
        rename_new(&self.path, path)?;
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

/// Renames a file or directory to a name that must be free.
pub(super) fn rename_new(from: &Path, to: &Path) -> Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Some file systems do not support the flag, such as NFS.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) if to.symlink_metadata().is_err() => {
            std::fs::rename(from, to)
        }
        renamed => renamed.map_err(Error::from),
    }
}

/// Whether this is the name of a work directory.
pub(super) fn is_work_directory(name: &str) -> bool {
    name.rsplit_once(MARK).is_some_and(|(_, digits)| {
        digits.len() == RANDOM_DIGITS && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
    })
}

/// Removes the work directories that a crash left.
fn remove_abandoned(parent: &Path) -> Result<()> {
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
