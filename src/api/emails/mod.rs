//! Messages. `send` accepts them: `draft` validates a message, `compose` builds the MIME message with the
//! fields that `header_field` writes, and `batch` composes all
//! messages of a request. `timeline`, `raw`, `parts` and `authentication` show a message. `retry_cancel` retries or cancels its deliveries.

mod authentication;
mod batch;
mod compose;
pub(super) mod draft;
mod header_field;
pub(super) mod mailbox;
pub(super) mod parts;
mod raw;
mod retry_cancel;
pub(super) mod send;
mod timeline;

use std::convert::Infallible;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::mail::{Address, AddressError, DomainName, ReversePath, Timestamp};
use crate::model::{
    BounceClass, DeliveryId, DeliveryState, Environment, KeyId, ListName, MessageId, MessageKind, Scope,
    TenantId,
};
use crate::store::{Delivery, Journal, Message, MessageFilter, MessageSummary, Metadata};

use super::{Access, ApiError, ApiResponse, List, Operation, RequestContext, Resource, Result};

use self::draft::EmailRequest;
use self::retry_cancel::{CancellationView, RetryView};
use self::send::{Accepted, BatchRequest};

pub use self::draft::Limits as SendLimits;

/// The operations of messages.
pub fn resource() -> Resource {
    Resource::new("Emails", "Sending messages, and their delivery status.", Access::Scope(Scope::EmailsRead))
        .separates_environments()
        .id::<MessageId>("The message.")
        .operations([
            Operation::get("/v1/emails", "list_emails", list)
                .describe("List messages", "Messages from test keys are stored but not delivered. `environment=test` lists them; `/v1/emails/{id}/raw` returns their content.")
                .tenant_filter()
                .query::<DeliveryState>("status", "Only messages with this combined `status`.")
                .query::<DeliveryState>("delivery_status", "Only messages with at least one delivery in this status.")
                .query::<Address>("to", "Only messages to this recipient.")
                .query::<DomainName>("recipient_domain", "Only messages with a recipient in this domain; not in its subdomains.")
                .query::<String>("from", "Only messages with this reverse path; `<>` is the null reverse path.")
                .query::<String>("subject", "Only messages whose subject contains all these words. The last word may be a prefix of at least two letters.")
                .query::<String>("tag", "Only messages with this tag.")
                .query::<KeyId>("key_id", "Only messages that this key sent.")
                .query::<ListName>("list", "Only messages of this list.")
                .query_map("metadata", "Only messages whose metadata has these members: `metadata[order]=4711`. The value is that of a string, number or boolean. At most 10 keys.")
                .query::<String>("message_id", "Only messages with this Message-ID.")
                .query::<MessageKind>("kind", "Only messages of this kind; without it `message`. `report` lists the delivery status notifications that the server generated, `confirmation` the mails that ask for the confirmation of an inbox.")
                .environment_filter()
                .pages::<MessageId, EmailView>("Messages, without their `deliveries`."),
            Operation::post("/v1/emails", "send_email", send::send)
                .describe("Send a message", "The server applies the same checks as over SMTP, and stores the message on disk before it responds. The key determines the allowed senders and the environment. A platform key sends for the tenant in `tenant_id` or in the path, or else for the tenant `default`.")
                .needs(Access::Scope(Scope::EmailsSend))
                .takes::<EmailRequest>(r#"{"from": "Acme Shop <shop@acme.com>", "to": ["someone@example.org"], "subject": "Your order", "text": "It is on its way.", "tags": ["order"], "metadata": {"order": 4711}}"#)
                .sends()
                .may_run_again()
                .accepts::<Accepted>("The message is queued."),
            Operation::post("/v1/emails/batch", "send_emails", send::send_batch)
                .describe("Send up to 100 messages", "If any item is invalid, the server accepts none.")
                .needs(Access::Scope(Scope::EmailsSend))
                .takes::<BatchRequest>(r#"{"emails": [{"from": "shop@acme.com", "to": "ann@example.org", "subject": "Your order", "text": "Hello Ann"}, {"from": "shop@acme.com", "to": "bob@example.org", "subject": "Your order", "text": "Hello Bob"}]}"#)
                .sends()
                .may_run_again()
                .accepts::<List<Accepted>>("The queued messages, in the order of the request.")
                .response_octets(0, 32 * 1024),
            Operation::get("/v1/emails/{id}", "get_email", get)
                .summary("Get a message with its deliveries")
                .returns::<EmailView>("The message."),
            Operation::get("/v1/emails/{id}/timeline", "get_timeline", timeline::get)
                .describe("Get the timeline of a message", "Events and attempts, and reports from which nothing followed, oldest first: at most 1000 entries and 2 MiB of transcripts. If `has_more` is true, filter by `delivery_id` to see more.")
                .query::<DeliveryId>("delivery_id", "Only entries of this delivery.")
                .returns::<List<timeline::Entry>>("Events, attempts and reports."),
            Operation::get("/v1/emails/{id}/raw", "get_raw", raw::get)
                .describe("Get the raw message", "Available while the content is retained.")
                .returns_octets("message/rfc822", "The message in RFC 5322 format."),
            Operation::get("/v1/emails/{id}/parts", "list_parts", parts::list)
                .describe("Get the parts of a message", "Header fields, plain text, HTML and attachments, decoded, while the content is retained. A message of more than 5 MiB can only be read as a whole.")
                .returns::<parts::PartsView>("The parts."),
            Operation::get("/v1/emails/{id}/parts/{part}", "get_part", parts::get)
                .describe("Get the content of a part", "Without its transfer encoding. Browsers save it and do not show it.")
                .returns_octets("application/octet-stream", "The content."),
            Operation::get("/v1/emails/{id}/authentication", "check_authentication", authentication::check)
                .describe("Check the authentication of a message", "Verifies its DKIM signatures against the DNS now, and evaluates SPF of the address that it left from and DMARC of the domain in From. A message of more than 5 MiB is not checked.")
                .takes_long()
                .returns::<authentication::AuthenticationView>("The results."),
            Operation::post("/v1/emails/{id}/retry", "retry_email", retry_cancel::retry)
                .describe("Retry a message now", "Makes deferred deliveries due now. Scheduled deliveries stay scheduled.")
                .needs(Access::Scope(Scope::EmailsSend))
                .may_run_again()
                .logs_only()
                .returns::<RetryView>("The deliveries that are due now."),
            Operation::post("/v1/emails/{id}/cancel", "cancel_email", retry_cancel::cancel)
                .describe("Cancel a message", "Cancels deliveries without an attempt in progress.")
                .needs(Access::Scope(Scope::EmailsSend))
                .may_run_again()
                .returns::<CancellationView>("The cancelled deliveries, and those with an attempt in progress."),
        ])
        .alias("/v1/emails", "/v1/tenants/{tenant_id}/emails")
}

/// A message and its delivery status.
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
    /// The key that sent it; `null` for a report.
    key_id: Option<KeyId>,
    /// `message`, or for mail that the server generated `report` (a delivery status notification) or `confirmation` (of an inbox).
    kind: MessageKind,
    /// `live` or `test`. A test message is stored but not delivered.
    environment: Environment,
    /// Combined status of all deliveries: an open status while a delivery is open, then the worst final status.
    status: DeliveryState,
    /// The `last_reply` of the delivery with this status that changed last; `null` if there is none.
    last_reply: Option<String>,
    /// Reverse path; `null` is the null reverse path.
    from: Option<Address>,
    /// Recipients. A list shows only the first recipients of a message.
    to: Vec<Address>,
    /// Number of recipients.
    recipient_count: u64,
    /// The From field.
    header_from: Option<String>,
    /// The subject.
    subject: Option<String>,
    /// The Message-ID field, without angle brackets.
    message_id: Option<String>,
    /// Size in octets as accepted.
    size: u64,
    /// The list that it belongs to, which its recipient can leave.
    list: Option<ListName>,
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
        let MessageSummary { message, recipients, recipient_count, states, last_reply } = summary;
        Self {
            id: message.id,
            object: "email",
            tenant_id: message.tenant_id,
            key_id: message.key_id,
            kind: message.kind,
            environment: message.environment,
            status: DeliveryState::combine(&states),
            last_reply,
            from: message.reverse_path.mailbox().cloned(),
            to: recipients,
            recipient_count,
            header_from: message.header_from,
            subject: message.subject,
            message_id: message.header_message_id,
            size: message.size,
            list: message.list,
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

async fn find(call: &RequestContext) -> Result<Message> {
    let found = call.store().message(call.scope(), call.id("email")?).await?;
    let found = found.filter(|message| call.caller.sees(message.environment));
    found.ok_or_else(|| ApiError::not_found("email"))
}

/// `<>` is the null reverse path, as in SMTP.
fn read_reverse_path(text: &str) -> std::result::Result<ReversePath, AddressError> {
    ReversePath::parse(if text == "<>" { "" } else { text })
}

/// A Message-ID with or without its angle brackets.
fn read_message_id(text: &str) -> std::result::Result<String, Infallible> {
    Ok(text.trim_matches(['<', '>']).to_owned())
}

async fn list(mut call: RequestContext) -> Result<ApiResponse> {
    let tenant_id = call.listed_tenant().await?;
    let request = call.query.page::<MessageId>();
    let environment = call.listed_environment();
    let query = &mut call.query;
    let filter = MessageFilter {
        tenant_id,
        environment,
        kind: query.value("kind").unwrap_or_default(),
        status: query.value("status"),
        delivery_state: query.value("delivery_status"),
        to: query.value_with_plus("to", Address::parse),
        recipient_domain: query.value_by("recipient_domain", DomainName::parse),
        from: query.value_with_plus("from", read_reverse_path),
        subject: query.value("subject"),
        tag: query.text("tag").map(str::to_owned),
        header_message_id: query.value_with_plus("message_id", read_message_id),
        key_id: query.value("key_id"),
        list: query.value("list"),
        metadata: query.map("metadata"),
    };
    query.finish()?;
    let page = call.store().list_messages(filter, request).await?;
    let data = page.items.into_iter().map(EmailView::new).collect();
    ApiResponse::ok(&List::resumed(data, page.next.map(|id| id.to_string())))
}

async fn get(call: RequestContext) -> Result<ApiResponse> {
    let message = find(&call).await?;
    let deliveries = call.store().deliveries(message.id).await?;
    let states: Vec<_> = deliveries.iter().map(|delivery| delivery.state).collect();
    let status = DeliveryState::combine(&states);
    // The first one, if several changed at the same time.
    let replied = |delivery: &&Delivery| delivery.state == status && delivery.last_reply.is_some();
    let last = deliveries.iter().rev().filter(replied).max_by_key(|delivery| delivery.updated_at);
    let view = EmailView::new(MessageSummary {
        message,
        recipients: deliveries.iter().map(|delivery| delivery.recipient.clone()).collect(),
        recipient_count: deliveries.len() as u64,
        states,
        last_reply: last.and_then(|delivery| delivery.last_reply.clone()),
    });
    let deliveries = deliveries.into_iter().map(DeliveryView::from).collect();
    ApiResponse::ok(&EmailView { deliveries: Some(deliveries), ..view })
}
