//! What is in a backup, as a directory or a tar file: read, compared with the list of files, brought elsewhere.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Error, ErrorKind, Read, Result, Seek, Write, sink};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256};
use data_encoding::HEXLOWER;

use super::directory::parent_of;
use super::manifest::{
    DATABASE_FILE, FILES_FILE, FileDigest, MANIFEST_FILE, Manifest, ManifestError, is_relative,
    parse_file_line,
};
use super::verify::Fault;

/// Files are read in pieces of this size.
const PIECE_OCTETS: usize = 64 * 1024;
/// Maximum of octets of a manifest.
const MANIFEST_OCTETS_MAX: u64 = 16 * 1024 * 1024;

/// Digests what is read through it.
pub(super) struct Digesting<R> {
    from: R,
    context: Context,
    octets: u64,
}

impl<R> Digesting<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, context: Context::new(&SHA256), octets: 0 }
    }

    /// Of what was read.
    pub(super) fn finish(self) -> FileDigest {
        FileDigest { octets: self.octets, sha256: HEXLOWER.encode(self.context.finish().as_ref()) }
    }
}

impl<R: Read> Read for Digesting<R> {
    fn read(&mut self, piece: &mut [u8]) -> Result<usize> {
        let read = self.from.read(piece)?;
        self.context.update(&piece[..read]);
        self.octets += read as u64;
        Ok(read)
    }
}

/// Copies to the end.
pub(super) fn copy(from: impl Read, mut to: impl Write) -> Result<FileDigest> {
    let mut from = Digesting::new(from);
    let mut piece = vec![0; PIECE_OCTETS];
    loop {
        match from.read(&mut piece) {
            Ok(0) => return Ok(from.finish()),
            Ok(read) => to.write_all(&piece[..read])?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Creates a directory that only its owner can read, and those above. It is not synced.
pub(super) fn create_private_directory(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Creates a file that only its owner can read, and its directory. It is not synced.
pub(super) fn create_private(path: &Path) -> Result<File> {
    create_private_directory(parent_of(path))?;
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Whether a backup can have a file with this path.
fn is_of_backup(path: &str) -> bool {
    [MANIFEST_FILE, FILES_FILE, DATABASE_FILE].contains(&path)
        || (is_relative(path) && path.starts_with("bodies/") && path.ends_with(".eml"))
}

/// Reads what a backup says of itself.
///
/// # Errors
/// [`ManifestError`].
pub fn read_manifest(backup: &Path) -> std::result::Result<Manifest, ManifestError> {
    let fault = |source: Error| ManifestError::File { path: backup.to_owned(), source };
    let octets = if backup.metadata().map_err(fault)?.is_dir() {
        match std::fs::read(backup.join(MANIFEST_FILE)) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            read => Some(read.map_err(fault)?),
        }
    } else {
        find_in_tar(backup).map_err(fault)?
    };
    Manifest::parse(&octets.ok_or_else(|| ManifestError::Absent(backup.to_owned()))?)
}

/// Where each header of a tar file, old or new, says what it is.
const TAR_MAGIC: (usize, &[u8]) = (257, b"ustar");

fn open_tar(backup: &Path) -> Result<tar::Archive<File>> {
    let mut file = File::open(backup)?;
    let mut header = [0; TAR_MAGIC.0 + TAR_MAGIC.1.len()];
    if file.read_exact(&mut header).is_err() || !header.ends_with(TAR_MAGIC.1) {
        return Err(Error::new(
            ErrorKind::InvalidData,
            "it is no tar file; if it is compressed, unpack it first",
        ));
    }
    file.rewind()?;
    Ok(tar::Archive::new(file))
}

fn find_in_tar(backup: &Path) -> Result<Option<Vec<u8>>> {
    let mut archive = open_tar(backup)?;
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        if entry.path_bytes().as_ref() == MANIFEST_FILE.as_bytes() {
            let mut octets = Vec::new();
            entry.take(MANIFEST_OCTETS_MAX).read_to_end(&mut octets)?;
            return Ok(Some(octets));
        }
    }
    Ok(None)
}

/// Copies a backup into a directory. Its files are not compared with their digests: [`check`] does that.
pub(super) fn bring(backup: &Path, into: &Path) -> Result<()> {
    if !backup.metadata()?.is_dir() {
        return unpack(backup, into);
    }
    let list = std::fs::read_to_string(backup.join(FILES_FILE))?;
    let listed = list.lines().filter_map(parse_file_line).map(|(_, path)| path);
    for path in [MANIFEST_FILE, FILES_FILE].into_iter().chain(listed.filter(|path| is_of_backup(path))) {
        match File::open(backup.join(path)) {
            Ok(from) => drop(copy(from, create_private(&into.join(path))?)?),
            // The check tells.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn unpack(backup: &Path, into: &Path) -> Result<()> {
    let mut archive = open_tar(backup)?;
    for entry in archive.entries()? {
        let entry = entry?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if !entry.header().entry_type().is_file() || !is_of_backup(&path) {
            return Err(Error::new(ErrorKind::InvalidData, format!("{path} is no file of a backup")));
        }
        let octets = entry.header().size()?;
        let found = copy(entry, create_private(&into.join(&path))?)?;
        if found.octets != octets {
            return Err(Error::new(ErrorKind::UnexpectedEof, format!("{path} ends early")));
        }
    }
    Ok(())
}

/// Compares the files of a directory with the manifest and the list. Returns the manifest, if it can be read.
pub(super) fn check(directory: &Path, faults: &mut Vec<Fault>) -> Option<Manifest> {
    let mut fault = |place: &str, text: String| faults.push(Fault { place: place.to_owned(), text });
    let manifest = match read_manifest(directory) {
        Ok(manifest) => manifest,
        Err(error) => {
            fault(MANIFEST_FILE, error.to_string());
            return None;
        }
    };
    let list = match std::fs::read(directory.join(FILES_FILE)) {
        Ok(octets) => octets,
        Err(error) => {
            fault(FILES_FILE, error.to_string());
            return Some(manifest);
        }
    };
    if let Some(text) = copy(&*list, sink()).ok().and_then(|found| difference(&manifest.files.sha256, &found))
    {
        fault(FILES_FILE, text);
    }
    let list = String::from_utf8_lossy(&list);
    let mut listed = BTreeSet::from([MANIFEST_FILE.to_owned(), FILES_FILE.to_owned()]);
    for line in list.lines() {
        let Some((sha256, path)) = parse_file_line(line).filter(|(_, path)| is_of_backup(path)) else {
            fault(FILES_FILE, "it has a line that names no file of a backup".to_owned());
            continue;
        };
        listed.insert(path.to_owned());
        match File::open(directory.join(path)).and_then(|file| copy(file, sink())) {
            Ok(found) => {
                if let Some(text) = difference(sha256, &found) {
                    fault(path, text);
                }
            }
            Err(error) => fault(path, error.to_string()),
        }
    }
    if !listed.contains(DATABASE_FILE) {
        fault(DATABASE_FILE, "it is not in files.sha256".to_owned());
    }
    match files_below(directory, "") {
        Ok(files) => {
            for path in files.into_iter().filter(|path| !listed.contains(path)) {
                fault(&path, "it is not in files.sha256".to_owned());
            }
        }
        Err(error) => fault("bodies", error.to_string()),
    }
    for id in &manifest.missing_bodies {
        fault(id, "its body was missing when the backup was made".to_owned());
    }
    Some(manifest)
}

fn difference(wanted: &str, found: &FileDigest) -> Option<String> {
    (found.sha256 != wanted).then(|| format!("its SHA-256 is {} instead of {wanted}", found.sha256))
}

/// The paths of all files below a directory.
fn files_below(directory: &Path, prefix: &str) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            files.extend(files_below(&entry.path(), &format!("{path}/"))?);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}
