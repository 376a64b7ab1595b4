//! Where the files of a backup go: a directory or an archive.

use std::fs::File;
use std::io::{Read, Result, Write, sink, stdout};
use std::path::{Path, PathBuf};

use super::contents::{Digesting, copy, create_private};
use super::directory::BackupPath;
use super::manifest::{DATABASE_FILE, FileDigest};
use super::throttle::{Throttle, Throttled};
use crate::mail::Timestamp;

/// The name of an archive in its work directory.
pub(super) const ARCHIVE_FILE: &str = "archive.tar";

/// The backup that is being written.
pub(super) enum Output {
    /// This directory, which has the database already.
    Directory(PathBuf),
    /// An archive.
    Tar { archive: tar::Builder<Box<dyn Write>>, taken_at: Timestamp },
}

impl Output {
    pub(super) fn open(target: &BackupPath, work: &Path, taken_at: Timestamp) -> Result<Self> {
        let writer: Box<dyn Write> = match target {
            BackupPath::Directory(_) => return Ok(Self::Directory(work.to_owned())),
            BackupPath::Tar(_) => Box::new(create_private(&work.join(ARCHIVE_FILE))?),
            BackupPath::Stdout => Box::new(stdout().lock()),
        };
        Ok(Self::Tar { archive: tar::Builder::new(writer), taken_at })
    }

    /// Adds the copied database.
    pub(super) fn add_database(&mut self, file: File, throttle: &mut Throttle) -> Result<FileDigest> {
        match self {
            Self::Directory(_) => copy(Throttled { from: file, throttle }, sink()),
            Self::Tar { .. } => self.add(DATABASE_FILE, file, throttle),
        }
    }

    pub(super) fn add(&mut self, path: &str, file: File, throttle: &mut Throttle) -> Result<FileDigest> {
        let octets = file.metadata()?.len();
        self.write(path, Throttled { from: file, throttle }, octets)
    }

    pub(super) fn add_text(&mut self, path: &str, text: &[u8]) -> Result<FileDigest> {
        self.write(path, text, text.len() as u64)
    }

    fn write(&mut self, path: &str, from: impl Read, octets: u64) -> Result<FileDigest> {
        match self {
            Self::Directory(work) => copy(from, create_private(&work.join(path))?),
            Self::Tar { archive, taken_at } => {
                let mut header = tar::Header::new_gnu();
                header.set_size(octets);
                header.set_mode(0o600);
                header.set_mtime(taken_at.as_second().unsigned_abs());
                let mut from = Digesting::new(from);
                archive.append_data(&mut header, path, &mut from)?;
                Ok(from.finish())
            }
        }
    }

    /// Ends an archive.
    pub(super) fn finish(self) -> Result<()> {
        match self {
            Self::Directory(_) => Ok(()),
            Self::Tar { archive, .. } => archive.into_inner()?.flush(),
        }
    }
}
