//! The manifest of a backup: what it contains, with digests. It is written last, so a backup with a manifest is complete.
//! `files.sha256` lists the files as `sha256sum` does, so that they can be checked without this program.

use std::collections::BTreeMap;
use std::path::PathBuf;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::mail::Timestamp;
pub(super) use crate::store::DATABASE_FILE;

/// The present format.
const FORMAT: u32 = 1;
/// The name of the manifest in a backup.
pub const MANIFEST_FILE: &str = "manifest.json";
/// The name of the list of files.
pub const FILES_FILE: &str = "files.sha256";

/// What a backup contains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Always `backup`.
    pub object: String,
    /// The format of the backup.
    pub format: u32,
    /// The version of the program.
    pub version: String,
    /// The number of the last migration.
    pub schema: u32,
    /// The host name of the server.
    pub hostname: String,
    /// What was acknowledged until this time is in the backup.
    pub taken_at: Timestamp,
    /// The last event in it.
    pub last_event: Option<String>,
    /// Which master key opens its secrets; absent if no server of this version has opened the database.
    pub master_key: Option<String>,
    /// Rows of each table.
    pub rows: BTreeMap<String, u64>,
    /// Deliveries that were not finished.
    pub open_deliveries: u64,
    /// The database.
    pub database: FileDigest,
    /// The list of all files.
    pub files: FileDigest,
    /// Files of bodies, and their octets.
    pub bodies: u64,
    /// See `bodies`.
    pub body_octets: u64,
    /// Messages whose body file was missing.
    pub missing_bodies: Vec<String>,
    /// The digest of all the above.
    pub sha256: String,
}

/// The size and the digest of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDigest {
    /// Its octets.
    pub octets: u64,
    /// Its SHA-256 in hexadecimal digits.
    pub sha256: String,
}

/// Why a manifest is refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is not JSON of this form.
    #[error("the manifest cannot be read: {0}")]
    Form(#[from] serde_json::Error),
    /// A newer program has written it.
    #[error(
        "the backup has format {0}, but this program knows formats up to {FORMAT}: use a newer pillarbox"
    )]
    Newer(u32),
    /// It was changed.
    #[error("the manifest does not have the digest that it names")]
    Digest,
    /// There is none.
    #[error("{0} has no manifest.json, so it is no complete backup")]
    Absent(PathBuf),
    /// The backup cannot be read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
}

impl Manifest {
    /// With its digest.
    pub fn sealed(mut self) -> Self {
        self.object = "backup".into();
        self.format = FORMAT;
        self.sha256 = self.digest();
        self
    }

    /// The octets of the file.
    pub fn to_json(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        text
    }

    /// Reads and checks the octets of the file.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn parse(octets: &[u8]) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let Format { format } = serde_json::from_slice(octets)?;
        if format > FORMAT {
            return Err(ManifestError::Newer(format));
        }
        let manifest: Self = serde_json::from_slice(octets)?;
        if manifest.sha256 == manifest.digest() { Ok(manifest) } else { Err(ManifestError::Digest) }
    }

    fn digest(&self) -> String {
        let without = Self { sha256: String::new(), ..self.clone() };
        HEXLOWER.encode(digest(&SHA256, &serde_json::to_vec(&without).unwrap_or_default()).as_ref())
    }
}

/// A line of `files.sha256`.
pub fn file_line(sha256: &str, path: &str) -> String {
    format!("{sha256}  {path}\n")
}

/// The digest and the path of a line of `files.sha256`. A path is one of ours: relative, without `..`.
pub fn parse_file_line(line: &str) -> Option<(&str, &str)> {
    let (sha256, path) = line.split_once("  ")?;
    let is_digest = sha256.len() == 64 && sha256.bytes().all(|b| b.is_ascii_hexdigit());
    (is_digest && is_relative(path)).then_some((sha256, path))
}

/// Whether a path leads nowhere but into its directory.
pub fn is_relative(path: &str) -> bool {
    path.split('/').all(|part| !part.is_empty() && !part.starts_with('.') && !part.contains('\\'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let file = FileDigest { octets: 8192, sha256: "0".repeat(64) };
        Manifest {
            object: String::new(),
            format: 0,
            version: "0.1.0".into(),
            schema: 47,
            hostname: "mail.example.com".into(),
            taken_at: "2026-11-29T08:00:00Z".parse().unwrap(),
            last_event: None,
            master_key: Some("0011223344556677".into()),
            rows: BTreeMap::from([("message".into(), 3)]),
            open_deliveries: 2,
            database: file.clone(),
            files: file,
            bodies: 1,
            body_octets: 300_000,
            missing_bodies: Vec::new(),
            sha256: String::new(),
        }
        .sealed()
    }

    #[test]
    fn a_manifest_reads_as_it_was_written_and_every_change_of_it_is_found() {
        let written = manifest().to_json();
        assert_eq!(Manifest::parse(&written).unwrap(), manifest());
        let text = String::from_utf8(written).unwrap();
        for (from, to) in
            [("\"open_deliveries\": 2", "\"open_deliveries\": 1"), ("08:00:00", "09:00:00"), ("8192", "8193")]
        {
            assert!(
                matches!(Manifest::parse(text.replacen(from, to, 1).as_bytes()), Err(ManifestError::Digest)),
                "{from}"
            );
        }
        let newer = text.replace("\"format\": 1", "\"format\": 2");
        assert!(matches!(Manifest::parse(newer.as_bytes()), Err(ManifestError::Newer(2))));
    }

    #[test]
    fn a_line_of_the_list_leads_nowhere_else() {
        let digest = "a".repeat(64);
        let line = file_line(&digest, "bodies/AB/msg_1.eml");
        assert_eq!(parse_file_line(line.trim_end()), Some((digest.as_str(), "bodies/AB/msg_1.eml")));
        for path in ["../x", "/etc/passwd", "a//b", "a/../b", ".x", ""] {
            assert_eq!(parse_file_line(file_line(&digest, path).trim_end()), None, "{path}");
        }
        assert_eq!(parse_file_line("abc  x"), None);
    }
}
