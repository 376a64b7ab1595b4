//! Counts for metrics. Commits are counted after they succeed, so nothing that was rolled back is included.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::EventKind;
use crate::store::StoreCounts;

/// Counts of commits, their events and stray body files.
#[derive(Debug)]
pub(in crate::store) struct CommitCounters {
    events: [AtomicU64; EventKind::ALL.len()],
    commits: AtomicU64,
    failed_commits: AtomicU64,
    stray_files: AtomicU64,
}

impl CommitCounters {
    pub(in crate::store) fn new() -> Self {
        let events = std::array::from_fn(|_| AtomicU64::new(0));
        Self {
            events,
            commits: AtomicU64::new(0),
            failed_commits: AtomicU64::new(0),
            stray_files: AtomicU64::new(0),
        }
    }

    /// Counts a commit with these events.
    pub(in crate::store) fn note_commit(&self, events: &[EventKind]) {
        self.commits.fetch_add(1, Ordering::Relaxed);
        for &kind in events {
            if let Some(count) = self.events.get(kind as usize) {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Counts a failed commit.
    pub(in crate::store) fn note_failure(&self) {
        self.failed_commits.fetch_add(1, Ordering::Relaxed);
    }

    /// Sets the number of body files without a message.
    pub(in crate::store) fn note_stray_files(&self, count: u64) {
        self.stray_files.store(count, Ordering::Relaxed);
    }

    pub(in crate::store) fn read(&self) -> StoreCounts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        StoreCounts {
            events: EventKind::ALL.iter().copied().zip(self.events.iter().map(read)).collect(),
            commits: read(&self.commits),
            failed_commits: read(&self.failed_commits),
            stray_files: read(&self.stray_files),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_a_count_of_its_own() {
        let counters = CommitCounters::new();
        for (times, &kind) in EventKind::ALL.iter().enumerate() {
            counters.note_commit(&vec![kind; times]);
        }
        let counts = counters.read();
        for (times, (kind, count)) in counts.events.into_iter().enumerate() {
            assert_eq!((kind, count), (EventKind::ALL[times], times as u64));
        }
        assert_eq!(counts.commits, EventKind::ALL.len() as u64);
    }
}
