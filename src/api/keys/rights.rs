//! The rights that a request gives to a key. No key gives rights that it lacks.

use std::borrow::Cow;
use std::net::IpAddr;

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;

use crate::api::json::{Checks, echo};
use crate::api::{ApiError, RequestContext, Result};
use crate::mail::Timestamp;
use crate::model::{DomainId, Environment, RefusalCode, Scope, TenantId};
use crate::store::{DEFAULT_TENANT, Directory, Key};

/// Maximum of scopes, domains or networks.
pub(in crate::api) const RESTRICTIONS_MAX: usize = 100;

/// The name of a scope in a request.
#[derive(Deserialize)]
#[serde(transparent)]
pub struct ScopeName(String);

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

/// The rights that a request gives to a key; `None` leaves them unchanged.
#[derive(Debug, Default)]
pub(super) struct Rights {
    pub(super) environment: Option<Environment>,
    pub(super) scopes: Option<Vec<Scope>>,
    pub(super) allowed_domain_ids: Option<Vec<DomainId>>,
    pub(super) allowed_cidrs: Option<Vec<IpNet>>,
    pub(super) expires_at: Option<Option<Timestamp>>,
}

/// Removes duplicates and keeps the order.
pub(super) fn deduplicate<T: PartialEq>(items: Vec<T>) -> Vec<T> {
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
pub fn read_scopes(names: &[ScopeName], checks: &mut Checks) -> Option<Vec<Scope>> {
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
pub fn list_scopes(mut error: ApiError) -> ApiError {
    if error.fields.iter().any(|field| field.path.starts_with("scopes[")) {
        let aliases = Scope::ALIASES.iter().map(|(alias, _)| *alias);
        let known: Vec<&str> = Scope::ALL.iter().map(|scope| scope.as_str()).chain(aliases).collect();
        error.refusal.hint = format!("the scopes are {}", known.join(", "));
    }
    error
}

/// Reads networks. A single address becomes a network of one address.
pub(super) fn read_networks(texts: &[String], checks: &mut Checks) -> Option<Vec<IpNet>> {
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

pub(super) fn check_rights(
    rights: &Rights,
    tenant_id: Option<TenantId>,
    now: Timestamp,
    checks: &mut Checks,
) {
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
pub(super) fn is_bound_by(caller: &Key, owner: Option<TenantId>) -> bool {
    caller.tenant_id == owner
}

/// Checks that the caller has every right that it gives to a key of this owner. A platform key has all scopes.
pub(super) fn check_within(caller: &Key, owner: Option<TenantId>, rights: &Rights) -> Result<()> {
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
pub(super) async fn check_domains(
    call: &RequestContext,
    tenant_id: Option<TenantId>,
    rights: &Rights,
) -> Result<()> {
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
    use crate::model::KeyId;

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
