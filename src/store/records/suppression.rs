#![allow(missing_docs)]
//! Addresses that must not be sent to.

use crate::mail::{Address, Timestamp};
use crate::model::{SuppressionId, SuppressionReason, TenantId};

/// An address that must not be sent to.
#[derive(Debug, Clone)]
pub struct Suppression {
    pub id: SuppressionId,
    /// `None` holds for every tenant.
    pub tenant_id: Option<TenantId>,
    /// Folded: [`Address::folded`].
    pub address: String,
    pub reason: SuppressionReason,
    /// The reply or the words that led to it.
    pub evidence: Option<String>,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
}

/// An address to be suppressed.
#[derive(Debug, Clone)]
pub struct NewSuppression {
    pub tenant_id: Option<TenantId>,
    pub address: Address,
    pub reason: SuppressionReason,
    pub evidence: Option<String>,
    pub expires_at: Option<Timestamp>,
}

/// Which suppressions.
#[derive(Debug, Clone, Default)]
pub struct SuppressionFilter {
    pub tenant_id: Option<TenantId>,
    /// Folded.
    pub address: Option<String>,
    pub reason: Option<SuppressionReason>,
}
