//! The content of messages: small bodies in the database, large ones in files, so that a large body does not delay other
//! commits.

use std::collections::{BTreeSet, HashSet};
use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use parking_lot::Mutex;

use super::body_pieces;
use super::checksum::Checksum;
use super::sql_types::{count, sql_limit};
use super::sqlite::open::private_file;
use super::unit_of_work::Tx;
use crate::durable_file;
use crate::mail::Content;
use crate::model::MessageId;
use crate::store::database::{self, Connection, Engine, OptionalExtension, Row, params};
use crate::store::{ContentFile, Result, StoreError};

/// A younger file without a row may belong to a message that is being committed.
const ROW_DELAY_MAX: Duration = Duration::from_secs(60 * 60);

/// The directory of bodies in a data directory.
pub(super) const BODIES_DIRECTORY: &str = "bodies";

/// The file that a backup and the deletion of files lock.
const BODY_LOCK_FILE: &str = "bodies.lock";
const LOCK_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The file of the write test; larger than file systems store in an inode.
const TEST_FILE: &str = "write-test";
const TEST_OCTETS: usize = 16 * 1024;

/// Keeps the server of a data directory from deleting body files, until the returned file is closed. Waits at most `wait` for a
/// deletion in progress.
///
/// # Errors
/// [`ErrorKind::WouldBlock`] at the end of the wait; any error of the file system.
pub fn hold_bodies(data_dir: &Path, wait: Duration) -> std::io::Result<File> {
    let file = private_file(&data_dir.join(BODY_LOCK_FILE))?;
    let end = Instant::now() + wait;
    loop {
        match file.try_lock_shared() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < end => std::thread::sleep(LOCK_POLL_INTERVAL),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The path of the file of a message, below the data directory.
pub fn body_path(id: &str) -> String {
    // The end of an id is random, which spreads the files.
    let directory = id.get(id.len().saturating_sub(2)..).unwrap_or_default();
    format!("bodies/{directory}/{id}.eml")
}

/// The directory of large bodies: `bodies/<last two characters of the id>/<id>.eml`.
pub(in crate::store) struct BodyFiles {
    directory: PathBuf,
    inline_octets_max: u64,
    /// The directories that this process has synced.
    synced_directories: Mutex<HashSet<PathBuf>>,
    /// Locked while files are deleted, so that only a backup can hold the lock file. True once it was logged that one does.
    deletion: Mutex<bool>,
}

impl BodyFiles {
    pub(in crate::store) fn new(data_dir: &Path, inline_octets_max: u64) -> Self {
        Self {
            directory: data_dir.join(BODIES_DIRECTORY),
            inline_octets_max,
            synced_directories: Mutex::default(),
            deletion: Mutex::default(),
        }
    }

    /// Whether a body is stored in a file.
    pub(super) fn is_large(&self, content: &Content) -> bool {
        content.len() as u64 > self.inline_octets_max
    }

    /// Whether there can be files: with PostgreSQL, all bodies are rows.
    pub(super) fn is_used(&self) -> bool {
        self.inline_octets_max < u64::MAX
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    fn data_dir(&self) -> &Path {
        self.directory.parent().unwrap_or(&self.directory)
    }

    fn path_of(&self, id: MessageId) -> PathBuf {
        self.data_dir().join(body_path(&id.to_string()))
    }

    /// Writes the file of a body.
    pub(super) fn write(self: &Arc<Self>, id: MessageId, content: &Content) -> Result<FreshFile> {
        self.write_file(id, content).map_err(unwritten)
    }

    /// Writes the file of a body; `None` if there is one.
    pub(super) fn write_if_absent(
        self: &Arc<Self>,
        id: MessageId,
        content: &Content,
    ) -> Result<Option<FreshFile>> {
        match self.write_file(id, content) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(None),
            written => written.map(Some).map_err(unwritten),
        }
    }

    /// Writes and syncs a body before a row refers to it.
    fn write_file(self: &Arc<Self>, id: MessageId, content: &Content) -> std::io::Result<FreshFile> {
        let path = self.path_of(id);
        self.prepare_directory(path.parent().unwrap_or(&self.directory))?;
        // An existing file belongs to another submission.
        durable_file::create(&path, 0o600, &[&content.prefix, &content.submitted])?;
        Ok(FreshFile { files: Arc::clone(self), id, is_kept: false })
    }

    /// Creates and syncs the directory of a file. An existing directory may not be synced: another thread may be creating it,
    /// or an earlier process may have crashed.
    fn prepare_directory(&self, directory: &Path) -> std::io::Result<()> {
        let mut synced = self.synced_directories.lock();
        if !synced.contains(directory) || !directory.is_dir() {
            durable_file::create_directory(directory, 0o700)?;
            durable_file::sync_directory(&self.directory)?;
            durable_file::sync_directory(self.data_dir())?;
            synced.insert(directory.to_owned());
        }
        Ok(())
    }

    /// Writes a file as for a large body, and deletes it.
    pub(super) fn test(&self) -> Result<()> {
        if !self.is_used() {
            return Ok(());
        }
        self.prepare_directory(&self.directory)?;
        let path = self.directory.join(TEST_FILE);
        durable_file::replace(&path, 0o600, &[0; TEST_OCTETS])?;
        std::fs::remove_file(&path)?;
        Ok(())
    }

    /// The content in the file of a message, or the fault of the file.
    fn read(&self, id: MessageId, prefix_octets: usize) -> Result<std::result::Result<Content, String>> {
        let whole = match std::fs::read(self.path_of(id)) {
            Ok(octets) => Bytes::from(octets),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(Err("its file is missing".into()));
            }
            Err(error) => return Err(error.into()),
        };
        if prefix_octets > whole.len() {
            return Ok(Err(format!("its file has only {} octets", whole.len())));
        }
        Ok(Ok(Content { prefix: whole.slice(..prefix_octets), submitted: whole.slice(prefix_octets..) }))
    }

    /// The octets of the file of a message.
    pub(super) fn octets(&self, id: MessageId) -> Result<u64> {
        let metadata = std::fs::metadata(self.path_of(id)).map_err(|error| unreadable(id, error))?;
        Ok(metadata.len())
    }

    /// Opens the file of a body, after checking its checksum.
    pub(super) fn open(&self, id: MessageId, checksum: Option<Checksum>) -> Result<ContentFile> {
        let mut file = File::open(self.path_of(id)).map_err(|error| unreadable(id, error))?;
        let found = Checksum::of_file(&file)?;
        if let Some(fault) = checksum.and_then(|checksum| checksum.fault_of(found)) {
            return Err(StoreError::Damaged { message: id, fault });
        }
        file.rewind()?;
        Ok(ContentFile { file, octets: found.octets })
    }

    /// Deletes the files of messages; returns those whose deletion is synced. Deletes none while a backup holds them
    /// ([`hold_bodies`]): they stay released, and a later round deletes them.
    pub(super) fn remove(&self, ids: &[MessageId]) -> Vec<MessageId> {
        let mut is_logged = self.deletion.lock();
        let lock = private_file(&self.data_dir().join(BODY_LOCK_FILE));
        let held = lock.and_then(|lock| Ok(lock.try_lock().map(|()| lock)?));
        let _lock = match held {
            Ok(lock) => Some(lock),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if !std::mem::replace(&mut *is_logged, true) {
                    tracing::info!("the files of deleted bodies stay on the disk until a backup ends");
                }
                return Vec::new();
            }
            // A file system without locks has no backups beside the server that need them. If there is no space for the file,
            // no backup has made it.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::Unsupported | ErrorKind::StorageFull | ErrorKind::QuotaExceeded
                ) =>
            {
                tracing::warn!(%error, "the body files cannot be locked against backups");
                None
            }
            Err(error) => {
                tracing::warn!(%error, "no files of bodies are deleted: they cannot be locked against backups");
                return Vec::new();
            }
        };
        *is_logged = false;
        let (mut removed, mut directories) = (Vec::new(), BTreeSet::new());
        for &id in ids {
            let path = self.path_of(id);
            match std::fs::remove_file(&path) {
                Ok(()) => directories.extend(path.parent().map(Path::to_owned)),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "the file of a body cannot be removed");
                    continue;
                }
            }
            removed.push(id);
        }
        for directory in directories {
            if let Err(error) = durable_file::sync_directory(&directory) {
                tracing::warn!(path = %directory.display(), %error, "the removal of body files cannot be synced");
                removed.retain(|id| self.path_of(*id).parent() != Some(&*directory));
            }
        }
        removed
    }

    /// The names of the body directories; the empty name is the top directory.
    pub(super) fn directories(&self) -> Result<Vec<String>> {
        let entries = match std::fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut directories = vec![String::new()];
        for entry in entries {
            // Our names are UTF-8.
            directories.extend(entry?.file_name().into_string());
        }
        Ok(directories)
    }

    /// The files in a body directory, with their sizes, that are too old to wait for the commit of their row. Deletes old
    /// unfinished files.
    pub(super) fn old_files(&self, directory: &str) -> Result<Vec<(MessageId, u64)>> {
        let mut old = Vec::new();
        let files = match std::fs::read_dir(self.directory.join(directory)) {
            Ok(files) => files,
            // Ignores files that are not ours.
            Err(error) if matches!(error.kind(), ErrorKind::NotADirectory | ErrorKind::NotFound) => {
                return Ok(old);
            }
            Err(error) => return Err(error.into()),
        };
        for file in files {
            let file = file?;
            let Some(octets) = octets_if_old(&file) else { continue };
            let name = file.file_name();
            if durable_file::is_unfinished(&name) {
                let _ = std::fs::remove_file(file.path());
            }
            let id = name.to_str().and_then(|name| name.strip_suffix(".eml")?.parse().ok());
            old.extend(id.map(|id| (id, octets)));
        }
        Ok(old)
    }
}

/// Names the directory and not the file, so that the log has one line for many such errors.
fn unwritten(error: std::io::Error) -> StoreError {
    match StoreError::from(error) {
        StoreError::Failed(how) => StoreError::Failed(format!(
            "a file below bodies/ in data_dir cannot be written: {how}; look for errors of the disk in the log of the kernel"
        )),
        other => other,
    }
}

fn unreadable(id: MessageId, error: std::io::Error) -> StoreError {
    match error.kind() {
        ErrorKind::NotFound => StoreError::Damaged { message: id, fault: "its file is missing".into() },
        _ => error.into(),
    }
}

/// The file of a body without a row. Deleted on drop unless [`FreshFile::keep`] is called.
pub(super) struct FreshFile {
    files: Arc<BodyFiles>,
    id: MessageId,
    is_kept: bool,
}

impl FreshFile {
    /// Keeps the file, because a row refers to it.
    pub(super) fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for FreshFile {
    fn drop(&mut self) {
        if !self.is_kept {
            // On failure it is counted as a stray.
            let _ = std::fs::remove_file(self.files.path_of(self.id));
        }
    }
}

fn octets_if_old(file: &std::fs::DirEntry) -> Option<u64> {
    let metadata = file.metadata().ok()?;
    let age = SystemTime::now().duration_since(metadata.modified().ok()?).ok()?;
    (age > ROW_DELAY_MAX).then_some(metadata.len())
}

/// Where a body is written.
#[derive(Clone, Copy)]
pub(super) enum BodyPlacement {
    /// In its row.
    Row,
    /// In a file, which is already written.
    File,
    /// In pieces, which are already written.
    Pieces,
}

/// Where a stored body is.
pub(super) enum BodyLocation {
    /// In rows.
    Row { octets: u64 },
    File {
        /// Absent for bodies that an earlier version wrote.
        checksum: Option<Checksum>,
    },
}

/// Writes the row of a body.
pub(super) fn insert(
    tx: &Tx<'_>,
    id: MessageId,
    content: &Content,
    checksum: Checksum,
    place: BodyPlacement,
) -> Result<()> {
    let (prefix, submitted, file_prefix_octets) = match place {
        BodyPlacement::Row => (Some(&content.prefix[..]), Some(&content.submitted[..]), None),
        BodyPlacement::File | BodyPlacement::Pieces => (None, None, Some(content.prefix.len() as i64)),
    };
    if matches!(place, BodyPlacement::Pieces) {
        body_pieces::require(tx, id, content)?;
    }
    let sql = "INSERT INTO body (message_id, prefix, submitted, file_prefix_octets, octets, crc32)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let Checksum { octets, crc32 } = checksum;
    let row = params![id, prefix, submitted, file_prefix_octets, octets as i64, crc32];
    tx.prepare_cached(sql)?.post(row)?;
    Ok(())
}

/// Deletes the row of a body and its pieces, or records its file for deletion. No other files are ever deleted.
pub(super) fn release(tx: &Tx<'_>, id: MessageId) -> Result<u64> {
    match tx.engine() {
        Engine::Sqlite => {
            let sql = "INSERT INTO released_body (id)
                       SELECT message_id FROM body WHERE message_id = ?1 AND file_prefix_octets IS NOT NULL
                       ON CONFLICT DO NOTHING";
            tx.prepare_cached(sql)?.execute([id])?;
        }
        Engine::Postgres => body_pieces::delete(tx, id)?,
    }
    Ok(tx.prepare_cached("DELETE FROM body WHERE message_id = ?1")?.execute([id])? as u64)
}

/// Messages after `after` whose files are to be deleted, at most `limit`.
pub(super) fn released(
    connection: &Connection,
    after: Option<MessageId>,
    limit: usize,
) -> Result<Vec<MessageId>> {
    let sql = "SELECT id FROM released_body WHERE id > ?1 OR ?1 IS NULL ORDER BY id LIMIT ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let ids = statement.query_map(params![after, sql_limit(limit)], |row| row.get(0))?;
    Ok(ids.collect::<database::Result<_>>()?)
}

/// Records that these files are deleted.
pub(super) fn delete_released(tx: &Tx<'_>, ids: &[MessageId]) -> Result<()> {
    let mut delete = tx.prepare_cached("DELETE FROM released_body WHERE id = ?1")?;
    for id in ids {
        delete.execute([id])?;
    }
    Ok(())
}

/// Whether the database has the body of a message.
pub(super) fn is_known(connection: &Connection, id: MessageId) -> Result<bool> {
    let sql = "SELECT 1 FROM body WHERE message_id = ?1 UNION ALL SELECT 1 FROM released_body WHERE id = ?1";
    Ok(connection.prepare_cached(sql)?.exists([id])?)
}

/// The content of a message, if it is still stored. Fails with [`StoreError::Damaged`] if it differs from what was written.
pub(super) fn read(connection: &Connection, files: &BodyFiles, id: MessageId) -> Result<Option<Content>> {
    let damaged = |fault: String| StoreError::Damaged { message: id, fault };
    let sql = "SELECT prefix, submitted, file_prefix_octets, octets, crc32 FROM body WHERE message_id = ?1";
    let row = connection.prepare_cached(sql)?.query_row([id], |row| {
        let file_prefix_octets: Option<u32> = row.get(2)?;
        let inline: Option<Content> = match file_prefix_octets {
            Some(_) => None,
            None => {
                let (prefix, submitted): (Vec<u8>, Vec<u8>) = (row.get(0)?, row.get(1)?);
                Some(Content { prefix: prefix.into(), submitted: submitted.into() })
            }
        };
        Ok((inline, file_prefix_octets, read_checksum(row)?))
    });
    let Some((inline, file_prefix_octets, checksum)) = row.optional()? else { return Ok(None) };
    let prefix_octets = file_prefix_octets.unwrap_or(0) as usize;
    let content = match inline {
        Some(content) => content,
        None if connection.engine() == Engine::Postgres => body_pieces::read(connection, id, prefix_octets)?,
        None => files.read(id, prefix_octets)?.map_err(damaged)?,
    };
    match checksum.and_then(|checksum| checksum.fault_of(Checksum::of(&content))) {
        Some(fault) => Err(damaged(fault)),
        None => Ok(Some(content)),
    }
}

/// Absent for bodies that an earlier version wrote.
fn read_checksum(row: &Row<'_>) -> database::Result<Option<Checksum>> {
    let octets: Option<i64> = row.get("octets")?;
    let crc32: Option<u32> = row.get("crc32")?;
    Ok(octets.zip(crc32).map(|(octets, crc32)| Checksum { octets: octets.unsigned_abs(), crc32 }))
}

/// Where the content of a message is stored, without reading it.
pub(super) fn find(connection: &Connection, id: MessageId) -> Result<Option<BodyLocation>> {
    let sql =
        "SELECT file_prefix_octets IS NULL, coalesce(length(prefix) + length(submitted), octets, 0), octets, crc32
               FROM body WHERE message_id = ?1";
    let is_row = connection.engine() == Engine::Postgres;
    let found = connection.prepare_cached(sql)?.query_row([id], |row| match is_row || row.get(0)? {
        true => Ok(BodyLocation::Row { octets: count(row, 1)? }),
        false => Ok(BodyLocation::File { checksum: read_checksum(row)? }),
    });
    Ok(found.optional()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Timestamp;

    fn age(path: &Path) {
        let file = std::fs::File::open(path).unwrap();
        file.set_modified(SystemTime::now() - 2 * ROW_DELAY_MAX).unwrap();
    }

    #[test]
    fn old_files_are_found_beside_what_is_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        let files = Arc::new(BodyFiles::new(dir.path(), 0));
        let id = MessageId::generate(Timestamp::UNIX_EPOCH);
        files.write(id, &Content { prefix: "a".into(), submitted: "b".into() }).unwrap().keep();
        age(&files.path_of(id));
        for stray in ["0", "note.txt", "zz"] {
            std::fs::write(dir.path().join("bodies").join(stray), "left by an operator").unwrap();
        }
        let directories = files.directories().unwrap();
        let old: Vec<_> =
            directories.iter().flat_map(|directory| files.old_files(directory).unwrap()).collect();
        assert_eq!(old, [(id, 2)]);
    }

    #[test]
    fn files_that_cannot_be_locked_against_backups_stay() {
        let dir = tempfile::tempdir().unwrap();
        let files = Arc::new(BodyFiles::new(dir.path(), 0));
        let id = MessageId::generate(Timestamp::UNIX_EPOCH);
        files.write(id, &Content { prefix: "a".into(), submitted: "b".into() }).unwrap().keep();
        let lock = dir.path().join(BODY_LOCK_FILE);
        std::fs::create_dir(&lock).unwrap();
        assert_eq!(files.remove(&[id]), []);
        assert!(files.path_of(id).exists());
        std::fs::remove_dir(&lock).unwrap();
        assert_eq!(files.remove(&[id]), [id]);
        assert!(!files.path_of(id).exists());
    }

    #[test]
    fn what_a_writer_left_unfinished_is_removed_once_it_is_old() {
        let dir = tempfile::tempdir().unwrap();
        let files = BodyFiles::new(dir.path(), 0);
        let directory = dir.path().join("bodies/zz");
        std::fs::create_dir_all(&directory).unwrap();
        let [young, old, other] =
            [".new-0000000000000001-msg_1.eml", ".new-0000000000000002-msg_2.eml", "note"]
                .map(|name| directory.join(name));
        for path in [&young, &old, &other] {
            std::fs::write(path, "half").unwrap();
        }
        age(&old);
        age(&other);
        assert_eq!(files.old_files("zz").unwrap(), []);
        assert!(young.exists() && !old.exists() && other.exists());
    }
}
