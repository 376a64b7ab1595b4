//! The number of changed rows, for tasks that have nothing to do while nothing changes.

use tokio::sync::watch;

/// See [`Store::watch_changes`](crate::store::Store::watch_changes).
pub(in crate::store) struct ChangeCount(watch::Sender<u64>);

impl ChangeCount {
    pub(in crate::store) fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    /// Notes how many rows were changed up to a commit. A commit without changes wakes nobody.
    pub(in crate::store) fn note(&self, total: u64) {
        self.0.send_if_modified(|known| std::mem::replace(known, total) != total);
    }

    pub(in crate::store) fn watch(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_without_changes_wakes_nobody() {
        let count = ChangeCount::new();
        let mut watching = count.watch();
        count.note(0);
        assert!(!watching.has_changed().unwrap());
        count.note(3);
        assert!(watching.has_changed().unwrap());
        watching.mark_unchanged();
        count.note(3);
        assert!(!watching.has_changed().unwrap());
    }
}
