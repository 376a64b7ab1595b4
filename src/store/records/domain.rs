#![allow(missing_docs)]
//! Sending domains and the results of their DNS checks.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::mail::{DomainName, Timestamp};
use crate::model::{DkimKeyId, DomainId, DomainStatus, TenantId, Verification};

use super::NewDkimKey;

/// A sending domain.
#[derive(Debug, Clone, PartialEq)]
pub struct Domain {
    pub id: DomainId,
    /// `None` is the platform's sandbox domain.
    pub tenant_id: Option<TenantId>,
    pub name: DomainName,
    pub status: DomainStatus,
    pub verification: Verification,
    /// Whether sender addresses may be in subdomains.
    pub subdomains: bool,
    /// The random value in the ownership record.
    pub ownership_token: String,
    pub last_check: Option<DomainCheck>,
    /// Since when checks of a verified domain have failed.
    pub failing_since: Option<Timestamp>,
    pub verified_at: Option<Timestamp>,
    pub created_at: Timestamp,
}

/// A domain to create.
#[derive(Debug, Clone)]
pub struct NewDomain {
    /// `None` for the platform's sandbox domain, which needs no verification.
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

/// The results of a DNS check of a domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainCheck {
    pub checked_at: Timestamp,
    /// The status that the caller's policy derives from the results.
    pub status: DomainStatus,
    /// As [`Domain::failing_since`].
    pub failing_since: Option<Timestamp>,
    pub records: Vec<RecordCheck>,
    /// DKIM keys with a matching record: the newest of each algorithm signs.
    pub dkim_seen: Vec<DkimKeyId>,
    /// DKIM keys whose record is missing or different: they do not sign until it is published.
    pub dkim_unseen: Vec<DkimKeyId>,
}

/// The result for one required record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordCheck {
    /// The queried owner name.
    pub name: String,
    pub status: RecordStatus,
    /// The records found, truncated to 4096 characters in all.
    pub found: Vec<String>,
}

/// Whether a record is as required.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RecordStatus {
    Pending,
    Ok,
    Missing,
    Mismatch,
}

/// Selects domains.
#[derive(Debug, Clone, Default)]
pub struct DomainFilter {
    pub tenant_id: Option<TenantId>,
    /// Only those that belong to no tenant.
    pub of_platform: bool,
    pub name: Option<DomainName>,
    pub status: Option<DomainStatus>,
    pub verification: Option<Verification>,
}
