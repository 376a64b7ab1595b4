//! API keys. A key cannot give another key more rights than it has.

mod rotation;

use std::borrow::Cow;
use std::net::IpAddr;

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use crate::mail::Timestamp;
use crate::model::{DomainId, Environment, KeyId, KeySecret, KeyStatus, RefusalCode, Scope, TenantId};
use crate::store::{DEFAULT_TENANT, Directory, Key, KeyFilter, KeyPatch, NewKey, Store};

use crate::api::json::{Checks, echo, nullable};
use crate::api::{
    Access, ApiError, ApiResponse, List, ListedOwner, Operation, RequestContext, Resource, Result,
};

const NAME_CHARS_MAX: usize = 200;
const RESTRICTIONS_MAX: usize = 100;

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
                .takes::<Create>()
                .creates::<NewKeyView<'static>>("The key with its secret.")
                .response_octets(0, RESPONSE_OCTETS_MAX),
            Operation::get("/v1/keys/{id}", "get_key", get)
                .summary("Get a key")
                .returns::<KeyView>("The key.")
                .changed_by_use(&["last_used_at"]),
            Operation::patch("/v1/keys/{id}", "update_key", update)
                .summary("Change a key")
                .takes::<Update>()
                .returns::<KeyView>("The updated key.")
                .response_octets(0, RESPONSE_OCTETS_MAX),
            Operation::delete("/v1/keys/{id}", "revoke_key", revoke)
                .describe("Revoke a key", "The server refuses the key from now on. The key stays in the list. A key cannot revoke itself.")
                .returns::<KeyView>("The revoked key."),
            Operation::post("/v1/keys/{id}/rotate", "rotate_key", rotation::rotate)
                .describe("Give a key a new secret", "Only this response contains the secret. Both secrets work, over SMTP and HTTP, until the old one expires. A key can rotate itself. A key that is revoked or expired cannot be rotated.")
                .may_take::<rotation::Rotate>()
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

/// The name of a scope in a request.
#[derive(Deserialize)]
#[serde(transparent)]
struct ScopeName(String);

impl JsonSchema for ScopeName {
    fn schema_name() -> Cow<'static, str> {
        "ScopeName".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let aliases = Scope::ALIASES.iter().map(|(alias, _)| *alias);
        let names: Vec<&str> = Scope::ALL.iter().map(|scope| scope.as_str()).chain(aliases).collect();
        schemars::json_schema!({
            "type": "string",
            "description": "A scope. `send` stands for `smtp:send` and `emails:send`, and `messages:read` for `emails:read`.",
            "enum": names,
        })
    }
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
#[schemars(rename = "NewKey")]
pub struct NewKeyView<'a> {
    /// The key.
    #[serde(flatten)]
    key: KeyView,
    /// The secret: `pb_live_…` or `pb_test_…`. It is not shown again.
    secret: &'a str,
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

/// The rights that a request gives to a key; `None` leaves them unchanged.
#[derive(Debug, Default)]
struct Rights {
    environment: Option<Environment>,
    scopes: Option<Vec<Scope>>,
    allowed_domain_ids: Option<Vec<DomainId>>,
    allowed_cidrs: Option<Vec<IpNet>>,
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
    let create = async |store: Store| {
        let key = store.create_key(new, call.now).await?;
        tracing::info!(key = %key.id, by = %caller.id, "API key created");
        Ok(key)
    };
    call.change(respond, create).await
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
    tracing::info!(key = %key.id, by = %call.caller.key.id, "API key revoked");
    let revoked_at = key.revoked_at.or(Some(call.now));
    ApiResponse::ok(&KeyView::new(Key { revoked_at, ..key }, call.now))
}

/// Removes duplicates and keeps the order.
fn deduplicate<T: PartialEq>(items: Vec<T>) -> Vec<T> {
    // This is quadratic, so it stops after the allowed number of items; the caller then reports the excess.
    let mut unique = Vec::new();
    for item in items {
        if unique.len() <= RESTRICTIONS_MAX && !unique.contains(&item) {
            unique.push(item);
        }
    }
    unique
}

/// Reads scopes. Each unknown one is an error of its own; the known ones then do not count as the only ones.
fn read_scopes(names: &[ScopeName], checks: &mut Checks) -> Option<Vec<Scope>> {
    checks.length(names.len(), "scopes", RESTRICTIONS_MAX, "scopes");
    let mut scopes = Vec::new();
    let mut are_known = true;
    for (index, ScopeName(name)) in names.iter().take(RESTRICTIONS_MAX).enumerate() {
        let named = Scope::named(name);
        are_known &= !named.is_empty();
        let message = format!("unknown scope: {}", echo(name));
        checks.require(!named.is_empty(), &format!("scopes[{index}]"), "invalid", &message);
        scopes.extend(named);
    }
    are_known.then(|| deduplicate(scopes))
}

/// Lists the known scopes in the hint of an error about an unknown one.
fn list_scopes(mut error: ApiError) -> ApiError {
    if error.fields.iter().any(|field| field.path.starts_with("scopes[")) {
        let aliases = Scope::ALIASES.iter().map(|(alias, _)| *alias);
        let known: Vec<&str> = Scope::ALL.iter().map(|scope| scope.as_str()).chain(aliases).collect();
        error.refusal.hint = format!("the scopes are {}", known.join(", "));
    }
    error
}

/// Reads networks. A single address becomes a network of one address.
fn read_networks(texts: &[String], checks: &mut Checks) -> Option<Vec<IpNet>> {
    checks.length(texts.len(), "allowed_cidrs", RESTRICTIONS_MAX, "networks");
    if texts.len() > RESTRICTIONS_MAX {
        return None;
    }
    let mut networks = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let read = text
            .parse::<IpNet>()
            .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
            .map_err(|_| "this must be a network like 192.0.2.0/24 or 2001:db8::/32, or one address");
        networks.extend(checks.read(read, &format!("allowed_cidrs[{index}]")).map(|network| network.trunc()));
    }
    Some(deduplicate(networks))
}

fn check_rights(rights: &Rights, tenant_id: Option<TenantId>, now: Timestamp, checks: &mut Checks) {
    let domain_ids = rights.allowed_domain_ids.as_deref().unwrap_or_default();
    match tenant_id {
        Some(_) => {
            let is_right = rights.scopes.as_ref().is_none_or(|scopes| !scopes.is_empty());
            let message = "give at least one scope, such as smtp:send";
            checks.require(is_right, "scopes", "required", message);
        }
        None => {
            let is_right = rights.scopes.as_ref().is_none_or(|s| s.is_empty() || s.len() == Scope::ALL.len());
            checks.require(is_right, "scopes", "invalid", "omit this: a platform key has all scopes");
        }
    }
    checks.length(domain_ids.len(), "allowed_domain_ids", RESTRICTIONS_MAX, "domains");
    let is_future = rights.expires_at.flatten().is_none_or(|at| at > now);
    checks.require(is_future, "expires_at", "invalid", "this must be in the future");
}

fn exceeds(message: impl Into<String>) -> ApiError {
    let hint = "request only rights that the calling key has, or use a platform key";
    ApiError::new(RefusalCode::InsufficientScope, message, hint)
}

/// Whether the networks and the expiry of the caller also restrict a key of this owner. The networks of a platform key are
/// those of the platform, so they do not restrict the keys of tenants.
fn is_bound_by(caller: &Key, owner: Option<TenantId>) -> bool {
    caller.tenant_id == owner
}

/// Checks that the caller has every right that it gives to a key of this owner. A platform key has all scopes.
fn check_within(caller: &Key, owner: Option<TenantId>, rights: &Rights) -> Result<()> {
    if caller.tenant_id.is_some()
        && let Some(scope) = rights.scopes.iter().flatten().find(|scope| !caller.has_scope(**scope))
    {
        return Err(exceeds(format!("the calling key lacks the scope {scope}, so it cannot grant it")));
    }
    if caller.environment == Environment::Test && rights.environment == Some(Environment::Live) {
        return Err(ApiError::live_only("creating a live key"));
    }
    let domains = &caller.allowed_domain_ids;
    let are_within = |ids: &Vec<DomainId>| !ids.is_empty() && ids.iter().all(|id| domains.contains(id));
    if caller.restricted_to_domains && !rights.allowed_domain_ids.as_ref().is_none_or(are_within) {
        return Err(exceeds(
            "the calling key is restricted to its allowed_domain_ids and cannot grant other domains",
        ));
    }
    if !is_bound_by(caller, owner) {
        return Ok(());
    }
    let networks = &caller.allowed_cidrs;
    let is_inside = |net: &IpNet| networks.iter().any(|own| own.contains(net));
    if !networks.is_empty()
        && !rights.allowed_cidrs.as_ref().is_none_or(|n| !n.is_empty() && n.iter().all(is_inside))
    {
        return Err(exceeds(
            "the calling key is restricted to its allowed_cidrs and cannot grant other networks",
        ));
    }
    if let (Some(own), Some(wanted)) = (caller.valid_until(), rights.expires_at)
        && wanted.is_none_or(|at| at > own)
    {
        return Err(exceeds(format!("the calling key expires at {own} and cannot grant a later expiry")));
    }
    Ok(())
}

/// Checks that the tenant owns the domains, for a platform key the default tenant. Domains of other tenants are reported as
/// not found.
async fn check_domains(call: &RequestContext, tenant_id: Option<TenantId>, rights: &Rights) -> Result<()> {
    let domain_ids = rights.allowed_domain_ids.as_deref().unwrap_or_default();
    let owner = match tenant_id {
        None if !domain_ids.is_empty() => call.store().tenant_by_slug(DEFAULT_TENANT).await?.map(|t| t.id),
        of_key => of_key,
    };
    let mut checks = Checks::default();
    for (index, id) in domain_ids.iter().enumerate() {
        let is_known = owner.is_some() && call.store().domain(owner, *id).await?.is_some();
        let path = format!("allowed_domain_ids[{index}]");
        checks.require(is_known, &path, "not_found", "the tenant has no such domain");
    }
    checks.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn caller() -> Key {
        Key {
            id: KeyId::generate(at(0)),
            tenant_id: Some(TenantId::generate(at(0))),
            name: "k".into(),
            environment: Environment::Live,
            scopes: vec![Scope::KeysManage, Scope::SmtpSend],
            allowed_domain_ids: vec![],
            restricted_to_domains: false,
            allowed_cidrs: vec![],
            last_four: "abcd".into(),
            created_at: at(0),
            expires_at: None,
            last_used_at: None,
            revoked_at: None,
            rotated_at: None,
            previous_secret_until: None,
            secret_expires_at: None,
        }
    }

    #[test]
    fn no_key_grants_rights_that_it_lacks() {
        let domain = DomainId::generate(at(0));
        let bound = Key {
            environment: Environment::Test,
            allowed_domain_ids: vec![domain],
            restricted_to_domains: true,
            allowed_cidrs: vec![net("10.0.0.0/8")],
            expires_at: Some(at(100)),
            ..caller()
        };
        let platform = Key { tenant_id: None, ..caller() };
        let bound_platform = Key { tenant_id: None, ..bound.clone() };
        // Its domains were deleted.
        let emptied = Key { allowed_domain_ids: vec![], ..bound.clone() };
        for domains in [vec![], vec![domain]] {
            let rights = Rights { allowed_domain_ids: Some(domains), ..Rights::default() };
            assert!(check_within(&emptied, bound.tenant_id, &rights).is_err());
        }
        let none = Rights::default;
        for (name, rights) in [
            ("scope", Rights { scopes: Some(vec![Scope::EmailsRead]), ..none() }),
            ("environment", Rights { environment: Some(Environment::Live), ..none() }),
            ("all domains", Rights { allowed_domain_ids: Some(vec![]), ..none() }),
            (
                "other domain",
                Rights { allowed_domain_ids: Some(vec![domain, DomainId::generate(at(1))]), ..none() },
            ),
            ("all networks", Rights { allowed_cidrs: Some(vec![]), ..none() }),
            ("wider network", Rights { allowed_cidrs: Some(vec![net("10.0.0.0/7")]), ..none() }),
            ("no expiry", Rights { expires_at: Some(None), ..none() }),
            ("later expiry", Rights { expires_at: Some(Some(at(101))), ..none() }),
        ] {
            assert!(check_within(&bound, bound.tenant_id, &rights).is_err(), "{name}");
            assert!(check_within(&platform, bound.tenant_id, &rights).is_ok(), "{name}");
            let is_bound = check_within(&bound_platform, None, &rights).is_err();
            assert_eq!(is_bound, name != "scope", "{name}");
            let is_bound = check_within(&bound_platform, bound.tenant_id, &rights).is_err();
            assert_eq!(is_bound, ["environment", "all domains", "other domain"].contains(&name), "{name}");
        }
        let narrower = Rights {
            environment: Some(Environment::Test),
            scopes: Some(vec![Scope::SmtpSend]),
            allowed_domain_ids: Some(vec![domain]),
            allowed_cidrs: Some(vec![net("10.1.0.0/16")]),
            expires_at: Some(Some(at(100))),
        };
        assert!(check_within(&bound, bound.tenant_id, &narrower).is_ok());
        assert!(check_within(&bound, bound.tenant_id, &none()).is_ok());
        let caller = caller();
        let test = Rights { environment: Some(Environment::Test), ..narrower };
        assert!(check_within(&caller, caller.tenant_id, &test).is_ok());
    }

    #[test]
    fn networks_are_stored_in_canonical_form() {
        let mut checks = Checks::default();
        let texts = ["10.1.2.3/8", "10.0.0.0/8", "192.0.2.1", "2001:db8::1"].map(str::to_owned);
        let networks = read_networks(&texts, &mut checks).unwrap();
        assert_eq!(networks, [net("10.0.0.0/8"), net("192.0.2.1/32"), net("2001:db8::1/128")]);
        checks.finish().unwrap();
        let mut checks = Checks::default();
        read_networks(&["10.0.0.0/8".into(), "10.0.0/8".into()], &mut checks);
        assert_eq!(checks.finish().unwrap_err().fields[0].path, "allowed_cidrs[1]");
        let mut checks = Checks::default();
        read_networks(&vec!["10.0.0.1".to_owned(); 101], &mut checks);
        assert_eq!(checks.finish().unwrap_err().fields[0].code, "too_long");
    }

    #[test]
    fn the_rights_of_a_key_are_validated() {
        let fault = |rights: Rights, tenant: Option<TenantId>| {
            let mut checks = Checks::default();
            check_rights(&rights, tenant, at(10), &mut checks);
            checks.finish().err().map(|e| e.fields[0].path.clone())
        };
        let tenant = Some(TenantId::generate(at(0)));
        let domains = || Some(vec![DomainId::generate(at(0))]);
        assert_eq!(
            fault(Rights { scopes: Some(vec![]), ..Rights::default() }, tenant).as_deref(),
            Some("scopes")
        );
        assert_eq!(
            fault(Rights { scopes: Some(vec![Scope::SmtpSend]), ..Rights::default() }, None).as_deref(),
            Some("scopes")
        );
        assert_eq!(fault(Rights { allowed_domain_ids: domains(), ..Rights::default() }, None), None);
        assert_eq!(
            fault(Rights { expires_at: Some(Some(at(10))), ..Rights::default() }, tenant).as_deref(),
            Some("expires_at")
        );
        assert_eq!(fault(Rights { allowed_domain_ids: domains(), ..Rights::default() }, tenant), None);
    }
}
