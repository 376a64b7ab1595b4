//! Keeps the writer's cache of webhook subscriptions in line with the database.

use rusqlite::{Connection, params};

use super::{deliveries, webhooks};
use crate::model::{DisabledReason, WebhookId};
use crate::store::memory::SubscriptionAction;
use crate::store::sqlite::events::EventPayload;
use crate::store::sqlite::sql_types::count;
use crate::store::sqlite::unit_of_work::Tx;
use crate::store::{Conflict, Result, StoreError, Webhook};

impl Tx<'_> {
    /// Writes a delivery for each webhook that subscribes to the event.
    pub(in crate::store::sqlite) fn enqueue_for_webhooks(&self, event: &EventPayload<'_>) -> Result<()> {
        self.know_subscriptions()?;
        for (id, action) in self.subscriptions.wanting(event.kind, event.subject.tenant_id) {
            match action {
                SubscriptionAction::Enqueue => {
                    deliveries::insert(self, id, event)?;
                }
                SubscriptionAction::Disable => {
                    webhooks::disable(self, id, DisabledReason::BacklogFull, event.at)?;
                }
            }
        }
        Ok(())
    }

    fn know_subscriptions(&self) -> Result<()> {
        if self.subscriptions.is_unknown() {
            let mut found = Vec::new();
            for webhook in webhooks::enabled(self)? {
                let pending = count_pending(self, webhook.id)?;
                found.push((webhook, pending));
            }
            self.subscriptions.load(found);
        }
        Ok(())
    }
}

/// Refuses a requested delivery while too many are pending.
pub(super) fn require_room(tx: &Tx<'_>, id: WebhookId) -> Result<()> {
    tx.know_subscriptions()?;
    if tx.subscriptions.is_full(id) { Err(StoreError::Conflict(Conflict::WebhookBacklog)) } else { Ok(()) }
}

/// Updates the cache with an enabled webhook, if the cache is loaded.
pub(super) fn put(tx: &Tx<'_>, webhook: &Webhook) -> Result<()> {
    if !tx.subscriptions.is_unknown() {
        tx.subscriptions.put(webhook, count_pending(tx, webhook.id)?);
    }
    Ok(())
}

fn count_pending(connection: &Connection, id: WebhookId) -> Result<u64> {
    let sql = "SELECT count(*) FROM webhook_delivery WHERE webhook_id = ?1 AND next_attempt_us IS NOT NULL";
    Ok(connection.prepare_cached(sql)?.query_row(params![id], |row| count(row, 0))?)
}
