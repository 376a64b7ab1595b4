//! Decides whether the disk is full: compares the free space in the file system of the data directory with the configured
//! minimum. While it is short, the store accepts no message (`Spool::enqueue`).

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::store::{Result, StoreError};

const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// Queries the file system at most once a second.
pub(in crate::store) struct FreeSpace {
    data_dir: PathBuf,
    octets_min: u64,
    last: Mutex<Option<(Instant, bool)>>,
}

impl FreeSpace {
    pub(in crate::store) fn new(data_dir: &Path, octets_min: u64) -> Self {
        Self { data_dir: data_dir.to_owned(), octets_min, last: Mutex::new(None) }
    }

    /// Refuses a write with [`StoreError::DiskFull`] if there is less free space than required.
    pub(in crate::store) fn check(&self) -> Result<()> {
        if self.is_short() { Err(StoreError::DiskFull) } else { Ok(()) }
    }

    fn is_short(&self) -> bool {
        let mut last = self.last.lock();
        match *last {
            Some((at, is_short)) if at.elapsed() < SAMPLE_INTERVAL => is_short,
            _ => {
                // If it cannot be read, the commit itself will tell whether the disk can be written.
                let is_short = self.available().is_some_and(|octets| octets < self.octets_min);
                *last = Some((Instant::now(), is_short));
                is_short
            }
        }
    }

    /// The octets that are free for this process.
    pub(in crate::store) fn available(&self) -> Option<u64> {
        match rustix::fs::statvfs(&self.data_dir) {
            Ok(found) => Some(found.f_bavail.saturating_mul(found.f_frsize)),
            Err(error) => {
                // The commit will fail if the disk cannot be written.
                tracing::warn!(%error, "the free space of the data directory cannot be read");
                None
            }
        }
    }
}
