//! The vocabulary of mail: addresses, domains, ids, envelopes, status codes and message bytes.
//!
//! Pure values: no I/O, no clock, no other module of this crate. Everything else builds on these.

mod address;
mod content;
mod credential;
mod destination;
mod domain;
mod envelope;
mod header;
mod id;
mod mailbox_list;
mod period;
mod queue_part;
mod refusal;
mod scram;
mod state;
mod status;
mod tlsa;
mod weight;
mod xtext;

pub use address::{Address, AddressError, Host, LocalPart};
pub use content::Content;
pub use credential::{Imprint, KeySecret, KeySecretError, SecretDigest};
pub use destination::DestinationPattern;
pub use domain::{DomainError, DomainName};
pub use envelope::{
    BodyType, Envelope, MailParameters, Notify, ParameterError, RcptParameters, Recipient, ReturnContent,
    ReversePath,
};
pub use header::{Field, HeaderBlock, HeaderError};
pub use id::{
    AttemptId, DeliveryId, DkimKeyId, DomainId, EventId, IdError, KeyId, MessageId, RequestId, SuppressionId,
    TemplateId, TenantId, WebhookDeliveryId, WebhookId,
};
pub use jiff::{SignedDuration, Timestamp};
pub use mailbox_list::{MailboxListError, parse_mailbox_list};
pub use queue_part::QueuePart;
pub use refusal::{Refusal, RefusalCode};
pub use scram::{ScramProof, ScramVerifier};
pub use state::{
    DeliveryReports, DeliveryState, DisabledReason, DkimAlgorithm, DkimKeyState, DkimPolicy, DomainStatus,
    Environment, EventKind, LimitPeriod, OutcomeClass, Scope, Stage, SuppressionReason, TenantStatus,
    TlsMinimum, TlsMode, UnknownName, UsageInterval, Verification, WaitReason, WebhookDeliveryState,
    WebhookStatus,
};
pub use status::EnhancedStatus;
pub use tlsa::Tlsa;
pub use weight::{Weight, WeightError};
pub use xtext::{EnvelopeId, OriginalRecipient, XtextError, decode_xtext};
