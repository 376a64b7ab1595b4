//! What the verbs of the store fail with.

use super::Limited;
use crate::model::MessageId;

/// Why the store could not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// An object of that name exists, or would overlap one of another tenant.
    #[error("{0}")]
    Conflict(Conflict),
    /// The disk is full or nearly so: nothing was written, trying later makes sense.
    #[error("the disk is full or nearly full")]
    DiskFull,
    /// The stored bytes of a message are not those that were accepted: they are not handed out.
    #[error("the content of {message} is damaged: {fault}")]
    Damaged {
        /// The message.
        message: MessageId,
        /// What is wrong with its content.
        fault: String,
    },
    /// The store is closing or its writer is gone.
    #[error("the store is closed")]
    Closed,
    /// Anything else that SQLite or the file system reports; nothing was written.
    #[error("{0}")]
    Failed(String),
}

/// What stands in the way of a new or changed object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// The slug is in use.
    #[error("a tenant with this slug exists")]
    Slug,
    /// The tenant has this domain already.
    #[error("the tenant has this domain already")]
    DomainExists,
    /// Another tenant proved this domain, or one above or below it.
    #[error("another tenant has proved this domain, or one above or below it")]
    DomainTaken,
    /// The selector is in use for this domain.
    #[error("the domain has a DKIM key with this selector")]
    Selector,
    /// The tenant used this key for another submission within [`SUBMISSION_KEY_LIFETIME`](super::SUBMISSION_KEY_LIFETIME).
    #[error("this idempotency key was used for another message")]
    SubmissionKey,
    /// The tenant has a template of this name.
    #[error("the tenant has a template of this name")]
    TemplateName,
    /// The tenant an object should belong to does not exist.
    #[error("there is no such tenant")]
    NoTenant,
    /// There are as many pauses of the queue as there may be.
    #[error("there are as many pauses as there may be: 1000")]
    TooManyPauses,
    /// As much is pending for the webhook as may be.
    #[error("as much is waiting for this webhook as may wait")]
    WebhookBacklog,
    /// The tenant has as many of these as a tenant may.
    #[error("the tenant has as many {} as a tenant may: {}", .0.plural(), .0.rows_max())]
    LimitReached(Limited),
}

/// What the verbs answer.
pub type Result<T> = std::result::Result<T, StoreError>;
