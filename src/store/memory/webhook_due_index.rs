//! The next due time of each webhook. After a restart it is read from the database.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::model::WebhookId;

/// At most one entry for each webhook with pending deliveries.
pub(in crate::store) struct WebhookDueIndex {
    due_us: Mutex<HashMap<WebhookId, i64>>,
    changed: Notify,
}

impl WebhookDueIndex {
    /// With the earliest due time of each webhook with pending deliveries.
    pub(in crate::store) fn new(due_us: HashMap<WebhookId, i64>) -> Self {
        Self { due_us: Mutex::new(due_us), changed: Notify::new() }
    }

    /// Adds webhooks; of two times for one webhook the earlier is kept.
    pub(in crate::store) fn note_all(&self, noted: impl IntoIterator<Item = (WebhookId, i64)>) {
        let mut noted = noted.into_iter().peekable();
        if noted.peek().is_none() {
            return;
        }
        let mut due = self.due_us.lock();
        for (id, at_us) in noted {
            due.entry(id).and_modify(|known| *known = at_us.min(*known)).or_insert(at_us);
        }
        self.changed.notify_one();
    }

    /// Removes and returns the due webhooks, with the next due time.
    pub(in crate::store) fn take_due(&self, now_us: i64) -> (Vec<WebhookId>, Option<i64>) {
        let mut due = self.due_us.lock();
        let taken = due.extract_if(|_, at_us| *at_us <= now_us).map(|(id, _)| id).collect();
        (taken, due.values().min().copied())
    }

    pub(in crate::store) async fn wait(&self) {
        self.changed.notified().await;
    }
}
