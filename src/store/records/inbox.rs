#![allow(missing_docs)]
//! Inboxes: the addresses that a tenant without a verified domain may send to from the sandbox domain.

use crate::mail::{Address, SignedDuration, Timestamp};
use crate::model::{InboxId, TenantId};

/// How long the code of a confirmation mail is valid.
pub const INBOX_CODE_LIFETIME: SignedDuration = SignedDuration::from_hours(24);
/// Wrong codes after which a new one is needed.
pub const INBOX_CODE_ATTEMPTS_MAX: u32 = 5;
/// Confirmation mails for a tenant in a day.
pub const CONFIRMATION_MAILS_PER_DAY_MAX: u32 = 10;
/// Live messages of a tenant from the sandbox domain in a day.
pub const TRIAL_MESSAGES_PER_DAY_MAX: u32 = 50;

/// An address whose owner confirms that a tenant may send trial mail to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inbox {
    pub id: InboxId,
    pub tenant_id: TenantId,
    pub address: Address,
    pub created_at: Timestamp,
    /// When the owner gave the code of the confirmation mail.
    pub confirmed_at: Option<Timestamp>,
    /// When the code of the last confirmation mail expires; absent without a valid code.
    pub code_expires_at: Option<Timestamp>,
}

/// An inbox to add.
#[derive(Clone)]
pub struct NewInbox {
    pub tenant_id: TenantId,
    pub address: Address,
    /// The code in the confirmation mail. Only a digest is stored.
    pub code: String,
}

/// The result of a code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InboxConfirmation {
    /// The inbox is confirmed, now or before.
    Confirmed(Inbox),
    /// The code is wrong.
    WrongCode { attempts_left: u32 },
    /// No code is valid: the last one expired, or was tried too often.
    NoCode,
}

/// Selects inboxes.
#[derive(Debug, Clone, Default)]
pub struct InboxFilter {
    pub tenant_id: Option<TenantId>,
    /// [`Address::folded`].
    pub folded: Option<String>,
}
