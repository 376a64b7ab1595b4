//! The bytes of messages: small ones in the database, large ones in files of their own, so that a commit
//! with a large body does not hold up the others.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};

use super::open::sync_directory;
use super::unit_of_work::Tx;
use crate::mail::Content;
use crate::model::MessageId;
use crate::store::{Result, StoreError};

/// A file without a row may belong to a message that is about to be committed.
const ORPHAN_AGE_MIN: Duration = Duration::from_secs(60 * 60);

/// The directory of large bodies: `bodies/<last two characters of the id>/<id>.eml`.
pub(super) struct BodyFiles {
    directory: PathBuf,
    inline_octets_max: u64,
}

impl BodyFiles {
    pub(super) fn new(data_dir: &Path, inline_octets_max: u64) -> Self {
        Self { directory: data_dir.join("bodies"), inline_octets_max }
    }

    /// Whether a body goes to a file.
    pub(super) fn is_large(&self, content: &Content) -> bool {
        content.len() as u64 > self.inline_octets_max
    }

    fn path_of(&self, id: MessageId) -> PathBuf {
        let name = id.to_string();
        // The end of an id is random, which spreads the files.
        let shelf = &name[name.len() - 2..];
        self.directory.join(shelf).join(format!("{name}.eml"))
    }

    /// Makes a file of a body.
    pub(super) fn write(self: &Arc<Self>, id: MessageId, content: &Content) -> Result<FreshFile> {
        self.write_file(id, content)?;
        Ok(FreshFile { files: Arc::clone(self), id, is_kept: false })
    }

    /// Writes a body and makes it survive a power cut, before any row refers to it.
    fn write_file(&self, id: MessageId, content: &Content) -> Result<()> {
        let path = self.path_of(id);
        let shelf = path.parent().unwrap_or(&self.directory);
        if !shelf.exists() {
            DirBuilder::new().recursive(true).mode(0o700).create(shelf)?;
            sync_directory(&self.directory)?;
            sync_directory(self.directory.parent().unwrap_or(&self.directory))?;
        }
        // One that is there belongs to another submission.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let mut write = || {
            file.write_all(&content.prefix)?;
            file.write_all(&content.submitted)?;
            file.sync_all()?;
            sync_directory(shelf)
        };
        write().map_err(|error| {
            // Half a body on a full disk helps nobody.
            let _ = std::fs::remove_file(&path);
            error.into()
        })
    }

    fn read(&self, id: MessageId, prefix_octets: usize) -> Result<Option<Content>> {
        let whole = match std::fs::read(self.path_of(id)) {
            Ok(octets) => Bytes::from(octets),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if prefix_octets > whole.len() {
            return Err(StoreError::Failed(format!("the body file of {id} is cut short")));
        }
        Ok(Some(Content { prefix: whole.slice(..prefix_octets), submitted: whole.slice(prefix_octets..) }))
    }

    /// Removes the files of messages whose rows are gone.
    pub(super) fn remove(&self, ids: &[MessageId]) {
        for id in ids {
            // What stays behind is found as an orphan later.
            let _ = std::fs::remove_file(self.path_of(*id));
        }
    }

    /// The names of the directories that files are in.
    pub(super) fn shelves(&self) -> Result<Vec<String>> {
        let entries = match std::fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut shelves = Vec::new();
        for entry in entries {
            // What has a name that is no text is not ours.
            shelves.extend(entry?.file_name().into_string());
        }
        Ok(shelves)
    }

    /// Files on a shelf that are old enough to be orphans, by their message.
    pub(super) fn old_files(&self, shelf: &str) -> Result<Vec<MessageId>> {
        let mut old = Vec::new();
        // What is no directory is not ours, and must not keep us from the rest.
        let Ok(files) = std::fs::read_dir(self.directory.join(shelf)) else { return Ok(old) };
        for file in files {
            let file = file?;
            let name = file.file_name();
            let id = name.to_str().and_then(|name| name.strip_suffix(".eml")?.parse().ok());
            if let Some(id) = id
                && is_old(&file)
            {
                old.push(id);
            }
        }
        Ok(old)
    }
}

/// The file of a body that no row refers to yet. Dropped before it is kept, it is removed.
pub(super) struct FreshFile {
    files: Arc<BodyFiles>,
    id: MessageId,
    is_kept: bool,
}

impl FreshFile {
    /// A row refers to it.
    pub(super) fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for FreshFile {
    fn drop(&mut self) {
        if !self.is_kept {
            self.files.remove(&[self.id]);
        }
    }
}

fn is_old(file: &std::fs::DirEntry) -> bool {
    let modified = file.metadata().and_then(|metadata| metadata.modified());
    modified.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > ORPHAN_AGE_MIN))
}

/// Writes the row of a body; `is_in_file` if its bytes are in a file already.
pub(super) fn insert(tx: &Tx<'_>, id: MessageId, content: &Content, is_in_file: bool) -> Result<()> {
    if is_in_file {
        let sql = "INSERT INTO body (message_id, file_prefix_octets) VALUES (?1, ?2)";
        tx.prepare_cached(sql)?.execute(params![id, content.prefix.len() as i64])?;
    } else {
        let sql = "INSERT INTO body (message_id, prefix, submitted) VALUES (?1, ?2, ?3)";
        tx.prepare_cached(sql)?.execute(params![id, &content.prefix[..], &content.submitted[..]])?;
    }
    Ok(())
}

/// The bytes of a message, if they are still kept.
pub(super) fn read(connection: &Connection, files: &BodyFiles, id: MessageId) -> Result<Option<Content>> {
    let sql = "SELECT prefix, submitted, file_prefix_octets FROM body WHERE message_id = ?1";
    let row = connection.prepare_cached(sql)?.query_row([id], |row| {
        let file_prefix_octets: Option<u32> = row.get(2)?;
        let inline: Option<(Vec<u8>, Vec<u8>)> = match file_prefix_octets {
            Some(_) => None,
            None => Some((row.get(0)?, row.get(1)?)),
        };
        Ok((inline, file_prefix_octets))
    });
    match row.optional()? {
        None => Ok(None),
        Some((Some((prefix, submitted)), _)) => {
            Ok(Some(Content { prefix: prefix.into(), submitted: submitted.into() }))
        }
        Some((None, prefix_octets)) => {
            let content = files.read(id, prefix_octets.unwrap_or(0) as usize)?;
            content.map(Some).ok_or_else(|| StoreError::Failed(format!("the body file of {id} is gone")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Timestamp;

    #[test]
    fn orphans_are_found_beside_what_is_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        let files = Arc::new(BodyFiles::new(dir.path(), 0));
        let id = MessageId::generate(Timestamp::UNIX_EPOCH);
        files.write(id, &Content { prefix: "a".into(), submitted: "b".into() }).unwrap().keep();
        let file = std::fs::File::open(files.path_of(id)).unwrap();
        file.set_modified(SystemTime::now() - 2 * ORPHAN_AGE_MIN).unwrap();
        for stray in ["0", "note.txt", "zz"] {
            std::fs::write(dir.path().join("bodies").join(stray), "left by an operator").unwrap();
        }
        let shelves = files.shelves().unwrap();
        let old: Vec<_> = shelves.iter().flat_map(|shelf| files.old_files(shelf).unwrap()).collect();
        assert_eq!(old, [id]);
    }
}
