#![allow(missing_docs)]
//! Credentials.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::mail::Timestamp;
use crate::model::{DomainId, Environment, KeyId, KeySecret, Scope, ScramVerifier, StoredSecret, TenantId};

/// A credential.
#[derive(Debug, Clone)]
pub struct Key {
    pub id: KeyId,
    /// `None` is a platform key.
    pub tenant_id: Option<TenantId>,
    pub name: String,
    pub environment: Environment,
    pub scopes: Vec<Scope>,
    /// Empty means all of the tenant's.
    pub allowed_domain_ids: Vec<DomainId>,
    /// Empty means from anywhere.
    pub allowed_cidrs: Vec<IpNet>,
    pub last_four: String,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub last_used_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
}

impl Key {
    /// Whether it may be used from an address.
    pub fn allows_address(&self, client: IpAddr) -> bool {
        // On a listener for both families an IPv4 client comes as ::ffff:192.0.2.1.
        let client = client.to_canonical();
        self.allowed_cidrs.is_empty() || self.allowed_cidrs.iter().any(|network| network.contains(&client))
    }
}

/// A key to be made.
#[derive(Debug, Clone)]
pub struct NewKey {
    pub tenant_id: Option<TenantId>,
    pub name: String,
    pub environment: Environment,
    pub scopes: Vec<Scope>,
    pub allowed_domain_ids: Vec<DomainId>,
    pub allowed_cidrs: Vec<IpNet>,
    pub expires_at: Option<Timestamp>,
    pub stored_secret: StoredSecret,
}

impl NewKey {
    /// A key that may do everything, from everywhere and for ever.
    pub fn unrestricted(
        tenant_id: Option<TenantId>,
        name: &str,
        environment: Environment,
        secret: &KeySecret,
    ) -> Self {
        Self {
            tenant_id,
            name: name.to_owned(),
            environment,
            scopes: Scope::ALL.to_vec(),
            allowed_domain_ids: Vec::new(),
            allowed_cidrs: Vec::new(),
            expires_at: None,
            stored_secret: secret.stored_secret(),
        }
    }
}

/// What a user name and a proof of its password are held against (SCRAM).
#[derive(Debug, Clone)]
pub struct ScramCredential {
    /// A decoy that nothing satisfies if there is no such user.
    pub verifier: ScramVerifier,
    /// Absent if there is no such user.
    pub key_id: Option<KeyId>,
}

/// Changes to a key.
#[derive(Debug, Clone, Default)]
pub struct KeyPatch {
    pub name: Option<String>,
    pub scopes: Option<Vec<Scope>>,
    pub allowed_domain_ids: Option<Vec<DomainId>>,
    pub allowed_cidrs: Option<Vec<IpNet>>,
    pub expires_at: Option<Option<Timestamp>>,
}

/// Which keys.
#[derive(Debug, Clone, Default)]
pub struct KeyFilter {
    /// The caller's scope, or the tenant that the platform asks for.
    pub tenant_id: Option<TenantId>,
    pub environment: Option<Environment>,
}
