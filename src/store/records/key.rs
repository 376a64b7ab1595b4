#![allow(missing_docs)]
//! Credentials.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::mail::{SignedDuration, Timestamp};
use crate::model::{
    DomainId, Environment, KeyId, KeySecret, KeyStatus, Scope, ScramVerifier, SecretDigest, StoredSecret,
    TenantId,
};

/// Days before its expiry at which a key has an event.
const EXPIRY_NOTICE_DAYS: [i64; 2] = [14, 3];

/// A credential.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    pub id: KeyId,
    /// `None` is a platform key.
    pub tenant_id: Option<TenantId>,
    pub name: String,
    pub environment: Environment,
    pub scopes: Vec<Scope>,
    /// Empty allows all domains of the tenant, unless `restricted_to_domains`.
    pub allowed_domain_ids: Vec<DomainId>,
    /// Whether it may use the domains in `allowed_domain_ids` only. The list of a restricted key becomes empty when these
    /// domains are deleted.
    pub restricted_to_domains: bool,
    /// Empty allows all addresses.
    pub allowed_cidrs: Vec<IpNet>,
    pub last_four: String,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub last_used_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
    /// When it got its present secret, if that is not its first.
    pub rotated_at: Option<Timestamp>,
    /// When the last of its earlier secrets ends.
    pub previous_secret_until: Option<Timestamp>,
    /// When the secret ends by which it was found; `None` for the present secret.
    pub secret_expires_at: Option<Timestamp>,
}

impl Key {
    /// Whether one of its scopes allows what this scope does.
    pub fn has_scope(&self, wanted: Scope) -> bool {
        self.scopes.iter().any(|own| own.includes(wanted))
    }

    /// Whether it may be used for a domain of its tenant.
    pub fn allows_domain(&self, domain: DomainId) -> bool {
        !self.restricted_to_domains || self.allowed_domain_ids.contains(&domain)
    }

    /// Whether it can be used.
    pub fn status(&self, now: Timestamp) -> KeyStatus {
        match (self.revoked_at, self.expires_at) {
            (Some(_), _) => KeyStatus::Revoked,
            (None, Some(expiry)) if expiry <= now => KeyStatus::Expired,
            _ => KeyStatus::Active,
        }
    }

    /// The end of the key or of the secret by which it was found.
    pub fn valid_until(&self) -> Option<Timestamp> {
        [self.expires_at, self.secret_expires_at].into_iter().flatten().min()
    }

    /// The next event before an expiry, in time order; each is appended once.
    pub(in crate::store) fn next_expiry_notice(expires_at: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let notices =
            EXPIRY_NOTICE_DAYS.map(|days| expires_at.checked_sub(SignedDuration::from_hours(24 * days)));
        notices.into_iter().flatten().filter(|at| *at > now).min()
    }

    /// Whether it may be used from an address.
    pub fn allows_address(&self, client: IpAddr) -> bool {
        // A listener for both families reports IPv4 clients as ::ffff:192.0.2.1.
        let client = client.to_canonical();
        self.allowed_cidrs.is_empty() || self.allowed_cidrs.iter().any(|network| network.contains(&client))
    }
}

/// A key to create.
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
    /// A key with all scopes and no restrictions.
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

/// The SCRAM verifiers of a user name.
#[derive(Debug, Clone)]
pub struct ScramCredential {
    /// That of the present secret. For an unknown user, a decoy that no password satisfies.
    pub verifier: ScramVerifier,
    /// Of the present secret and of earlier ones, with the salt and iteration count of `verifier`.
    pub secrets: Vec<ScramSecret>,
    /// Absent for an unknown user.
    pub key_id: Option<KeyId>,
}

/// A secret of a key, as far as SCRAM needs it.
#[derive(Debug, Clone)]
pub struct ScramSecret {
    pub verifier: ScramVerifier,
    pub digest: SecretDigest,
    /// `None` for the present secret.
    pub expires_at: Option<Timestamp>,
}

/// A new secret for a key.
#[derive(Debug, Clone)]
pub struct SecretRotation {
    pub secret: StoredSecret,
    /// When the present secret ends, and earlier ones at the latest.
    pub previous_until: Timestamp,
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

/// Selects keys.
#[derive(Debug, Clone, Default)]
pub struct KeyFilter {
    /// The tenant of the caller, or the one that the platform selects.
    pub tenant_id: Option<TenantId>,
    /// Only those that belong to no tenant.
    pub of_platform: bool,
    pub environment: Option<Environment>,
    /// The status at a time.
    pub status: Option<(KeyStatus, Timestamp)>,
}
