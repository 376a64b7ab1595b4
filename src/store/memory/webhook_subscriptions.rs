//! Subscriptions of the enabled webhooks, cached by the writer. Without webhooks an event costs no query.

use std::cell::RefCell;
use std::collections::HashMap;
use std::mem;

use crate::model::{Environment, EventKind, TenantId, WebhookId};
use crate::store::Webhook;

/// Only the thread that commits uses it.
pub(in crate::store) struct WebhookSubscriptions {
    /// Maximum of pending deliveries of one webhook.
    pending_max: u64,
    /// `None` until it is read from the database.
    known: RefCell<Option<Known>>,
    /// Webhooks with new deliveries in the transaction, and their earliest due time.
    touched: RefCell<HashMap<WebhookId, i64>>,
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
    pending: u64,
}

/// What to do for a webhook that subscribes to an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum SubscriptionAction {
    /// Write a delivery.
    Enqueue,
    /// Disable the webhook: its pending deliveries are at the limit.
    Disable,
}

impl WebhookSubscriptions {
    /// Nothing is known yet.
    pub(in crate::store) fn new(pending_max: u64) -> Self {
        Self { pending_max, known: RefCell::default(), touched: RefCell::default() }
    }

    /// Whether [`WebhookSubscriptions::load`] must be called first.
    pub(in crate::store) fn is_unknown(&self) -> bool {
        self.known.borrow().is_none()
    }

    /// Sets all enabled webhooks, with the number of pending deliveries of each.
    pub(in crate::store) fn load(&self, webhooks: impl IntoIterator<Item = (Webhook, u64)>) {
        let mut known = Known::default();
        for (webhook, pending) in webhooks {
            known.add(&webhook, pending);
        }
        *self.known.borrow_mut() = Some(known);
    }

    /// Clears the cache after a rollback, because the cached changes were not committed.
    pub(in crate::store) fn clear(&self) {
        *self.known.borrow_mut() = None;
    }

    /// Takes the webhooks with new deliveries, and their earliest due time.
    pub(in crate::store) fn take_touched(&self) -> HashMap<WebhookId, i64> {
        mem::take(&mut self.touched.borrow_mut())
    }

    /// Records that a webhook has a delivery due at a time.
    pub(in crate::store) fn touch(&self, id: WebhookId, at_us: i64) {
        let mut touched = self.touched.borrow_mut();
        touched.entry(id).and_modify(|known| *known = at_us.min(*known)).or_insert(at_us);
    }

    /// Counts a delivery that is no longer pending.
    pub(in crate::store) fn count_finished(&self, id: WebhookId) {
        self.count(id, |pending| pending.saturating_sub(1));
    }

    /// Counts a new pending delivery.
    pub(in crate::store) fn count_pending(&self, id: WebhookId) {
        self.count(id, |pending| pending.saturating_add(1));
    }

    fn count(&self, id: WebhookId, change: impl Fn(u64) -> u64) {
        if let Some(known) = self.known.borrow_mut().as_mut()
            && let Some(subscription) = known.subscriptions.get_mut(&id)
        {
            subscription.pending = change(subscription.pending);
        }
    }

    /// Whether the pending deliveries of a webhook are at the limit.
    pub(in crate::store) fn is_full(&self, id: WebhookId) -> bool {
        let known = self.known.borrow();
        let subscription = known.as_ref().and_then(|known| known.subscriptions.get(&id));
        subscription.is_some_and(|subscription| subscription.pending >= self.pending_max)
    }

    /// Removes a webhook that was disabled or deleted.
    pub(in crate::store) fn remove(&self, id: WebhookId) {
        if let Some(known) = self.known.borrow_mut().as_mut() {
            known.remove(id);
        }
    }

    /// Adds or updates an enabled webhook, if the cache is loaded.
    pub(in crate::store) fn put(&self, webhook: &Webhook, pending: u64) {
        if let Some(known) = self.known.borrow_mut().as_mut() {
            known.remove(webhook.id);
            known.add(webhook, pending);
        }
    }

    /// The webhooks that subscribe to an event; one without an environment is about an object that all share.
    pub(in crate::store) fn wanting(
        &self,
        kind: EventKind,
        tenant: Option<TenantId>,
        environment: Option<Environment>,
    ) -> Vec<(WebhookId, SubscriptionAction)> {
        let known = self.known.borrow();
        let Some(known) = known.as_ref().filter(|known| !known.subscriptions.is_empty()) else {
            return Vec::new();
        };
        let of_platform = known.by_tenant.get(&None).into_iter().flatten();
        let of_tenant = tenant.and_then(|_| known.by_tenant.get(&tenant)).into_iter().flatten();
        let mut wanting = Vec::new();
        for id in of_tenant.chain(of_platform) {
            let Some(subscription) = known.subscriptions.get(id) else { continue };
            if subscription.wants(kind, environment) {
                let is_full = subscription.pending >= self.pending_max;
                wanting.push((
                    *id,
                    if is_full { SubscriptionAction::Disable } else { SubscriptionAction::Enqueue },
                ));
            }
        }
        wanting
    }
}

impl Subscription {
    fn wants(&self, kind: EventKind, environment: Option<Environment>) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&kind))
            && environment.is_none_or(|environment| self.environments.contains(&environment))
    }
}

impl Known {
    fn add(&mut self, webhook: &Webhook, pending: u64) {
        let subscription = Subscription {
            kinds: webhook.kinds.clone(),
            environments: webhook.environments.clone(),
            pending,
        };
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
