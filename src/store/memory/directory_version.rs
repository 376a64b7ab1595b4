//! The version of the directory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// See [`Directory::directory_version`](crate::store::Directory::directory_version). Clones share the number.
#[derive(Debug, Clone, Default)]
pub(in crate::store) struct DirectoryVersion(Arc<AtomicU64>);

impl DirectoryVersion {
    pub(in crate::store) fn current(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Counts a committed change. Called before its caller returns, so that a caller that knows of the change sees the new
    /// version.
    pub(in crate::store) fn advance(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}
