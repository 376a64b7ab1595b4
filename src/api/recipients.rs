//! One recipient: everything that is stored about an address, and its erasure.

use data_encoding::HEXLOWER;
use schemars::JsonSchema;
use serde::Serialize;

use super::inboxes::InboxView;
use super::reports::ReportView;
use super::suppressions::SuppressionView;
use super::{Access, ApiError, ApiResponse, List, Operation, RequestContext, Resource, Result};
use crate::mail::{Address, Timestamp};
use crate::model::{
    BounceClass, DeliveryId, DeliveryState, Environment, ErasureId, MessageId, Scope, TenantId,
};
use crate::store::{
    Attempt, Delivery, Directory, Erasure, ErasureCounts, Erasures, Inboxes, Journal, Message, Metadata,
    NewErasure, Reports,
};

/// Attempts of one delivery.
const ATTEMPTS_MAX: usize = 100;
/// Octets of the texts of the deliveries of an export, which is built in memory.
const EXPORT_OCTETS_MAX: usize = 4 * 1024 * 1024;

/// The operations.
pub fn resource() -> Resource {
    let text = "What is stored about one recipient, and its erasure.";
    Resource::new("Recipients", text, Access::Scope(Scope::SuppressionsManage))
        .live_only()
        .id::<Address>("The address.")
        .operations([
            Operation::get("/v1/recipients/{id}", "export_recipient", export)
                .describe("Export a recipient", "What is stored about the address: deliveries with their attempts, suppressions, reports, inboxes. It has nothing about other recipients of the same messages. An unknown address gives empty lists. The server reads all rows, so this takes a while.")
                .needs(Access::Scope(Scope::EmailsRead))
                .takes_long()
                .tenant_filter()
                .returns::<RecipientView>("The data."),
            Operation::delete("/v1/recipients/{id}", "erase_recipient", erase)
                .describe("Erase a recipient", "Cancels open deliveries to the address, and replaces the address everywhere but as the envelope sender of messages. Messages to nobody else lose content, subject and metadata; counts stay. The suppression of the address stays unless `forget_suppression` is true, because it goes on refusing mail. The erasure is noted without the address. With `dry_run=true`, the server only counts.")
                .hides_object()
                .tenant_filter()
                .query::<bool>("dry_run", "Count what would be changed, without changing it.")
                .query::<bool>("forget_suppression", "Remove the suppression of the address too.")
                .returns::<ErasureView>("The erasure. While a delivery is in progress, it is not complete, and the server tries again every minute."),
            Operation::get("/v1/erasures", "list_erasures", list)
                .describe("List erasures", "The erasures of recipients, without their addresses. The server keeps each for two years after it is complete.")
                .needs(Access::Platform)
                .pages::<ErasureId, ErasureView>("Erasures."),
        ])
}

/// What is stored about a recipient.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Recipient")]
pub struct RecipientView {
    /// Always `recipient`.
    #[schemars(extend("const" = "recipient"))]
    object: &'static str,
    /// The address.
    address: Address,
    /// The tenant whose data these are; `null` for all.
    tenant_id: Option<TenantId>,
    /// Deliveries to it, the newest first, at most 1,000 and 4 MiB.
    deliveries: Vec<RecipientDelivery>,
    /// Whether there are more deliveries or reports.
    truncated: bool,
    /// Its suppressions.
    suppressions: Vec<SuppressionView>,
    /// Reports of other servers that name it, at most 1,000.
    reports: Vec<ReportView>,
    /// Inboxes for trial mail with this address.
    inboxes: Vec<InboxView>,
}

/// A delivery to a recipient, with what its message says to everybody.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RecipientDelivery")]
pub struct RecipientDelivery {
    /// Its id.
    id: DeliveryId,
    /// The message.
    message_id: MessageId,
    /// The tenant that sent it.
    tenant_id: TenantId,
    /// `live` or `test`.
    environment: Environment,
    /// The recipient as the sender wrote it.
    recipient: Address,
    /// The status.
    status: DeliveryState,
    /// Reverse path; `null` is the null reverse path.
    from: Option<Address>,
    /// The From field.
    header_from: Option<String>,
    /// The subject.
    subject: Option<String>,
    /// Tags.
    tags: Vec<String>,
    /// Metadata of the sender.
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    metadata: Metadata,
    /// Time of acceptance.
    created_at: Timestamp,
    /// Time of the last change.
    updated_at: Timestamp,
    /// The last reply of the remote server.
    last_reply: Option<String>,
    /// Delivery attempts, oldest first.
    attempts: Vec<RecipientAttempt>,
}

/// A delivery attempt.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RecipientAttempt")]
pub struct RecipientAttempt {
    /// Start time.
    at: Timestamp,
    /// The host that was tried.
    host: String,
    /// Reply of the host, or the local error.
    reply: String,
    /// Delivery status after the attempt.
    outcome: DeliveryState,
    /// Why the attempt failed, as a stable code; `null` after success.
    bounce_class: Option<BounceClass>,
}

/// An erasure.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Erasure")]
pub struct ErasureView {
    /// Its id; `null` for a dry run.
    id: Option<ErasureId>,
    /// Always `erasure`.
    #[schemars(extend("const" = "erasure"))]
    object: &'static str,
    /// The tenant; `null` for all.
    tenant_id: Option<TenantId>,
    /// A code of the address that only this server can compute; `null` for a dry run.
    digest: Option<String>,
    /// Whether the suppression of the address stays.
    keeps_suppression: bool,
    /// When it was requested.
    requested_at: Timestamp,
    /// When it was complete; `null` before that.
    applied_at: Option<Timestamp>,
    /// What was changed, or would be.
    counts: ErasureCounts,
}

impl From<Erasure> for ErasureView {
    fn from(erasure: Erasure) -> Self {
        Self {
            id: Some(erasure.id),
            object: "erasure",
            tenant_id: erasure.tenant_id,
            digest: Some(HEXLOWER.encode(&erasure.digest)),
            keeps_suppression: erasure.keeps_suppression,
            requested_at: erasure.requested_at,
            applied_at: erasure.applied_at,
            counts: erasure.counts,
        }
    }
}

impl From<Attempt> for RecipientAttempt {
    fn from(attempt: Attempt) -> Self {
        Self {
            at: attempt.started_at,
            host: attempt.host,
            reply: attempt.text,
            outcome: attempt.outcome,
            bounce_class: attempt.bounce_class,
        }
    }
}

impl RecipientDelivery {
    fn new(message: &Message, delivery: Delivery, attempts: Vec<Attempt>) -> Self {
        Self {
            id: delivery.id,
            message_id: message.id,
            tenant_id: message.tenant_id,
            environment: message.environment,
            recipient: delivery.recipient,
            status: delivery.state,
            from: message.reverse_path.mailbox().cloned(),
            header_from: message.header_from.clone(),
            subject: message.subject.clone(),
            tags: message.annotations.tags.clone(),
            metadata: message.annotations.metadata.clone(),
            created_at: message.created_at,
            updated_at: delivery.updated_at,
            last_reply: delivery.last_reply,
            attempts: attempts.into_iter().map(RecipientAttempt::from).collect(),
        }
    }

    /// About the octets of its texts.
    fn octets(&self) -> usize {
        let texts = [&self.header_from, &self.subject, &self.last_reply];
        let own: usize = texts.into_iter().flatten().chain(&self.tags).map(String::len).sum();
        let metadata = self.metadata.as_json().map_or(0, str::len);
        let attempts = self.attempts.iter().map(|attempt| attempt.host.len() + attempt.reply.len());
        own + metadata + attempts.sum::<usize>()
    }
}

/// The address in the path, which the message of an error does not repeat.
fn address_of(call: &RequestContext) -> Result<Address> {
    let text = call.id.as_deref().unwrap_or_default();
    text.parse().map_err(|_| ApiError::field("id", "invalid", "this must be an address: local@domain"))
}

async fn export(mut call: RequestContext) -> Result<ApiResponse> {
    let address = address_of(&call)?;
    let tenant_id = call.listed_tenant().await?;
    let _permit = call.api.scans.acquire(call.scope()).await.map_err(ApiError::internal)?;
    let store = call.store();
    let found = store.recipient_rows(tenant_id, address.folded()).await?;
    let (mut deliveries, mut octets, mut truncated) = (Vec::new(), 0, found.truncated);
    for (message, delivery) in found.deliveries {
        let Some(delivery) = read_delivery(&call, message, delivery).await? else { continue };
        octets += delivery.octets();
        if octets > EXPORT_OCTETS_MAX {
            truncated = true;
            break;
        }
        deliveries.push(delivery);
    }
    let mut suppressions = Vec::new();
    for id in found.suppressions {
        suppressions.extend(store.suppression(tenant_id, id).await?.map(SuppressionView::from));
    }
    let mut reports = Vec::new();
    for id in found.reports {
        reports.extend(store.report(tenant_id, id).await?.map(ReportView::from));
    }
    let mut inboxes = Vec::new();
    for id in found.inboxes {
        inboxes.extend(store.inbox(tenant_id, id).await?.map(InboxView::from));
    }
    ApiResponse::ok(&RecipientView {
        object: "recipient",
        address,
        tenant_id,
        deliveries,
        truncated,
        suppressions,
        reports,
        inboxes,
    })
}

/// `None` if it was deleted since it was found.
async fn read_delivery(
    call: &RequestContext,
    message: MessageId,
    id: DeliveryId,
) -> Result<Option<RecipientDelivery>> {
    let store = call.store();
    let Some(message) = store.message(None, message).await? else { return Ok(None) };
    let deliveries = store.deliveries(message.id).await?;
    let Some(delivery) = deliveries.into_iter().find(|delivery| delivery.id == id) else { return Ok(None) };
    let attempts = store.attempts(message.id, Some(id), ATTEMPTS_MAX).await?;
    Ok(Some(RecipientDelivery::new(&message, delivery, attempts.items)))
}

async fn erase(mut call: RequestContext) -> Result<ApiResponse> {
    let address = address_of(&call)?;
    let dry_run = call.query.value::<bool>("dry_run").unwrap_or(false);
    let keeps_suppression = !call.query.value::<bool>("forget_suppression").unwrap_or(false);
    let tenant_id = call.listed_tenant().await?;
    let new = NewErasure {
        id: ErasureId::generate(call.now),
        tenant_id,
        folded: address.folded(),
        keeps_suppression,
    };
    let _permit = call.api.scans.acquire(call.scope()).await.map_err(ApiError::internal)?;
    if dry_run {
        let counts = call.store().count_erasure(new).await?;
        return ApiResponse::ok(&ErasureView {
            id: None,
            object: "erasure",
            tenant_id,
            digest: None,
            keeps_suppression,
            requested_at: call.now,
            applied_at: None,
            counts,
        });
    }
    let noted = call.store().note_erasure(new, call.now).await?;
    call.api.queue.erase_recipients(call.now).await?;
    let erasure = call.store().erasure(noted.id).await?.unwrap_or(noted);
    ApiResponse::ok(&ErasureView::from(erasure))
}

async fn list(mut call: RequestContext) -> Result<ApiResponse> {
    let request = call.query.page::<ErasureId>();
    call.query.finish()?;
    let page = call.store().list_erasures(request.clone()).await?;
    ApiResponse::ok(&List::page(page, &request, |erasure| erasure.id.to_string(), ErasureView::from))
}
