//! When each webhook is to be looked at next. In memory only: after a crash the database says it.

use std::collections::HashMap;
use std::sync::Mutex;

use tokio::sync::Notify;

use super::lock;
use crate::model::WebhookId;

/// At most one entry for each webhook that has something to be told.
pub(in crate::store) struct WebhookDueIndex {
    due_us: Mutex<HashMap<WebhookId, i64>>,
    changed: Notify,
}

impl WebhookDueIndex {
    /// With the earliest time of each webhook that has something pending.
    pub(in crate::store) fn new(due_us: HashMap<WebhookId, i64>) -> Self {
        Self { due_us: Mutex::new(due_us), changed: Notify::new() }
    }

    /// An earlier time goes before a later one.
    pub(in crate::store) fn note_all(&self, noted: impl IntoIterator<Item = (WebhookId, i64)>) {
        let mut noted = noted.into_iter().peekable();
        if noted.peek().is_none() {
            return;
        }
        let mut due = lock(&self.due_us);
        for (id, at_us) in noted {
            due.entry(id).and_modify(|known| *known = at_us.min(*known)).or_insert(at_us);
        }
        self.changed.notify_one();
    }

    /// Takes out what is due, and says when the next is.
    pub(in crate::store) fn take_due(&self, now_us: i64) -> (Vec<WebhookId>, Option<i64>) {
        let mut due = lock(&self.due_us);
        let taken = due.extract_if(|_, at_us| *at_us <= now_us).map(|(id, _)| id).collect();
        (taken, due.values().min().copied())
    }

    pub(in crate::store) async fn wait(&self) {
        self.changed.notified().await;
    }
}
