//! Taking deliveries back. They are claimed first, in memory, so that the relay cannot get them meanwhile.

use std::collections::HashSet;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;

use crate::mail::{Host, Timestamp};
use crate::model::{DeliveryId, DeliveryState, EventKind, MessageId, TenantId};
use crate::store::Result;
use crate::store::sqlite::Tx;
use crate::store::sqlite::events::Subject;
use crate::store::sqlite::spool::ClaimTable;
use crate::store::sqlite::sql_types::us;

/// The open deliveries of a message.
#[derive(Default)]
pub(super) struct Open {
    /// Whose they are; `None` if there are none.
    pub(super) tenant: Option<TenantId>,
    pub(super) deliveries: Vec<(DeliveryId, Host)>,
}

impl Open {
    pub(super) fn ids(&self) -> Vec<DeliveryId> {
        self.deliveries.iter().map(|&(id, _)| id).collect()
    }

    /// Removes and answers those for which `is_meant` holds.
    pub(super) fn take_ids(&mut self, is_meant: impl Fn(DeliveryId) -> bool) -> Vec<DeliveryId> {
        let meant = |(id, _): &mut (DeliveryId, Host)| is_meant(*id);
        self.deliveries.extract_if(.., meant).map(|(id, _)| id).collect()
    }
}

pub(super) fn open_deliveries(connection: &Connection, message: MessageId) -> Result<Open> {
    let sql = "SELECT tenant_id, id, destination FROM delivery
               WHERE message_id = ?1 AND next_attempt_us IS NOT NULL ORDER BY position";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([message])?;
    let mut open = Open::default();
    while let Some(row) = rows.next()? {
        open.tenant = Some(row.get(0)?);
        open.deliveries.push((row.get(1)?, row.get(2)?));
    }
    Ok(open)
}

/// Deliveries that are claimed to be cancelled. Dropped before the commit, they are due as they were.
pub(super) struct Taken {
    memory: Arc<ClaimTable>,
    tenant: TenantId,
    ids: Vec<DeliveryId>,
}

/// What the event says.
#[derive(Serialize)]
struct EventPayload {
    recipient: String,
    attempts: u32,
}

impl Taken {
    pub(super) fn new(memory: &Arc<ClaimTable>, tenant: TenantId, ids: Vec<DeliveryId>) -> Self {
        Self { memory: Arc::clone(memory), tenant, ids }
    }

    /// Answers which were still open.
    pub(super) fn cancel(&self, tx: &Tx<'_>, message: MessageId, now: Timestamp) -> Result<Vec<DeliveryId>> {
        let sql = "UPDATE delivery SET state = ?2, next_attempt_us = NULL, updated_us = ?3
                   WHERE id = ?1 AND next_attempt_us IS NOT NULL RETURNING recipient, attempts";
        let mut statement = tx.prepare_cached(sql)?;
        let mut cancelled = Vec::new();
        for &id in &self.ids {
            let row = params![id, DeliveryState::Cancelled, us(now)];
            let told = statement
                .query_row(row, |row| Ok(EventPayload { recipient: row.get(0)?, attempts: row.get(1)? }))
                .optional()?;
            let Some(told) = told else { continue };
            let subject =
                Subject { tenant_id: Some(self.tenant), message_id: Some(message), delivery_id: Some(id) };
            tx.append(EventKind::MessageCancelled, subject, &told, now)?;
            cancelled.push(id);
        }
        Ok(cancelled)
    }

    /// The commit is synced: the claims end.
    pub(super) fn conclude(mut self, cancelled: Vec<DeliveryId>) -> Vec<DeliveryId> {
        let done: HashSet<DeliveryId> = cancelled.iter().copied().collect();
        self.memory.forget(cancelled.iter().copied());
        self.ids.retain(|id| !done.contains(id));
        cancelled
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if !self.ids.is_empty() {
            self.memory.release(&self.ids);
        }
    }
}
