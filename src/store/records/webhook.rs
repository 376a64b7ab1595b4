#![allow(missing_docs)]
//! Where events are told, and how far the telling is.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::mail::Timestamp;
use crate::model::{
    DisabledReason, EventKind, MessageId, TenantId, WebhookDeliveryId, WebhookDeliveryState, WebhookId,
    WebhookStatus,
};

use super::Event;

/// An endpoint that is told of events.
#[derive(Debug, Clone)]
pub struct Webhook {
    pub id: WebhookId,
    /// Whose events; `None` for everybody's.
    pub tenant_id: Option<TenantId>,
    pub url: String,
    /// None for all.
    pub kinds: Vec<EventKind>,
    pub status: WebhookStatus,
    /// Set exactly while it is disabled.
    pub disabled_reason: Option<DisabledReason>,
    /// Since when nothing arrived there; `None` after a success.
    pub failing_since: Option<Timestamp>,
    /// Until when the secret before the present one signs too.
    pub previous_secret_until: Option<Timestamp>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// An endpoint to be added.
#[derive(Debug, Clone)]
pub struct NewWebhook {
    pub tenant_id: Option<TenantId>,
    pub url: String,
    pub kinds: Vec<EventKind>,
    pub secret: WebhookSecret,
}

/// What is to change of an endpoint. Enabling it takes up what waited.
#[derive(Debug, Clone, Default)]
pub struct WebhookPatch {
    pub url: Option<String>,
    pub kinds: Option<Vec<EventKind>>,
    pub status: Option<WebhookStatus>,
}

/// Which endpoints.
#[derive(Debug, Clone, Default)]
pub struct WebhookFilter {
    pub tenant_id: Option<TenantId>,
    pub status: Option<WebhookStatus>,
    pub url: Option<String>,
}

/// The octets that sign what an endpoint is told.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookSecret(pub Zeroizing<Vec<u8>>);

impl std::fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WebhookSecret(…)")
    }
}

/// One event for one endpoint.
#[derive(Debug, Clone)]
pub struct WebhookDelivery {
    /// The same at every try; the receiver drops repeats by it.
    pub id: WebhookDeliveryId,
    pub webhook_id: WebhookId,
    pub event: Event,
    pub state: WebhookDeliveryState,
    /// Tries so far, since it was last asked for.
    pub attempts: u32,
    /// Set exactly while the state is pending.
    pub next_attempt_at: Option<Timestamp>,
    pub last_attempt: Option<WebhookAttempt>,
}

/// What came of one try.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WebhookAttempt {
    pub at: Timestamp,
    pub duration_ms: u64,
    /// `None` if there was no answer.
    pub status: Option<u16>,
    /// The beginning of the answer's body.
    pub response: String,
    /// What went wrong, if there was no answer.
    pub error: Option<String>,
}

/// What an endpoint is to be told next.
#[derive(Debug, Clone, Default)]
pub struct WebhookWork {
    /// In the order of their times; those of one message in the order of events.
    pub deliveries: Vec<WebhookDelivery>,
    /// When there will be more, beside what is claimed and due.
    pub next_due_at: Option<Timestamp>,
}

/// An endpoint with what it takes to tell it.
#[derive(Debug, Clone)]
pub struct ServedWebhook {
    pub webhook: Webhook,
    /// The present secret first; the one before while it still signs.
    pub secrets: Vec<WebhookSecret>,
    pub work: WebhookWork,
}

/// What the caller of [`crate::store::Outbox::claim_webhook`] is busy with already.
#[derive(Debug, Clone, Default)]
pub struct WebhooksInFlight {
    pub deliveries: Vec<WebhookDeliveryId>,
    /// Of these no later event is begun.
    pub messages: Vec<MessageId>,
}

/// What came of a try, to be written.
#[derive(Debug, Clone)]
pub struct WebhookOutcome {
    pub delivery_id: WebhookDeliveryId,
    pub webhook_id: WebhookId,
    pub attempt: WebhookAttempt,
    pub verdict: WebhookVerdict,
    /// An endpoint that fails since this time or longer is disabled.
    pub failing_since_max: Timestamp,
}

/// What follows from a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebhookVerdict {
    /// It arrived.
    Delivered,
    /// It is tried again then.
    Retry(Timestamp),
    /// It is given up.
    GivenUp,
    /// It is given up, and the endpoint wants no more.
    Gone,
}
