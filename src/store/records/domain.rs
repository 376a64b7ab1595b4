#![allow(missing_docs)]
//! Sending domains and the results of their DNS checks.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::mail::{DomainName, Timestamp};
use crate::model::{
    DkimKeyId, DomainId, DomainStatus, ReturnPathMode, ReturnPathStatus, TenantId, Verification,
};

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
    pub return_path: DomainReturnPath,
    pub created_at: Timestamp,
}

/// RFC 5321 §4.5.3.1.3: a path has 256 octets with its brackets, of which a token takes up to 55 and an `@` follows it.
pub const RETURN_HOST_OCTETS_MAX: usize = 198;

/// The reverse path of a domain's mail.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DomainReturnPath {
    /// `None`: as the configuration says.
    pub mode: Option<ReturnPathMode>,
    /// The return host; `None` is the label of the configuration under the domain.
    pub host: Option<DomainName>,
    /// Whether mail to the return host arrives here.
    pub status: ReturnPathStatus,
}

impl Domain {
    /// The return host that the domain has or should have; `None` if its name has no room for the label.
    pub fn return_host(&self, label: &str) -> Option<DomainName> {
        let default = || DomainName::parse(&format!("{label}.{}", self.name)).ok();
        let host = self.return_path.host.clone().or_else(default);
        host.filter(|host| host.as_str().len() <= RETURN_HOST_OCTETS_MAX)
    }

    /// The return host to which mail arrives here. `mode` and `label` are those of the configuration.
    pub fn active_return_host(&self, mode: ReturnPathMode, label: &str) -> Option<DomainName> {
        // Another label may have been configured since the check.
        let is_checked = |host: &DomainName| {
            self.last_check.iter().flat_map(|check| &check.records).any(|record| record.name == host.as_str())
        };
        let is_active = self.return_path.mode.unwrap_or(mode) == ReturnPathMode::Auto
            && self.return_path.status == ReturnPathStatus::Active
            && self.status == DomainStatus::Verified;
        self.return_host(label).filter(|host| is_active && is_checked(host))
    }
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
    pub return_path_mode: Option<Option<ReturnPathMode>>,
    pub return_path_host: Option<Option<DomainName>>,
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
    /// Whether the return host works; `None` if the check did not find out.
    #[serde(default)]
    pub return_path: Option<ReturnPathStatus>,
    /// The return path that was checked, which may have been changed during the check.
    #[serde(skip)]
    pub return_path_of: DomainReturnPath,
}

/// The result for one required record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordCheck {
    /// The queried owner name.
    pub name: String,
    pub status: RecordStatus,
    /// The records found, truncated to 4096 characters in all.
    pub found: Vec<String>,
    /// Whether the name servers of the domain have it as required, though resolvers do not give it yet.
    #[serde(default)]
    pub is_published: bool,
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
