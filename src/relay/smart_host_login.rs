//! Handles the result of a login at a smart host: back-off, wait reasons, events, and the flush of the mail that
//! waited.

use std::sync::Arc;

use serde_json::json;

use super::route::Router;
use super::smart_host_backoff::{SmartHostAccount, SmartHostBackoff, SmartHostBackoffs};
use crate::mail::Timestamp;
use crate::model::{Environment, EventKind, QueueFilter, TenantId, WaitReason};
use crate::queue::wait_reasons::WaitRecord;
use crate::queue::{NextHop, QueueManager};
use crate::store::{Batch, Journal, NewEvent, Queue, StoreError};

/// Characters of a reply that a back-off keeps.
const REPLY_CHARS_MAX: usize = 200;

/// The result of the login in an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginResult {
    /// No login was attempted.
    NotAttempted,
    /// The host accepted the login.
    Accepted,
    /// The host refused the login permanently, with this reply.
    Refused(String),
}

/// Handles logins at smart hosts.
pub struct SmartHostLogins {
    backoffs: SmartHostBackoffs,
    router: Arc<Router>,
    queue: Arc<QueueManager>,
}

impl SmartHostLogins {
    /// A handler without back-offs.
    pub fn new(router: Arc<Router>, queue: Arc<QueueManager>) -> Self {
        Self { backoffs: SmartHostBackoffs::default(), router, queue }
    }

    /// The back-off that the batch must wait for, if any.
    pub async fn backoff_of(
        &self,
        next_hop: &NextHop,
        batch: &Batch,
        now: Timestamp,
    ) -> Option<SmartHostBackoff> {
        if self.backoffs.is_empty() {
            return None;
        }
        let tenant = batch.message.tenant_id;
        if let Some(current) = self.router.cached_account(tenant) {
            for ended in self.backoffs.end_outdated(tenant, current.as_ref()) {
                self.end_backoff(&ended, "changed", now).await;
            }
        }
        let account = self.router.account_of(next_hop)?;
        let backoff = self.backoffs.check(&account, now)?;
        self.post_wait_reason(&backoff, next_hop, batch, now);
        Some(backoff)
    }

    /// Call after a refused login. Starts or extends the back-off, and returns it.
    pub async fn refused(
        &self,
        next_hop: &NextHop,
        batch: &Batch,
        reply: &str,
        now: Timestamp,
    ) -> Option<SmartHostBackoff> {
        let account = self.router.account_of(next_hop)?;
        let reply: String = reply.chars().take(REPLY_CHARS_MAX).collect();
        let (backoff, begins) = self.backoffs.record_refusal(&account, &reply, now);
        self.post_wait_reason(&backoff, next_hop, batch, now);
        if begins {
            let SmartHostAccount { host, user, .. } = &account;
            tracing::warn!(%host, %user, reply, "a smart host refused the login; its mail waits for the end of the back-off");
            let data = json!({ "host": host, "user": user, "reply": reply });
            self.append_event(EventKind::SmartHostLoginFailed, account.tenant, data, now).await;
        }
        Some(backoff)
    }

    /// Call after an accepted login. Returns the back-off that it ends, if there is one, for
    /// [`SmartHostLogins::end_backoff`].
    pub fn accepted(&self, next_hop: &NextHop) -> Option<SmartHostBackoff> {
        self.backoffs.record_success(&self.router.account_of(next_hop)?)
    }

    /// Removes the wait reasons of a back-off that has ended, and makes the mail due that waited for it.
    pub async fn end_backoff(&self, backoff: &SmartHostBackoff, cause: &str, now: Timestamp) {
        for subject in &backoff.subjects {
            self.queue.wait_reasons().lift(subject, WaitReason::SmartHostAuthFailed);
        }
        let SmartHostAccount { host, user, .. } = &backoff.account;
        tracing::info!(%host, %user, cause, "the back-off of a smart host ended");
        let data = json!({ "host": host, "user": user, "cause": cause });
        self.append_event(EventKind::SmartHostResumed, backoff.account.tenant, data, now).await;
        for subject in &backoff.subjects {
            if let Err(error) = self.queue.store().flush(subject.clone(), now).await {
                tracing::warn!(%error, "cannot flush the mail of a smart host; each delivery waits for its next attempt");
            }
        }
    }

    fn post_wait_reason(
        &self,
        backoff: &SmartHostBackoff,
        next_hop: &NextHop,
        batch: &Batch,
        now: Timestamp,
    ) {
        let subject = match next_hop {
            NextHop::TenantSmartHost(tenant, host) if host.destinations.is_empty() => {
                QueueFilter::tenant(*tenant)
            }
            NextHop::TenantSmartHost(tenant, _) => {
                QueueFilter { tenant_id: Some(*tenant), destination: Some(batch.destination.clone()) }
            }
            _ => QueueFilter::destination(batch.destination.clone()),
        };
        let record = WaitRecord {
            reason: WaitReason::SmartHostAuthFailed,
            detail: backoff.explain(),
            since: backoff.since,
            until: Some(backoff.until),
        };
        if self.backoffs.add_subject(&backoff.account, &subject) {
            self.queue.wait_reasons().post(subject, record, now);
        }
    }

    async fn append_event(
        &self,
        kind: EventKind,
        tenant: Option<TenantId>,
        data: serde_json::Value,
        at: Timestamp,
    ) {
        // Test mail uses no smart host.
        let environment = Some(Environment::Live);
        let event = NewEvent { kind, tenant_id: tenant, environment, data, at };
        let written: Result<(), StoreError> = self.queue.store().append(event).await;
        if let Err(error) = written {
            tracing::warn!(%error, event = %kind, "cannot write an event");
        }
    }
}

impl SmartHostBackoff {
    /// The back-off as one line of text. For an account of the platform it contains neither the user name nor the
    /// reply, which may repeat the user name, because tenants read the text.
    pub fn explain(&self) -> String {
        let SmartHostAccount { tenant, host, user, .. } = &self.account;
        match tenant {
            Some(_) => {
                format!("back-off: the smart host {host} refused the login of {user}: {}", self.reason)
            }
            None => format!("back-off: the smart host {host} refused the platform's login"),
        }
    }
}
