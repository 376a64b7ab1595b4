//! The terms of the product: ids, states, scopes, refusals, credentials, periods, queue filters.
//!
//! Pure values: no I/O, no clock. Imports `mail`.

mod brakes;
mod credential;
mod destination_pattern;
mod domain_status;
mod enumeration;
mod id;
mod period;
mod queue_filter;
mod ratio;
mod refusal;
mod scope;
mod scram;
mod state;
mod weight;

pub use brakes::{BrakeWindow, Brakes};
pub use credential::{KeySecret, KeySecretError, SecretDigest, StoredSecret};
pub use destination_pattern::DestinationPattern;
pub use enumeration::UnknownValue;
pub use id::{
    AttemptId, DeliveryId, DkimKeyId, DomainId, EventId, IdError, InboxId, KeyId, MessageId, RequestId,
    SuppressionId, TemplateId, TenantId, WebhookDeliveryId, WebhookId,
};
pub use queue_filter::QueueFilter;
pub use ratio::Ratio;
pub use refusal::{Refusal, RefusalCode};
pub use scram::{ScramProof, ScramVerifier};
pub use state::{
    BounceClass, BrakeAction, BrakeMetric, DeliveryReports, DeliveryState, DisabledReason, DkimAlgorithm,
    DkimKeyState, DkimPolicy, DomainStatus, Environment, EventKind, KeyStatus, LimitPeriod, MessageKind,
    Scope, Stage, SuppressionReason, TenantStatus, TlsFailure, TlsMinimum, TlsMode, TlsPolicyType,
    UsageGroup, UsageInterval, Verification, WaitReason, WebhookDeliveryState, WebhookStatus,
};
pub use weight::{Weight, WeightError};
