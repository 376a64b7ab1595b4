//! Messages. `send` accepts them: `draft` validates the request, `compose` builds the MIME message, `batch` handles all
//! messages of a request. `timeline` and `raw` read a message; `retry_cancel` retries or cancels its deliveries.

mod batch;
mod compose;
mod draft;
mod mailbox;
mod raw;
mod retry_cancel;
mod send;
mod timeline;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::mail::{Address, DomainName, ReversePath, Timestamp};
use crate::model::{BounceClass, DeliveryId, DeliveryState, Environment, KeyId, MessageId, TenantId};
use crate::store::{Delivery, Journal, Message, MessageFilter, MessageSummary, Metadata};

use super::error::{ApiError, Result};
use super::page::List;
use super::request_context::RequestContext;
use super::response::ApiResponse;

pub use self::retry_cancel::{CancellationView, RetryView, cancel, retry};
pub use draft::{EmailRequest, Limits as SendLimits};
pub use raw::get as raw;
pub use send::{Accepted, BatchRequest, send, send_batch};
pub use timeline::{Entry, get as timeline};

/// A message and what became of it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Email")]
pub struct EmailView {
    /// Its id.
    id: MessageId,
    /// Always `email`.
    #[schemars(extend("const" = "email"))]
    object: &'static str,
    /// The tenant.
    tenant_id: TenantId,
    /// The key that sent it.
    key_id: Option<KeyId>,
    /// `live` or `test`. A test message is stored but not delivered.
    environment: Environment,
    /// Combined status of all deliveries: open while any is open, then the worst final status.
    status: DeliveryState,
    /// Reverse path; `null` is the null reverse path.
    from: Option<Address>,
    /// Recipients. Lists contain only the first ones.
    to: Vec<Address>,
    /// How many recipients there are.
    recipient_count: u64,
    /// The From field.
    header_from: Option<String>,
    /// The subject.
    subject: Option<String>,
    /// The Message-ID field, without angle brackets.
    message_id: Option<String>,
    /// Size in octets as accepted.
    size: u64,
    /// The domain that signs it.
    dkim_domain: Option<DomainName>,
    /// Tags, for `GET /v1/emails?tag=`.
    tags: Vec<String>,
    /// Metadata of the sender.
    #[schemars(with = "Map<String, Value>")]
    metadata: Metadata,
    /// Time of acceptance.
    created_at: Timestamp,
    /// Scheduled time of the first attempt.
    send_at: Option<Timestamp>,
    /// Expiry of delivery.
    expires_at: Timestamp,
    /// Deliveries; absent in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    deliveries: Option<Vec<DeliveryView>>,
}

/// One recipient of a message.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Delivery")]
pub struct DeliveryView {
    /// Its id.
    id: DeliveryId,
    /// Always `delivery`.
    #[schemars(extend("const" = "delivery"))]
    object: &'static str,
    /// The recipient.
    recipient: Address,
    /// The status.
    status: DeliveryState,
    /// Delivery attempts so far.
    attempts: u32,
    /// Time of the next attempt; `null` if finished.
    next_attempt_at: Option<Timestamp>,
    /// The last reply of the remote server.
    last_reply: Option<String>,
    /// Why the last attempt failed, as a stable code.
    bounce_class: Option<BounceClass>,
    /// Time of the last change.
    updated_at: Timestamp,
}

impl EmailView {
    fn new(summary: MessageSummary) -> Self {
        let MessageSummary { message, recipients, recipient_count, states } = summary;
        Self {
            id: message.id,
            object: "email",
            tenant_id: message.tenant_id,
            key_id: message.key_id,
            environment: message.environment,
            status: summarize(&states),
            from: message.reverse_path.mailbox().cloned(),
            to: recipients,
            recipient_count,
            header_from: message.header_from,
            subject: message.subject,
            message_id: message.header_message_id,
            size: message.size,
            dkim_domain: message.dkim_domain,
            tags: message.annotations.tags,
            metadata: message.annotations.metadata,
            created_at: message.created_at,
            send_at: message.parameters.release_at,
            expires_at: message.expires_at,
            deliveries: None,
        }
    }
}

impl From<Delivery> for DeliveryView {
    fn from(delivery: Delivery) -> Self {
        Self {
            id: delivery.id,
            object: "delivery",
            recipient: delivery.recipient,
            status: delivery.state,
            attempts: delivery.attempts,
            next_attempt_at: delivery.next_attempt_at,
            last_reply: delivery.last_reply,
            bounce_class: delivery.bounce_class,
            updated_at: delivery.updated_at,
        }
    }
}

/// One status for all recipients: while anything is open that, then the worst end of any.
fn summarize(states: &[DeliveryState]) -> DeliveryState {
    use DeliveryState::{Bounced, Cancelled, Deferred, Delivered, Expired, Queued};
    let order = [Queued, Deferred, Bounced, Expired, Cancelled];
    order.into_iter().find(|state| states.contains(state)).unwrap_or(Delivered)
}

async fn find(call: &RequestContext<'_>) -> Result<Message> {
    let found = call.store().message(call.scope(), call.id("email")?).await?;
    found.ok_or_else(|| ApiError::not_found("email"))
}

/// `GET /v1/emails`
pub async fn list(mut call: RequestContext<'_>) -> Result<ApiResponse> {
    let tenant_id = call.listed_tenant().await?;
    let request = call.query.page::<MessageId>();
    let query = &mut call.query;
    let filter = MessageFilter {
        tenant_id,
        environment: query.value("environment"),
        state: query.value("status"),
        to: query.value("to"),
        from: query.value_by("from", ReversePath::parse),
        subject: query.value("subject"),
        tag: query.text("tag").map(str::to_owned),
        header_message_id: query.text("message_id").map(|id| id.trim_matches(['<', '>']).to_owned()),
    };
    query.finish()?;
    let page = call.store().list_messages(filter, request).await?;
    let data = page.items.into_iter().map(EmailView::new).collect();
    ApiResponse::ok(&List::resumed(data, page.next.map(|id| id.to_string())))
}

/// `GET /v1/emails/{id}`
pub async fn get(call: RequestContext<'_>) -> Result<ApiResponse> {
    let message = find(&call).await?;
    let deliveries = call.store().deliveries(message.id).await?;
    let view = EmailView::new(MessageSummary {
        message,
        recipients: deliveries.iter().map(|delivery| delivery.recipient.clone()).collect(),
        recipient_count: deliveries.len() as u64,
        states: deliveries.iter().map(|delivery| delivery.state).collect(),
    });
    let deliveries = deliveries.into_iter().map(DeliveryView::from).collect();
    ApiResponse::ok(&EmailView { deliveries: Some(deliveries), ..view })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_status_stands_for_all_recipients() {
        use DeliveryState::{Bounced, Cancelled, Deferred, Delivered, Expired, Queued};
        for (states, expected) in [
            (&[Delivered, Delivered][..], Delivered),
            (&[Delivered, Queued, Bounced], Queued),
            (&[Delivered, Deferred, Bounced], Deferred),
            (&[Delivered, Bounced, Expired], Bounced),
            (&[Delivered, Expired], Expired),
            (&[Delivered, Cancelled], Cancelled),
        ] {
            assert_eq!(summarize(states), expected, "{states:?}");
        }
    }
}
