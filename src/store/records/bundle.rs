#![allow(missing_docs)]
//! Bundles: one tenant as JSON objects, to move it to another server.

use crate::model::TenantId;

/// An object of a bundle.
pub type BundleObject = serde_json::Map<String, serde_json::Value>;

/// Maximum of conflicts in an [`ImportReport`].
pub const IMPORT_CONFLICTS_MAX: usize = 100;

/// The parts of a bundle, in their order: what refers to an object comes after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BundlePart {
    Tenant,
    Domains,
    DkimKeys,
    Keys,
    Suppressions,
    Templates,
    Webhooks,
    Inboxes,
    /// With deliveries, attempts, events and content. They are not imported.
    Messages,
}

impl BundlePart {
    /// Those of every bundle.
    pub const ALWAYS: [Self; 8] = [
        Self::Tenant,
        Self::Domains,
        Self::DkimKeys,
        Self::Keys,
        Self::Suppressions,
        Self::Templates,
        Self::Webhooks,
        Self::Inboxes,
    ];
}

/// A request for some objects of a bundle.
#[derive(Debug, Clone)]
pub struct BundleRequest {
    pub tenant_id: TenantId,
    pub part: BundlePart,
    /// Only objects after the one with this id.
    pub after: Option<String>,
}

/// How a bundle is imported.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// Nothing is changed.
    pub dry_run: bool,
    /// Another slug for the tenant.
    pub slug: Option<String>,
    /// Verified domains stay verified.
    pub trusts_domains: bool,
}

/// What an import did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportReport {
    pub tenant_id: Option<TenantId>,
    pub created: u64,
    /// Objects that are already there.
    pub unchanged: u64,
    /// Secrets that the bundle does not have.
    pub excluded: u64,
    /// With one of them, nothing is imported. At most [`IMPORT_CONFLICTS_MAX`].
    pub conflicts: Vec<ImportConflict>,
}

/// An object that cannot be imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportConflict {
    /// Its place among the objects.
    pub place: usize,
    /// Like `domain`.
    pub object: String,
    pub id: String,
    /// Like `another tenant has verified this domain`.
    pub reason: String,
}
