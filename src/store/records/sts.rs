#![allow(missing_docs)]
//! What is remembered of other domains' MTA-STS policies (RFC 8461).

use crate::mail::{DomainName, Timestamp};

/// The policy of a domain as it was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StsRecord {
    pub domain: DomainName,
    /// The id in the TXT record that led to it.
    pub policy_id: String,
    /// The file.
    pub policy: String,
    pub fetched_at: Timestamp,
    /// When it ends to hold, unless it is fetched again.
    pub expires_at: Timestamp,
}
