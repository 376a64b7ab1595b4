#![allow(missing_docs)]
//! Suppressed addresses.

use crate::mail::{Address, Timestamp};
use crate::model::{Environment, SuppressionId, SuppressionReason, TenantId};

/// An address to which no mail is sent.
#[derive(Debug, Clone)]
pub struct Suppression {
    pub id: SuppressionId,
    /// `None` suppresses it for all tenants.
    pub tenant_id: Option<TenantId>,
    /// It stops mail of this environment only.
    pub environment: Environment,
    /// Folded: [`Address::folded`].
    pub address: String,
    pub reason: SuppressionReason,
    /// The reply or note that caused it.
    pub evidence: Option<String>,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
}

/// A suppression to create.
#[derive(Debug, Clone)]
pub struct NewSuppression {
    pub tenant_id: Option<TenantId>,
    pub environment: Environment,
    pub address: Address,
    pub reason: SuppressionReason,
    pub evidence: Option<String>,
    pub expires_at: Option<Timestamp>,
}

/// Selects suppressions.
#[derive(Debug, Clone, Default)]
pub struct SuppressionFilter {
    pub tenant_id: Option<TenantId>,
    /// Only those that belong to no tenant.
    pub of_platform: bool,
    pub environment: Option<Environment>,
    /// Folded.
    pub address: Option<String>,
    pub reason: Option<SuppressionReason>,
}
