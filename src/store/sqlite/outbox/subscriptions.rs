//! Keeps the writer's cache of webhook subscriptions in line with the database.

use super::webhooks;
use crate::model::WebhookId;
use crate::store::sqlite::unit_of_work::Tx;
use crate::store::{Conflict, Result, StoreError};

impl Tx<'_> {
    /// Loads the cache, if it is not loaded.
    pub(super) fn know_subscriptions(&self) -> Result<()> {
        if self.subscriptions.is_unknown() {
            let mut found = Vec::new();
            for webhook in webhooks::enabled(self)? {
                let pending = webhooks::count_pending(self, webhook.id)?;
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
