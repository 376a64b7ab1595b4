#![allow(missing_docs)]
//! Cached MTA-STS policies (RFC 8461).

use crate::mail::{DomainName, Timestamp};

/// A fetched policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StsRecord {
    pub domain: DomainName,
    /// The id in the TXT record.
    pub policy_id: String,
    /// The content of the policy file.
    pub policy: String,
    pub fetched_at: Timestamp,
    /// When it expires unless it is fetched again.
    pub expires_at: Timestamp,
}
