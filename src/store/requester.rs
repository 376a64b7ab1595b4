//! Who asks the store.

use crate::model::TenantId;

/// Whose question a query answers. Tenants and the platform share the connections fairly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Requester {
    /// The server itself: acceptance, delivery, maintenance.
    #[default]
    Server,
    /// The platform, through the API.
    Platform,
    /// A tenant, through the API.
    Tenant(TenantId),
}

/// Whether an object of this owner is in a scope: that of a tenant, or everything.
pub(in crate::store) fn is_in_scope(scope: Option<TenantId>, owner: Option<TenantId>) -> bool {
    scope.is_none() || owner == scope
}

impl From<Option<TenantId>> for Requester {
    /// The caller with this scope.
    fn from(scope: Option<TenantId>) -> Self {
        scope.map_or(Self::Platform, Self::Tenant)
    }
}
