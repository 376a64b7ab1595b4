#![allow(missing_docs)]
//! What happened, as people read it, and how long it is kept.

use std::net::IpAddr;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::Serialize;

use crate::histogram::HistogramReading;
use crate::mail::{Address, ReversePath, Timestamp};
use crate::model::{
    BounceClass, DeliveryId, DeliveryState, Environment, EventId, EventKind, KeyId, MessageId, RefusalCode,
    RequestId, Stage, TenantId,
};

use super::Message;

/// Something that happened.
#[derive(Debug, Clone)]
pub struct Event {
    pub id: EventId,
    pub kind: EventKind,
    pub tenant_id: Option<TenantId>,
    pub message_id: Option<MessageId>,
    pub delivery_id: Option<DeliveryId>,
    /// What else there is to say; its fields depend on the kind.
    pub data: serde_json::Value,
    pub created_at: Timestamp,
}

/// Something that happened which the store does not see for itself.
#[derive(Debug, Clone)]
pub struct NewEvent {
    pub kind: EventKind,
    /// Whom it is about; `None` is the platform.
    pub tenant_id: Option<TenantId>,
    pub data: serde_json::Value,
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
    /// The message it is about.
    pub message_id: Option<MessageId>,
    /// The delivery it is about.
    pub delivery_id: Option<DeliveryId>,
    /// The recipient, if it is about one.
    pub recipient: Option<&'a str>,
    /// What else there is to say; its fields depend on the type.
    pub data: &'a serde_json::Value,
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
            message_id: self.message_id,
            delivery_id: self.delivery_id,
            recipient: self.data.get("recipient").and_then(serde_json::Value::as_str),
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

/// Which events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFilter {
    pub tenant_id: Option<TenantId>,
    pub kind: Option<EventKind>,
    pub message_id: Option<MessageId>,
}

impl EventFilter {
    /// Whether it lets an event through.
    pub fn takes(&self, event: &Event) -> bool {
        self.tenant_id.is_none_or(|tenant| event.tenant_id == Some(tenant))
            && self.kind.is_none_or(|kind| event.kind == kind)
            && self.message_id.is_none_or(|message| event.message_id == Some(message))
    }
}

/// A part of the journal.
#[derive(Debug, Clone, Default)]
pub struct EventPage {
    /// Newest first.
    pub items: Vec<Event>,
    /// Where to go on; `None` at the end. Not always the last item: a look at so much of the journal may find little.
    pub next: Option<EventId>,
}

/// A refused submission.
#[derive(Debug, Clone)]
pub struct Rejection {
    pub id: RequestId,
    pub tenant_id: TenantId,
    pub key_id: Option<KeyId>,
    /// Of the key.
    pub environment: Environment,
    pub stage: Stage,
    pub code: RefusalCode,
    pub message: String,
    pub client_address: Option<IpAddr>,
    pub created_at: Timestamp,
}

/// Which messages.
#[derive(Debug, Clone, Default)]
pub struct MessageFilter {
    pub tenant_id: Option<TenantId>,
    pub environment: Option<Environment>,
    /// Messages with at least one delivery in this state.
    pub state: Option<DeliveryState>,
    /// A recipient, exactly, in wire form.
    pub to: Option<Address>,
    /// The reverse path, exactly.
    pub from: Option<ReversePath>,
    /// The Message-ID field without its angle brackets.
    pub header_message_id: Option<String>,
    /// One of [`super::Annotations::tags`], exactly.
    pub tag: Option<String>,
    pub subject: Option<SubjectWords>,
}

/// Words that all stand in a subject, the last of them perhaps as the beginning of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectWords(Vec<String>);

/// The text has no words to search for, or too many.
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

    /// In their order, never none; each has a letter or a digit, and none a quotation mark.
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

/// A page of messages, newest first. It may be short, even empty, and have more behind it.
#[derive(Debug, Clone)]
pub struct MessagePage {
    pub items: Vec<MessageSummary>,
    /// Where to go on in the direction of the request.
    pub next: Option<MessageId>,
}

/// A message as a list shows it: of many recipients the first, and of all what states there are.
#[derive(Debug, Clone)]
pub struct MessageSummary {
    pub message: Message,
    /// The first [`MessageSummary::RECIPIENTS_MAX`] recipients, in their order.
    pub recipients: Vec<Address>,
    /// Of all.
    pub recipient_count: u64,
    /// Each state that a delivery is in, once.
    pub states: Vec<DeliveryState>,
}

impl MessageSummary {
    /// Recipients shown for each message.
    pub const RECIPIENTS_MAX: usize = 20;
}

/// What a request of the API was answered, for when it is repeated.
#[derive(Clone, PartialEq, Eq)]
pub struct IdempotentResponse {
    /// SHA-256 of what was asked.
    pub digest: [u8; 32],
    /// The status of HTTP.
    pub status: u16,
    /// JSON; sealed while it is kept, for it may hold a secret.
    pub body: Vec<u8>,
}

impl std::fmt::Debug for IdempotentResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IdempotentResponse").field("status", &self.status).finish_non_exhaustive()
    }
}

/// How long finished things are kept.
#[derive(Debug, Clone, Copy)]
pub struct RetentionPolicy {
    /// Bodies, after the last delivery of a message is finished; a tenant's own value goes first.
    pub body_days: u32,
    /// Transcripts of attempts, after the attempt.
    pub transcript_days: u32,
    /// Messages, deliveries, attempts, events and rejections; a tenant's own value goes first.
    pub row_days: u32,
    /// What webhooks were told or could not be told.
    pub webhook_days: u32,
}

/// What was written since a store was opened.
#[derive(Debug, Clone, PartialEq)]
pub struct StoreCounts {
    /// Of each kind.
    pub events: Vec<(EventKind, u64)>,
    /// Attempts of deliveries, by outcome; those that occurred.
    pub attempts: Vec<AttemptCount>,
    /// From the acceptance of a message to the end of a delivery, by the state in which it ended.
    pub delivery_seconds: Vec<(DeliveryState, HistogramReading)>,
    /// Transactions.
    pub commits: u64,
    /// From the begin of a transaction to its synced commit.
    pub commit_seconds: HistogramReading,
    /// Transactions that could not be committed.
    pub failed_commits: u64,
    /// Body files that belong to no message, when they were last counted.
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

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    pub bodies: u64,
    pub transcripts: u64,
    pub messages: u64,
    pub events: u64,
    pub rejections: u64,
    pub webhook_deliveries: u64,
    pub submission_keys: u64,
    pub usage_hours: u64,
    pub kept_answers: u64,
    /// Not everything was looked at: there may be more.
    pub truncated: bool,
}
