//! Authentication and authorization by bearer key, with the checks in the documented order.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;

use crate::mail::Timestamp;
use crate::model::{Environment, KeyId, KeySecret, RefusalCode, Scope, SecretDigest, TenantId, TenantStatus};
use crate::store::{Directory, Key, Store, Tenant};

use super::rate_limit;
use super::trace::Arrival;
use crate::api::in_process::{SessionRights, SignedIn};
use crate::api::operation::{Operation, Target};
use crate::api::request_context::Origin;
use crate::api::{Api, ApiError, Result};

/// The authenticated and authorized caller of a request.
///
/// Key and tenant are those of the cache, because a tenant can have large metadata.
#[derive(Debug, Clone)]
pub struct Caller {
    /// A valid key that may call the operation.
    pub key: Arc<Key>,
    /// The owner of the key; `None` is the platform.
    pub tenant: Option<Arc<Tenant>>,
    /// Whether the key belongs to the platform while the session is limited to a tenant.
    pub by_platform: bool,
}

impl From<(Key, Option<Tenant>)> for Caller {
    fn from((key, tenant): (Key, Option<Tenant>)) -> Self {
        Self { key: Arc::new(key), tenant: tenant.map(Arc::new), by_platform: false }
    }
}

/// Who may call an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody, without a key.
    Public,
    /// Platform keys.
    Platform,
    /// Every key.
    Key,
    /// Tenant keys with the scope, and platform keys.
    Scope(Scope),
}

impl Access {
    /// Who may read what this access lets them change.
    pub fn read_only(self) -> Self {
        match self {
            Self::Scope(scope) => Self::Scope(scope.read_only()),
            other => other,
        }
    }
}

impl Caller {
    /// The tenant whose objects the caller can access; `None` is the platform.
    pub fn scope(&self) -> Option<TenantId> {
        self.key.tenant_id
    }

    /// Whether the caller may see objects of an environment. A test key sees test objects only.
    pub fn sees(&self, environment: Environment) -> bool {
        self.key.environment == Environment::Live || environment == Environment::Test
    }

    /// Whether the caller is the platform.
    pub fn is_platform(&self) -> bool {
        self.key.tenant_id.is_none()
    }
}

/// The caller, attached to the response.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// The key.
    pub key: KeyId,
    /// The tenant whose share of the memory budget the response uses; `None` is the platform.
    pub tenant: Option<TenantId>,
}

/// Authenticates the caller, checks that it may call the operation, and applies its rate limit.
pub async fn layer(
    State(api): State<Arc<Api>>,
    Extension(target): Extension<Target>,
    Extension(origin): Extension<Origin>,
    Extension(arrival): Extension<Arrival>,
    mut request: Request,
    next: Next,
) -> Result<Response> {
    let asked = Asked::of(target.operation);
    let signed_in = match request.extensions_mut().remove::<SignedIn>() {
        Some(signed_in) => signed_in,
        None => SignedIn { digest: read_secret(request.headers())?.digest(), rights: None },
    };
    let caller = api.authenticate(&signed_in, asked, origin.client, arrival.now).await?;
    if !caller.sees(Environment::Live) && !target.operation.admits_test_keys() {
        return Err(ApiError::live_only("this"));
    }
    // If another connection has the slot, this one ends after the response.
    let _is_kept = origin.slot.set_logged_in();
    let identity = Identity { key: caller.key.id, tenant: caller.key.tenant_id };
    request.extensions_mut().insert(caller.clone());
    request.extensions_mut().insert(signed_in);
    let mut response = rate_limit::run(&api, &caller, arrival.now, request, next).await;
    response.extensions_mut().insert(identity);
    Ok(response)
}

impl Api {
    /// The current key with this secret, and its tenant.
    async fn find_key(&self, secret: SecretDigest, client: IpAddr, now: Timestamp) -> Result<Option<Caller>> {
        let directory = self.submission.directory();
        let _permit = match directory.knew_secret(secret) {
            true => None,
            false => Some(self.unknown_keys.admit(client, now).await?),
        };
        let found = directory.key_of_secret(secret).await?;
        if found.is_none() {
            self.unknown_keys.record_failure(client, now);
        }
        Ok(found.map(|(key, tenant)| Caller { key, tenant, by_platform: false }))
    }

    async fn authenticate(
        &self,
        signed_in: &SignedIn,
        asked: Asked,
        client: IpAddr,
        now: Timestamp,
    ) -> Result<Caller> {
        let found = self.find_key(signed_in.digest, client, now).await?;
        let found = match (found, &signed_in.rights) {
            (Some(caller), Some(rights)) => narrow(&self.store, caller, rights, now).await?,
            (found, _) => found,
        };
        let caller = admit(found, asked, client, now)?;
        self.store.touch_key(caller.key.id, now);
        Ok(caller)
    }
}

/// The caller of a request that was signed in before, as the store has it now.
pub async fn read_caller(store: &Store, signed_in: &SignedIn, now: Timestamp) -> Result<Option<Caller>> {
    let found = store.key_by_digest(signed_in.digest).await?.map(Caller::from);
    match (found, &signed_in.rights) {
        (Some(caller), Some(rights)) => narrow(store, caller, rights, now).await,
        (found, _) => Ok(found),
    }
}

/// The caller with the rights of its session. The key must be valid by itself.
async fn narrow(
    store: &Store,
    caller: Caller,
    rights: &SessionRights,
    now: Timestamp,
) -> Result<Option<Caller>> {
    let by_platform = caller.is_platform();
    check_validity(&caller.key, now)?;
    let own = caller.tenant.as_ref().filter(|own| own.id == rights.tenant_id);
    let tenant = match own {
        Some(own) => Some(Arc::clone(own)),
        None if by_platform => store.tenant(rights.tenant_id).await?.map(Arc::new),
        None => None,
    };
    let Some(tenant) = tenant else { return Ok(None) };
    // Rights that the key has lost since then are lost for the session too.
    let may = |scope: &Scope| by_platform || caller.key.has_scope(*scope);
    let scopes = rights.scopes.iter().copied().filter(may).collect();
    let key =
        Key { tenant_id: Some(tenant.id), scopes, allowed_cidrs: Vec::new(), ..Key::clone(&caller.key) };
    Ok(Some(Caller { key: Arc::new(key), tenant: Some(tenant), by_platform }))
}

/// The key secret in the Authorization header.
pub fn read_secret(headers: &HeaderMap) -> Result<KeySecret> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (value, second) = (values.next(), values.next());
    // RFC 9110 §11.1: the scheme is case-insensitive.
    let token = value.and_then(|v| v.to_str().ok()).and_then(|text| {
        let (scheme, token) = text.trim().split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    match (token, second) {
        (Some(token), None) => KeySecret::parse(token).map_err(|_| {
            ApiError::new(
                RefusalCode::InvalidApiKey,
                "the API key is malformed: its format or its checksum is wrong",
                "copy the whole secret again: pb_live_ or pb_test_, then 49 letters and digits",
            )
        }),
        _ => Err(ApiError::new(
            RefusalCode::AuthenticationRequired,
            "the request has no API key",
            "send one header `Authorization: Bearer pb_live_…` with the secret of a key",
        )),
    }
}

/// What is asked of a key.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// Who may do it.
    pub access: Access,
    /// Whether it changes nothing.
    pub reads: bool,
}

impl Asked {
    /// What an operation asks.
    pub fn of(operation: &Operation) -> Self {
        Self { access: operation.access(), reads: operation.reads() }
    }
}

/// Decides whether a key may do what is asked from an address.
pub fn admit(found: Option<Caller>, asked: Asked, client: IpAddr, now: Timestamp) -> Result<Caller> {
    let is_whole = |caller: &Caller| caller.key.tenant_id == caller.tenant.as_ref().map(|tenant| tenant.id);
    let caller = found.filter(is_whole).ok_or_else(|| {
        ApiError::new(
            RefusalCode::InvalidApiKey,
            "the API key is unknown",
            "check that the key belongs to this server and that its tenant still exists, or create a new key",
        )
    })?;
    let Caller { key, tenant, .. } = &caller;
    check_validity(key, now)?;
    check_address(key, client)?;
    tenant.iter().try_for_each(|tenant| check_status(tenant.status, asked.reads))?;
    check_access(key, asked.access)?;
    Ok(caller)
}

fn check_status(status: TenantStatus, reads: bool) -> Result<()> {
    let (code, message) = match status {
        TenantStatus::Active => return Ok(()),
        TenantStatus::Archived if reads => return Ok(()),
        TenantStatus::Suspended => (RefusalCode::TenantSuspended, "the tenant of this key is suspended"),
        TenantStatus::Archived => {
            (RefusalCode::TenantArchived, "the tenant of this key is archived, so its keys may only read")
        }
    };
    Err(ApiError::new(code, message, "ask the operator of the platform to activate the tenant"))
}

fn check_validity(key: &Key, now: Timestamp) -> Result<()> {
    let is_over = |at: &Timestamp| *at <= now;
    let id = key.id;
    let (code, message, hint) = if let Some(at) = key.revoked_at {
        let hint = "create a new key and use its secret";
        (RefusalCode::RevokedApiKey, format!("the API key {id} was revoked at {at}"), hint)
    } else if let Some(at) = key.expires_at.filter(is_over) {
        let hint = "create a new key and use its secret";
        (RefusalCode::ExpiredApiKey, format!("the API key {id} expired at {at}"), hint)
    } else if let Some(at) = key.secret_expires_at.filter(is_over) {
        let message = format!("the API key {id} has a new secret, and this one expired at {at}");
        (RefusalCode::ExpiredApiKey, message, "use the new secret of the key")
    } else {
        return Ok(());
    };
    Err(ApiError::new(code, message, hint))
}

fn check_address(key: &Key, client: IpAddr) -> Result<()> {
    if key.allows_address(client) {
        return Ok(());
    }
    let client = client.to_canonical();
    Err(ApiError::new(
        RefusalCode::IpNotAllowed,
        format!("the API key does not allow requests from {client}"),
        "send requests from a network in allowed_cidrs of the key, or add this network",
    ))
}

fn check_access(key: &Key, access: Access) -> Result<()> {
    match access {
        Access::Scope(scope) if key.tenant_id.is_some() && !key.has_scope(scope) => Err(ApiError::new(
            RefusalCode::InsufficientScope,
            format!("the API key lacks the scope {scope}"),
            format!("use a key with {scope}, or add it to this one with PATCH /v1/keys/{}", key.id),
        )),
        Access::Platform if key.tenant_id.is_some() => Err(ApiError::platform_only("this")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{RateLimit, TenantSettings};

    fn now() -> Timestamp {
        Timestamp::from_second(1_000_000).unwrap()
    }

    fn tenant(status: TenantStatus) -> Tenant {
        Tenant {
            id: TenantId::generate(now()),
            name: "Acme".into(),
            slug: "acme".into(),
            external_ref: None,
            metadata: serde_json::Map::new(),
            settings: TenantSettings::default(),
            rate_limit: RateLimit::default(),
            smart_host: None,
            source_pool: None,
            retention_days: None,
            body_retention_days: None,
            weight: Default::default(),
            status,
            archived_at: None,
            deletable_at: None,
            created_at: now(),
            updated_at: now(),
        }
    }

    fn key(tenant: Option<&Tenant>, scopes: &[Scope]) -> Key {
        Key {
            id: KeyId::generate(now()),
            tenant_id: tenant.map(|t| t.id),
            name: "k".into(),
            environment: Environment::Live,
            scopes: scopes.to_vec(),
            allowed_domain_ids: vec![],
            restricted_to_domains: false,
            allowed_cidrs: vec![],
            last_four: "abcd".into(),
            created_at: now(),
            expires_at: None,
            last_used_at: None,
            revoked_at: None,
            rotated_at: None,
            previous_secret_until: None,
            secret_expires_at: None,
        }
    }

    fn code(found: Option<(Key, Option<Tenant>)>, access: Access, client: &str) -> &'static str {
        let asked = Asked { access, reads: false };
        admit(found.map(Caller::from), asked, client.parse().unwrap(), now())
            .map_or_else(|e| e.refusal.code.as_str(), |_| "ok")
    }

    /// Each row fails one check and all checks of the rows below it, so the result shows the order of the checks.
    #[test]
    fn the_first_failed_check_in_the_documented_order_decides() {
        let suspended = tenant(TenantStatus::Suspended);
        let active = tenant(TenantStatus::Active);
        let wants = Access::Scope(Scope::KeysManage);
        let mut wrong = key(Some(&suspended), &[]);
        wrong.allowed_cidrs = vec!["10.0.0.0/8".parse().unwrap()];
        wrong.expires_at = Some(now());
        let mut rows = vec![(None, wants, "invalid_api_key")];
        rows.push((Some((wrong.clone(), None)), wants, "invalid_api_key"));
        rows.push((Some((wrong.clone(), Some(suspended.clone()))), wants, "expired_api_key"));
        wrong.expires_at = None;
        rows.push((Some((wrong.clone(), Some(suspended.clone()))), wants, "ip_not_allowed"));
        wrong.allowed_cidrs.clear();
        rows.push((Some((wrong.clone(), Some(suspended.clone()))), wants, "tenant_suspended"));
        wrong.tenant_id = Some(active.id);
        rows.push((Some((wrong.clone(), Some(active.clone()))), wants, "insufficient_scope"));
        rows.push((Some((wrong.clone(), Some(active.clone()))), Access::Platform, "platform_key_required"));
        wrong.scopes = vec![Scope::KeysManage];
        rows.push((Some((wrong, Some(active))), wants, "ok"));
        for (row, (found, access, expected)) in rows.into_iter().enumerate() {
            assert_eq!(code(found, access, "192.0.2.1"), expected, "row {row}");
        }
    }

    #[test]
    fn a_key_of_an_archived_tenant_may_only_read() {
        let archived = tenant(TenantStatus::Archived);
        let access = Access::Scope(Scope::KeysRead);
        let with_scope = key(Some(&archived), &[Scope::KeysRead]);
        let admitted = |key: &Key, reads: bool| {
            let found = Some(Caller::from((key.clone(), Some(archived.clone()))));
            admit(found, Asked { access, reads }, "::1".parse().unwrap(), now())
                .map_or_else(|e| e.refusal.code.as_str(), |_| "ok")
        };
        assert_eq!(admitted(&with_scope, true), "ok");
        assert_eq!(admitted(&with_scope, false), "tenant_archived");
        assert_eq!(admitted(&key(Some(&archived), &[]), true), "insufficient_scope");
    }

    #[test]
    fn a_platform_key_may_call_every_operation_within_its_restrictions() {
        let platform = key(None, &[]);
        for access in [Access::Platform, Access::Scope(Scope::EmailsRead)] {
            assert_eq!(code(Some((platform.clone(), None)), access, "::1"), "ok");
        }
        let revoked = Key { revoked_at: Some(now()), ..platform.clone() };
        assert_eq!(code(Some((revoked, None)), Access::Platform, "::1"), "revoked_api_key");
        let replaced = Key { secret_expires_at: Some(now()), ..platform.clone() };
        assert_eq!(code(Some((replaced, None)), Access::Platform, "::1"), "expired_api_key");
        let confined = Key { allowed_cidrs: vec!["127.0.0.0/8".parse().unwrap()], ..platform };
        assert_eq!(code(Some((confined.clone(), None)), Access::Platform, "::1"), "ip_not_allowed");
        assert_eq!(code(Some((confined, None)), Access::Platform, "::ffff:127.0.0.1"), "ok");
    }

    #[test]
    fn exactly_one_bearer_header_is_required_and_a_mistyped_key_is_refused() {
        let secret = KeySecret::generate(Environment::Live);
        let read = |values: &[String]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, value.parse().unwrap());
            }
            read_secret(&headers).map_or_else(|e| e.refusal.code.as_str(), |_| "ok")
        };
        let right = format!("Bearer {}", secret.expose());
        for (values, expected) in [
            (vec![], "authentication_required"),
            (vec!["Basic dXNlcjpwYXNz".to_owned()], "authentication_required"),
            (vec![secret.expose().to_owned()], "authentication_required"),
            (vec![right.clone(), right.clone()], "authentication_required"),
            (vec!["Bearer ".to_owned()], "authentication_required"),
            (vec!["Bearer pb_live_short".to_owned()], "invalid_api_key"),
            (vec![right.replace("live", "test")], "invalid_api_key"),
            (vec![format!("bearer  {}", secret.expose())], "ok"),
            (vec![right], "ok"),
        ] {
            assert_eq!(read(&values), expected, "{values:?}");
        }
    }
}
