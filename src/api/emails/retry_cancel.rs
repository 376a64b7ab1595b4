//! Retry and cancellation of queued messages.

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::Serialize;

use crate::api::{ApiError, ApiResponse, RequestContext, Result};
use crate::mail::Address;
use crate::model::{DeliveryId, MessageId, RefusalCode};
use crate::store::{Journal, RetryCancelResult};

/// Result of a retry.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "EmailRetry")]
pub struct RetryView {
    /// The message.
    id: MessageId,
    /// Always `email_retry`.
    #[schemars(extend("const" = "email_retry"))]
    object: &'static str,
    /// Deferred deliveries that are due now.
    retried: Vec<DeliveryName>,
    /// Deliveries with an attempt in progress, and in a cluster those that another node has in memory.
    in_flight: Vec<DeliveryName>,
}

/// Result of a cancellation.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "EmailCancellation")]
pub struct CancellationView {
    /// The message.
    id: MessageId,
    /// Always `email_cancellation`.
    #[schemars(extend("const" = "email_cancellation"))]
    object: &'static str,
    /// Cancelled deliveries.
    cancelled: Vec<DeliveryName>,
    /// Deliveries with an attempt in progress, and in a cluster those that another node did not cancel within 1.5 seconds.
    /// They can be cancelled if the attempt fails.
    in_flight: Vec<DeliveryName>,
}

/// One recipient of the message.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "DeliveryName")]
pub struct DeliveryName {
    /// The delivery.
    id: DeliveryId,
    /// The recipient.
    recipient: Address,
}

/// The open deliveries of the message in the path; at least one.
struct Target {
    id: MessageId,
    recipients: HashMap<DeliveryId, Address>,
}

impl Target {
    async fn find(call: &RequestContext) -> Result<Self> {
        let id = super::find(call).await?.id;
        let deliveries = call.store().deliveries(id).await?;
        let open = deliveries.into_iter().filter(|delivery| delivery.state.is_open());
        let recipients: HashMap<_, _> = open.map(|delivery| (delivery.id, delivery.recipient)).collect();
        if recipients.is_empty() {
            return Err(ApiError::new(
                RefusalCode::MessageFinished,
                "all deliveries of this message are finished",
                "GET /v1/emails/{id} shows the result of each; send a new message to the recipients that failed",
            ));
        }
        Ok(Self { id, recipients })
    }

    fn name(&self, ids: Vec<DeliveryId>) -> Vec<DeliveryName> {
        let named = |id| Some(DeliveryName { id, recipient: self.recipients.get(&id)?.clone() });
        ids.into_iter().filter_map(named).collect()
    }
}

/// `POST /v1/emails/{id}/retry`: makes deferred deliveries due now. Scheduled deliveries stay scheduled.
pub async fn retry(call: RequestContext) -> Result<ApiResponse> {
    let target = Target::find(&call).await?;
    let RetryCancelResult { changed, in_flight } = call.api.queue.retry(target.id, call.now).await?;
    ApiResponse::ok(&RetryView {
        id: target.id,
        object: "email_retry",
        retried: target.name(changed),
        in_flight: target.name(in_flight),
    })
}

/// `POST /v1/emails/{id}/cancel`: cancels deliveries without an attempt in progress.
pub async fn cancel(call: RequestContext) -> Result<ApiResponse> {
    let target = Target::find(&call).await?;
    let RetryCancelResult { changed, in_flight } = call.api.queue.cancel(target.id, call.now).await?;
    ApiResponse::ok(&CancellationView {
        id: target.id,
        object: "email_cancellation",
        cancelled: target.name(changed),
        in_flight: target.name(in_flight),
    })
}
