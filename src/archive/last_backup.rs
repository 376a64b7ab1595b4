//! What the server knows of the last backup: a file in its data directory, which `pillarbox backup create` writes. The command
//! does not write into the database, so a backup changes nothing that it copies.

use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::durable_file;
use crate::mail::{SignedDuration, Timestamp};

/// The name of the file.
const FILE: &str = "last-backup.json";

/// The last backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastBackup {
    /// The time of its contents.
    pub taken_at: Timestamp,
    /// Where it was written; `-` for the standard output.
    pub path: String,
    /// Its octets.
    pub octets: u64,
}

impl LastBackup {
    /// Of the server with this data directory; `None` if there was none.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(data_dir: &Path) -> std::io::Result<Option<Self>> {
        match std::fs::read(data_dir.join(FILE)) {
            Ok(octets) => Ok(serde_json::from_slice(&octets).ok()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Notes it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, data_dir: &Path) -> std::io::Result<()> {
        let octets = serde_json::to_vec(self).unwrap_or_default();
        durable_file::replace(&data_dir.join(FILE), 0o600, &octets)
    }

    /// Its age; zero if the clock was set back.
    pub fn age(&self, now: Timestamp) -> SignedDuration {
        now.duration_since(self.taken_at).max(SignedDuration::ZERO)
    }
}
