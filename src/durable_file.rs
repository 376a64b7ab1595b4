//! Atomic and durable writes of files and directories: after a power cut, a file is complete or absent. A file is
//! written under a temporary name in the same directory, synced and renamed; then the directory is synced. Imports
//! nothing.

use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Error, ErrorKind, Result, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, lchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

/// While a file is being written, its name is this prefix, [`RANDOM_DIGITS`] hexadecimal digits, `-` and its final name.
const UNFINISHED_PREFIX: &str = ".new-";
const RANDOM_DIGITS: usize = 16;
/// A younger unfinished file may still have a writer.
const UNFINISHED_AGE_MIN: Duration = Duration::from_secs(60);
/// Octets that are written again at once.
const PIECE_OCTETS: usize = 1024 * 1024;

/// Writes a file, and replaces an existing one. If writing or renaming fails, the existing file is unchanged.
pub fn replace(path: &Path, mode: u32, octets: &[u8]) -> Result<()> {
    write(path, mode, &[octets], |unfinished| std::fs::rename(unfinished, path))
}

/// Writes a new file from pieces.
///
/// # Errors
/// [`ErrorKind::AlreadyExists`] if the file exists; any error of the file system.
pub fn create(path: &Path, mode: u32, pieces: &[&[u8]]) -> Result<()> {
    write(path, mode, pieces, |unfinished| rename_without_replacing(unfinished, path))
}

/// Writes the octets of a file to their places again, and syncs them. After a failed sync, the kernel may still have octets
/// that did not come to the disk, and that no later sync writes. Does nothing if there is no file.
pub fn write_again(path: &Path) -> Result<()> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    let mut piece = vec![0; PIECE_OCTETS];
    let mut offset = 0;
    loop {
        let read = match file.read_at(&mut piece, offset) {
            Ok(0) => return file.sync_all(),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        file.write_all_at(&piece[..read], offset)?;
        offset += read as u64;
    }
}

/// Creates a directory and its missing parents. An existing directory keeps its mode.
pub fn create_directory(path: &Path, mode: u32) -> Result<()> {
    // An empty path has no parent, so the recursion would not end.
    if path == Path::new("") {
        return Err(ErrorKind::InvalidFilename.into());
    }
    if path.is_dir() {
        return Ok(());
    }
    let parent = parent_of(path);
    create_directory(parent, mode)?;
    match DirBuilder::new().mode(mode).create(path) {
        // Another process has created it, but may not have synced it yet.
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => {}
        created => created.and_then(|()| inherit_owner(path))?,
    }
    sync_directory(parent)
}

/// Gives a new file or directory the owner of its parent directory, so that root leaves nothing that the service cannot
/// read. Does nothing for other users, who cannot give files away.
pub fn inherit_owner(path: &Path) -> Result<()> {
    let (own, parent) = (std::fs::symlink_metadata(path)?, std::fs::metadata(parent_of(path))?);
    if own.uid() == parent.uid() {
        return Ok(());
    }
    match lchown(path, Some(parent.uid()), Some(parent.gid())) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
        changed => changed,
    }
}

/// Syncs a directory: names that were added to it or removed from it survive a power cut.
pub fn sync_directory(path: &Path) -> Result<()> {
    File::open(path)?.sync_all()
}

/// What is wrong with the mode of a file with a secret; `None` if only its owner can access it. The group may read a file of
/// root, because credentials of the service manager have such a mode.
pub fn find_exposure(secret_file: &Path) -> Result<Option<String>> {
    let file = std::fs::metadata(secret_file)?;
    let (forbidden, allowed) = if file.uid() == 0 { (0o037, 640) } else { (0o077, 600) };
    if file.mode() & forbidden == 0 {
        return Ok(None);
    }
    let mode = file.mode() & 0o777;
    Ok(Some(format!("users other than its owner can access the file (mode {mode:03o}): chmod {allowed}")))
}

/// Whether this is the name of a file that is being written.
pub fn is_unfinished(name: &OsStr) -> bool {
    let rest = name.as_encoded_bytes().strip_prefix(UNFINISHED_PREFIX.as_bytes());
    rest.and_then(|rest| rest.split_at_checked(RANDOM_DIGITS)).is_some_and(|(digits, name)| {
        digits.iter().all(u8::is_ascii_hexdigit) && name.len() > 1 && name.starts_with(b"-")
    })
}

/// Removes the files that writers in this directory left unfinished, because the process or the machine crashed.
pub fn remove_unfinished(directory: &Path) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if is_unfinished(&entry.file_name()) && entry.file_type()?.is_file() {
            let age = SystemTime::now().duration_since(entry.metadata()?.modified()?);
            if age.is_ok_and(|age| age >= UNFINISHED_AGE_MIN) {
                std::fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

fn write(path: &Path, mode: u32, pieces: &[&[u8]], rename: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let unfinished = unfinished_path(path)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&unfinished)?;
    let written = inherit_owner(&unfinished)
        .and_then(|()| pieces.iter().try_for_each(|piece| file.write_all(piece)))
        .and_then(|()| file.sync_all());
    if let Err(error) = written.and_then(|()| rename(&unfinished)) {
        // Frees the space of the incomplete file: the disk may be full.
        let _ = std::fs::remove_file(&unfinished);
        return Err(error);
    }
    sync_directory(parent_of(path))
}

fn unfinished_path(path: &Path) -> Result<PathBuf> {
    let name = path.file_name().ok_or(ErrorKind::InvalidFilename)?;
    let mut unfinished =
        OsString::from(format!("{UNFINISHED_PREFIX}{:0RANDOM_DIGITS$x}-", rand::random::<u64>()));
    unfinished.push(name);
    Ok(path.with_file_name(unfinished))
}

/// Renames a file or directory to a name that must be free.
///
/// # Errors
/// [`ErrorKind::AlreadyExists`] if the name is taken; any error of the file system.
pub fn rename_without_replacing(from: &Path, to: &Path) -> Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Some file systems do not support the flag, such as NFS.
        // There, a directory has no step that is sure to replace nothing.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) if from.is_dir() => {
            if to.symlink_metadata().is_ok() {
                return Err(ErrorKind::AlreadyExists.into());
            }
            std::fs::rename(from, to)
        }
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            std::fs::hard_link(from, to)?;
            std::fs::remove_file(from)
        }
        renamed => renamed.map_err(Error::from),
    }
}

/// The parent directory; `.` for a path of one component.
pub fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        Some(_) => Path::new("."),
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn names_in(directory: &Path) -> Vec<OsString> {
        let mut names: Vec<_> =
            std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_written_with_its_mode_and_without_temporary_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        create(&path, 0o600, &[b"one ", b"two"]).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"one two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(create(&path, 0o600, &[b"three"]).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"one two");
        replace(&path, 0o640, b"three").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"three");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(names_in(dir.path()), ["key"]);
    }

    #[test]
    fn a_file_that_is_written_again_keeps_its_octets() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        write_again(&path).unwrap();
        assert!(!path.exists());
        let octets: Vec<u8> = (0..=u8::MAX).cycle().take(PIECE_OCTETS + 1000).collect();
        std::fs::write(&path, &octets).unwrap();
        let written_at = || std::fs::metadata(&path).unwrap().modified().unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        write_again(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), octets);
        assert!(written_at() > SystemTime::UNIX_EPOCH);
    }

    #[test]
    fn a_failed_rename_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("directory");
        std::fs::create_dir(&directory).unwrap();
        assert!(replace(&directory, 0o600, b"x").is_err());
        assert_eq!(names_in(dir.path()), ["directory"]);
    }

    #[test]
    fn an_empty_path_is_no_directory_to_create() {
        assert_eq!(create_directory(Path::new(""), 0o700).unwrap_err().kind(), ErrorKind::InvalidFilename);
    }

    #[test]
    fn directories_are_created_with_their_parents() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        create_directory(&deep, 0o700).unwrap();
        create_directory(&deep, 0o755).unwrap();
        for path in [&deep, &dir.path().join("a")] {
            assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);
        }
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert!(create_directory(&dir.path().join("file"), 0o700).is_err());
        assert!(create_directory(&dir.path().join("file/below"), 0o700).is_err());
    }

    #[test]
    fn what_is_being_written_is_known_by_its_name() {
        let unfinished = unfinished_path(Path::new("/x/msg_1.eml")).unwrap();
        assert_eq!(unfinished.parent(), Some(Path::new("/x")));
        assert!(is_unfinished(unfinished.file_name().unwrap()));
        for other in [
            "msg_1.eml",
            ".hidden",
            ".new-",
            ".new-key",
            ".new-0123456789abcdef-",
            ".new-0123456789abcdeg-key",
        ] {
            assert!(!is_unfinished(OsStr::new(other)), "{other}");
        }
    }

    #[test]
    fn only_old_unfinished_files_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &Path, age: Duration| {
            let file = File::create(dir.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        };
        let unfinished = || unfinished_path(Path::new("master.key")).unwrap();
        let (old, young, directory) = (unfinished(), unfinished(), unfinished());
        make(&old, 2 * UNFINISHED_AGE_MIN);
        make(&young, Duration::ZERO);
        make(Path::new(".new-key"), 2 * UNFINISHED_AGE_MIN);
        std::fs::create_dir(dir.path().join(&directory)).unwrap();
        remove_unfinished(dir.path()).unwrap();
        let mut left = [young.into(), OsString::from(".new-key"), directory.into()];
        left.sort();
        assert_eq!(names_in(dir.path()), left);
    }

    #[test]
    fn what_root_makes_has_the_owner_of_the_directory_above() {
        let dir = tempfile::tempdir().unwrap();
        if lchown(dir.path(), Some(1234), Some(1234)).is_err() {
            // Only root makes files for others.
            return;
        }
        create_directory(&dir.path().join("a/b"), 0o700).unwrap();
        create(&dir.path().join("a/b/file"), 0o600, &[b"x"]).unwrap();
        for path in ["a", "a/b", "a/b/file"] {
            let owner = std::fs::metadata(dir.path().join(path)).unwrap();
            assert_eq!((owner.uid(), owner.gid()), (1234, 1234), "{path}");
        }
    }
}
