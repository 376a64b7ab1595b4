#![allow(missing_docs)]
//! Bundles: one tenant as JSON objects, to move it to another server.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::model::TenantId;

/// An object of a bundle.
pub type BundleObject = serde_json::Map<String, Value>;

/// The field of an object that has its secret.
pub fn secret_field(object: &BundleObject) -> Option<&'static str> {
    match object.get("object")?.as_str()? {
        "tenant" => Some("smart_host_password"),
        "dkim_key" => Some("private_key"),
        "webhook" => Some("secret"),
        _ => None,
    }
}

/// The value of such a field between the store and what encrypts or has decrypted it.
pub fn plain_value(secret: &[u8]) -> Value {
    json!({ "plain": BASE64_STANDARD.encode(secret) })
}

/// The secret in a value of [`plain_value`]. `None` for any other value: the object has no secret, or it is encrypted or
/// left out.
pub fn plain_secret(value: &Value) -> Option<Zeroizing<Vec<u8>>> {
    BASE64_STANDARD.decode(value.get("plain")?.as_str()?).ok().map(Zeroizing::new)
}

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
    /// With deliveries, attempts, events and content.
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
    /// Secrets are in the objects as [`plain_value`]; otherwise they are marked as left out.
    pub has_secrets: bool,
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
    /// Messages with open deliveries are not left out. Their tenant must not send at its other server.
    pub has_open: bool,
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
    /// Messages that are left out because of their open deliveries.
    pub left_open: u64,
    /// Open deliveries of imported messages.
    pub open_deliveries: u64,
    /// The new objects whose secrets the bundle has.
    pub secrets: Vec<ImportedSecret>,
    /// With one of them, nothing is imported. At most [`IMPORT_CONFLICTS_MAX`].
    pub conflicts: Vec<ImportConflict>,
}

/// An object that is stored with the secret in the bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedSecret {
    /// Like `dkim_key`.
    pub object: String,
    pub id: String,
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
