#![allow(missing_docs)]
//! How TLS sessions went (RFC 8460 §4).

use crate::mail::{Date, DomainName};
use crate::model::{TlsFailure, TlsPolicyType};

/// Sessions of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsResult {
    /// UTC.
    pub day: Date,
    /// Whose mail it was about.
    pub domain: DomainName,
    pub policy: TlsPolicyType,
    /// Empty where it came to no host.
    pub mx_host: String,
    /// `None` of sessions that were as they should be.
    pub failure: Option<TlsFailure>,
    pub sessions: u32,
}
