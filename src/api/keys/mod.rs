//! API keys. A key cannot give another key more rights than it has.

mod rights;
mod rotation;
mod views;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::api::json::{Checks, nullable};
use crate::api::{
    Access, ApiError, ApiResponse, List, ListedOwner, Operation, RequestContext, Resource, Result,
};
use crate::mail::Timestamp;
use crate::model::{DomainId, Environment, KeyId, KeySecret, KeyStatus, RefusalCode, Scope, TenantId};
use crate::store::{Directory, Key, KeyFilter, KeyPatch, NewKey, Store};

pub(super) use rights::RESTRICTIONS_MAX;
use rights::{Rights, check_domains, check_rights, check_within, deduplicate, is_bound_by, read_networks};
pub use rights::{ScopeName, list_scopes, read_scopes};
pub use views::{KeyView, NewKeyView};

pub(super) const NAME_CHARS_MAX: usize = 200;

/// Octets of a response with the maximum number of restrictions.
const RESPONSE_OCTETS_MAX: u64 = 16 * 1024;

/// The operations of keys.
pub fn resource() -> Resource {
    let text = "Credentials for this API and for SMTP. A key cannot grant more rights than it has.";
    Resource::new("Keys", text, Access::Scope(Scope::KeysManage))
        .separates_environments()
        .id::<KeyId>("The key.")
        .operations([
            Operation::get("/v1/keys", "list_keys", list)
                .describe("List keys", "Includes revoked keys, unless `status` selects others.")
                .owner_filter()
                .query::<KeyStatus>("status", "Only keys with this status.")
                .query::<Environment>("environment", "Only objects of this environment.")
                .pages::<KeyId, KeyView>("Keys."),
            Operation::post("/v1/keys", "create_key", create)
                .describe("Create a key", "Only this response contains the secret. Omitted restrictions are those of the calling key.")
                .takes::<Create>(r#"{"name": "web shop", "tenant_id": "tnt_01JD8XQZ2V7M5N9T3R6W4Y8KAB", "scopes": ["smtp:send", "emails:send"]}"#)
                .creates::<NewKeyView<'static>>("The key with its secret.")
                .response_octets(0, RESPONSE_OCTETS_MAX),
            Operation::get("/v1/keys/{id}", "get_key", get)
                .summary("Get a key")
                .returns::<KeyView>("The key.")
                .changed_by_use(&["last_used_at"]),
            Operation::patch("/v1/keys/{id}", "update_key", update)
                .summary("Change a key")
                .takes::<Update>(r#"{"name": "web shop", "allowed_cidrs": ["192.0.2.0/24"], "expires_at": null}"#)
                .returns::<KeyView>("The updated key.")
                .response_octets(0, RESPONSE_OCTETS_MAX),
            Operation::delete("/v1/keys/{id}", "revoke_key", revoke)
                .describe("Revoke a key", "The server refuses the key from now on. The key stays in the list. A key cannot revoke itself.")
                .returns::<KeyView>("The revoked key."),
            Operation::post("/v1/keys/{id}/rotate", "rotate_key", rotation::rotate)
                .describe("Give a key a new secret", "Only this response contains the secret. Both secrets work, over SMTP and HTTP, until the old one expires. A key can rotate itself. A key that is revoked or expired cannot be rotated.")
                .may_take::<rotation::Rotate>(r#"{"expires_in": 3600}"#)
                .returns::<NewKeyView<'static>>("The key with its new secret.")
                .response_octets(0, RESPONSE_OCTETS_MAX),
        ])
        .alias("/v1/keys", "/v1/api-keys")
        .alias("/v1/keys/{id}/rotate", "/v1/api-keys/{id}/rotate")
        .alias("/v1/keys", "/v1/tenants/{tenant_id}/api-keys")
        .alias("/v1/keys/{id}", "/v1/api-keys/{id}")
}

/// A key to create. It cannot have more rights than the calling key.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "KeyCreate")]
pub struct Create {
    /// Display name: one line of at most 200 characters.
    name: String,
    /// Owner. With a platform key, `null` or absent creates a platform key.
    tenant_id: Option<TenantId>,
    /// `live` or `test`. Mail of a test key is stored but not delivered. Default: `live`.
    environment: Option<Environment>,
    /// Scopes: at least one for a tenant key, absent for a platform key. `permissions` is another name of this field.
    #[serde(alias = "permissions")]
    scopes: Option<Vec<ScopeName>>,
    /// Domains that the key may send from; for a platform key, domains of the tenant `default`. Empty means all domains.
    allowed_domain_ids: Option<Vec<DomainId>>,
    /// Networks or addresses from which the key may be used. Empty means all.
    allowed_cidrs: Option<Vec<String>>,
    /// Expiry.
    expires_at: Option<Timestamp>,
}

/// Changes to a key. Absent fields stay unchanged.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "KeyUpdate")]
pub struct Update {
    /// Display name: one line of at most 200 characters.
    name: Option<String>,
    /// Scopes. `permissions` is another name of this field.
    #[serde(alias = "permissions")]
    scopes: Option<Vec<ScopeName>>,
    /// Domains that the key may send from. Empty means all domains of the tenant.
    allowed_domain_ids: Option<Vec<DomainId>>,
    /// Networks or addresses from which the key may be used. Empty means all.
    allowed_cidrs: Option<Vec<String>>,
    /// Expiry; `null` for none.
    #[serde(default, deserialize_with = "nullable")]
    expires_at: Option<Option<Timestamp>>,
}

async fn create(call: RequestContext) -> Result<ApiResponse> {
    let body: Create = call.json()?;
    let tenant_id = call.owner(body.tenant_id).await?;
    let mut checks = Checks::default();
    checks.line(&body.name, "name", NAME_CHARS_MAX);
    let caller = &call.caller.key;
    // An omitted restriction is that of the calling key.
    let cidrs = body.allowed_cidrs.as_deref().and_then(|texts| read_networks(texts, &mut checks));
    let inherited = is_bound_by(caller, tenant_id);
    let rights = Rights {
        environment: Some(body.environment.unwrap_or(caller.environment)),
        scopes: body.scopes.map_or(Some(Vec::new()), |names| read_scopes(&names, &mut checks)),
        allowed_domain_ids: Some(
            body.allowed_domain_ids
                .map(deduplicate)
                .unwrap_or_else(|| if inherited { caller.allowed_domain_ids.clone() } else { Vec::new() }),
        ),
        allowed_cidrs: Some(
            cidrs.unwrap_or_else(|| if inherited { caller.allowed_cidrs.clone() } else { Vec::new() }),
        ),
        expires_at: Some(body.expires_at.or(if inherited { caller.valid_until() } else { None })),
    };
    check_rights(&rights, tenant_id, call.now, &mut checks);
    checks.finish().map_err(list_scopes)?;
    check_within(caller, tenant_id, &rights)?;
    check_domains(&call, tenant_id, &rights).await?;
    let environment = rights.environment.unwrap_or(Environment::Live);
    let secret = KeySecret::generate(environment);
    let scopes = match tenant_id {
        Some(_) => rights.scopes.unwrap_or_default(),
        None => Scope::ALL.to_vec(),
    };
    let new = NewKey {
        tenant_id,
        name: body.name,
        environment,
        scopes,
        allowed_domain_ids: rights.allowed_domain_ids.unwrap_or_default(),
        allowed_cidrs: rights.allowed_cidrs.unwrap_or_default(),
        expires_at: rights.expires_at.flatten(),
        stored_secret: secret.stored_secret(),
    };
    let now = call.now;
    let respond = move |key: &Key| {
        ApiResponse::created(&NewKeyView { key: KeyView::new(key.clone(), now), secret: secret.expose() })
    };
    call.change(respond, async |store: Store| Ok(store.create_key(new, now).await?)).await
}

async fn list(mut call: RequestContext) -> Result<ApiResponse> {
    let ListedOwner { tenant_id, of_platform } = call.listed_owner().await?;
    let request = call.query.page::<KeyId>();
    let filter = KeyFilter {
        tenant_id,
        of_platform,
        environment: call.query.value("environment"),
        status: call.query.value("status").map(|status| (status, call.now)),
    };
    call.query.finish()?;
    let page = call.store().list_keys(filter, request.clone()).await?;
    ApiResponse::ok(&List::page(page, &request, |key| key.id.to_string(), |key| KeyView::new(key, call.now)))
}

async fn find(call: &RequestContext) -> Result<Key> {
    let found = call.store().key(call.scope(), call.id("key")?).await?;
    let found = found.filter(|key| call.caller.sees(key.environment));
    found.ok_or_else(|| ApiError::not_found("key"))
}

async fn get(call: RequestContext) -> Result<ApiResponse> {
    ApiResponse::ok(&KeyView::new(find(&call).await?, call.now))
}

async fn update(call: RequestContext) -> Result<ApiResponse> {
    let key = find(&call).await?;
    let body: Update = call.json()?;
    let mut checks = Checks::default();
    body.name.iter().for_each(|name| checks.line(name, "name", NAME_CHARS_MAX));
    let rights = Rights {
        environment: None,
        scopes: body.scopes.and_then(|names| read_scopes(&names, &mut checks)),
        allowed_domain_ids: body.allowed_domain_ids.map(deduplicate),
        allowed_cidrs: body.allowed_cidrs.as_deref().and_then(|texts| read_networks(texts, &mut checks)),
        expires_at: body.expires_at,
    };
    check_rights(&rights, key.tenant_id, call.now, &mut checks);
    checks.finish().map_err(list_scopes)?;
    check_within(&call.caller.key, key.tenant_id, &rights)?;
    check_domains(&call, key.tenant_id, &rights).await?;
    let patch = KeyPatch {
        name: body.name,
        scopes: rights.scopes.filter(|_| key.tenant_id.is_some()),
        allowed_domain_ids: rights.allowed_domain_ids,
        allowed_cidrs: rights.allowed_cidrs,
        expires_at: rights.expires_at,
    };
    let updated = call.store().update_key(key.id, patch, call.now).await?;
    ApiResponse::ok(&KeyView::new(updated.ok_or_else(|| ApiError::not_found("key"))?, call.now))
}

/// `DELETE /v1/keys/{id}`: the revoked key stays in the list.
async fn revoke(call: RequestContext) -> Result<ApiResponse> {
    let key = find(&call).await?;
    if key.id == call.caller.key.id {
        return Err(ApiError::new(
            RefusalCode::KeyInUse,
            "a key cannot revoke itself",
            "revoke this key with another key",
        ));
    }
    if !call.store().revoke_key(key.id, call.now).await? {
        return Err(ApiError::not_found("key"));
    }
    let revoked_at = key.revoked_at.or(Some(call.now));
    ApiResponse::ok(&KeyView::new(Key { revoked_at, ..key }, call.now))
}
