#![allow(missing_docs)]
//! Messages and deliveries: what is accepted, claimed and recorded.

use std::fs::File;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Serialize, Serializer, ser};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::mail::{
    Address, BodyType, Content, DomainName, EnhancedStatus, Host, MailParameters, RcptParameters, Recipient,
    ReversePath, Timestamp,
};
use crate::model::{
    AttemptId, BounceClass, DeliveryId, DeliveryState, Environment, KeyId, ListName, MessageId, MessageKind,
    TenantId,
};

use super::NewSuppression;

/// A message to enqueue.
#[derive(Debug, Clone)]
pub struct NewMessage {
    pub message: Message,
    pub recipients: Vec<(DeliveryId, Recipient)>,
    /// Recipients that are skipped because they are suppressed; each gets an event.
    pub suppressed: Vec<Address>,
    pub content: Content,
    pub submission_key: Option<SubmissionKey>,
}

/// Identifies a repeated submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubmissionKey {
    /// The protocol and the client's idempotency key, unique within tenant and environment.
    pub name: String,
    /// SHA-256 of the submission.
    pub digest: [u8; 32],
}

/// An accepted message without its content.
#[derive(Debug, Clone)]
pub struct Message {
    pub id: MessageId,
    pub tenant_id: TenantId,
    /// `None` for reports that the server generates.
    pub key_id: Option<KeyId>,
    pub kind: MessageKind,
    pub environment: Environment,
    pub reverse_path: ReversePath,
    pub body: BodyType,
    pub smtputf8: bool,
    pub parameters: MailParameters,
    pub annotations: Annotations,
    /// Octets as sent, including the added header fields.
    pub size: u64,
    /// The decoded Subject, truncated to 255 characters, for lists.
    pub subject: Option<String>,
    /// The first address of the From field, for lists.
    pub header_from: Option<String>,
    /// The Message-ID field without its angle brackets, for look-ups.
    pub header_message_id: Option<String>,
    /// The domain of the DKIM signature, if the message is signed.
    pub dkim_domain: Option<DomainName>,
    /// The domain of the tenant that covers the author; `None` for reports.
    pub sender_domain: Option<DomainName>,
    /// The list that recipients can leave.
    pub list: Option<ListName>,
    pub created_at: Timestamp,
    /// The end of the message lifetime.
    pub expires_at: Timestamp,
}

impl Message {
    /// The earliest delivery: at once, or at the time that the client requested (RFC 4865).
    pub fn begins_at(&self) -> Timestamp {
        self.parameters.release_at.map_or(self.created_at, |at| at.max(self.created_at))
    }

    /// The domain under which its usage is counted. Old messages have only that of the signature.
    pub fn usage_domain(&self) -> Option<&DomainName> {
        self.sender_domain.as_ref().or(self.dkim_domain.as_ref())
    }
}

/// Data that the sender attached to a message for its own use; it is not sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Annotations {
    /// For searches; without duplicates.
    pub tags: Vec<String>,
    pub metadata: Metadata,
}

/// A JSON object as text. Parsed values can take a hundred times as much memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata(Option<Box<str>>);

impl Metadata {
    /// From a parsed object.
    pub fn of(object: &Map<String, Value>) -> Self {
        Self::from_json((!object.is_empty()).then(|| Value::Object(object.clone()).to_string()))
    }

    /// From text; `None` for an empty object.
    pub fn from_json(text: Option<String>) -> Self {
        Self(text.map(String::into_boxed_str))
    }

    /// The text; `None` for an empty object.
    pub fn as_json(&self) -> Option<&str> {
        self.0.as_deref()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Members whose value is a string, number or boolean, with the text of the value: what searches find.
    pub fn scalars(&self) -> Vec<(String, String)> {
        let object: Map<String, Value> =
            self.as_json().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let scalars = object.into_iter().filter_map(|(key, value)| match value {
            Value::String(text) => Some((key, text)),
            Value::Number(_) | Value::Bool(_) => Some((key, value.to_string())),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        });
        scalars.collect()
    }
}

impl Serialize for Metadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = self.as_json().unwrap_or("{}");
        serde_json::from_str::<&RawValue>(text).map_err(ser::Error::custom)?.serialize(serializer)
    }
}

/// The delivery of one message to one recipient.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub id: DeliveryId,
    pub message_id: MessageId,
    pub recipient: Address,
    pub parameters: RcptParameters,
    pub state: DeliveryState,
    /// Attempts so far.
    pub attempts: u32,
    /// `None` if there will be none, or during a pause without an end.
    pub next_attempt_at: Option<Timestamp>,
    /// The last reply or error.
    pub last_reply: Option<String>,
    /// Why the last attempt failed.
    pub bounce_class: Option<BounceClass>,
    pub updated_at: Timestamp,
}

/// Deliveries of one message to one destination: one SMTP transaction of the relay.
#[derive(Debug, Clone)]
pub struct Batch {
    pub message: Arc<Message>,
    pub destination: Host,
    /// At least one; at most 100.
    pub deliveries: Vec<Delivery>,
    /// The content, if it is still in memory; else read it with [`super::Spool::content`].
    pub content: Option<Content>,
}

/// Where the content of a message is stored.
#[derive(Debug)]
pub enum StoredContent {
    /// In the database; [`super::Spool::content`] reads it.
    Row { octets: u64 },
    /// In a file, which [`super::Spool::open_content`] opens.
    File { octets: u64 },
}

impl StoredContent {
    /// Its size.
    pub fn octets(&self) -> u64 {
        let (Self::Row { octets } | Self::File { octets }) = self;
        *octets
    }
}

/// The open file of a message. It stays readable while it is open, even if retention deletes it.
#[derive(Debug)]
pub struct ContentFile {
    pub file: File,
    pub octets: u64,
}

/// The time of the next attempt during a pause without an end, in microseconds: the latest possible time.
pub const OPEN_ENDED_PAUSE_US: i64 = 253_402_207_200_000_000;

/// The time of the next attempt of a delivery of a restored backup, until it is released. It is later than the end of every
/// pause, so that no flush, no retry and no end of a pause makes it due.
pub const RESTORED_US: i64 = OPEN_ENDED_PAUSE_US + 1;

/// Whether a time of the next attempt is none: the delivery waits for a person.
pub fn is_held(next_us: i64) -> bool {
    next_us >= OPEN_ENDED_PAUSE_US
}

/// A position in the due deliveries of a tenant: after this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DueCursor {
    pub next_attempt_us: i64,
    pub id: DeliveryId,
}

/// A range of the due deliveries of a tenant.
#[derive(Debug, Clone)]
pub struct DueRange {
    pub tenant_id: TenantId,
    /// Only deliveries after this position.
    pub after: Option<DueCursor>,
    /// Only deliveries up to this position.
    pub until: Option<DueCursor>,
    pub rows_max: usize,
}

/// A page of due deliveries, the longest due first.
#[derive(Debug, Default)]
pub struct DuePage {
    pub rows: Vec<DueRow>,
    /// Whether the range ends with this page.
    pub is_last: bool,
    /// On the last page: the next time after now at which a delivery of the tenant is due.
    pub next_due_us: Option<i64>,
}

/// A due delivery, as far as the decision to claim it needs.
#[derive(Debug)]
pub struct DueRow {
    pub at: DueCursor,
    pub destination: Host,
}

/// A due delivery whose next attempt moves to the end of the pause of its destination.
#[derive(Debug, Clone)]
pub struct PausedRow {
    pub tenant_id: TenantId,
    pub destination: Host,
    pub at: DueCursor,
    pub until_us: i64,
}

/// The unfinished deliveries of a message.
#[derive(Debug, Default)]
pub struct OpenDeliveries {
    /// `None` if there are none.
    pub tenant_id: Option<TenantId>,
    pub deliveries: Vec<OpenDelivery>,
}

/// An unfinished delivery.
#[derive(Debug, Clone)]
pub struct OpenDelivery {
    pub id: DeliveryId,
    pub destination: Host,
    /// Another node has claimed it.
    pub is_elsewhere: bool,
}

/// The results of one attempt of a batch, written in one transaction.
#[derive(Debug, Clone, Default)]
pub struct RecordBatch {
    pub records: Vec<AttemptRecord>,
    /// A report to the reverse path (RFC 3464).
    pub report: Option<NewMessage>,
}

/// The result for one delivery.
#[derive(Debug, Clone)]
pub struct AttemptRecord {
    pub message_id: MessageId,
    /// A report raises no events, counts nowhere and suppresses nobody.
    pub kind: MessageKind,
    pub tenant_id: TenantId,
    pub environment: Environment,
    /// The key that submitted the message, for usage.
    pub key_id: Option<KeyId>,
    /// The domain that sent it, for usage; see [`Message::usage_domain`].
    pub sender_domain: Option<DomainName>,
    pub delivery_id: DeliveryId,
    /// The state afterwards.
    pub state: DeliveryState,
    /// Why it was not delivered.
    pub bounce_class: Option<BounceClass>,
    /// Set exactly if the state is open.
    pub next_attempt_at: Option<Timestamp>,
    /// `None` if the message expired without another attempt, during a back-off, or if the recipient is suppressed.
    pub attempt: Option<Attempt>,
    /// The last reply of the delivery.
    pub reply: String,
    /// A suppression to create for the recipient.
    pub suppress: Option<NewSuppression>,
    /// The first deferral after the time from which delays are reported.
    pub delayed: bool,
    pub at: Timestamp,
}

impl AttemptRecord {
    /// The record of a delivery that is in this state now, without an attempt.
    pub fn new(message: &Message, delivery_id: DeliveryId, state: DeliveryState, at: Timestamp) -> Self {
        Self {
            message_id: message.id,
            kind: message.kind,
            tenant_id: message.tenant_id,
            environment: message.environment,
            key_id: message.key_id,
            sender_domain: message.usage_domain().cloned(),
            delivery_id,
            state,
            bounce_class: None,
            next_attempt_at: None,
            attempt: None,
            reply: String::new(),
            suppress: None,
            delayed: false,
            at,
        }
    }

    /// Whether the delivery ended because its recipient was suppressed after the message was accepted.
    pub fn is_suppressed(&self) -> bool {
        self.state == DeliveryState::Bounced && self.attempt.is_none()
    }
}

/// One attempt of one delivery.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub id: AttemptId,
    pub message_id: MessageId,
    pub delivery_id: DeliveryId,
    pub started_at: Timestamp,
    pub duration_ms: u64,
    /// The MX or smart host, `sandbox`, or empty if none was reached.
    pub host: String,
    pub address: Option<IpAddr>,
    /// The own address that the host saw; `None` if there was no connection.
    pub source: Option<IpAddr>,
    /// Like `TLSv1.3 TLS13_AES_256_GCM_SHA384`; `None` in clear.
    pub tls: Option<String>,
    /// The TLS policy of the host and its source; `None` if no host was dialled.
    pub tls_policy: Option<String>,
    /// The reply's code; `None` if there was no reply.
    pub code: Option<u16>,
    pub enhanced: Option<EnhancedStatus>,
    /// The text of the reply, or the error.
    pub text: String,
    /// Commands and replies, with secrets masked, at most [`Attempt::TRANSCRIPT_OCTETS_MAX`]; empty after its retention.
    /// The deliveries of one batch share it.
    pub transcript: Arc<str>,
    /// The resulting state.
    pub outcome: DeliveryState,
    /// Why it failed.
    pub bounce_class: Option<BounceClass>,
    /// Why the next attempt is at its time.
    pub reason: String,
}

impl Attempt {
    /// Maximum of octets in a transcript.
    pub const TRANSCRIPT_OCTETS_MAX: usize = 16 * 1024;
}
