#![allow(missing_docs)]
//! Suppressed addresses.

use crate::mail::{Address, Timestamp};
use crate::model::{
    Environment, MessageId, ReportId, SuppressedMail, SuppressionId, SuppressionReason, TenantId,
};

/// An address to which no mail is sent.
#[derive(Debug, Clone)]
pub struct Suppression {
    pub id: SuppressionId,
    /// `None` suppresses it for all tenants.
    pub tenant_id: Option<TenantId>,
    /// It stops mail of this environment only.
    pub environment: Environment,
    pub mail: SuppressedMail,
    /// Folded: [`Address::folded`].
    pub address: String,
    pub reason: SuppressionReason,
    /// The reply or note that caused it.
    pub evidence: Option<String>,
    /// The report that caused it.
    pub report_id: Option<ReportId>,
    /// The message that caused it.
    pub message_id: Option<MessageId>,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
}

/// A suppression to create.
#[derive(Debug, Clone)]
pub struct NewSuppression {
    pub tenant_id: Option<TenantId>,
    pub environment: Environment,
    pub mail: SuppressedMail,
    pub address: Address,
    pub reason: SuppressionReason,
    pub evidence: Option<String>,
    pub report_id: Option<ReportId>,
    pub message_id: Option<MessageId>,
    pub expires_at: Option<Timestamp>,
}

impl NewSuppression {
    /// A suppression of all mail of the owner, without an end and without evidence.
    pub fn of_all_mail(
        tenant_id: Option<TenantId>,
        environment: Environment,
        address: Address,
        reason: SuppressionReason,
    ) -> Self {
        Self {
            tenant_id,
            environment,
            mail: SuppressedMail::All,
            address,
            reason,
            evidence: None,
            report_id: None,
            message_id: None,
            expires_at: None,
        }
    }
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
    pub mail: Option<SuppressedMail>,
}
