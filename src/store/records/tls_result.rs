#![allow(missing_docs)]
//! Counts of TLS sessions (RFC 8460 §4).

use crate::mail::{Date, DomainName};
use crate::model::{TlsFailure, TlsPolicyType};

/// The number of sessions of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsResult {
    /// UTC.
    pub day: Date,
    /// The recipient domain.
    pub domain: DomainName,
    pub policy: TlsPolicyType,
    /// Empty if no host was reached.
    pub mx_host: String,
    /// `None` for successful sessions.
    pub failure: Option<TlsFailure>,
    pub sessions: u32,
}
