//! Restores a backup while no server runs.
//!
//! Everything is brought to a work directory on the same file system, compared with its digests and prepared there. The last step
//! gives it its place, by a rename or an exchange, so a crash before that changes nothing.

use std::fs::File;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use serde::Serialize;

use super::contents::{bring, check, create_private, create_private_directory};
use super::directory::{WorkDirectory, exchange, is_work_directory, parent_of};
use super::manifest::{DATABASE_FILE, FILES_FILE, MANIFEST_FILE, Manifest};
use super::verify::Fault;
use crate::durable_file::{create_directory, inherit_owner, rename_without_replacing, sync_directory};
use crate::mail::Timestamp;
use crate::store::{
    BackupError, Erasure, NewLife, OpenError, PreparedDatabase, fingerprint_in_database, has_data,
    lock_data_dir, master_key_fingerprint, prepare_restored,
};

/// The directory of body files.
const BODIES: &str = "bodies";

/// What to restore, and where.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// A directory or a tar file.
    pub backup: PathBuf,
    /// A directory without a database, or one to replace.
    pub data_dir: PathBuf,
    /// Whether to replace it; then it is renamed to `NAME.before-<time>`.
    pub replaces: bool,
    /// The master key, to check that it is the right one.
    pub master_key: Option<PathBuf>,
    /// Erasures of recipients, as `pillarbox recipient erasures --export` prints them.
    pub erasures: Option<PathBuf>,
}

/// What was restored, and what is undone.
#[derive(Debug, Clone, Serialize)]
pub struct RestoreReport {
    /// The backup.
    pub manifest: Manifest,
    /// Where the replaced directory is.
    pub moved_to: Option<PathBuf>,
    /// Deliveries that wait.
    pub paused: u64,
    /// Keys that were revoked since, and are revoked again.
    pub revoked_keys: Vec<String>,
    /// Erasures of recipients that the server applies again.
    pub erasures: u64,
    /// What the replaced database has and the restored one lacks, in words.
    pub undone: Vec<String>,
    /// What was not compared, and why.
    pub skipped: Vec<String>,
}

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The directory has a database.
    #[error(
        "{0} has a database or bodies; restore into an empty directory, or use --replace, which keeps the old one"
    )]
    NotEmpty(PathBuf),
    /// The path is taken.
    #[error("{0} is no directory; if it is a link, make the directory that it points to")]
    NoDirectory(PathBuf),
    /// A server runs.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The directory cannot be renamed.
    #[error(
        "{0} cannot be replaced, because it is a mount point or its file system cannot exchange directories; move its files \
         away, then restore into it without --replace"
    )]
    MountPoint(PathBuf),
    /// The backup is damaged.
    #[error("the backup is damaged: {}: {} ({} faults; pillarbox backup verify lists them)", .0.place, .0.text, .1)]
    Damaged(Fault, usize),
    /// The key is another one.
    #[error(
        "{file} is not the master key of this backup: its fingerprint is {found}, and the backup needs {wanted}"
    )]
    WrongKey {
        /// The file with the key.
        file: PathBuf,
        /// Its fingerprint.
        found: String,
        /// That of the backup.
        wanted: String,
    },
    /// The key is not given, but the replaced database has another one.
    #[error(
        "the replaced database has the master key with the fingerprint {found}, and the backup needs {wanted}; name the file \
         with that key with --master-key"
    )]
    OtherKey {
        /// The fingerprint in the replaced database.
        found: String,
        /// That of the backup.
        wanted: String,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] BackupError),
    /// A file.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: Error,
    },
}

fn at(path: &Path) -> impl Fn(Error) -> RestoreError {
    let path = path.to_owned();
    move |source| RestoreError::File { path: path.clone(), source }
}

/// Restores. Blocks.
///
/// # Errors
/// [`RestoreError`]; then nothing was changed, unless only the name of the replaced directory could not be set.
pub fn restore(options: &RestoreOptions, now: Timestamp) -> Result<RestoreReport, RestoreError> {
    let erased = options.erasures.as_deref().map(read_erasures).transpose()?.unwrap_or_default();
    let place = Place::find(options)?;
    // Until the end: no server starts meanwhile.
    let _lock = place.exists().then(|| lock_data_dir(&place.data_dir)).transpose()?;
    let work = place.work_directory().map_err(at(&place.data_dir))?;
    bring(&options.backup, work.path()).map_err(at(&options.backup))?;
    let manifest = check_whole(work.path())?;
    let database = work.path().join(DATABASE_FILE);
    let old = place.data_dir.join(DATABASE_FILE);
    let replaced = (options.replaces && old.is_file()).then_some(old.as_path());
    let unchecked = check_key(options.master_key.as_deref(), replaced, &manifest)?;
    let life = NewLife { taken_at: manifest.taken_at, replaced, erasures: &erased, now };
    let PreparedDatabase { paused, revoked_keys, erasures, undone, mut skipped } =
        prepare_restored(&database, life)?;
    // A data directory has no list of its files.
    for name in [FILES_FILE, MANIFEST_FILE] {
        std::fs::remove_file(work.path().join(name)).map_err(at(work.path()))?;
    }
    let moved_to = place.fill(work, now)?;
    skipped.extend(unchecked);
    Ok(RestoreReport { manifest, moved_to, paused, revoked_keys, erasures, undone, skipped })
}

/// The manifest of a brought backup that has no fault.
fn check_whole(directory: &Path) -> Result<Manifest, RestoreError> {
    let mut faults = Vec::new();
    let manifest = check(directory, &mut faults);
    // What was missing already is missing in any case.
    let missing = manifest.as_ref().map(|manifest| manifest.missing_bodies.clone()).unwrap_or_default();
    faults.retain(|fault| !missing.contains(&fault.place));
    match (manifest, faults.first().cloned()) {
        (Some(manifest), None) => Ok(manifest),
        (_, Some(first)) => Err(RestoreError::Damaged(first, faults.len())),
        (None, None) => Err(RestoreError::Damaged(
            Fault { place: MANIFEST_FILE.into(), text: "it cannot be read".into() },
            1,
        )),
    }
}

/// The erasures in a file, one in a line.
fn read_erasures(file: &Path) -> Result<Vec<Erasure>, RestoreError> {
    let text = std::fs::read_to_string(file).map_err(at(file))?;
    // Read as one text, so that an error names the line of the file.
    let erasures = serde_json::Deserializer::from_str(&text).into_iter::<Erasure>();
    erasures.collect::<serde_json::Result<_>>().map_err(|error| at(file)(error.into()))
}

/// Compares the master key with that of the backup; without a key, that of the replaced database, as the key may be a credential
/// that only the service can read. Returns what was not looked at.
fn check_key(
    key: Option<&Path>,
    replaced: Option<&Path>,
    manifest: &Manifest,
) -> Result<Option<String>, RestoreError> {
    let Some(wanted) = manifest.master_key.clone() else { return Ok(None) };
    if let Some(file) = key {
        let found = master_key_fingerprint(file)?;
        let is_right = found == wanted;
        return if is_right {
            Ok(None)
        } else {
            Err(RestoreError::WrongKey { file: file.to_owned(), found, wanted })
        };
    }
    match replaced.and_then(fingerprint_in_database) {
        Some(found) if found == wanted => Ok(None),
        Some(found) => Err(RestoreError::OtherKey { found, wanted }),
        None => Ok(Some("the master key, because its file is not here; name it with --master-key".into())),
    }
}

/// Where the data directory is or will be.
struct Place {
    /// Without symbolic links: a service manager links its state directory.
    data_dir: PathBuf,
    kind: PlaceKind,
}

#[derive(PartialEq, Eq)]
enum PlaceKind {
    /// It does not exist.
    New,
    /// It has no database and no bodies.
    Empty,
    /// It is to be replaced.
    Old,
}

impl Place {
    fn find(options: &RestoreOptions) -> Result<Self, RestoreError> {
        let data_dir = &options.data_dir;
        if !data_dir.is_dir() {
            if data_dir.symlink_metadata().is_ok() {
                return Err(RestoreError::NoDirectory(data_dir.clone()));
            }
            let parent = parent_of(data_dir);
            create_directory(parent, 0o700).map_err(at(parent))?;
            return Ok(Self { data_dir: data_dir.clone(), kind: PlaceKind::New });
        }
        let data_dir = data_dir.canonicalize().map_err(at(data_dir))?;
        let kind = if options.replaces {
            PlaceKind::Old
        } else if has_data(&data_dir).map_err(at(&data_dir))? {
            return Err(RestoreError::NotEmpty(data_dir));
        } else {
            PlaceKind::Empty
        };
        Ok(Self { data_dir, kind })
    }

    fn exists(&self) -> bool {
        self.kind != PlaceKind::New
    }

    /// On the same file system: within a directory that stays, which may be a mount point, else beside it.
    fn work_directory(&self) -> std::io::Result<WorkDirectory> {
        match self.kind {
            PlaceKind::Empty => WorkDirectory::within(&self.data_dir, "restored"),
            PlaceKind::New | PlaceKind::Old => WorkDirectory::beside(&self.data_dir),
        }
    }

    /// Gives the restored files their place. Returns where the replaced directory is.
    fn fill(&self, work: WorkDirectory, now: Timestamp) -> Result<Option<PathBuf>, RestoreError> {
        let fault = at(&self.data_dir);
        if self.kind == PlaceKind::Old {
            copy_others(&self.data_dir, work.path()).map_err(&fault)?;
        }
        let owner = if self.exists() { self.data_dir.as_path() } else { parent_of(&self.data_dir) };
        give_to_owner_of(owner, work.path()).map_err(&fault)?;
        File::open(work.path()).and_then(|directory| Ok(rustix::fs::syncfs(directory)?)).map_err(&fault)?;
        match self.kind {
            PlaceKind::New => work.keep_as(&self.data_dir).map_err(&fault)?,
            PlaceKind::Empty => move_into(work.path(), &self.data_dir).map_err(&fault)?,
            PlaceKind::Old => return self.exchange(work, now).map(Some),
        }
        sync_directory(parent_of(&self.data_dir)).map_err(&fault)?;
        Ok(None)
    }

    /// Exchanges the directories. A crash may leave one of them under the name that both have for a moment: nothing removes
    /// it, and it does not say which it is.
    fn exchange(&self, work: WorkDirectory, now: Timestamp) -> Result<PathBuf, RestoreError> {
        let (name, between) = (self.free_name(".before-", now), self.free_name(".exchange-", now));
        work.keep_as(&between).map_err(at(&between))?;
        exchange(&between, &self.data_dir).map_err(|error| {
            let _ = std::fs::remove_dir_all(&between);
            match error {
                Errno::BUSY | Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::NOTSUP => {
                    RestoreError::MountPoint(self.data_dir.clone())
                }
                other => at(&self.data_dir)(other.into()),
            }
        })?;
        rename_without_replacing(&between, &name)
            .and_then(|()| sync_directory(parent_of(&name)))
            .map_err(at(&between))?;
        Ok(name)
    }

    /// Like `pillarbox.before-2026-11-29T08-00-00Z`.
    fn free_name(&self, mark: &str, now: Timestamp) -> PathBuf {
        let name = |suffix: &str| {
            let mut name = self.data_dir.as_os_str().to_owned();
            name.push(mark);
            name.push(now.strftime("%Y-%m-%dT%H-%M-%SZ").to_string());
            name.push(suffix);
            PathBuf::from(name)
        };
        let is_free = |name: &PathBuf| name.symlink_metadata().is_err();
        let mut others = (2..).map(|number: u32| name(&format!("-{number}")));
        Some(name("")).filter(is_free).or_else(|| others.find(is_free)).unwrap_or_else(|| name(""))
    }
}

/// Moves the files into a directory without any. The database comes last: without it, a server does not start beside bodies.
fn move_into(work: &Path, data_dir: &Path) -> std::io::Result<()> {
    let (bodies, target) = (work.join(BODIES), data_dir.join(BODIES));
    if bodies.is_dir() {
        if target.is_dir() {
            std::fs::remove_dir_all(&target)?;
        }
        rename_without_replacing(&bodies, &target)?;
    }
    sync_directory(data_dir)?;
    rename_without_replacing(&work.join(DATABASE_FILE), &data_dir.join(DATABASE_FILE))?;
    sync_directory(data_dir)
}

/// Copies what a data directory has besides its database and bodies: a master key, certificates, the last backup.
fn copy_others(old: &Path, new: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(old)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(DATABASE_FILE) || name == BODIES || is_work_directory(&name) {
            continue;
        }
        copy_tree(&entry.path(), &new.join(name))?;
    }
    Ok(())
}

/// Copies files and directories with their modes; nothing else is of use elsewhere.
fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    let metadata = from.symlink_metadata()?;
    if metadata.is_dir() {
        create_private_directory(to)?;
        for entry in std::fs::read_dir(from)? {
            let entry = entry?;
            copy_tree(&entry.path(), &to.join(entry.file_name()))?;
        }
    } else if metadata.is_file() {
        drop(create_private(to)?);
        std::fs::copy(from, to)?;
    }
    Ok(())
}

/// Gives a directory the owner of another one, and all below it.
fn give_to_owner_of(owner: &Path, directory: &Path) -> std::io::Result<()> {
    let (wanted, own) = (owner.metadata()?, directory.metadata()?);
    if wanted.uid() != own.uid() {
        match lchown(directory, Some(wanted.uid()), Some(wanted.gid())) {
            // Only root gives files away.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(()),
            changed => changed?,
        }
    }
    inherit_below(directory)
}

fn inherit_below(directory: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        inherit_owner(&entry.path())?;
        if entry.file_type()?.is_dir() {
            inherit_below(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory_with(path: &Path, text: &str) {
        create_private_directory(path).unwrap();
        std::fs::write(path.join(DATABASE_FILE), text).unwrap();
    }

    fn names_in(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_directories_are_exchanged_and_the_old_one_has_the_time_in_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place { data_dir: dir.path().join("data"), kind: PlaceKind::Old };
        directory_with(&place.data_dir, "0");
        let now = "2026-11-29T08:00:00Z".parse().unwrap();
        for (number, name) in
            [(1, "data.before-2026-11-29T08-00-00Z"), (2, "data.before-2026-11-29T08-00-00Z-2")]
        {
            let work = place.work_directory().unwrap();
            directory_with(work.path(), &number.to_string());
            let replaced = place.exchange(work, now).unwrap();
            assert_eq!(replaced, dir.path().join(name));
            let read = |directory: &Path| std::fs::read_to_string(directory.join(DATABASE_FILE)).unwrap();
            assert_eq!(
                (read(&place.data_dir), read(&replaced)),
                (number.to_string(), (number - 1).to_string())
            );
            assert_eq!(names_in(dir.path()).len(), number + 1);
        }
    }

    #[test]
    fn an_error_in_a_file_of_erasures_names_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("erasures.jsonl");
        std::fs::write(&file, "\n").unwrap();
        assert!(read_erasures(&file).unwrap().is_empty());
        std::fs::write(&file, "\n{}\n").unwrap();
        let error = read_erasures(&file).unwrap_err().to_string();
        assert!(error.contains("erasures.jsonl") && error.contains(" line 2 "), "{error}");
    }

    #[test]
    fn an_exchange_that_fails_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place { data_dir: dir.path().join("data"), kind: PlaceKind::Old };
        let work = place.work_directory().unwrap();
        assert!(place.exchange(work, Timestamp::UNIX_EPOCH).is_err());
        assert_eq!(names_in(dir.path()), Vec::<String>::new());
    }
}
