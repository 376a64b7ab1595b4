#![allow(missing_docs)]
//! What comes back about messages, and the keys of the addresses that it comes to.

use std::net::IpAddr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Delivery, Message, NewMessage, NewSuppression};
use crate::mail::{Address, DomainName, EnhancedStatus, Timestamp};
use crate::model::{
    BounceClass, DeliveryId, DeliveryReports, DeliveryState, Environment, FeedbackType, ListName, MessageId,
    ReportAction, ReportEffect, ReportId, ReportKind, SuppressedMail, TenantId, UnsubscribeVia,
};

/// What came back about a message.
#[derive(Debug, Clone)]
pub struct Report {
    pub id: ReportId,
    pub tenant_id: Option<TenantId>,
    pub environment: Option<Environment>,
    pub message_id: Option<MessageId>,
    pub delivery_id: Option<DeliveryId>,
    pub kind: ReportKind,
    /// The rule of the reader.
    pub rule: String,
    pub effect: ReportEffect,
    pub action: Option<ReportAction>,
    pub status: Option<EnhancedStatus>,
    pub bounce_class: Option<BounceClass>,
    pub feedback_type: Option<FeedbackType>,
    /// The recipient that the report names; it proves nothing.
    pub recipient: Option<String>,
    pub reply: Option<String>,
    pub reporter: Reporter,
    /// How often it came.
    pub times: u64,
    pub has_raw: bool,
    pub created_at: Timestamp,
    pub last_at: Timestamp,
}

/// Who sent a report. Stored as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reporter {
    /// Its address.
    pub ip: Option<IpAddr>,
    /// The name that it gave in EHLO.
    pub helo: Option<String>,
    /// `d=` of a valid signature that is aligned with From.
    pub dkim: Option<DomainName>,
    /// `Reporting-MTA`, or the User-Agent of a complaint.
    pub mta: Option<String>,
    /// The reverse path.
    pub sender: Option<String>,
}

/// A report to record, with what follows from it. The store decides only what depends on the present state of the delivery.
#[derive(Debug, Clone)]
pub struct NewReport {
    /// As described by `returns`; the store sets `effect` from `consequence` and the present state, and `times`.
    pub report: Report,
    pub digest: [u8; 32],
    /// Header, texts and status parts; without the returned body.
    pub raw: Vec<u8>,
    pub consequence: Consequence,
    /// For the tenant's own reverse path; written only if the delivery becomes bounced, or if a success is
    /// reported for the first time.
    pub dsn: Option<NewMessage>,
    pub at: Timestamp,
}

/// What follows from a report.
#[derive(Debug, Clone)]
pub enum Consequence {
    /// Only the row.
    None,
    /// `message.reported` with this effect: `Reported`, `Indirect` or `Shared`.
    Event(ReportEffect),
    /// A failure of exactly this delivery. `delivered` becomes `bounced`; another state gets `message.reported`. The suppression is
    /// made in both cases.
    Failure { suppress: Option<NewSuppression> },
    /// A complaint about exactly this delivery.
    Complaint { suppress: NewSuppression, list: Option<ListName> },
    /// A wish to unsubscribe by mail.
    Unsubscribe(Unsubscription),
}

/// What was written.
#[derive(Debug, Clone)]
pub struct RecordedReport {
    pub id: ReportId,
    pub effect: ReportEffect,
    /// Whether this is the first time.
    pub is_new: bool,
}

/// What a token names, as far as the checks at RCPT and the decision need it.
#[derive(Debug, Clone)]
pub struct ReportTarget {
    pub message: Arc<Message>,
    /// `None` for a token of a message.
    pub delivery: Option<Delivery>,
    /// The only recipient, if the message has one (also for a token of a message).
    pub only_recipient: Option<Delivery>,
    pub reports_of_day: u64,
    pub reports_total: u64,
    pub delivery_reports: DeliveryReports,
}

impl ReportTarget {
    /// The recipient whom the token proves; `None` if several have it.
    pub fn recipient(&self) -> Option<&Delivery> {
        self.delivery.as_ref().or(self.only_recipient.as_ref())
    }
}

/// Selects reports.
#[derive(Debug, Clone, Default)]
pub struct ReportFilter {
    pub tenant_id: Option<TenantId>,
    pub unattributed: bool,
    pub environment: Option<Environment>,
    pub message_id: Option<MessageId>,
    pub kind: Option<ReportKind>,
    pub effect: Option<ReportEffect>,
}

/// A recipient leaves a list, or all lists of a tenant.
#[derive(Debug, Clone)]
pub struct Unsubscription {
    pub tenant_id: TenantId,
    pub environment: Environment,
    pub address: Address,
    /// `List` or `EveryList`.
    pub mail: SuppressedMail,
    pub via: UnsubscribeVia,
    /// The message, which may be deleted already.
    pub message_id: Option<MessageId>,
    pub at: Timestamp,
}

/// The deliveries of a tenant to an address.
#[derive(Debug, Clone)]
pub struct RecipientHistory {
    pub tenant_id: TenantId,
    pub environment: Environment,
    /// As written: the local part has the same case.
    pub recipient: Address,
    /// Only those of earlier messages than this one.
    pub before: Option<MessageId>,
    pub limit: usize,
}

/// The end of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FinishedDelivery {
    pub message_id: MessageId,
    pub state: DeliveryState,
    pub bounce_class: Option<BounceClass>,
    pub attempts: u32,
    pub ended_at: Timestamp,
}

/// A generation of the keys of report addresses and unsubscribe links.
#[derive(Debug, Clone, Copy)]
pub struct TokenGeneration {
    pub generation: u32,
    /// From when on it makes tokens.
    pub since: Timestamp,
    /// From when on its tokens are refused, if that is known.
    pub refused_at: Option<Timestamp>,
    /// From when on its unsubscribe links are refused, which only a rotation at once does.
    pub links_refused_at: Option<Timestamp>,
}
