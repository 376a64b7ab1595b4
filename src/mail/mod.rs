//! The vocabulary of mail: addresses, domains, ids, envelopes, status codes and message bytes.
//!
//! Pure values: no I/O, no clock, no other module of this crate. Everything else builds on these.

mod address;
mod content;
mod credential;
mod domain;
mod envelope;
mod header;
mod id;
mod mailbox_list;
mod refusal;
mod scram;
mod state;
mod status;
mod xtext;

pub use address::{Address, AddressError, Host, LocalPart};
pub use content::Content;
pub use credential::{Imprint, KeySecret, KeySecretError, SecretDigest};
pub use domain::{DomainError, DomainName};
pub use envelope::{
    BodyType, Envelope, MailParameters, Notify, ParameterError, RcptParameters, Recipient, ReturnContent,
    ReversePath,
};
pub use header::{Field, HeaderBlock, HeaderError};
pub use id::{
    AttemptId, DeliveryId, DkimKeyId, DomainId, EventId, IdError, KeyId, MessageId, RequestId, SuppressionId,
    TemplateId, TenantId,
};
pub use jiff::{SignedDuration, Timestamp};
pub use mailbox_list::{MailboxListError, parse_mailbox_list};
pub use refusal::{Refusal, RefusalCode};
pub use scram::ScramVerifier;
pub use state::{
    DeliveryState, DkimAlgorithm, DkimKeyState, DomainStatus, Environment, EventKind, Scope, Stage,
    SuppressionReason, TenantStatus, TlsMode, UnknownName, Verification, WaitReason,
};
pub use status::EnhancedStatus;
pub use xtext::{EnvelopeId, OriginalRecipient, XtextError, decode_xtext};
