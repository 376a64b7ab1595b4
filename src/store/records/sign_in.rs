#![allow(missing_docs)]
//! Who is signed in to the pages.

use crate::mail::Timestamp;
use crate::model::{Scope, SecretDigest, TenantId};

/// A session of the pages, or a link that begins one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignIn {
    /// Of what the browser has: the id of the session, or the token of the link.
    pub digest: [u8; 32],
    /// The secret of the key that signed in, or made the link.
    pub secret: SecretDigest,
    /// Whose objects it sees; `None` for the platform.
    pub tenant_id: Option<TenantId>,
    /// Its rights, if it is one of a link; otherwise they are those of the key.
    pub scopes: Option<Vec<Scope>>,
    /// The page that a link opens; `None` for a session.
    pub path: Option<String>,
    pub created_at: Timestamp,
    /// The last page of a session, within some seconds.
    pub seen_at: Timestamp,
    /// When it ends, unless it is used before.
    pub ends_at: Timestamp,
    /// When the session ends at the latest.
    pub expires_at: Timestamp,
    /// The theme that the person chose.
    pub theme: Option<String>,
    /// What the next page says.
    pub note: Option<String>,
}

/// How many sessions there may be, or links.
#[derive(Debug, Clone, Copy)]
pub struct SignInLimits {
    /// Of one owner: a secret, for each tenant that its links are for.
    pub of_owner: u32,
    /// Of all.
    pub total: u32,
}

/// A change of a session.
#[derive(Debug, Clone)]
pub enum SessionChange {
    /// It has shown a page.
    Seen {
        at: Timestamp,
        ends_at: Timestamp,
    },
    Theme(Option<String>),
    Note(Option<String>),
}
