#![allow(missing_docs)]
//! Recipients whose data are erased.

use std::ops::AddAssign;

use data_encoding::HEXLOWER_PERMISSIVE;
use schemars::JsonSchema;
use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize};

use crate::mail::Timestamp;
use crate::model::{DeliveryId, ErasureId, InboxId, MessageId, ReportId, SuppressionId, TenantId};

/// Maximum of deliveries, and of reports, in [`RecipientRows`].
pub const RECIPIENT_ROWS_MAX: usize = 1000;

/// Complete erasures are kept for this many days, so that they can be applied again to a restored backup.
pub const ERASURE_DAYS: u32 = 730;

/// The octets of the MAC of an address.
const DIGEST_OCTETS: usize = 32;

/// A recipient to erase.
#[derive(Debug, Clone)]
pub struct NewErasure {
    pub id: ErasureId,
    /// `None`: of every tenant, and of the platform.
    pub tenant_id: Option<TenantId>,
    /// [`Address::folded`](crate::mail::Address::folded).
    pub folded: String,
    pub keeps_suppression: bool,
}

/// A recipient that is erased, or being erased. It does not have the address.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Erasure {
    pub id: ErasureId,
    pub tenant_id: Option<TenantId>,
    /// A MAC of the address.
    #[serde(deserialize_with = "read_digest")]
    pub digest: Vec<u8>,
    pub keeps_suppression: bool,
    pub requested_at: Timestamp,
    /// `None` until all rows are changed.
    pub applied_at: Option<Timestamp>,
    /// What was changed.
    pub counts: ErasureCounts,
}

/// Reads the MAC of an address from hexadecimal digits.
fn read_digest<'de, D: Deserializer<'de>>(value: D) -> Result<Vec<u8>, D::Error> {
    let digits = String::deserialize(value)?;
    let octets = HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok();
    let digest = octets.filter(|octets| octets.len() == DIGEST_OCTETS);
    digest.ok_or_else(|| Error::custom(format!("digest must be {} hexadecimal digits", 2 * DIGEST_OCTETS)))
}

/// What an erasure changes, or would change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ErasureCounts {
    /// Deliveries to the recipient.
    pub deliveries: u64,
    /// Those of them that are cancelled, now or before.
    pub cancelled: u64,
    /// Messages to nobody else: content, subject and metadata are removed.
    pub messages: u64,
    /// Messages to others too: their content stays until its retention ends, without the address in subject and metadata.
    pub shared_messages: u64,
    /// Events.
    pub events: u64,
    /// Attempts.
    pub attempts: u64,
    /// Refused submissions.
    pub rejections: u64,
    /// Reports of other servers.
    pub reports: u64,
    /// Suppressions that were removed.
    pub suppressions: u64,
    /// Messages that name the recipient in subject, tags, metadata, `From` or envelope id; inboxes, entries of the audit log,
    /// webhook deliveries, notifications to senders, and notes of suppressions.
    pub other: u64,
}

impl AddAssign for ErasureCounts {
    fn add_assign(&mut self, more: Self) {
        self.cancelled += more.cancelled;
        self.deliveries += more.deliveries;
        self.messages += more.messages;
        self.shared_messages += more.shared_messages;
        self.events += more.events;
        self.attempts += more.attempts;
        self.rejections += more.rejections;
        self.reports += more.reports;
        self.suppressions += more.suppressions;
        self.other += more.other;
    }
}

/// The rows about a recipient.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecipientRows {
    /// The newest first, at most [`RECIPIENT_ROWS_MAX`].
    pub deliveries: Vec<(MessageId, DeliveryId)>,
    /// Whether there are more deliveries or reports.
    pub truncated: bool,
    pub suppressions: Vec<SuppressionId>,
    /// At most [`RECIPIENT_ROWS_MAX`].
    pub reports: Vec<ReportId>,
    pub inboxes: Vec<InboxId>,
}
