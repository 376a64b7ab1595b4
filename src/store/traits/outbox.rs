use std::future::Future;

use crate::mail::Timestamp;
use crate::model::{TenantId, WebhookDeliveryId, WebhookDeliveryState, WebhookId};
use crate::store::{
    NewWebhook, Page, PageRequest, Result, ServedWebhook, Webhook, WebhookDelivery, WebhookFilter,
    WebhookFlights, WebhookOutcome, WebhookPatch, WebhookSecret,
};

/// Where events are told. What an endpoint is to be told is written in the transaction of the event.
pub trait Outbox {
    /// Events that are still to be told, to all endpoints together.
    fn webhook_backlog(&self) -> impl Future<Output = Result<u64>> + Send;
    /// Adds an endpoint. [`Conflict::LimitReached`](crate::store::Conflict::LimitReached), [`Conflict::NoTenant`](crate::store::Conflict::NoTenant).
    fn create_webhook(&self, new: NewWebhook, now: Timestamp)
    -> impl Future<Output = Result<Webhook>> + Send;
    /// One endpoint.
    fn webhook(
        &self,
        scope: Option<TenantId>,
        id: WebhookId,
    ) -> impl Future<Output = Result<Option<Webhook>>> + Send;
    /// A page of endpoints, newest first.
    fn list_webhooks(
        &self,
        filter: WebhookFilter,
        page: PageRequest,
    ) -> impl Future<Output = Result<Page<Webhook>>> + Send;
    /// Changes what the patch names.
    fn update_webhook(
        &self,
        id: WebhookId,
        patch: WebhookPatch,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<Webhook>>> + Send;
    /// Puts a new secret in the place of the present one, which signs too until `previous_until`.
    fn rotate_webhook_secret(
        &self,
        id: WebhookId,
        secret: WebhookSecret,
        previous_until: Timestamp,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<Webhook>>> + Send;
    /// Removes an endpoint and what it was told, step by step. Broken off, it leaves a disabled endpoint: ask again.
    /// False if it was not there.
    fn delete_webhook(&self, id: WebhookId) -> impl Future<Output = Result<bool>> + Send;
    /// Tells an endpoint an event that is in no journal. `None` if the endpoint is not there.
    /// [`Conflict::WebhookBacklog`](crate::store::Conflict::WebhookBacklog).
    fn test_webhook(
        &self,
        id: WebhookId,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<WebhookDelivery>>> + Send;
    /// A page of what an endpoint was told or is to be told, newest first.
    fn list_webhook_deliveries(
        &self,
        webhook: WebhookId,
        state: Option<WebhookDeliveryState>,
        page: PageRequest,
    ) -> impl Future<Output = Result<Page<WebhookDelivery>>> + Send;
    /// One of them.
    fn webhook_delivery(
        &self,
        id: WebhookDeliveryId,
    ) -> impl Future<Output = Result<Option<WebhookDelivery>>> + Send;
    /// Makes it due now, as if it had never been tried. [`Conflict::WebhookBacklog`](crate::store::Conflict::WebhookBacklog).
    fn replay_webhook_delivery(
        &self,
        id: WebhookDeliveryId,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<WebhookDelivery>>> + Send;

    /// Takes the endpoints that may have something due, and says when the next will.
    fn take_due_webhooks(&self, now: Timestamp) -> (Vec<WebhookId>, Option<Timestamp>);
    /// Completes when there may be something due earlier than the last answer said.
    fn wait_for_webhook_work(&self) -> impl Future<Output = ()> + Send;
    /// At most `limit` of what an endpoint is to be told now, beside what is in flight. `None` if it is gone or disabled.
    fn claim_webhook(
        &self,
        id: WebhookId,
        flights: WebhookFlights,
        limit: usize,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<ServedWebhook>>> + Send;
    /// Has [`Outbox::take_due_webhooks`] answer the endpoint at a time.
    fn note_webhook_due(&self, id: WebhookId, at: Timestamp);
    /// Writes what came of a try; what was deleted meanwhile is passed over.
    fn record_webhook(&self, outcome: WebhookOutcome) -> impl Future<Output = Result<()>> + Send;
}
