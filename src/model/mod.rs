//! The terms of the product: ids, states, scopes, refusals, credentials, periods, queue filters.
//!
//! Pure values: no I/O, no clock. Imports `mail`.

mod brakes;
mod brand;
mod credential;
mod destination_pattern;
mod domain_status;
mod enumeration;
mod event_kind;
mod id;
mod list_name;
mod period;
mod queue_filter;
mod ratio;
mod refusal;
mod report;
mod scope;
mod scram;
mod soft_bounces;
mod state;
mod unsubscribe_link;
mod weight;

pub use brakes::{BrakeWindow, Brakes};
pub use brand::{Brand, Color, ColorError};
pub use credential::{KeySecret, KeySecretError, SecretDigest, StoredSecret};
pub use destination_pattern::DestinationPattern;
pub use enumeration::UnknownValue;
pub use event_kind::EventKind;
pub use id::{
    AttemptId, AuditId, DeliveryId, DkimKeyId, DomainId, ErasureId, EventId, IdError, InboxId, KeyId,
    MessageId, ReportId, RequestId, SuppressionId, TemplateId, TenantId, WebhookDeliveryId, WebhookId,
};
pub use list_name::{ListName, ListNameError, SuppressedMail};
pub use queue_filter::QueueFilter;
pub use ratio::Ratio;
pub use refusal::{Refusal, RefusalCode};
pub use report::{
    FeedbackType, ReportAction, ReportEffect, ReportKind, ReturnPathMode, ReturnPathStatus, UnsubscribeVia,
};
pub use scram::{ScramProof, ScramVerifier};
pub use soft_bounces::SoftBounces;
pub use state::{
    AuditActor, BounceClass, BrakeAction, BrakeMetric, DeliveryReports, DeliveryState, DisabledReason,
    DkimAlgorithm, DkimKeyState, DkimPolicy, DomainStatus, Environment, FindingStatus, KeyStatus,
    LimitPeriod, MessageKind, ReasonsWindow, Scope, Stage, StatsInterval, SuppressionReason, TenantStatus,
    TlsFailure, TlsMinimum, TlsMode, TlsPolicyType, UsageFormat, UsageGroup, UsageInterval, Verification,
    WaitReason, WebhookDeliveryState, WebhookStatus,
};
pub use unsubscribe_link::{LINK_KEY_OCTETS, LinkKeys, SealLinkError, UnsubscribeLink};
pub use weight::{Weight, WeightError};
