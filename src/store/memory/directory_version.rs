//! A number that tells whether the directory has changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// See [`Directory::directory_version`](crate::store::Directory::directory_version). Clones are of the same number.
#[derive(Debug, Clone, Default)]
pub(in crate::store) struct DirectoryVersion(Arc<AtomicU64>);

impl DirectoryVersion {
    pub(in crate::store) fn current(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// A change was committed. Called before its caller is answered, so that whoever was told of the change sees it.
    pub(in crate::store) fn advance(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}
