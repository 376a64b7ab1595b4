//! Who is to be told of which events: the enabled webhooks, as the writer remembers them. Where there are none, an
//! event costs no look at the database.

use std::cell::RefCell;
use std::collections::HashMap;
use std::mem;

use rusqlite::params;

use super::{deliveries, webhooks};
use crate::model::{DisabledReason, EventKind, TenantId, WebhookId};
use crate::store::sqlite::events::EventPayload;
use crate::store::sqlite::sql_types::count;
use crate::store::sqlite::writer::Tx;
use crate::store::{Conflict, Result, StoreError, Webhook};

/// What may wait for one webhook; one more disables it. A server that is away for days keeps no more of anybody's.
const PENDING_MAX: u64 = if cfg!(test) { 20 } else { 200_000 };

/// Belongs to the writer's thread.
#[derive(Default)]
pub(in crate::store::sqlite) struct Subscriptions {
    /// `None` if it has to be read first.
    known: RefCell<Option<Known>>,
    /// Which webhooks have more to be told, and when, once the transaction is committed.
    touched: RefCell<HashMap<WebhookId, i64>>,
}

#[derive(Default)]
struct Known {
    subscriptions: HashMap<WebhookId, Subscription>,
    /// Under `None` those that are told of everybody's events.
    by_tenant: HashMap<Option<TenantId>, Vec<WebhookId>>,
}

struct Subscription {
    /// None for all.
    kinds: Vec<EventKind>,
    pending: u64,
}

/// What an event means to a webhook that wants it.
enum Duty {
    Tell,
    Disable,
}

impl Subscriptions {
    /// After a rollback: what was changed here was not changed there.
    pub(in crate::store::sqlite) fn forget(&self) {
        *self.known.borrow_mut() = None;
    }

    pub(in crate::store::sqlite) fn take_touched(&self) -> HashMap<WebhookId, i64> {
        mem::take(&mut self.touched.borrow_mut())
    }

    /// A webhook has something to be told at a time.
    pub(super) fn touch(&self, id: WebhookId, at_us: i64) {
        let mut touched = self.touched.borrow_mut();
        touched.entry(id).and_modify(|known| *known = at_us.min(*known)).or_insert(at_us);
    }

    /// Something that was pending is no more.
    pub(super) fn count_finished(&self, id: WebhookId) {
        self.count(id, |pending| pending.saturating_sub(1));
    }

    /// Something more is pending.
    pub(super) fn count_pending(&self, id: WebhookId) {
        self.count(id, |pending| pending.saturating_add(1));
    }

    /// Refuses what somebody wants told while too much is pending.
    pub(super) fn require_room(&self, tx: &Tx<'_>, id: WebhookId) -> Result<()> {
        let mut known = self.known.borrow_mut();
        let is_full = Known::of(&mut known, tx)?.subscriptions.get(&id).is_some_and(Subscription::is_full);
        if is_full { Err(StoreError::Conflict(Conflict::WebhookBacklog)) } else { Ok(()) }
    }

    fn count(&self, id: WebhookId, change: impl Fn(u64) -> u64) {
        if let Some(known) = self.known.borrow_mut().as_mut()
            && let Some(subscription) = known.subscriptions.get_mut(&id)
        {
            subscription.pending = change(subscription.pending);
        }
    }

    /// A webhook is disabled or gone.
    pub(super) fn remove(&self, id: WebhookId) {
        if let Some(known) = self.known.borrow_mut().as_mut() {
            known.remove(id);
        }
    }

    /// A webhook is enabled, with these kinds.
    pub(super) fn put(&self, tx: &Tx<'_>, webhook: &Webhook) -> Result<()> {
        // Read first: what is not known yet will be read with this one.
        if let Some(known) = self.known.borrow_mut().as_mut() {
            known.remove(webhook.id);
            known.add(tx, webhook.id, webhook.tenant_id, webhook.kinds.clone())?;
        }
        Ok(())
    }

    fn duties(
        &self,
        tx: &Tx<'_>,
        kind: EventKind,
        tenant: Option<TenantId>,
    ) -> Result<Vec<(WebhookId, Duty)>> {
        let mut known = self.known.borrow_mut();
        let known = Known::of(&mut known, tx)?;
        let mut duties = Vec::new();
        if known.subscriptions.is_empty() {
            return Ok(duties);
        }
        let of_platform = known.by_tenant.get(&None).into_iter().flatten();
        let of_tenant = tenant.and_then(|_| known.by_tenant.get(&tenant)).into_iter().flatten();
        for id in of_tenant.chain(of_platform) {
            let Some(subscription) = known.subscriptions.get(id) else { continue };
            if subscription.kinds.is_empty() || subscription.kinds.contains(&kind) {
                duties.push((*id, if subscription.is_full() { Duty::Disable } else { Duty::Tell }));
            }
        }
        Ok(duties)
    }
}

impl Subscription {
    fn is_full(&self) -> bool {
        self.pending >= PENDING_MAX
    }
}

impl Known {
    fn of<'a>(known: &'a mut Option<Self>, tx: &Tx<'_>) -> Result<&'a mut Self> {
        match known {
            Some(known) => Ok(known),
            None => Ok(known.insert(Self::read(tx)?)),
        }
    }

    fn read(tx: &Tx<'_>) -> Result<Self> {
        let mut known = Self::default();
        for webhook in webhooks::enabled(tx)? {
            known.add(tx, webhook.id, webhook.tenant_id, webhook.kinds)?;
        }
        Ok(known)
    }

    fn add(
        &mut self,
        tx: &Tx<'_>,
        id: WebhookId,
        tenant: Option<TenantId>,
        kinds: Vec<EventKind>,
    ) -> Result<()> {
        let sql = "SELECT count(*) FROM webhook_delivery
                   WHERE webhook_id = ?1 AND next_attempt_us IS NOT NULL";
        let pending = tx.prepare_cached(sql)?.query_row(params![id], |row| count(row, 0))?;
        self.subscriptions.insert(id, Subscription { kinds, pending });
        self.by_tenant.entry(tenant).or_default().push(id);
        Ok(())
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

impl Tx<'_> {
    /// Writes a copy of an event for each webhook that wants it.
    pub(in crate::store::sqlite) fn tell_webhooks(&self, told: &EventPayload<'_>) -> Result<()> {
        for (id, duty) in self.subscriptions.duties(self, told.kind, told.subject.tenant_id)? {
            match duty {
                Duty::Tell => {
                    deliveries::insert(self, id, told)?;
                }
                Duty::Disable => webhooks::disable(self, id, DisabledReason::BacklogFull, told.at)?,
            }
        }
        Ok(())
    }
}
