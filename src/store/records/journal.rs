#![allow(missing_docs)]
//! Events and messages as the API shows them, and their retention.

use std::net::IpAddr;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::histogram::HistogramReading;
use crate::mail::{Address, DomainName, ReversePath, Timestamp};
use crate::model::{
    BounceClass, DeliveryId, DeliveryState, Environment, EventId, EventKind, KeyId, ListName, MessageId,
    MessageKind, RefusalCode, RequestId, Stage, TenantId,
};

use super::{Annotations, Message, Metadata};

/// An entry of the journal.
#[derive(Debug, Clone)]
pub struct Event {
    pub id: EventId,
    pub kind: EventKind,
    pub tenant_id: Option<TenantId>,
    /// `None` if it is about an object that both environments share.
    pub environment: Option<Environment>,
    pub message_id: Option<MessageId>,
    pub delivery_id: Option<DeliveryId>,
    /// The reference that the platform gave to the tenant.
    pub external_ref: Option<String>,
    /// Those of the message.
    pub annotations: Annotations,
    /// Details; the fields depend on the kind.
    pub data: Value,
    pub created_at: Timestamp,
}

/// An event that the store does not append itself.
#[derive(Debug, Clone)]
pub struct NewEvent {
    pub kind: EventKind,
    /// `None` for the platform.
    pub tenant_id: Option<TenantId>,
    /// `None` if it is about an object that both environments share.
    pub environment: Option<Environment>,
    pub data: Value,
    pub at: Timestamp,
}

/// An event as programs outside read it: in lists, in the live tail and in webhooks.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Event")]
pub struct EventView<'a> {
    /// Like `evt_…`; ids sort by time.
    pub id: EventId,
    /// Always `event`.
    #[schemars(extend("const" = "event"))]
    pub object: &'static str,
    /// What happened, like `message.delivered`.
    #[serde(rename = "type")]
    pub kind: EventKind,
    /// Whose it is; `null` for the platform's own.
    pub tenant_id: Option<TenantId>,
    /// `live` or `test`; `null` if it is about an object that both share, such as a domain.
    pub environment: Option<Environment>,
    /// The `external_ref` of the tenant.
    pub external_ref: Option<&'a str>,
    /// The message it is about.
    pub message_id: Option<MessageId>,
    /// The delivery it is about.
    pub delivery_id: Option<DeliveryId>,
    /// The recipient, if it is about one.
    pub recipient: Option<&'a str>,
    /// The tags of the message.
    pub tags: &'a [String],
    /// The metadata of the message.
    #[schemars(with = "Map<String, Value>")]
    pub metadata: &'a Metadata,
    /// What else there is to say; its fields depend on the type.
    pub data: &'a Value,
    /// When it happened.
    pub created_at: Timestamp,
}

impl Event {
    /// What programs outside read.
    pub fn view(&self) -> EventView<'_> {
        EventView {
            id: self.id,
            object: "event",
            kind: self.kind,
            tenant_id: self.tenant_id,
            environment: self.environment,
            external_ref: self.external_ref.as_deref(),
            message_id: self.message_id,
            delivery_id: self.delivery_id,
            recipient: self.data.get("recipient").and_then(Value::as_str),
            tags: &self.annotations.tags,
            metadata: &self.annotations.metadata,
            data: &self.data,
            created_at: self.created_at,
        }
    }
}

impl Serialize for Event {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.view().serialize(serializer)
    }
}

/// Selects events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFilter {
    pub tenant_id: Option<TenantId>,
    /// Only those that belong to no tenant.
    pub of_platform: bool,
    /// Also takes the events about objects that both environments share.
    pub environment: Option<Environment>,
    pub kind: Option<EventKind>,
    pub message_id: Option<MessageId>,
}

impl EventFilter {
    /// Whether the filter selects an event.
    pub fn takes(&self, event: &Event) -> bool {
        let is_of = |wanted| event.environment.is_none_or(|environment| environment == wanted);
        self.tenant_id.is_none_or(|tenant| event.tenant_id == Some(tenant))
            && (!self.of_platform || event.tenant_id.is_none())
            && self.environment.is_none_or(is_of)
            && self.kind.is_none_or(|kind| event.kind == kind)
            && self.message_id.is_none_or(|message| event.message_id == Some(message))
    }
}

/// A page of the journal.
#[derive(Debug, Clone, Default)]
pub struct EventPage {
    /// Newest first.
    pub items: Vec<Event>,
    /// Where the next page starts; `None` at the end. It need not be the last item, because a page reads a bounded part of
    /// the journal.
    pub next: Option<EventId>,
}

/// A refused submission.
#[derive(Debug, Clone)]
pub struct Rejection {
    pub id: RequestId,
    pub tenant_id: TenantId,
    pub key_id: Option<KeyId>,
    /// The environment of the key.
    pub environment: Environment,
    pub stage: Stage,
    pub code: RefusalCode,
    pub message: String,
    pub client_address: Option<IpAddr>,
    pub created_at: Timestamp,
}

/// Selects rejections.
#[derive(Debug, Clone, Copy, Default)]
pub struct RejectionFilter {
    pub tenant_id: Option<TenantId>,
    pub environment: Option<Environment>,
}

/// Selects messages.
#[derive(Debug, Clone, Default)]
pub struct MessageFilter {
    pub tenant_id: Option<TenantId>,
    pub environment: Option<Environment>,
    pub kind: MessageKind,
    /// The combined state of all deliveries ([`DeliveryState::combine`]).
    pub status: Option<DeliveryState>,
    /// The state of at least one delivery.
    pub delivery_state: Option<DeliveryState>,
    /// A recipient, exactly, in wire form.
    pub to: Option<Address>,
    /// The domain of a recipient, exactly.
    pub recipient_domain: Option<DomainName>,
    /// The reverse path, exactly.
    pub from: Option<ReversePath>,
    /// The Message-ID field without its angle brackets.
    pub header_message_id: Option<String>,
    /// One of [`super::Annotations::tags`], exactly.
    pub tag: Option<String>,
    pub subject: Option<SubjectWords>,
    /// The key that submitted it.
    pub key_id: Option<KeyId>,
    /// The list that it belongs to.
    pub list: Option<ListName>,
    /// Members of [`super::Annotations::metadata`] with their values ([`super::Metadata::scalars`]); all must match.
    pub metadata: Vec<(String, String)>,
}

/// Words that a subject must contain; the last may be the beginning of a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectWords(Vec<String>);

/// The text has no words or too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this must be 1 to {} words with letters or digits, {} bytes at most",
    SubjectWords::WORDS_MAX,
    SubjectWords::OCTETS_MAX
)]
pub struct SubjectWordsError;

impl SubjectWords {
    const WORDS_MAX: usize = 10;
    const OCTETS_MAX: usize = 200;

    /// At least one, in order; each has a letter or a digit and no quotation mark.
    pub fn words(&self) -> &[String] {
        &self.0
    }
}

impl FromStr for SubjectWords {
    type Err = SubjectWordsError;

    fn from_str(text: &str) -> std::result::Result<Self, SubjectWordsError> {
        let words = text.split(|c: char| c.is_whitespace() || c.is_control() || c == '"');
        let words = words.filter(|word| word.contains(char::is_alphanumeric));
        let words: Vec<_> = words.map(str::to_owned).collect();
        let is_right = (1..=Self::WORDS_MAX).contains(&words.len()) && text.len() <= Self::OCTETS_MAX;
        is_right.then_some(Self(words)).ok_or(SubjectWordsError)
    }
}

/// A page of messages, newest first. It may be short or empty although more follow.
#[derive(Debug, Clone)]
pub struct MessagePage {
    pub items: Vec<MessageSummary>,
    /// Where the next page starts, in the direction of the request.
    pub next: Option<MessageId>,
}

/// A message in a list: with its first recipients and the states of all deliveries.
#[derive(Debug, Clone)]
pub struct MessageSummary {
    pub message: Message,
    /// The first [`MessageSummary::RECIPIENTS_MAX`] recipients, in their order.
    pub recipients: Vec<Address>,
    /// The number of all recipients.
    pub recipient_count: u64,
    /// The distinct states of the deliveries.
    pub states: Vec<DeliveryState>,
    /// The last reply to a delivery that has the combined state.
    pub last_reply: Option<String>,
}

impl MessageSummary {
    /// Recipients shown for each message.
    pub const RECIPIENTS_MAX: usize = 20;
}

/// The stored response to an API request with an `Idempotency-Key`.
#[derive(Clone, PartialEq, Eq)]
pub struct IdempotentResponse {
    /// SHA-256 of the request.
    pub digest: [u8; 32],
    /// The HTTP status.
    pub status: u16,
    /// JSON, stored encrypted because it may contain a secret.
    pub body: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for IdempotentResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IdempotentResponse").field("status", &self.status).finish_non_exhaustive()
    }
}

/// Retention periods.
#[derive(Debug, Clone, Copy)]
pub struct RetentionPolicy {
    /// Bodies, after the last delivery of the message is finished; a value of the tenant takes precedence.
    pub body_days: u32,
    /// Transcripts of attempts, after the attempt.
    pub transcript_days: u32,
    /// Messages, deliveries, attempts, events and rejections; a value of the tenant takes precedence.
    pub row_days: u32,
    /// Webhook deliveries, after their event. Pending ones are deleted only if their webhook is disabled.
    pub webhook_days: u32,
    /// The text of reports, and reports that belong to no message.
    pub report_days: u32,
    /// Entries of the audit log.
    pub audit_days: u32,
}

/// Counts since the store was opened.
#[derive(Debug, Clone, PartialEq)]
pub struct StoreCounts {
    /// Events of each kind.
    pub events: Vec<(EventKind, u64)>,
    /// Attempts of deliveries, by outcome; those that occurred.
    pub attempts: Vec<AttemptCount>,
    /// From the acceptance of a message to the end of a delivery, by the state in which it ended.
    pub delivery_seconds: Vec<(DeliveryState, HistogramReading)>,
    /// Transactions.
    pub commits: u64,
    /// From the start of a transaction to its synced commit.
    pub commit_seconds: HistogramReading,
    /// Transactions that could not be committed.
    pub failed_commits: u64,
    /// Transactions that ran twice, because one of their jobs failed after a change.
    pub repeated_commits: u64,
    /// Body files without a message, at the last count.
    pub stray_files: u64,
    /// What the file system of the data directory has free, if it can be read.
    pub free_disk_bytes: Option<u64>,
}

/// How many attempts had an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttemptCount {
    /// The state of the delivery afterwards.
    pub state: DeliveryState,
    /// Why it was not delivered.
    pub class: Option<BounceClass>,
    pub count: u64,
}

/// Numbers of deleted objects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    pub bodies: u64,
    pub transcripts: u64,
    pub messages: u64,
    pub events: u64,
    pub rejections: u64,
    pub audit_entries: u64,
    pub webhook_deliveries: u64,
    pub suppressions: u64,
    pub submission_keys: u64,
    pub usage_rows: u64,
    pub idempotent_responses: u64,
    /// Reports that belong to no message, and texts of others.
    pub reports: u64,
    /// Notes of complete erasures.
    pub erasures: u64,
    /// There may be more to delete.
    pub truncated: bool,
}
