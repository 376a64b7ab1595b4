//! What follows when a smart host refuses our login, or takes it again: the hold, what the board and the journal say of
//! it, and that what waits is tried.

use serde_json::json;

use super::RelayContext;
use super::smart_host_backoff::{SmartHostAccount, SmartHostBackoff};
use crate::mail::Timestamp;
use crate::model::{EventKind, QueueFilter, TenantId, WaitReason};
use crate::queue::NextHop;
use crate::queue::wait_reasons::WaitRecord;
use crate::store::{Batch, Journal, NewEvent, Queue, StoreError};

/// What a try learnt of the account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// Nothing: no new connection, or none that came so far.
    Untold,
    /// The host took it.
    Accepted,
    /// The host refused it for good: its words.
    Refused(String),
}

impl RelayContext {
    /// Why this batch must wait, if its account is on hold.
    pub async fn hold_of(&self, way: &NextHop, batch: &Batch, now: Timestamp) -> Option<SmartHostBackoff> {
        if self.holds.is_empty() {
            return None;
        }
        let tenant = batch.message.tenant_id;
        if let Some(current) = self.router.known_account(tenant) {
            for ended in self.holds.settle(tenant, current.as_ref()) {
                self.end_hold(&ended, tenant, "changed", now).await;
            }
        }
        let account = self.router.account_of(way)?;
        let hold = self.holds.ask(&account, now)?;
        self.post(&hold, way, batch, now);
        Some(hold)
    }

    /// The account of a way was refused: the hold that this batch falls under, and its event if it begins.
    pub async fn login_refused(
        &self,
        way: &NextHop,
        batch: &Batch,
        words: &str,
        now: Timestamp,
    ) -> Option<SmartHostBackoff> {
        let account = self.router.account_of(way)?;
        let (hold, begins) = self.holds.refuse(&account, words, now);
        self.post(&hold, way, batch, now);
        if begins {
            let SmartHostAccount { host, user, .. } = &account;
            tracing::warn!(%host, %user, reply = words, "a smart host refused the login: its mail is on hold");
            let data = json!({ "host": host, "user": user, "reply": words });
            self.tell(EventKind::SmartHostLoginFailed, account.tenant, data, now).await;
        }
        Some(hold)
    }

    /// The account of a way was taken.
    pub async fn login_accepted(&self, way: &NextHop, batch: &Batch, now: Timestamp) {
        if let Some(account) = self.router.account_of(way)
            && let Some(hold) = self.holds.accept(&account)
        {
            self.end_hold(&hold, batch.message.tenant_id, "login_accepted", now).await;
        }
    }

    async fn end_hold(&self, hold: &SmartHostBackoff, tenant: TenantId, cause: &str, now: Timestamp) {
        for subject in &hold.subjects {
            self.queue.wait_reasons().lift(subject, WaitReason::SmartHostAuthFailed);
        }
        let SmartHostAccount { host, user, .. } = &hold.account;
        tracing::info!(%host, %user, cause, "mail for a smart host goes on");
        let data = json!({ "host": host, "user": user, "cause": cause });
        self.tell(EventKind::SmartHostResumed, hold.account.tenant, data, now).await;
        if let Err(error) = self.store.flush(QueueFilter::tenant(tenant), now).await {
            tracing::warn!(%error, "what was on hold waits for its time");
        }
    }

    fn post(&self, hold: &SmartHostBackoff, way: &NextHop, batch: &Batch, now: Timestamp) {
        let subject = match way {
            NextHop::TenantSmartHost(tenant, host) if host.destinations.is_empty() => {
                QueueFilter::tenant(*tenant)
            }
            NextHop::TenantSmartHost(tenant, _) => {
                QueueFilter { tenant_id: Some(*tenant), destination: Some(batch.destination.clone()) }
            }
            _ => QueueFilter::destination(batch.destination.clone()),
        };
        let notice = WaitRecord {
            reason: WaitReason::SmartHostAuthFailed,
            detail: hold.explain(),
            since: hold.since,
            until: Some(hold.until),
        };
        self.queue.wait_reasons().post(subject.clone(), notice, now);
        self.holds.note(&hold.account, subject);
    }

    async fn tell(&self, kind: EventKind, tenant: Option<TenantId>, data: serde_json::Value, at: Timestamp) {
        let written: Result<(), StoreError> =
            self.store.append(NewEvent { kind, tenant_id: tenant, data, at }).await;
        if let Err(error) = written {
            tracing::warn!(%error, event = %kind, "an event was not written");
        }
    }
}

impl SmartHostBackoff {
    /// For people who have mail that waits: one line. Tenants learn nothing of the platform's account, which the host's
    /// words may name.
    pub fn explain(&self) -> String {
        let SmartHostAccount { tenant, host, user, .. } = &self.account;
        match tenant {
            Some(_) => format!("on hold: the smart host {host} refused the login of {user}: {}", self.reason),
            None => format!("on hold: the smart host {host} refused the platform's login"),
        }
    }
}
