//! Keys in responses.

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Serialize;

use crate::mail::Timestamp;
use crate::model::{DomainId, Environment, KeyId, KeyStatus, Scope, TenantId};
use crate::store::Key;

/// A key, without its secret.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Key")]
pub struct KeyView {
    /// Its id.
    id: KeyId,
    /// Always `key`.
    #[schemars(extend("const" = "key"))]
    object: &'static str,
    /// Display name: one line of at most 200 characters.
    name: String,
    /// Owner; `null` for a platform key.
    tenant_id: Option<TenantId>,
    /// `active`, `revoked` or `expired`.
    status: KeyStatus,
    /// `live` or `test`. Mail of a test key is stored but not delivered.
    environment: Environment,
    /// Scopes.
    scopes: Vec<Scope>,
    /// Domains that the key may send from. Empty means all domains of the tenant, unless `restricted_to_domains`.
    allowed_domain_ids: Vec<DomainId>,
    /// Whether the key may send only from `allowed_domain_ids`. When these domains are deleted, the list becomes empty and the
    /// key can send from no domain.
    restricted_to_domains: bool,
    /// Networks or addresses from which the key may be used. Empty means all.
    #[schemars(with = "Vec<String>")]
    allowed_cidrs: Vec<IpNet>,
    /// Expiry; `null` for none.
    expires_at: Option<Timestamp>,
    /// Creation time.
    created_at: Timestamp,
    /// Time of the last use, to the minute.
    last_used_at: Option<Timestamp>,
    /// Time of the revocation. A revoked key is refused.
    revoked_at: Option<Timestamp>,
    /// Time of the last rotation; `null` if the key has its first secret.
    rotated_at: Option<Timestamp>,
    /// Time until which an earlier secret also works; `null` if none does.
    previous_secret_until: Option<Timestamp>,
    /// The last characters of the secret, to recognize the key.
    last_four: String,
}

/// A new key. Only this response contains the secret.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "KeyWithSecret")]
pub struct NewKeyView<'a> {
    /// The key.
    #[serde(flatten)]
    pub(super) key: KeyView,
    /// The secret: `pb_live_…` or `pb_test_…`. It is not shown again.
    pub(super) secret: &'a str,
}

impl KeyView {
    /// A key as it is at a time.
    pub fn new(key: Key, now: Timestamp) -> Self {
        Self {
            status: key.status(now),
            id: key.id,
            object: "key",
            name: key.name,
            tenant_id: key.tenant_id,
            environment: key.environment,
            // Those of an earlier version are not all.
            scopes: if key.tenant_id.is_some() { key.scopes } else { Scope::ALL.to_vec() },
            allowed_domain_ids: key.allowed_domain_ids,
            restricted_to_domains: key.restricted_to_domains,
            allowed_cidrs: key.allowed_cidrs,
            expires_at: key.expires_at,
            created_at: key.created_at,
            last_used_at: key.last_used_at,
            revoked_at: key.revoked_at,
            rotated_at: key.rotated_at,
            previous_secret_until: key.previous_secret_until.filter(|until| *until > now),
            last_four: key.last_four,
        }
    }
}
