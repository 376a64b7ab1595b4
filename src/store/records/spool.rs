#![allow(missing_docs)]
//! Messages on their way: what is accepted, claimed and recorded.

use std::fs::File;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Serialize, Serializer, ser};
use serde_json::value::RawValue;

use crate::mail::{
    Address, BodyType, Content, DomainName, EnhancedStatus, Host, MailParameters, RcptParameters, Recipient,
    ReversePath, Timestamp,
};
use crate::model::{
    AttemptId, BounceClass, DeliveryId, DeliveryState, Environment, KeyId, MessageId, TenantId,
};

use super::NewSuppression;

/// A message to be accepted.
#[derive(Debug, Clone)]
pub struct NewMessage {
    pub message: Message,
    pub recipients: Vec<(DeliveryId, Recipient)>,
    /// Recipients that were left out because they are suppressed; the story of the message tells them.
    pub suppressed: Vec<Address>,
    pub content: Content,
    pub submission_key: Option<SubmissionKey>,
}

/// By what a repeated submission is known as such.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubmissionKey {
    /// How the message came and what its submitter calls it, unique within tenant and environment.
    pub name: String,
    /// SHA-256 of what was submitted.
    pub digest: [u8; 32],
}

/// One accepted submission, without its bytes.
#[derive(Debug, Clone)]
pub struct Message {
    pub id: MessageId,
    pub tenant_id: TenantId,
    /// `None` for reports that the server itself writes.
    pub key_id: Option<KeyId>,
    pub environment: Environment,
    pub reverse_path: ReversePath,
    pub body: BodyType,
    pub smtputf8: bool,
    pub parameters: MailParameters,
    pub annotations: Annotations,
    /// Octets as sent, our fields included.
    pub size: u64,
    /// The decoded Subject, shortened to 255 characters, for lists.
    pub subject: Option<String>,
    /// The From field's first address, for lists.
    pub header_from: Option<String>,
    /// The Message-ID field without its angle brackets, for look-ups.
    pub header_message_id: Option<String>,
    /// The domain of the DKIM signature, if one was made.
    pub dkim_domain: Option<DomainName>,
    pub created_at: Timestamp,
    /// When delivery is given up.
    pub expires_at: Timestamp,
}

impl Message {
    /// When delivery begins: at once, or when the submitter wants it (RFC 4865).
    pub fn begins_at(&self) -> Timestamp {
        self.parameters.release_at.map_or(self.created_at, |at| at.max(self.created_at))
    }
}

/// What the sender attached to a message for itself; no recipient sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Annotations {
    /// By which messages are found again; each once.
    pub tags: Vec<String>,
    pub metadata: Metadata,
}

/// An object of JSON as text. As values it could take a hundred times as much memory, and many messages wait there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata(Option<Box<str>>);

impl Metadata {
    /// What is in an object.
    pub fn of(object: &serde_json::Map<String, serde_json::Value>) -> Self {
        Self::from_json((!object.is_empty()).then(|| serde_json::Value::Object(object.clone()).to_string()))
    }

    /// An object that is text already; `None` for an empty one.
    pub fn from_json(text: Option<String>) -> Self {
        Self(text.map(String::into_boxed_str))
    }

    /// Its text; `None` for an empty one.
    pub fn as_json(&self) -> Option<&str> {
        self.0.as_deref()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl Serialize for Metadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = self.as_json().unwrap_or("{}");
        serde_json::from_str::<&RawValue>(text).map_err(ser::Error::custom)?.serialize(serializer)
    }
}

/// One recipient of one message.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub id: DeliveryId,
    pub message_id: MessageId,
    pub recipient: Address,
    pub parameters: RcptParameters,
    pub state: DeliveryState,
    /// Attempts so far.
    pub attempts: u32,
    /// `None` once nothing more will happen, or while its destination is paused without end.
    pub next_attempt_at: Option<Timestamp>,
    /// The last reply, or what went wrong.
    pub last_reply: Option<String>,
    /// Why the last try did not deliver.
    pub last_class: Option<BounceClass>,
    pub updated_at: Timestamp,
}

/// Recipients of one message at one destination: what one transaction of the relay carries.
#[derive(Debug, Clone)]
pub struct Batch {
    pub message: Arc<Message>,
    pub destination: Host,
    /// At least one; at most 100.
    pub deliveries: Vec<Delivery>,
    /// The bytes, when they are still in memory; else [`super::Spool::content`].
    pub content: Option<Content>,
}

/// Where the bytes of a message are.
#[derive(Debug)]
pub enum StoredContent {
    /// In the database, from which [`super::Spool::content`] reads them.
    Row { octets: u64 },
    /// In a file of their own, which [`super::Spool::open_content`] opens.
    File { octets: u64 },
}

/// The open file of a message. Its bytes stay there while it is open, even if retention removes it.
#[derive(Debug)]
pub struct ContentFile {
    pub file: File,
    pub octets: u64,
}

/// The next attempt of what is paused without end, in microseconds: the last one that a time can be.
pub const PARKED_US: i64 = 253_402_207_200_000_000;

/// A place among a tenant's due rows: behind this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DueCursor {
    pub next_attempt_us: i64,
    pub id: DeliveryId,
}

/// A part of what a tenant has due.
#[derive(Debug, Clone)]
pub struct DueRange {
    pub tenant_id: TenantId,
    /// Only rows behind this one.
    pub after: Option<DueCursor>,
    /// No rows behind this one.
    pub until: Option<DueCursor>,
    pub rows_max: usize,
}

/// Rows that are due, the longest due first.
#[derive(Debug, Default)]
pub struct DuePage {
    pub rows: Vec<DueRow>,
    /// No more rows of the range.
    pub is_last: bool,
    /// Of the last page: when the tenant's next delivery falls due after now.
    pub next_due_us: Option<i64>,
}

/// A due delivery, as far as the choice needs it.
#[derive(Debug)]
pub struct DueRow {
    pub at: DueCursor,
    pub destination: Host,
}

/// A due row whose next attempt is put off to the end of the pause of its destination.
#[derive(Debug, Clone)]
pub struct ParkedRow {
    pub tenant_id: TenantId,
    pub destination: Host,
    pub at: DueCursor,
    pub until_us: i64,
}

/// The deliveries of a message that are not finished.
#[derive(Debug, Default)]
pub struct OpenDeliveries {
    /// `None` if there are none.
    pub tenant_id: Option<TenantId>,
    pub deliveries: Vec<(DeliveryId, Host)>,
}

/// What one try of a batch did, to be written in one transaction.
#[derive(Debug, Clone, Default)]
pub struct RecordBatch {
    pub records: Vec<AttemptRecord>,
    /// A report to the reverse path (RFC 3464).
    pub report: Option<NewMessage>,
}

/// What came of one delivery.
#[derive(Debug, Clone)]
pub struct AttemptRecord {
    pub message_id: MessageId,
    pub tenant_id: TenantId,
    pub delivery_id: DeliveryId,
    /// The state afterwards.
    pub state: DeliveryState,
    /// Why it was not delivered, if it was not.
    pub class: Option<BounceClass>,
    /// Set exactly if the state is open.
    pub next_attempt_at: Option<Timestamp>,
    /// What was tried; `None` when a lifetime ended without another try, or when the delivery was held back.
    pub attempt: Option<Attempt>,
    /// Shown as the delivery's last reply.
    pub reply: String,
    /// The recipient is to be suppressed.
    pub suppress: Option<NewSuppression>,
    /// The recipient complained (sandbox), told by its own event after the delivery.
    pub complained: bool,
    /// The first deferral after the time at which delay is told, which its event says.
    pub delayed: bool,
    pub at: Timestamp,
}

/// One try of one delivery.
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
    /// Like `TLSv1.3 TLS13_AES_256_GCM_SHA384`; `None` in clear.
    pub tls: Option<String>,
    /// Which TLS policy held for the host, and on what ground; `None` if no host was reached for.
    pub tls_policy: Option<String>,
    /// The reply's code; `None` if there was no reply.
    pub code: Option<u16>,
    pub enhanced: Option<EnhancedStatus>,
    /// The reply's text, or what went wrong.
    pub text: String,
    /// The commands and replies of this try, secrets masked, at most [`Attempt::TRANSCRIPT_OCTETS_MAX`]; empty once its
    /// retention has ended. The deliveries of one batch share it.
    pub transcript: Arc<str>,
    /// The state that followed.
    pub outcome: DeliveryState,
    /// Why it did not deliver, if it did not.
    pub class: Option<BounceClass>,
    /// Why the next try is when it is.
    pub reason: String,
}

impl Attempt {
    /// Octets of a transcript that are kept.
    pub const TRANSCRIPT_OCTETS_MAX: usize = 16 * 1024;
}
