//! Which webhooks want which events: the enabled ones, as the writer remembers them. Where there are none, an event costs
//! no look at the database.

use std::cell::RefCell;
use std::collections::HashMap;
use std::mem;

use crate::model::{EventKind, TenantId, WebhookId};
use crate::store::Webhook;

/// What may wait for one webhook; one more disables it. A server that is away for days keeps no more of anybody's.
const PENDING_MAX: u64 = if cfg!(test) { 20 } else { 200_000 };

/// Belongs to whoever commits.
#[derive(Default)]
pub(in crate::store) struct WebhookSubscriptions {
    /// `None` if it has to be read first.
    known: RefCell<Option<Known>>,
    /// Which webhooks have more to be sent, and when, once the transaction is committed.
    touched: RefCell<HashMap<WebhookId, i64>>,
}

#[derive(Default)]
struct Known {
    subscriptions: HashMap<WebhookId, Subscription>,
    /// Under `None` those that want everybody's events.
    by_tenant: HashMap<Option<TenantId>, Vec<WebhookId>>,
}

struct Subscription {
    /// None for all.
    kinds: Vec<EventKind>,
    pending: u64,
}

/// What to do for a webhook that wants an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum SubscriptionAction {
    /// Write a copy of the event for it.
    Enqueue,
    /// Disable it: as much waits for it as may.
    Disable,
}

impl WebhookSubscriptions {
    /// Whether [`WebhookSubscriptions::learn`] has to come before the next question.
    pub(in crate::store) fn is_unknown(&self) -> bool {
        self.known.borrow().is_none()
    }

    /// All enabled webhooks, with how much is pending for each.
    pub(in crate::store) fn learn(&self, webhooks: impl IntoIterator<Item = (Webhook, u64)>) {
        let mut known = Known::default();
        for (webhook, pending) in webhooks {
            known.add(&webhook, pending);
        }
        *self.known.borrow_mut() = Some(known);
    }

    /// After a rollback: what was changed here was not changed there.
    pub(in crate::store) fn forget(&self) {
        *self.known.borrow_mut() = None;
    }

    /// Which webhooks have something more to be sent, and from when on.
    pub(in crate::store) fn take_touched(&self) -> HashMap<WebhookId, i64> {
        mem::take(&mut self.touched.borrow_mut())
    }

    /// A webhook has something to be sent at a time.
    pub(in crate::store) fn touch(&self, id: WebhookId, at_us: i64) {
        let mut touched = self.touched.borrow_mut();
        touched.entry(id).and_modify(|known| *known = at_us.min(*known)).or_insert(at_us);
    }

    /// Something that was pending is no more.
    pub(in crate::store) fn count_finished(&self, id: WebhookId) {
        self.count(id, |pending| pending.saturating_sub(1));
    }

    /// Something more is pending.
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

    /// Whether as much is pending for a webhook as may be.
    pub(in crate::store) fn is_full(&self, id: WebhookId) -> bool {
        let known = self.known.borrow();
        let subscription = known.as_ref().and_then(|known| known.subscriptions.get(&id));
        subscription.is_some_and(Subscription::is_full)
    }

    /// A webhook is disabled or gone.
    pub(in crate::store) fn remove(&self, id: WebhookId) {
        if let Some(known) = self.known.borrow_mut().as_mut() {
            known.remove(id);
        }
    }

    /// A webhook is enabled, with the kinds that it has now. Nothing to do where nothing is known yet.
    pub(in crate::store) fn put(&self, webhook: &Webhook, pending: u64) {
        if let Some(known) = self.known.borrow_mut().as_mut() {
            known.remove(webhook.id);
            known.add(webhook, pending);
        }
    }

    /// The webhooks that want an event.
    pub(in crate::store) fn wanting(
        &self,
        kind: EventKind,
        tenant: Option<TenantId>,
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
            if subscription.kinds.is_empty() || subscription.kinds.contains(&kind) {
                let is_full = subscription.is_full();
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
    fn is_full(&self) -> bool {
        self.pending >= PENDING_MAX
    }
}

impl Known {
    fn add(&mut self, webhook: &Webhook, pending: u64) {
        let subscription = Subscription { kinds: webhook.kinds.clone(), pending };
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
