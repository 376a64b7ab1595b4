use crate::mail::Timestamp;
use crate::model::{TenantId, WebhookDeliveryId, WebhookDeliveryState, WebhookId};
use crate::store::dispatch::store_trait;
use crate::store::{
    NewWebhook, Page, PageRequest, Result, ServedWebhook, Webhook, WebhookDelivery, WebhookFilter,
    WebhookOutcome, WebhookPatch, WebhookSecret, WebhooksInFlight,
};

store_trait! {
    /// Where events are told. What an endpoint is to be told is written in the transaction of the event.
    pub trait Outbox {
        /// Events that are still to be told, to all endpoints together.
        async fn webhook_backlog(&self) -> Result<u64>;
        /// Adds an endpoint. [`Conflict::LimitReached`](crate::store::Conflict::LimitReached), [`Conflict::NoTenant`](crate::store::Conflict::NoTenant).
        async fn create_webhook(&self, new: NewWebhook, now: Timestamp) -> Result<Webhook>;
        /// One endpoint.
        async fn webhook(&self, scope: Option<TenantId>, id: WebhookId) -> Result<Option<Webhook>>;
        /// A page of endpoints, newest first.
        async fn list_webhooks(&self, filter: WebhookFilter, page: PageRequest) -> Result<Page<Webhook>>;
        /// Changes what the patch names.
        async fn update_webhook(
            &self,
            id: WebhookId,
            patch: WebhookPatch,
            now: Timestamp,
        ) -> Result<Option<Webhook>>;
        /// Puts a new secret in the place of the present one, which signs too until `previous_until`.
        async fn rotate_webhook_secret(
            &self,
            id: WebhookId,
            secret: WebhookSecret,
            previous_until: Timestamp,
            now: Timestamp,
        ) -> Result<Option<Webhook>>;
        /// Removes an endpoint and what it was told, step by step. Broken off, it leaves a disabled endpoint: ask again.
        /// False if it was not there.
        async fn delete_webhook(&self, id: WebhookId) -> Result<bool>;
        /// Tells an endpoint an event that is in no journal. `None` if the endpoint is not there.
        /// [`Conflict::WebhookBacklog`](crate::store::Conflict::WebhookBacklog).
        async fn test_webhook(&self, id: WebhookId, now: Timestamp) -> Result<Option<WebhookDelivery>>;
        /// A page of what an endpoint was told or is to be told, newest first.
        async fn list_webhook_deliveries(
            &self,
            webhook: WebhookId,
            state: Option<WebhookDeliveryState>,
            page: PageRequest,
        ) -> Result<Page<WebhookDelivery>>;
        /// One of them.
        async fn webhook_delivery(&self, id: WebhookDeliveryId) -> Result<Option<WebhookDelivery>>;
        /// Makes it due now, as if it had never been tried. [`Conflict::WebhookBacklog`](crate::store::Conflict::WebhookBacklog).
        async fn replay_webhook_delivery(
            &self,
            id: WebhookDeliveryId,
            now: Timestamp,
        ) -> Result<Option<WebhookDelivery>>;

        /// Takes the endpoints that may have something due, and says when the next will.
        fn take_due_webhooks(&self, now: Timestamp) -> (Vec<WebhookId>, Option<Timestamp>);
        /// Completes when there may be something due earlier than the last answer said.
        async fn wait_for_webhook_work(&self) -> ();
        /// At most `limit` of what an endpoint is to be told now, beside what is in flight. `None` if it is gone or disabled.
        async fn claim_webhook(
            &self,
            id: WebhookId,
            flights: WebhooksInFlight,
            limit: usize,
            now: Timestamp,
        ) -> Result<Option<ServedWebhook>>;
        /// Has [`Outbox::take_due_webhooks`] answer the endpoint at a time.
        fn schedule_webhook(&self, id: WebhookId, at: Timestamp);
        /// Writes what came of a try; what was deleted meanwhile is passed over.
        async fn record_webhook(&self, outcome: WebhookOutcome) -> Result<()>;
    }
}
