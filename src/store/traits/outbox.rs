use crate::mail::Timestamp;
use crate::model::{TenantId, WebhookDeliveryId, WebhookDeliveryState, WebhookId};
use crate::store::traits::store_trait;
use crate::store::{
    NewWebhook, Page, PageRequest, Result, ServedWebhook, Webhook, WebhookDelivery, WebhookFilter,
    WebhookOutcome, WebhookPatch, WebhookSecret, WebhooksInFlight,
};

store_trait! {
    /// Webhooks and their deliveries. A delivery is written in the transaction of its event.
    pub trait Outbox {
        /// The number of pending deliveries of all webhooks.
        async fn webhook_backlog(&self) -> Result<u64>;
        /// Creates a webhook. Fails with [`Conflict::LimitReached`](crate::store::Conflict::LimitReached), [`Conflict::NoTenant`](crate::store::Conflict::NoTenant).
        async fn create_webhook(&self, new: NewWebhook, now: Timestamp) -> Result<Webhook>;
        /// One webhook.
        async fn webhook(&self, scope: Option<TenantId>, id: WebhookId) -> Result<Option<Webhook>>;
        /// A page of webhooks, newest first.
        async fn list_webhooks(&self, filter: WebhookFilter, page: PageRequest) -> Result<Page<Webhook>>;
        /// Applies a patch.
        async fn update_webhook(
            &self,
            id: WebhookId,
            patch: WebhookPatch,
            now: Timestamp,
        ) -> Result<Option<Webhook>>;
        /// Replaces the secret. The previous one also signs until `previous_until`, and earlier ones until the end that their
        /// replacement set; at most ten.
        async fn rotate_webhook_secret(
            &self,
            id: WebhookId,
            secret: WebhookSecret,
            previous_until: Timestamp,
            now: Timestamp,
        ) -> Result<Option<Webhook>>;
        /// Deletes a webhook and its deliveries in steps. An interrupted deletion leaves a disabled webhook; call again to
        /// finish it. False if it did not exist.
        async fn delete_webhook(&self, id: WebhookId) -> Result<bool>;
        /// Enqueues a test event that is not in the journal. `None` if the webhook does not exist. Fails with
        /// [`Conflict::WebhookBacklog`](crate::store::Conflict::WebhookBacklog).
        async fn test_webhook(&self, id: WebhookId, now: Timestamp) -> Result<Option<WebhookDelivery>>;
        /// A page of the deliveries of a webhook, newest first.
        async fn list_webhook_deliveries(
            &self,
            webhook: WebhookId,
            state: Option<WebhookDeliveryState>,
            page: PageRequest,
        ) -> Result<Page<WebhookDelivery>>;
        /// One delivery.
        async fn webhook_delivery(&self, id: WebhookDeliveryId) -> Result<Option<WebhookDelivery>>;
        /// Makes a delivery due now as if it had not been attempted. Fails with [`Conflict::WebhookBacklog`](crate::store::Conflict::WebhookBacklog).
        async fn replay_webhook_delivery(
            &self,
            id: WebhookDeliveryId,
            now: Timestamp,
        ) -> Result<Option<WebhookDelivery>>;

        /// Adds the webhooks of this node to the due index that have deliveries of other nodes.
        async fn find_webhook_work(&self) -> Result<()>;
        /// Removes the webhooks that may have due deliveries from the due index and returns them, with the next due time.
        fn take_due_webhooks(&self, now: Timestamp) -> (Vec<WebhookId>, Option<Timestamp>);
        /// Completes when a delivery may be due earlier than the last returned time.
        async fn wait_for_webhook_work(&self) -> ();
        /// At most `limit` due deliveries of a webhook that are not in flight. `None` if it is deleted or disabled, or if
        /// another node serves it.
        async fn claim_webhook(
            &self,
            id: WebhookId,
            in_flight: WebhooksInFlight,
            limit: usize,
            now: Timestamp,
        ) -> Result<Option<ServedWebhook>>;
        /// Adds a webhook to the due index: [`Outbox::take_due_webhooks`] returns it from this time on.
        fn schedule_webhook(&self, id: WebhookId, at: Timestamp);
        /// Writes the result of an attempt. Ignores deliveries that were deleted.
        async fn record_webhook(&self, outcome: WebhookOutcome) -> Result<()>;
    }
}
