#![allow(missing_docs)]
//! Webhooks and their deliveries.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::mail::Timestamp;
use crate::model::{
    DisabledReason, Environment, EventKind, MessageId, TenantId, WebhookDeliveryId, WebhookDeliveryState,
    WebhookId, WebhookStatus,
};

use super::Event;

/// An endpoint to which events are posted.
#[derive(Debug, Clone)]
pub struct Webhook {
    pub id: WebhookId,
    /// `None` for the events of all tenants.
    pub tenant_id: Option<TenantId>,
    pub url: String,
    /// Empty for all.
    pub kinds: Vec<EventKind>,
    /// The environments whose events it gets: at least one, in order.
    pub environments: Vec<Environment>,
    pub status: WebhookStatus,
    /// Set exactly while it is disabled.
    pub disabled_reason: Option<DisabledReason>,
    /// Since when all attempts have failed; `None` after a success.
    pub failing_since: Option<Timestamp>,
    /// Until when the secret before the last rotation also signs.
    pub previous_secret_until: Option<Timestamp>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

impl Webhook {
    /// The environment that it belongs to: test if it gets test events only.
    pub fn environment(&self) -> Environment {
        if self.environments.contains(&Environment::Live) { Environment::Live } else { Environment::Test }
    }
}

/// A webhook to create.
#[derive(Debug, Clone)]
pub struct NewWebhook {
    pub tenant_id: Option<TenantId>,
    pub url: String,
    pub kinds: Vec<EventKind>,
    pub environments: Vec<Environment>,
    pub secret: WebhookSecret,
}

/// Changes to a webhook. Enabling it resumes its pending deliveries.
#[derive(Debug, Clone, Default)]
pub struct WebhookPatch {
    pub url: Option<String>,
    pub kinds: Option<Vec<EventKind>>,
    pub environments: Option<Vec<Environment>>,
    pub status: Option<WebhookStatus>,
}

/// Selects webhooks.
#[derive(Debug, Clone, Default)]
pub struct WebhookFilter {
    pub tenant_id: Option<TenantId>,
    /// Only those that belong to no tenant.
    pub of_platform: bool,
    pub status: Option<WebhookStatus>,
    pub url: Option<String>,
    /// Webhooks that get events of this environment.
    pub environment: Option<Environment>,
    /// Webhooks of this environment only: [`Webhook::environment`].
    pub belongs_to: Option<Environment>,
}

/// The key that signs requests to a webhook.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookSecret(pub Zeroizing<Vec<u8>>);

impl std::fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WebhookSecret(…)")
    }
}

/// One event for one webhook.
#[derive(Debug, Clone)]
pub struct WebhookDelivery {
    /// The same in every attempt, so that the receiver recognises duplicates.
    pub id: WebhookDeliveryId,
    pub webhook_id: WebhookId,
    pub event: Event,
    pub state: WebhookDeliveryState,
    /// Attempts so far, since the last replay.
    pub attempts: u32,
    /// Set exactly while the state is pending.
    pub next_attempt_at: Option<Timestamp>,
    pub last_attempt: Option<WebhookAttempt>,
}

/// The result of one attempt.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WebhookAttempt {
    pub at: Timestamp,
    pub duration_ms: u64,
    /// `None` if there was no response.
    pub status: Option<u16>,
    /// The beginning of the response body.
    pub response: String,
    /// The error, if there was no response.
    pub error: Option<String>,
}

/// The next deliveries of a webhook.
#[derive(Debug, Clone, Default)]
pub struct WebhookWork {
    /// By due time; those of one message in the order of their events.
    pub deliveries: Vec<WebhookDelivery>,
    /// When the next deliveries are due, apart from those in flight and these.
    pub next_due_at: Option<Timestamp>,
}

/// A webhook with its secrets and next deliveries.
#[derive(Debug, Clone)]
pub struct ServedWebhook {
    pub webhook: Webhook,
    /// The current secret, then the earlier ones that still sign.
    pub secrets: Vec<WebhookSecret>,
    pub work: WebhookWork,
}

/// What the caller of [`crate::store::Outbox::claim_webhook`] has claimed and not finished.
#[derive(Debug, Clone, Default)]
pub struct WebhooksInFlight {
    pub deliveries: Vec<WebhookDeliveryId>,
    /// No later event of these messages may be claimed.
    pub messages: Vec<MessageId>,
}

/// The result of an attempt, to be written.
#[derive(Debug, Clone)]
pub struct WebhookOutcome {
    pub delivery_id: WebhookDeliveryId,
    pub webhook_id: WebhookId,
    pub attempt: WebhookAttempt,
    pub verdict: WebhookVerdict,
    /// A webhook that has failed since this time or longer is disabled.
    pub failing_since_max: Timestamp,
}

/// The consequence of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebhookVerdict {
    /// The endpoint accepted the event.
    Delivered,
    /// The next attempt is at this time.
    Retry(Timestamp),
    /// No further attempt.
    GivenUp,
    /// No further attempt, and the endpoint asks for no more events (410).
    Gone,
}
