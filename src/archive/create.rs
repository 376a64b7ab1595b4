//! Makes a backup beside a running server. The server is not asked: its database is copied in a transaction, and the files of
//! bodies never change.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Error, ErrorKind};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;

use super::contents::create_private_directory;
use super::directory::{BackupPath, PathError, WorkDirectory, parent_of, remove_abandoned};
use super::last_backup::LastBackup;
use super::manifest::{
    DATABASE_FILE, FILES_FILE, FileDigest, MANIFEST_FILE, Manifest, file_line, parse_file_line,
};
use super::output::{ARCHIVE_FILE, Output};
use super::throttle::{Pace, Throttle};
use crate::durable_file::{create_directory, rename_without_replacing, sync_directory};
use crate::mail::Timestamp;
use crate::store::{BackupError, CopiedDatabase, CopyProgress, body_path, copy_database, hold_bodies};

/// How long to wait for a deletion of body files in progress.
const HOLD_WAIT: Duration = Duration::from_secs(30);

/// Body files are synced whenever this many octets were copied.
const SYNC_OCTETS: u64 = 32 * 1024 * 1024;

/// What to copy, and how.
#[derive(Debug, Clone)]
pub struct CreateOptions {
    /// The data directory.
    pub data_dir: PathBuf,
    /// Where to.
    pub target: BackupPath,
    /// An earlier backup on the same file system: its body files are linked instead of copied.
    pub since: Option<PathBuf>,
    /// How fast.
    pub pace: Pace,
    /// With less free space than twice this beside the data directory or the target, the backup is given up: with less than
    /// this, the server refuses mail.
    pub free_octets_min: u64,
    /// The host name of the configuration.
    pub hostname: String,
}

/// A backup that was made.
#[derive(Debug, Clone)]
pub struct Created {
    /// What it says of itself.
    pub manifest: Manifest,
    /// Body files that were linked.
    pub linked: u64,
    /// How long the write-ahead log became.
    pub log_octets: u64,
    /// Why the server does not learn of it.
    pub not_noted: Option<String>,
}

impl Created {
    /// Its octets.
    pub fn octets(&self) -> u64 {
        self.manifest.database.octets + self.manifest.body_octets
    }
}

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The target.
    #[error(transparent)]
    Path(#[from] PathError),
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
    /// The log would fill the disk.
    #[error(
        "given up: {0} has less free space than twice store.free_disk_min, and the write-ahead log grows during a backup; with \
         less than store.free_disk_min, the server refuses mail; make space there"
    )]
    DiskLow(PathBuf),
    /// The copy would fill the disk.
    #[error(
        "{path} has {} of free space; with what must stay free, the copy of the database needs {}; name a target elsewhere",
        ByteSize(*.free).display().iec(), ByteSize(*.needed).display().iec()
    )]
    NoSpace {
        /// The directory.
        path: PathBuf,
        /// Its free space.
        free: u64,
        /// What must be free before.
        needed: u64,
    },
}

fn at(path: &Path) -> impl FnOnce(Error) -> CreateError {
    let path = path.to_owned();
    move |source| CreateError::File { path, source }
}

/// Makes a backup. Blocks: it reads and writes files.
///
/// # Errors
/// [`CreateError`]. What was written of it is removed.
pub fn create(options: &CreateOptions, now: fn() -> Timestamp) -> Result<Created, CreateError> {
    let CreateOptions { data_dir, target, .. } = options;
    target.check_new(data_dir)?;
    let database = data_dir.join(DATABASE_FILE);
    if !database.is_file() {
        return Err(BackupError::Absent(database).into());
    }
    // From now on the server deletes no body file, so every row of the copy has its file.
    let held = hold_bodies(data_dir, HOLD_WAIT).map_err(at(data_dir))?;
    let work = match target {
        BackupPath::Directory(path) | BackupPath::Tar(path) => {
            create_directory(parent_of(path), 0o700).map_err(at(path))?;
            WorkDirectory::beside(path).map_err(at(path))?
        }
        BackupPath::Stdout => WorkDirectory::within(data_dir, "backup").map_err(at(data_dir))?,
    };
    // What a backup to the standard output left behind.
    remove_abandoned(data_dir).map_err(at(data_dir))?;
    check_space(options, work.path())?;
    let mut throttle = Throttle::new(options.pace);
    let (copied, log_octets) = copy_paced(options, work.path(), now, &mut throttle)?;
    let mut output = Output::open(target, work.path(), copied.taken_at).map_err(at(work.path()))?;
    if (target, options.pace) == (&BackupPath::Stdout, Pace::Resting) {
        // From now on, its reader sets the pace. To wait for a slow one is no work that needs a rest.
        throttle = Throttle::new(Pace::Unlimited);
    }
    let earlier = earlier_files(options.since.as_deref())?;
    let copying = Copying { options, copied, earlier, linked: 0, throttle, unsynced: 0 };
    let (manifest, linked) = copying.run(&mut output, work.path())?;
    drop(held);
    output.finish().map_err(at(work.path()))?;
    if *target != BackupPath::Stdout {
        sync_file_system(work.path()).map_err(at(work.path()))?;
    }
    match target {
        BackupPath::Directory(path) => {
            work.keep_as(path).and_then(|()| sync_directory(parent_of(path))).map_err(at(path))?;
        }
        BackupPath::Tar(path) => {
            let renamed = rename_without_replacing(&work.path().join(ARCHIVE_FILE), path);
            renamed.and_then(|()| sync_directory(parent_of(path))).map_err(at(path))?;
        }
        BackupPath::Stdout => {}
    }
    let mut created = Created { manifest, linked, log_octets, not_noted: None };
    let path = match target {
        BackupPath::Stdout => "-".to_owned(),
        BackupPath::Directory(path) | BackupPath::Tar(path) => {
            path.canonicalize().unwrap_or_else(|_| path.clone()).display().to_string()
        }
    };
    // A backup without all bodies is better than none, but it must not look like a success.
    if created.manifest.missing_bodies.is_empty() {
        let last = LastBackup { taken_at: created.manifest.taken_at, path, octets: created.octets() };
        created.not_noted = last.write(data_dir).err().map(|error| error.to_string());
    }
    Ok(created)
}

/// Copies the database into the work directory, while there is enough free space. Returns how long the write-ahead log became.
fn copy_paced(
    options: &CreateOptions,
    work: &Path,
    now: fn() -> Timestamp,
    throttle: &mut Throttle,
) -> Result<(CopiedDatabase, u64), CreateError> {
    let (mut log_octets_max, mut low) = (0, None);
    let mut before_step = |progress: CopyProgress| {
        log_octets_max = progress.log_octets.max(log_octets_max);
        throttle.rest(progress.step_octets, || {
            low = find_low(options, work);
            if low.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    };
    let database = options.data_dir.join(DATABASE_FILE);
    let copied = copy_database(&database, &work.join(DATABASE_FILE), now, &mut before_step);
    match (copied, low) {
        (Err(BackupError::GivenUp), Some(low)) => Err(CreateError::DiskLow(low)),
        (copied, _) => Ok((copied?, log_octets_max)),
    }
}

/// Makes all files durable with one call, because a call for each would make the commits of the server wait.
fn sync_file_system(directory: &Path) -> std::io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(directory)?)?)
}

/// What must stay free during a backup.
fn reserve(options: &CreateOptions) -> u64 {
    options.free_octets_min.saturating_mul(2)
}

fn free_octets(path: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(path).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

/// The directory whose file system has too little free space.
fn find_low(options: &CreateOptions, work: &Path) -> Option<PathBuf> {
    let is_low = |path: &&Path| free_octets(path).is_some_and(|free| free < reserve(options));
    let low = [options.data_dir.as_path(), parent_of(work)].into_iter().find(is_low)?;
    Some(low.to_owned())
}

/// Refuses a copy that would fill the disk. For an archive, the database is copied twice.
fn check_space(options: &CreateOptions, work: &Path) -> Result<(), CreateError> {
    if let Some(low) = find_low(options, work) {
        return Err(CreateError::DiskLow(low));
    }
    let database = options.data_dir.join(DATABASE_FILE);
    let octets = database.metadata().map_err(at(&database))?.len();
    let copies = if matches!(options.target, BackupPath::Tar(_)) { 2 } else { 1 };
    let needed = reserve(options).saturating_add(octets.saturating_mul(copies));
    match free_octets(parent_of(work)) {
        Some(free) if free < needed => {
            Err(CreateError::NoSpace { path: parent_of(work).to_owned(), free, needed })
        }
        _ => Ok(()),
    }
}

/// The digests of the files of an earlier backup, and where they are.
type EarlierFiles = Option<(PathBuf, BTreeMap<String, String>)>;

fn earlier_files(since: Option<&Path>) -> Result<EarlierFiles, CreateError> {
    let Some(since) = since else { return Ok(None) };
    let list = since.join(FILES_FILE);
    let text = std::fs::read_to_string(&list).map_err(at(&list))?;
    let files = text.lines().filter_map(parse_file_line);
    let files = files.map(|(sha256, path)| (path.to_owned(), sha256.to_owned())).collect();
    Ok(Some((since.to_owned(), files)))
}

/// A copied database, whose body files are being copied.
struct Copying<'a> {
    options: &'a CreateOptions,
    copied: CopiedDatabase,
    earlier: EarlierFiles,
    linked: u64,
    throttle: Throttle,
    /// Octets of body files that were copied since the last sync; a linked file needs none.
    unsynced: u64,
}

impl Copying<'_> {
    /// Writes the files, their list and the manifest. Returns the manifest and the number of linked files.
    fn run(mut self, output: &mut Output, work: &Path) -> Result<(Manifest, u64), CreateError> {
        let database_path = work.join(DATABASE_FILE);
        let file = File::open(&database_path).map_err(at(&database_path))?;
        let database = output.add_database(file, &mut self.throttle).map_err(at(&database_path))?;
        let mut list = file_line(&database.sha256, DATABASE_FILE);
        let (mut bodies, mut body_octets, mut missing_bodies) = (0, 0, Vec::new());
        for id in std::mem::take(&mut self.copied.body_files) {
            if let Some(low) = find_low(self.options, work) {
                return Err(CreateError::DiskLow(low));
            }
            let path = body_path(&id);
            match self.add_body(output, &path) {
                Ok(digest) => {
                    list += &file_line(&digest.sha256, &path);
                    (bodies, body_octets) = (bodies + 1, body_octets + digest.octets);
                    self.sync_copied(work).map_err(at(work))?;
                }
                Err(error) if error.kind() == ErrorKind::NotFound => missing_bodies.push(id),
                Err(error) => return Err(at(Path::new(&path))(error)),
            }
        }
        let files = output.add_text(FILES_FILE, list.as_bytes()).map_err(at(work))?;
        let CopiedDatabase { schema, taken_at, last_event, master_key, rows, open_deliveries, .. } =
            self.copied;
        let manifest = Manifest {
            object: String::new(),
            format: 0,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            schema,
            hostname: self.options.hostname.clone(),
            taken_at,
            last_event,
            master_key,
            rows,
            open_deliveries,
            database,
            files,
            bodies,
            body_octets,
            missing_bodies,
            sha256: String::new(),
        }
        .sealed();
        // The last file: a backup with a manifest is complete.
        output.add_text(MANIFEST_FILE, &manifest.to_json()).map_err(at(work))?;
        Ok((manifest, self.linked))
    }

    /// Syncs after each part, because one long sync at the end would make the commits of the server wait.
    fn sync_copied(&mut self, work: &Path) -> std::io::Result<()> {
        if self.options.target == BackupPath::Stdout || self.unsynced < SYNC_OCTETS {
            return Ok(());
        }
        self.unsynced = 0;
        sync_file_system(work)
    }

    fn add_body(&mut self, output: &mut Output, path: &str) -> std::io::Result<FileDigest> {
        if let (Output::Directory(work), Some((earlier, files))) = (&output, &self.earlier)
            && let Some(sha256) = files.get(path)
            && is_as_long(&earlier.join(path), &self.options.data_dir.join(path))
            && let Some(linked) = link(&earlier.join(path), &work.join(path))?
        {
            self.linked += 1;
            return Ok(FileDigest { octets: linked, sha256: sha256.clone() });
        }
        let file = File::open(self.options.data_dir.join(path))?;
        let digest = output.add(path, file, &mut self.throttle)?;
        self.unsynced += digest.octets;
        Ok(digest)
    }
}

/// Whether a file of an earlier backup is as long as that of the server. If the server has lost its own, the earlier one is the
/// better one.
fn is_as_long(earlier: &Path, own: &Path) -> bool {
    let octets = |path: &Path| path.metadata().map(|metadata| metadata.len());
    match (octets(earlier), octets(own)) {
        (Ok(earlier), Ok(own)) => earlier == own,
        (Ok(_), Err(error)) => error.kind() == ErrorKind::NotFound,
        (Err(_), _) => false,
    }
}

/// Links a file. Returns its octets; `None` if it must be copied instead.
fn link(from: &Path, to: &Path) -> std::io::Result<Option<u64>> {
    create_private_directory(parent_of(to))?;
    match std::fs::hard_link(from, to) {
        Ok(()) => Ok(Some(to.metadata()?.len())),
        Err(_) => Ok(None),
    }
}
