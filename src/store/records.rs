#![allow(missing_docs)]
//! What goes into the store and what comes out: plain structs with the words of the product.

use std::net::IpAddr;
use std::ops::AddAssign;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::mail::{
    Address, AttemptId, BodyType, Content, DeliveryId, DeliveryState, DkimAlgorithm, DkimKeyId, DkimKeyState,
    DomainId, DomainName, DomainStatus, EnhancedStatus, Environment, EventId, EventKind, Host, Imprint,
    KeyId, MailParameters, MessageId, RcptParameters, Recipient, RefusalCode, RequestId, ReversePath, Scope,
    ScramVerifier, Stage, SuppressionId, SuppressionReason, TenantId, TenantStatus, Timestamp, TlsMode,
    Verification,
};

/// Which part of a list is wanted. Lists go from the newest id to the oldest.
#[derive(Debug, Clone, Default)]
pub struct PageRequest {
    /// At most this many objects, 1–100.
    pub limit: usize,
    /// Only objects older than the one with this id.
    pub after: Option<String>,
    /// Only objects newer than the one with this id; the page next to it.
    pub before: Option<String>,
    /// Only objects made at this time or later.
    pub created_after: Option<Timestamp>,
    /// Only objects made before this time.
    pub created_before: Option<Timestamp>,
}

/// A part of a list.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// Newest first.
    pub items: Vec<T>,
    /// Whether there are more in the direction of the request.
    pub has_more: bool,
}

/// A customer of the platform.
#[derive(Debug, Clone)]
pub struct Tenant {
    pub id: TenantId,
    pub name: String,
    pub slug: String,
    pub external_ref: Option<String>,
    /// A JSON object of the platform's own.
    pub metadata: serde_json::Map<String, serde_json::Value>,
    pub settings: TenantSettings,
    pub rate_limit: RateLimit,
    pub smart_host: Option<SmartHost>,
    /// How long finished messages stay readable; the server's default if absent.
    pub retention_days: Option<u32>,
    pub status: TenantStatus,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// Defaults for messages that are sent over HTTP.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TenantSettings {
    pub from_name: Option<String>,
    pub reply_to: Option<String>,
}

/// Limits of a tenant; absent means unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RateLimit {
    pub requests_per_minute: Option<u32>,
    pub emails_per_day: Option<u32>,
    pub emails_per_minute: Option<u32>,
}

/// Where all mail of a tenant goes instead of to the MX. The password is kept sealed and apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SmartHost {
    /// A host name or an IP address.
    pub host: String,
    pub port: u16,
    pub user: Option<String>,
    pub tls: TlsMode,
}

/// A tenant to be made.
#[derive(Debug, Clone)]
pub struct NewTenant {
    pub name: String,
    pub slug: String,
    pub external_ref: Option<String>,
    pub metadata: serde_json::Map<String, serde_json::Value>,
    pub settings: TenantSettings,
    pub rate_limit: RateLimit,
    pub smart_host: Option<NewSmartHost>,
    pub retention_days: Option<u32>,
}

/// A smart host with its password in clear, on its way to be sealed.
#[derive(Clone)]
pub struct NewSmartHost {
    pub smart_host: SmartHost,
    /// `None` keeps the password that is stored.
    pub password: Option<Zeroizing<String>>,
}

impl std::fmt::Debug for NewSmartHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewSmartHost").field("smart_host", &self.smart_host).finish_non_exhaustive()
    }
}

/// Changes to a tenant; `None` leaves a field, `Some(None)` clears it.
#[derive(Debug, Clone, Default)]
pub struct TenantPatch {
    pub name: Option<String>,
    pub slug: Option<String>,
    pub external_ref: Option<Option<String>>,
    pub metadata: Option<serde_json::Map<String, serde_json::Value>>,
    pub settings: Option<TenantSettings>,
    pub rate_limit: Option<RateLimit>,
    pub smart_host: Option<Option<NewSmartHost>>,
    pub retention_days: Option<Option<u32>>,
    pub status: Option<TenantStatus>,
}

/// What a tenant may have only so many of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limited {
    Domains,
    Keys,
    Suppressions,
}

impl Limited {
    /// How many a tenant may have.
    pub const fn rows_max(self) -> usize {
        match self {
            Self::Domains => 500,
            Self::Keys => 1000,
            // Tests come to the end sooner.
            Self::Suppressions if cfg!(test) => 1000,
            Self::Suppressions => 1_000_000,
        }
    }

    pub(super) const fn plural(self) -> &'static str {
        match self {
            Self::Domains => "domains",
            Self::Keys => "keys",
            Self::Suppressions => "suppressions",
        }
    }
}

/// How much a tenant has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct TenantCounts {
    pub domains: u64,
    pub keys: u64,
    pub suppressions: u64,
    pub messages: u64,
    pub deliveries: u64,
    pub events: u64,
}

impl AddAssign for TenantCounts {
    fn add_assign(&mut self, more: Self) {
        self.domains += more.domains;
        self.keys += more.keys;
        self.suppressions += more.suppressions;
        self.messages += more.messages;
        self.deliveries += more.deliveries;
        self.events += more.events;
    }
}

/// A sending domain.
#[derive(Debug, Clone)]
pub struct Domain {
    pub id: DomainId,
    /// `None` is the platform's sandbox domain.
    pub tenant_id: Option<TenantId>,
    pub name: DomainName,
    pub status: DomainStatus,
    pub verification: Verification,
    /// Whether senders may be below the name.
    pub subdomains: bool,
    /// The random value that the ownership record carries.
    pub ownership_token: String,
    pub last_check: Option<DomainCheck>,
    /// Since when checks of a verified domain have failed.
    pub failing_since: Option<Timestamp>,
    pub verified_at: Option<Timestamp>,
    pub created_at: Timestamp,
}

/// A domain to be claimed.
#[derive(Debug, Clone)]
pub struct NewDomain {
    /// `None` for the platform's sandbox domain, which is born verified.
    pub tenant_id: Option<TenantId>,
    pub name: DomainName,
    pub verification: Verification,
    pub subdomains: bool,
    pub ownership_token: String,
    pub dkim_keys: Vec<NewDkimKey>,
}

/// Changes to a domain.
#[derive(Debug, Clone, Default)]
pub struct DomainPatch {
    pub verification: Option<Verification>,
    pub subdomains: Option<bool>,
}

/// What a look at the DNS found, and what follows from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainCheck {
    pub checked_at: Timestamp,
    /// The status that the caller's policy derives from the results.
    pub status: DomainStatus,
    /// As [`Domain::failing_since`].
    pub failing_since: Option<Timestamp>,
    pub records: Vec<RecordCheck>,
    /// DKIM keys whose record was seen: pending ones become active.
    pub dkim_seen: Vec<DkimKeyId>,
    /// DKIM keys whose record is missing or another: they stop signing until it is seen.
    pub dkim_unseen: Vec<DkimKeyId>,
}

/// What was found for one record that a domain should have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordCheck {
    /// The owner name that was asked for.
    pub name: String,
    pub status: RecordStatus,
    /// What was there, shortened to 1024 characters in all.
    pub found: Vec<String>,
}

/// How a record compares with what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordStatus {
    Pending,
    Ok,
    Missing,
    Mismatch,
}

/// Which domains.
#[derive(Debug, Clone, Default)]
pub struct DomainFilter {
    pub tenant_id: Option<TenantId>,
    pub name: Option<DomainName>,
    pub status: Option<DomainStatus>,
}

/// The public side of a DKIM key.
#[derive(Debug, Clone)]
pub struct DkimKey {
    pub id: DkimKeyId,
    pub domain_id: DomainId,
    pub selector: String,
    pub algorithm: DkimAlgorithm,
    pub state: DkimKeyState,
    /// The value of `p=`: base64.
    pub public_key: String,
    pub created_at: Timestamp,
}

/// A DKIM key to be kept; the private half is sealed on its way in.
#[derive(Clone)]
pub struct NewDkimKey {
    pub selector: String,
    pub algorithm: DkimAlgorithm,
    pub state: DkimKeyState,
    /// The value of `p=`: base64.
    pub public_key: String,
    /// PKCS#8, DER.
    pub private_key: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for NewDkimKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewDkimKey").field("selector", &self.selector).finish_non_exhaustive()
    }
}

/// A credential.
#[derive(Debug, Clone)]
pub struct Key {
    pub id: KeyId,
    /// `None` is a platform key.
    pub tenant_id: Option<TenantId>,
    pub name: String,
    pub environment: Environment,
    pub scopes: Vec<Scope>,
    /// Empty means all of the tenant's.
    pub allowed_domain_ids: Vec<DomainId>,
    /// Empty means from anywhere.
    pub allowed_cidrs: Vec<IpNet>,
    pub last_four: String,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub last_used_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
}

/// A key to be made.
#[derive(Debug, Clone)]
pub struct NewKey {
    pub tenant_id: Option<TenantId>,
    pub name: String,
    pub environment: Environment,
    pub scopes: Vec<Scope>,
    pub allowed_domain_ids: Vec<DomainId>,
    pub allowed_cidrs: Vec<IpNet>,
    pub expires_at: Option<Timestamp>,
    pub imprint: Imprint,
}

/// What a user name and a proof of its password are held against (SCRAM).
#[derive(Debug, Clone)]
pub struct ScramCredential {
    /// A decoy that nothing satisfies if there is no such user.
    pub verifier: ScramVerifier,
    /// Absent if there is no such user.
    pub key_id: Option<KeyId>,
}

/// Changes to a key.
#[derive(Debug, Clone, Default)]
pub struct KeyPatch {
    pub name: Option<String>,
    pub scopes: Option<Vec<Scope>>,
    pub allowed_domain_ids: Option<Vec<DomainId>>,
    pub allowed_cidrs: Option<Vec<IpNet>>,
    pub expires_at: Option<Option<Timestamp>>,
}

/// Which keys.
#[derive(Debug, Clone, Default)]
pub struct KeyFilter {
    /// The caller's scope, or the tenant that the platform asks for.
    pub tenant_id: Option<TenantId>,
    pub environment: Option<Environment>,
}

/// An address that must not be sent to.
#[derive(Debug, Clone)]
pub struct Suppression {
    pub id: SuppressionId,
    /// `None` holds for every tenant.
    pub tenant_id: Option<TenantId>,
    /// Folded: [`Address::folded`].
    pub address: String,
    pub reason: SuppressionReason,
    /// The reply or the words that led to it.
    pub evidence: Option<String>,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
}

/// An address to be suppressed.
#[derive(Debug, Clone)]
pub struct NewSuppression {
    pub tenant_id: Option<TenantId>,
    pub address: Address,
    pub reason: SuppressionReason,
    pub evidence: Option<String>,
    pub expires_at: Option<Timestamp>,
}

/// Which suppressions.
#[derive(Debug, Clone, Default)]
pub struct SuppressionFilter {
    pub tenant_id: Option<TenantId>,
    /// Folded.
    pub address: Option<String>,
    pub reason: Option<SuppressionReason>,
}

/// A message to be accepted.
#[derive(Debug, Clone)]
pub struct NewMessage {
    pub message: Message,
    pub recipients: Vec<(DeliveryId, Recipient)>,
    pub content: Content,
    pub submission_key: Option<SubmissionKey>,
}

/// By what a repeated submission is known as such.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubmissionKey {
    /// The submitter's, unique within its tenant and environment.
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
    /// `None` once nothing more will happen.
    pub next_attempt_at: Option<Timestamp>,
    /// The last reply, or what went wrong.
    pub last_reply: Option<String>,
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

/// How much the caller of [`super::Spool::claim_due`] can take.
#[derive(Debug, Clone, Default)]
pub struct ClaimRoom {
    /// Deliveries in all.
    pub deliveries_max: usize,
    /// Deliveries of one tenant that may be claimed at any time, those from earlier claims included.
    pub per_tenant_max: usize,
    /// Destinations that have enough waiting already.
    pub saturated: Vec<Host>,
}

/// What was claimed.
#[derive(Debug, Default)]
pub struct Claimed {
    pub batches: Vec<Batch>,
    /// The earliest time at which there will be more; now or past if only the room was too small.
    pub next_due_at: Option<Timestamp>,
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
    /// Set exactly if the state is open.
    pub next_attempt_at: Option<Timestamp>,
    /// What was tried; `None` when a lifetime ended without another try.
    pub attempt: Option<Attempt>,
    /// Shown as the delivery's last reply.
    pub reply: String,
    /// The recipient is to be suppressed.
    pub suppress: Option<NewSuppression>,
    /// The recipient complained (sandbox), told by its own event after the delivery.
    pub complained: bool,
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
    /// The reply's code; `None` if there was no reply.
    pub code: Option<u16>,
    pub enhanced: Option<EnhancedStatus>,
    /// The reply's text, or what went wrong.
    pub text: String,
    /// The commands and replies of this try, secrets masked, shortened to 4 KiB.
    pub transcript: String,
    /// The state that followed.
    pub outcome: DeliveryState,
    /// Why the next try is when it is.
    pub reason: String,
}

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

/// A refused submission.
#[derive(Debug, Clone)]
pub struct Rejection {
    pub id: RequestId,
    pub tenant_id: TenantId,
    pub key_id: Option<KeyId>,
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

/// How many deliveries wait.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueDepth {
    /// Not finished.
    pub open: u64,
    /// Being worked on or waiting in memory.
    pub claimed: u64,
}

/// How long finished things are kept.
#[derive(Debug, Clone, Copy)]
pub struct RetentionPolicy {
    /// Bodies, after the last delivery of a message is finished.
    pub body_days: u32,
    /// Messages, deliveries, attempts, events and rejections; a tenant's own value goes first.
    pub row_days: u32,
}

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    pub bodies: u64,
    pub messages: u64,
    pub events: u64,
    pub rejections: u64,
    pub submission_keys: u64,
    pub orphan_files: u64,
}
