//! Subscriptions of the enabled webhooks, cached by the writer. Without webhooks an event costs no query.

use std::cell::RefCell;
use std::collections::HashMap;

use parking_lot::Mutex;

use crate::model::{Environment, EventKind, TenantId, WebhookId};
use crate::store::Webhook;

/// The lanes of the writer share it. Jobs that change webhooks run alone.
#[derive(Default)]
pub(in crate::store) struct WebhookSubscriptions {
    /// `None` until it is read from the database.
    known: Mutex<Option<Known>>,
}

/// Webhooks with new deliveries in a transaction, and their earliest due time.
#[derive(Default)]
pub(in crate::store) struct TouchedWebhooks(RefCell<HashMap<WebhookId, i64>>);

impl TouchedWebhooks {
    /// Records that a webhook has a delivery due at a time.
    pub(in crate::store) fn touch(&self, id: WebhookId, at_us: i64) {
        let mut touched = self.0.borrow_mut();
        touched.entry(id).and_modify(|known| *known = at_us.min(*known)).or_insert(at_us);
    }

    pub(in crate::store) fn take(&self) -> HashMap<WebhookId, i64> {
        self.0.take()
    }
}

#[derive(Default)]
struct Known {
    subscriptions: HashMap<WebhookId, Subscription>,
    /// Under `None` those for the events of all tenants.
    by_tenant: HashMap<Option<TenantId>, Vec<WebhookId>>,
}

struct Subscription {
    /// Empty for all.
    kinds: Vec<EventKind>,
    environments: Vec<Environment>,
}

impl WebhookSubscriptions {
    /// Sets all enabled webhooks.
    pub(in crate::store) fn load(&self, webhooks: Vec<Webhook>) {
        let mut known = Known::default();
        webhooks.iter().for_each(|webhook| known.add(webhook));
        *self.known.lock() = Some(known);
    }

    /// Clears the cache after a rollback, because the cached changes were not committed.
    pub(in crate::store) fn clear(&self) {
        *self.known.lock() = None;
    }

    /// Removes a webhook that was disabled or deleted.
    pub(in crate::store) fn remove(&self, id: WebhookId) {
        if let Some(known) = self.known.lock().as_mut() {
            known.remove(id);
        }
    }

    /// Adds or updates an enabled webhook, if the cache is loaded.
    pub(in crate::store) fn put(&self, webhook: &Webhook) {
        if let Some(known) = self.known.lock().as_mut() {
            known.remove(webhook.id);
            known.add(webhook);
        }
    }

    /// The webhooks that subscribe to an event; one without an environment is about an object that all share. `None` if they
    /// must be [loaded](Self::load) first.
    pub(in crate::store) fn wanting(
        &self,
        kind: EventKind,
        tenant: Option<TenantId>,
        environment: Option<Environment>,
    ) -> Option<Vec<WebhookId>> {
        let known = self.known.lock();
        let known = known.as_ref()?;
        let of_platform = known.by_tenant.get(&None).into_iter().flatten();
        let of_tenant = tenant.and_then(|_| known.by_tenant.get(&tenant)).into_iter().flatten();
        let is_wanting = |id: &&WebhookId| {
            known.subscriptions.get(id).is_some_and(|subscription| subscription.wants(kind, environment))
        };
        Some(of_tenant.chain(of_platform).filter(is_wanting).copied().collect())
    }
}

impl Subscription {
    fn wants(&self, kind: EventKind, environment: Option<Environment>) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&kind))
            && environment.is_none_or(|environment| self.environments.contains(&environment))
    }
}

impl Known {
    fn add(&mut self, webhook: &Webhook) {
        let subscription =
            Subscription { kinds: webhook.kinds.clone(), environments: webhook.environments.clone() };
        self.subscriptions.insert(webhook.id, subscription);
        self.by_tenant.entry(webhook.tenant_id).or_default().push(webhook.id);
    }

    fn remove(&mut self, id: WebhookId) {
        if self.subscriptions.remove(&id).is_some() {
            self.by_tenant.retain(|_, ids| {
                ids.retain(|other| *other != id);
                !ids.is_empty()
            });
        }
    }
}
