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
    /// Whether it ends soon because the site that said that the address is gone is suspicious.
    pub provisional: bool,
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
    /// The site that said that the address is gone. While it is suspicious, the suppression is provisional.
    pub site: Option<String>,
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
            site: None,
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

/// A site that says of many addresses that they are gone which took mail a short time ago.
#[derive(Debug, Clone)]
pub struct SuspiciousSite {
    /// See [`NewSuppression::site`].
    pub site: String,
    /// Its name, for people.
    pub name: String,
    /// Such addresses.
    pub gone: u64,
    /// Results of deliveries at the site in the same time.
    pub results: u64,
    /// Suppressions that it caused since then become provisional.
    pub since: Timestamp,
    /// Until when its suppressions are provisional.
    pub until: Timestamp,
    pub at: Timestamp,
}
