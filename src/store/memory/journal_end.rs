//! The end of the journal, for its followers.

use tokio::sync::{Notify, watch};

use crate::store::JournalCursor;

/// The position up to which the journal is complete: later commits append only behind it.
pub(in crate::store) struct JournalEnd {
    position: watch::Sender<JournalCursor>,
    /// Notified when a follower comes, and after commits.
    changes: Notify,
}

impl JournalEnd {
    pub(in crate::store) fn at(position: JournalCursor) -> Self {
        Self { position: watch::Sender::new(position), changes: Notify::new() }
    }

    pub(in crate::store) fn position(&self) -> JournalCursor {
        *self.position.borrow()
    }

    /// Moves it forward. An earlier position changes nothing.
    pub(in crate::store) fn advance(&self, position: JournalCursor) {
        self.position.send_if_modified(|known| {
            let is_later = position > *known;
            *known = position.max(*known);
            is_later
        });
    }

    /// Adds a follower.
    pub(in crate::store) fn watch(&self) -> watch::Receiver<JournalCursor> {
        let follower = self.position.subscribe();
        self.changes.notify_one();
        follower
    }

    /// Whether there are followers.
    pub(in crate::store) fn is_watched(&self) -> bool {
        self.position.receiver_count() > 0
    }

    /// This process has committed. On an engine with other writers, only a look at the database tells how far the journal is
    /// complete.
    pub(in crate::store) fn note_commit(&self) {
        if self.is_watched() {
            self.changes.notify_one();
        }
    }

    /// Waits for a follower or for a commit of this process.
    pub(in crate::store) async fn changed(&self) {
        self.changes.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_goes_forward_only() {
        let cursor = |bits| JournalCursor::from_bits(bits);
        let end = JournalEnd::at(cursor(5));
        let mut follower = end.watch();
        end.advance(cursor(4));
        assert!(!follower.has_changed().unwrap());
        end.advance(cursor(6));
        assert_eq!(*follower.borrow_and_update(), cursor(6));
        drop(follower);
        assert!(!end.is_watched());
        end.advance(cursor(7));
        assert_eq!(end.position(), cursor(7), "also without followers");
    }
}
