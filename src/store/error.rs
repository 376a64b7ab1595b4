//! Errors of the store.

use super::{
    CONFIRMATION_MAILS_PER_DAY_MAX, DKIM_KEYS_MAX, Limited, PAUSES_MAX, REPORTS_OF_DAY_MAX, REPORTS_TOTAL_MAX,
};
use crate::mail::Timestamp;
use crate::model::MessageId;

/// Why a call of the store failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The change conflicts with what is stored.
    #[error("{0}")]
    Conflict(Conflict),
    /// The disk is full or nearly full. Nothing was written; the call may succeed later.
    #[error("the disk with the database is full or nearly full: make space there")]
    DiskFull,
    /// The stored content of a message differs from the accepted content, so it is not returned.
    #[error("the content of {message} is damaged: {fault}")]
    Damaged {
        /// The message.
        message: MessageId,
        /// The difference.
        fault: String,
    },
    /// The database has not confirmed for some seconds that this process may serve it.
    #[error("the database does not answer, and other nodes may take over the mail of this one")]
    NoLease,
    /// The store is closing, or its writer has ended.
    #[error("the store is closed")]
    Closed,
    /// Too many queries wait for a connection.
    #[error("no connection became free in time")]
    Busy,
    /// The query was ended because it took too long.
    #[error("the query took too long")]
    TooSlow,
    /// The database did not say in time whether the change is stored. It may be, now or later.
    #[error("the database did not say in time whether the change is stored")]
    OutcomeUnknown,
    /// Another error of the engine or the file system. The failed step wrote nothing.
    #[error("{0}")]
    Failed(String),
}

/// Why an object cannot be created or changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// Another tenant has this slug.
    #[error("another tenant has this slug")]
    Slug,
    /// Another tenant has this external reference.
    #[error("another tenant has this external_ref")]
    ExternalRef,
    /// The tenant already has this domain.
    #[error("the tenant already has this domain")]
    DomainExists,
    /// Another tenant has verified this domain.
    #[error("another tenant has verified this domain")]
    DomainTaken,
    /// The domain already has a DKIM key with this selector.
    #[error("the domain already has a DKIM key with this selector")]
    Selector,
    /// The number of DKIM keys of the domain is at its limit.
    #[error("limit reached: {DKIM_KEYS_MAX} DKIM keys per domain")]
    TooManyDkimKeys,
    /// The tenant used this key for a different submission within [`SUBMISSION_KEY_LIFETIME`](super::SUBMISSION_KEY_LIFETIME).
    #[error("this idempotency key was used for a different message")]
    SubmissionKey,
    /// The tenant already has a template with this name.
    #[error("the tenant already has a template with this name")]
    TemplateName,
    /// The tenant had the maximum of confirmation mails today.
    #[error("limit reached: {CONFIRMATION_MAILS_PER_DAY_MAX} confirmation mails per tenant and day")]
    ConfirmationMails,
    /// The key is revoked or expired.
    #[error("the key is revoked or expired")]
    KeyNotActive,
    /// The object was changed after its ETag was compared with `If-Match`.
    #[error("another request has changed the object meanwhile")]
    Changed,
    /// Another request with the same `Idempotency-Key` was carried out meanwhile.
    #[error("a request with this Idempotency-Key was carried out meanwhile")]
    Repeated,
    /// The tenant of the object does not exist.
    #[error("the tenant does not exist")]
    NoTenant,
    /// The archived tenant may not be deleted before this time.
    #[error("the tenant may be deleted from {0} on")]
    NotDeletable(Timestamp),
    /// An erasure of a recipient is not complete.
    #[error("recipients are being erased")]
    ErasurePending,
    /// The number of pauses is at its limit.
    #[error("limit reached: {PAUSES_MAX} pauses")]
    TooManyPauses,
    /// Too many generations of report addresses are accepted.
    #[error(
        "limit reached: 31 accepted generations of report addresses; wait until one expires, or rotate at once"
    )]
    TooManyGenerations,
    /// The message that a report is about was deleted.
    #[error("the message does not exist any more")]
    NoMessage,
    /// The number of reports about a delivery is at its limit.
    #[error(
        "limit reached: {REPORTS_OF_DAY_MAX} reports about a delivery in a day, {REPORTS_TOTAL_MAX} in all"
    )]
    TooManyReports,
    /// The number of pending deliveries of the webhook is at its limit.
    #[error("limit reached: too many deliveries are pending for this webhook")]
    WebhookBacklog,
    /// The number of such objects of the tenant is at its limit.
    #[error("limit reached: {} {} per tenant", .0.rows_max(), .0.plural())]
    LimitReached(Limited),
}

/// The result of a call of the store.
pub type Result<T> = std::result::Result<T, StoreError>;
