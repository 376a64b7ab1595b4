//! Webhook deliveries: list, get, replay, and test events.

use schemars::JsonSchema;
use serde::Serialize;

use crate::mail::Timestamp;
use crate::model::{
    RefusalCode, TenantId, WebhookDeliveryId, WebhookDeliveryState, WebhookId, WebhookStatus,
};
use crate::store::{Event, EventView, Outbox, Webhook, WebhookAttempt, WebhookDelivery};

use crate::api::{ApiError, ApiResponse, List, RequestContext, Result};

/// The delivery of one event to one webhook.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "WebhookDelivery")]
pub struct DeliveryView {
    /// Its id, like `whd_…`: the `webhook-id` header of every attempt.
    id: WebhookDeliveryId,
    /// Always `webhook_delivery`.
    #[schemars(extend("const" = "webhook_delivery"))]
    object: &'static str,
    /// The webhook.
    webhook_id: WebhookId,
    /// Tenant of the webhook; `null` if it gets the events of all tenants.
    tenant_id: Option<TenantId>,
    /// `pending`, `delivered` or `failed`.
    status: WebhookDeliveryState,
    /// Attempts since the creation or the last replay.
    attempts: u32,
    /// Time of the next attempt; `null` unless pending.
    next_attempt_at: Option<Timestamp>,
    /// Result of the last attempt.
    last_attempt: Option<AttemptView>,
    /// The event.
    #[schemars(with = "EventView<'static>")]
    event: Event,
    /// Time of the event.
    created_at: Timestamp,
}

/// Result of one attempt.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "WebhookAttempt")]
pub struct AttemptView {
    /// Start time.
    at: Timestamp,
    /// Duration in milliseconds.
    duration_ms: u64,
    /// HTTP status of the response; `null` if there was none.
    response_code: Option<u16>,
    /// The beginning of the response body.
    response_body: String,
    /// The error, if there was no response.
    error: Option<String>,
}

impl DeliveryView {
    fn new(delivery: WebhookDelivery, tenant_id: Option<TenantId>) -> Self {
        Self {
            id: delivery.id,
            object: "webhook_delivery",
            webhook_id: delivery.webhook_id,
            tenant_id,
            status: delivery.state,
            attempts: delivery.attempts,
            next_attempt_at: delivery.next_attempt_at,
            last_attempt: delivery.last_attempt.map(AttemptView::from),
            created_at: delivery.event.created_at,
            event: delivery.event,
        }
    }
}

impl From<WebhookAttempt> for AttemptView {
    fn from(attempt: WebhookAttempt) -> Self {
        let WebhookAttempt { at, duration_ms, status, response, error } = attempt;
        Self { at, duration_ms, response_code: status, response_body: response, error }
    }
}

pub async fn list(mut call: RequestContext) -> Result<ApiResponse> {
    let webhook = super::find(&call).await?;
    let request = call.query.page::<WebhookDeliveryId>();
    let state = call.query.value::<WebhookDeliveryState>("status");
    call.query.finish()?;
    let page = call.store().list_webhook_deliveries(webhook.id, state, request.clone()).await?;
    ApiResponse::ok(&List::page(
        page,
        &request,
        |delivery| delivery.id.to_string(),
        |delivery| DeliveryView::new(delivery, webhook.tenant_id),
    ))
}

/// The delivery in the path and its webhook, if the caller may see the webhook.
async fn find(call: &RequestContext) -> Result<(WebhookDelivery, Webhook)> {
    let absent = || ApiError::not_found("webhook delivery");
    let delivery = call.store().webhook_delivery(call.id("webhook delivery")?).await?.ok_or_else(absent)?;
    let webhook = call.store().webhook(call.scope(), delivery.webhook_id).await?;
    let webhook = webhook.filter(|webhook| call.caller.sees(webhook.environment())).ok_or_else(absent)?;
    Ok((delivery, webhook))
}

pub async fn get(call: RequestContext) -> Result<ApiResponse> {
    let (delivery, webhook) = find(&call).await?;
    ApiResponse::ok(&DeliveryView::new(delivery, webhook.tenant_id))
}

/// `POST /v1/webhooks/deliveries/{id}/replay`: sends the same id, so that the receiver can detect a duplicate.
pub async fn replay(call: RequestContext) -> Result<ApiResponse> {
    let (delivery, webhook) = find(&call).await?;
    require_enabled(&webhook)?;
    let respond = move |replayed: &Option<WebhookDelivery>| {
        let replayed = replayed.clone().ok_or_else(|| ApiError::not_found("webhook delivery"))?;
        ApiResponse::accepted(&DeliveryView::new(replayed, webhook.tenant_id))
    };
    call.change(respond, async |store| Ok(store.replay_webhook_delivery(delivery.id, call.now).await?)).await
}

/// `POST /v1/webhooks/{id}/test`: sends the event `webhook.test`, even if the webhook subscribes to other events.
pub async fn test(call: RequestContext) -> Result<ApiResponse> {
    let webhook = super::find(&call).await?;
    require_enabled(&webhook)?;
    let respond = move |delivery: &Option<WebhookDelivery>| {
        let delivery = delivery.clone().ok_or_else(|| ApiError::not_found("webhook"))?;
        ApiResponse::accepted(&DeliveryView::new(delivery, webhook.tenant_id))
    };
    call.change(respond, async |store| Ok(store.test_webhook(webhook.id, call.now).await?)).await
}

fn require_enabled(webhook: &Webhook) -> Result<()> {
    match webhook.status {
        WebhookStatus::Enabled => Ok(()),
        WebhookStatus::Disabled => Err(ApiError::new(
            RefusalCode::WebhookDisabled,
            "the webhook is disabled",
            format!("enable it first: PATCH /v1/webhooks/{} with {{\"status\":\"enabled\"}}", webhook.id),
        )),
    }
}
