//! Checks a backup: the digests of its files, and its database.

use std::io::Result;
use std::path::Path;

use serde::Serialize;

use super::contents::{bring, check};
use super::directory::WorkDirectory;
use super::manifest::{DATABASE_FILE, Manifest};
use crate::store::{DatabaseReport, check_database};

/// Faults that are listed.
const FAULTS_MAX: usize = 100;

/// Something that is wrong with a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The file, the table or the object.
    pub place: String,
    /// What is wrong: `its SHA-256 is … instead of …`.
    pub text: String,
}

/// The result of a check.
#[derive(Debug, Clone, Serialize)]
pub struct VerifyReport {
    /// What the backup says of itself; `None` if it cannot be read.
    pub manifest: Option<Manifest>,
    /// What is wrong, at most 100.
    pub faults: Vec<Fault>,
    /// What was not looked at, and why.
    pub skipped: Vec<String>,
    /// Encrypted values that the master key opens; `None` without one.
    pub secrets_opened: Option<u64>,
    /// Deliveries whose state was compared with their events.
    pub deliveries_compared: u64,
}

/// Checks digests, the database, bodies and, with the master key, every encrypted value. Blocks. An archive is unpacked beside
/// itself for the time of the check.
///
/// # Errors
/// The backup cannot be read at all.
pub fn verify(backup: &Path, master_key: Option<&Path>) -> Result<VerifyReport> {
    if backup.metadata()?.is_dir() {
        return Ok(verify_directory(backup, master_key));
    }
    let work = WorkDirectory::beside(backup)?;
    let unpacked = bring(backup, work.path());
    let mut report = verify_directory(work.path(), master_key);
    if let Err(error) = unpacked {
        report.faults.insert(0, Fault { place: "archive".into(), text: error.to_string() });
    }
    Ok(report)
}

fn verify_directory(backup: &Path, master_key: Option<&Path>) -> VerifyReport {
    let mut faults = Vec::new();
    let manifest = check(backup, &mut faults);
    let database = if manifest.is_some() {
        check_database(backup, master_key).unwrap_or_else(|error| {
            faults.push(Fault { place: DATABASE_FILE.into(), text: error.to_string() });
            DatabaseReport::default()
        })
    } else {
        DatabaseReport {
            skipped: vec!["the database, because there is no manifest".into()],
            ..Default::default()
        }
    };
    faults.extend(database.faults.into_iter().map(|(place, text)| Fault { place, text }));
    faults.truncate(FAULTS_MAX);
    VerifyReport {
        manifest,
        faults,
        skipped: database.skipped,
        secrets_opened: database.secrets_opened,
        deliveries_compared: database.folded,
    }
}
