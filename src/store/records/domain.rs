#![allow(missing_docs)]
//! Sending domains and what the DNS says of them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::mail::{DomainName, Timestamp};
use crate::model::{DkimKeyId, DomainId, DomainStatus, TenantId, Verification};

use super::NewDkimKey;

/// A sending domain.
#[derive(Debug, Clone)]
pub struct Domain {
    pub id: DomainId,
    /// `None` is the platform's sandbox domain.
    pub tenant_id: Option<TenantId>,
    pub name: DomainName,
    pub status: DomainStatus,
    pub verification: Verification,
    /// Whether senders may be below the name.
    pub subdomains: bool,
    /// The random value that the ownership record carries.
    pub ownership_token: String,
    pub last_check: Option<DomainCheck>,
    /// Since when checks of a verified domain have failed.
    pub failing_since: Option<Timestamp>,
    pub verified_at: Option<Timestamp>,
    pub created_at: Timestamp,
}

/// A domain to be claimed.
#[derive(Debug, Clone)]
pub struct NewDomain {
    /// `None` for the platform's sandbox domain, which is born verified.
    pub tenant_id: Option<TenantId>,
    pub name: DomainName,
    pub verification: Verification,
    pub subdomains: bool,
    pub ownership_token: String,
    pub dkim_keys: Vec<NewDkimKey>,
}

/// Changes to a domain.
#[derive(Debug, Clone, Default)]
pub struct DomainPatch {
    pub verification: Option<Verification>,
    pub subdomains: Option<bool>,
}

/// What a look at the DNS found, and what follows from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainCheck {
    pub checked_at: Timestamp,
    /// The status that the caller's policy derives from the results.
    pub status: DomainStatus,
    /// As [`Domain::failing_since`].
    pub failing_since: Option<Timestamp>,
    pub records: Vec<RecordCheck>,
    /// DKIM keys whose record was seen: of each algorithm the newest of them signs.
    pub dkim_seen: Vec<DkimKeyId>,
    /// DKIM keys whose record is missing or another: they stop signing until it is seen.
    pub dkim_unseen: Vec<DkimKeyId>,
}

/// What was found for one record that a domain should have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordCheck {
    /// The owner name that was asked for.
    pub name: String,
    pub status: RecordStatus,
    /// What was there, shortened to 1024 characters in all.
    pub found: Vec<String>,
}

/// How a record compares with what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RecordStatus {
    Pending,
    Ok,
    Missing,
    Mismatch,
}

/// Which domains.
#[derive(Debug, Clone, Default)]
pub struct DomainFilter {
    pub tenant_id: Option<TenantId>,
    pub name: Option<DomainName>,
    pub status: Option<DomainStatus>,
    pub verification: Option<Verification>,
}
