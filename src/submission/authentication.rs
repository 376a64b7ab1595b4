//! Logins: who submits, by secret or by SCRAM proof, and why a login is refused. Only who knows the secret learns the
//! reason.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::json;

use super::{SubmissionService, Submitter, describe};
use crate::limits::auth_limiter::{Ban, BanChange, BanSubject};
use crate::mail::Timestamp;
use crate::model::{EventKind, KeyId, KeySecret, Refusal, RefusalCode, Scope, SecretDigest};
use crate::policy::admission::admit_status;
use crate::store::{
    DEFAULT_TENANT, Directory, Journal, Key, NewEvent, ScramCredential, ScramSecret, Spool, StoreError,
    Tenant,
};
use crate::telemetry::FLOOD;

/// Why authentication failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthenticationError {
    /// Unknown user or wrong secret: no reply distinguishes them. The reason is for the log.
    Rejected(&'static str),
    /// The secret is right; refused for a reason that its owner may know.
    Refused(Refusal),
    /// The store is unavailable.
    Unavailable,
}

use AuthenticationError::{Refused, Rejected};

/// The user name without the domain that some programs add to it: `key_…@example.com`.
pub fn strip_login_domain(username: &str) -> &str {
    match username.split_once('@') {
        Some((id, _)) if id.parse::<KeyId>().is_ok() => id,
        _ => username,
    }
}

impl SubmissionService {
    /// Authenticates a user name (key id or tenant slug) with a secret. A platform key sends for the tenant whose slug is
    /// the user name, and for the default tenant if its own id is.
    pub async fn authenticate(
        &self,
        username: &str,
        password: &str,
        client_address: IpAddr,
    ) -> Result<Submitter, AuthenticationError> {
        let secret = KeySecret::parse(password).map_err(|_| Rejected("malformed secret"))?;
        let found = self.directory.key_of_secret(secret.digest()).await.map_err(credential_unavailable)?;
        let (key, tenant) = found.ok_or(Rejected("unknown secret"))?;
        let is_key_id = username == key.id.to_string();
        let tenant = match key.tenant_id {
            Some(_) => tenant,
            None => {
                let slug = if is_key_id { DEFAULT_TENANT } else { username };
                self.store.tenant_by_slug(slug).await.map_err(credential_unavailable)?.map(Arc::new)
            }
        };
        if !is_key_id && tenant.as_ref().is_none_or(|tenant| username != tenant.slug) {
            return Err(Rejected("secret of another user name"));
        }
        self.admit_key(key, secret.digest(), tenant, client_address).await
    }

    /// The credential to verify a SCRAM proof; unknown users get a fake one.
    pub async fn scram_credential(&self, username: &str) -> Result<ScramCredential, AuthenticationError> {
        self.store.scram_credential(username, self.clock.now()).await.map_err(credential_unavailable)
    }

    /// Verifies a SCRAM proof (RFC 5802 §3). Returns the server signature, which proves to the client that the server
    /// knows the user.
    pub async fn authenticate_by_proof(
        &self,
        credential: &ScramCredential,
        auth_message: &str,
        proof: &[u8],
        client_address: IpAddr,
    ) -> Result<(Submitter, Vec<u8>), AuthenticationError> {
        let id = credential.key_id.ok_or(Rejected("unknown user name"))?;
        let check = |secret: &ScramSecret| {
            let signature = secret.verifier.check(auth_message.as_bytes(), proof)?;
            Some((signature, secret.clone()))
        };
        let proven = credential.secrets.iter().find_map(check);
        let (signature, secret) = proven.ok_or(Rejected("wrong proof"))?;
        let found = self.directory.key(id, None).await.map_err(credential_unavailable)?;
        let (key, tenant) = match found {
            Some((key, tenant)) => (Arc::unwrap_or_clone(key), Some(tenant)),
            // A platform key without a default tenant.
            None => {
                let key = self.store.key(None, id).await.map_err(credential_unavailable)?;
                (key.ok_or(Rejected("the key was deleted"))?, None)
            }
        };
        let key = Key { secret_expires_at: secret.expires_at, ..key };
        let submitter = self.admit_key(Arc::new(key), secret.digest, tenant, client_address).await?;
        Ok((submitter, signature.to_vec()))
    }

    /// Admits a proven key, unless it is revoked, expired or restricted to other networks, or its tenant is suspended: the
    /// order in which the HTTP API checks.
    async fn admit_key(
        &self,
        key: Arc<Key>,
        secret: SecretDigest,
        tenant: Option<Arc<Tenant>>,
        client_address: IpAddr,
    ) -> Result<Submitter, AuthenticationError> {
        let now = self.clock.now();
        check_validity(&key, now).map_err(Refused)?;
        check_network(&key, client_address).map_err(Refused)?;
        let tenant = tenant.ok_or_else(|| Refused(refuse_without_default_tenant()))?;
        let current = (key, tenant);
        admit_status(&describe(&current)).map_err(Refused)?;
        let (key, tenant) = current;
        self.store.touch_key(key.id, now);
        Ok(Submitter { tenant, key, secret: Some(secret), client_address, scope: Scope::SmtpSend })
    }

    /// Records the event of a ban, which belongs to the tenant of a banned key, and announces the ban to other nodes.
    pub async fn record_ban(&self, ban: &Ban) {
        let change = BanChange { subject: ban.subject, until: Some(ban.until) };
        if let Err(error) = self.store.announce_ban(change).await {
            tracing::warn!(%error, subject = %ban.subject, "other nodes do not know of a ban");
        }
        let (network, key) = match ban.subject {
            BanSubject::Network(network) => (Some(network), None),
            BanSubject::Key(id) => (None, Some(id)),
        };
        let found = match key {
            Some(id) => self.directory.key(id, None).await.ok().flatten(),
            None => None,
        };
        let event = NewEvent {
            kind: EventKind::LoginBanned,
            environment: found.as_ref().map(|found| found.0.environment),
            tenant_id: found.and_then(|found| found.0.tenant_id),
            data: json!({
                "network": network, "key_id": key, "failures": ban.failures, "expires_at": ban.until,
            }),
            at: self.clock.now(),
        };
        if let Err(error) = self.store.append(event).await {
            tracing::warn!(%error, subject = %ban.subject, "cannot record the event of a ban");
        }
    }
}

/// Whether the key and its secret are neither revoked nor expired.
pub(super) fn check_validity(key: &Key, now: Timestamp) -> Result<(), Refusal> {
    let is_over = |at: &Timestamp| *at <= now;
    let id = key.id;
    let (code, message, hint) = if let Some(at) = key.revoked_at {
        let hint = "create a new key and log in with it";
        (RefusalCode::RevokedApiKey, format!("the key {id} was revoked at {at:.0}"), hint)
    } else if let Some(at) = key.expires_at.filter(is_over) {
        let hint = "create a new key and log in with it";
        (RefusalCode::ExpiredApiKey, format!("the key {id} expired at {at:.0}"), hint)
    } else if let Some(at) = key.secret_expires_at.filter(is_over) {
        let message = format!("the key {id} has a new secret, and this one expired at {at:.0}");
        (RefusalCode::ExpiredApiKey, message, "log in with the new secret of the key")
    } else {
        return Ok(());
    };
    Err(Refusal::new(code, message, hint))
}

/// Whether the key may be used from this address.
pub(super) fn check_network(key: &Key, client: IpAddr) -> Result<(), Refusal> {
    if key.allows_address(client) {
        return Ok(());
    }
    let client = client.to_canonical();
    Err(Refusal::new(
        RefusalCode::IpNotAllowed,
        format!("this key is not allowed from {client}"),
        "add the network to the key's allowed_cidrs, or use another key",
    ))
}

/// The default tenant was renamed or deleted.
fn refuse_without_default_tenant() -> Refusal {
    Refusal::new(
        RefusalCode::InsufficientScope,
        format!("a platform key sends for the tenant {DEFAULT_TENANT}, which does not exist"),
        "use the slug of the tenant that sends as user name, or a key of that tenant",
    )
}

fn credential_unavailable(error: StoreError) -> AuthenticationError {
    tracing::error!(target: FLOOD, "cannot read a credential: {error}");
    AuthenticationError::Unavailable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_domain_behind_a_key_id_is_removed() {
        let id = KeyId::generate(Timestamp::UNIX_EPOCH).to_string();
        assert_eq!(strip_login_domain(&format!("{id}@mail.example.com")), id);
        assert_eq!(strip_login_domain(&format!("{id}@")), id);
        for unchanged in [id.as_str(), "acme", "acme@example.com", "key_x@example.com", "@", ""] {
            assert_eq!(strip_login_domain(unchanged), unchanged);
        }
    }
}
