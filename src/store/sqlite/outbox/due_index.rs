//! When each webhook is to be looked at next. In memory only: after a crash the database says it.

use std::collections::HashMap;
use std::sync::Mutex;

use rusqlite::Connection;
use tokio::sync::Notify;

use crate::model::WebhookId;
use crate::store::sqlite::lock;

/// At most one entry for each webhook that has something to be told.
pub(in crate::store::sqlite) struct DueIndex {
    due_us: Mutex<HashMap<WebhookId, i64>>,
    changed: Notify,
}

impl DueIndex {
    /// Everything that is pending.
    pub(in crate::store::sqlite) fn open(connection: &Connection) -> rusqlite::Result<Self> {
        let sql = "SELECT webhook_id, min(next_attempt_us) FROM webhook_delivery
                   WHERE next_attempt_us IS NOT NULL GROUP BY webhook_id";
        let mut statement = connection.prepare(sql)?;
        let due = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let due_us = Mutex::new(due.collect::<rusqlite::Result<_>>()?);
        Ok(Self { due_us, changed: Notify::new() })
    }

    /// An earlier time goes before a later one.
    pub(in crate::store::sqlite) fn note_all(&self, noted: impl IntoIterator<Item = (WebhookId, i64)>) {
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
    pub(super) fn take_due(&self, now_us: i64) -> (Vec<WebhookId>, Option<i64>) {
        let mut due = lock(&self.due_us);
        let taken = due.extract_if(|_, at_us| *at_us <= now_us).map(|(id, _)| id).collect();
        (taken, due.values().min().copied())
    }

    pub(super) async fn wait(&self) {
        self.changed.notified().await;
    }
}
