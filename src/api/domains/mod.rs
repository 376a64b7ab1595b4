//! Sending domains and their verification. `view` shows them with their DNS records, `dkim` manages their DKIM keys,
//! `rotation` replaces the keys, and `selector` names them.

mod dkim;
mod rotation;
mod selector;
pub(super) mod view;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::doctor::Diagnosis;
use crate::mail::DomainName;
use crate::model::{
    DkimAlgorithm, DkimKeyState, DomainId, DomainStatus, RefusalCode, ReturnPathMode, Scope, TenantId,
    Verification,
};
use crate::store::{Directory, Domain, DomainFilter, DomainPatch, NewDomain, RETURN_HOST_OCTETS_MAX};
use crate::verification::CheckReason;

use super::json::{self, Checks, nullable};
use super::{
    Access, ApiError, ApiResponse, Deleted, List, ListedOwner, Operation, RequestContext, Resource, Result,
};

use self::dkim::DkimKeyView;
pub(super) use self::dkim::check_selector;
use self::view::{DomainView, view, view_of_new};

/// With the prefix `selector._domainkey.`, a name has at most 253 octets (RFC 1035 §2.3.4).
const NAME_OCTETS_MAX: usize = 220;

/// Octets of a response with the maximum number of keys.
pub(super) const RESPONSE_OCTETS_MAX: u64 = 64 * 1024;

/// The operations of domains and their DKIM keys.
pub fn resource() -> Resource {
    let text = "Sending domains, the DNS records that verify them, and their DKIM keys.";
    Resource::new("Domains", text, Access::Scope(Scope::DomainsManage))
        .id::<DomainId>("The domain.")
        .operations([
            Operation::get("/v1/domains", "list_domains", list)
                .summary("List domains")
                .owner_filter()
                .query::<DomainName>("name", "Only objects with this name.")
                .query::<DomainStatus>("status", "Only objects with this status.")
                .query::<Verification>("verification", "Only domains with this verification method.")
                .pages::<DomainId, DomainView>("Domains."),
            Operation::post("/v1/domains", "create_domain", create)
                .describe("Create a sending domain", "The response contains the DNS records to publish. An unverified domain does not block other tenants, and a verified one blocks only the same name. An address belongs to the closest verified domain at or above it.")
                .takes::<Create>(r#"{"name": "acme.com"}"#)
                .creates::<DomainView>("The domain with its records.")
                .response_octets(0, RESPONSE_OCTETS_MAX),
            Operation::get("/v1/domains/{id}", "get_domain", get)
                .summary("Get a domain")
                .returns::<DomainView>("The domain with its records.")
                .changed_by_use(&["last_checked_at"]),
            Operation::patch("/v1/domains/{id}", "update_domain", update)
                .summary("Change a domain")
                .takes::<Update>(r#"{"subdomains": false, "return_path": {"mode": "auto"}}"#)
                .returns::<DomainView>("The updated domain.")
                .response_octets(0, RESPONSE_OCTETS_MAX),
            Operation::delete("/v1/domains/{id}", "delete_domain", delete)
                .describe("Delete a domain", "The server refuses mail from this domain from now on. A key that was restricted to this domain only can send from no domain.")
                .returns::<Deleted>("Deleted."),
            Operation::post("/v1/domains/{id}/verify", "verify_domain", verify)
                .describe("Check the DNS records of a domain now", "The server also checks them every hour.")
                .may_take::<Empty>("{}")
                .may_run_again()
                .returns::<DomainView>("The domain with the result.")
                .response_octets(0, RESPONSE_OCTETS_MAX),
            Operation::get("/v1/domains/{id}/doctor", "diagnose_domain", diagnose)
                .describe("Check what the DNS has for a domain", "Looks the records up now. Each finding says what was found and what to do. Changes nothing. What the DNS has not said after 20 seconds is skipped.")
                .takes_long()
                .returns::<Diagnosis>("The findings, the worst first."),
            Operation::get("/v1/domains/{id}/dkim", "list_dkim_keys", dkim::list)
                .summary("List the DKIM keys of a domain")
                .returns::<List<DkimKeyView>>("The keys of the domain."),
            Operation::post("/v1/domains/{id}/dkim", "add_dkim_key", dkim::add)
                .describe("Bring your own DKIM key", "The key signs once its DNS record is found.")
                .takes::<dkim::Add>(r#"{"selector": "mail2026", "private_key": "-----BEGIN PRIVATE KEY-----\n(your own key in base64)\n-----END PRIVATE KEY-----\n"}"#)
                .creates::<DkimKeyView>("The key without its private key.")
                .response_octets(0, RESPONSE_OCTETS_MAX),
            Operation::post("/v1/domains/{id}/dkim/rotate", "rotate_dkim_keys", rotation::rotate)
                .describe("Replace the DKIM keys of a domain", "New keys sign once their DNS records are found. The old keys then retire; keep their records while queued mail carries their signatures. While new keys wait for their records, another request returns the same keys.")
                .may_take::<rotation::Rotate>(r#"{"algorithm": "rsa-sha256"}"#)
                .may_run_again()
                .creates::<List<DkimKeyView>>("The pending keys with their DNS records.")
                .response_octets(0, RESPONSE_OCTETS_MAX),
        ])
        .alias("/v1/domains", "/v1/tenants/{tenant_id}/domains")
}

/// A sending domain to create.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "DomainCreate")]
pub struct Create {
    /// The domain, like `example.com`.
    name: String,
    /// Owner. Default with a platform key: the tenant `default`.
    tenant_id: Option<TenantId>,
    /// `dns`: verified by DNS records. `manual`: verified by the platform; needs a platform key.
    verification: Option<Verification>,
    /// Whether senders may use subdomains. Default: true.
    subdomains: Option<bool>,
    /// Whether to generate a second key, for Ed25519 signatures. Default: false.
    #[serde(default)]
    ed25519: bool,
}

/// Changes to a domain. Absent fields stay unchanged.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "DomainUpdate")]
pub struct Update {
    /// `dns`: verified by DNS records. `manual`: verified by the platform; needs a platform key.
    verification: Option<Verification>,
    /// Whether senders may use subdomains.
    subdomains: Option<bool>,
    /// The reverse path of the domain's mail.
    return_path: Option<ReturnPathUpdate>,
}

/// Changes to the reverse path of a domain's mail. Absent fields stay unchanged.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReturnPathUpdate {
    /// `auto`: the return host of the domain, once its record works. `platform`: the return host of the platform. `off`: the
    /// sender's own. `null`: as the configuration says.
    #[serde(default, deserialize_with = "nullable")]
    mode: Option<Option<ReturnPathMode>>,
    /// The return host, a name under the domain. `null`: the label of the configuration under the domain.
    #[serde(default, deserialize_with = "nullable")]
    host: Option<Option<String>>,
}

/// An empty body.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Nothing")]
pub struct Empty {}

async fn find(call: &RequestContext) -> Result<Domain> {
    let found = call.store().domain(call.scope(), call.id("domain")?).await?;
    found.ok_or_else(|| ApiError::not_found("domain"))
}

/// A domain that the caller may change: a key with `allowed_domain_ids` may change only those domains.
async fn find_changeable(call: &RequestContext) -> Result<Domain> {
    let domain = find(call).await?;
    check_allowed(call, Some(domain.id))?;
    Ok(domain)
}

fn check_allowed(call: &RequestContext, domain: Option<DomainId>) -> Result<()> {
    let key = &call.caller.key;
    if domain.map_or(!key.restricted_to_domains, |id| key.allows_domain(id)) {
        return Ok(());
    }
    Err(ApiError::new(
        RefusalCode::DomainNotAllowedForKey,
        "allowed_domain_ids of this key does not contain the domain",
        "use a key that is not restricted to domains, or add the domain to this key",
    ))
}

fn check_verification(call: &RequestContext, verification: Option<Verification>) -> Result<()> {
    if verification == Some(Verification::Manual) && !call.caller.is_platform() {
        return Err(ApiError::platform_only("verifying a domain manually (verification: manual)"));
    }
    Ok(())
}

async fn create(call: RequestContext) -> Result<ApiResponse> {
    let body: Create = call.json()?;
    check_verification(&call, body.verification)?;
    check_allowed(&call, None)?;
    let tenant_id = call.owning_tenant(body.tenant_id, "domain").await?.id;
    let name = read_name(&body.name, "name")?;
    let verification = body.verification.unwrap_or(Verification::Dns);
    let mut algorithms = vec![DkimAlgorithm::Rsa];
    if body.ed25519 {
        algorithms.push(DkimAlgorithm::Ed25519);
    }
    let new = NewDomain {
        tenant_id: Some(tenant_id),
        verification,
        subdomains: body.subdomains.unwrap_or(true),
        ..new_domain(&call, name, &algorithms, first_key_state(verification)).await?
    };
    let (now, view) = (call.now, view_of_new(&call, Some(&new)));
    let respond = move |domain: &Domain| ApiResponse::created(&view(domain));
    call.change(respond, async |store| Ok(store.create_domain(new, now).await?)).await
}

/// The first domain of a tenant that is created in the same transaction. `path` is the field with its name.
pub(super) async fn first_domain(call: &RequestContext, name: &str, path: &str) -> Result<NewDomain> {
    new_domain(call, read_name(name, path)?, &[DkimAlgorithm::Rsa], DkimKeyState::Pending).await
}

/// A domain to verify by DNS, without an owner yet.
async fn new_domain(
    call: &RequestContext,
    name: DomainName,
    algorithms: &[DkimAlgorithm],
    state: DkimKeyState,
) -> Result<NewDomain> {
    Ok(NewDomain {
        tenant_id: None,
        name,
        verification: Verification::Dns,
        subdomains: true,
        ownership_token: format!("{:032x}", rand::random::<u128>()),
        dkim_keys: dkim::generate(call, algorithms, state).await?,
    })
}

/// Gives an imported domain without a DKIM key the one that a new domain has.
pub(super) async fn ensure_dkim_key(call: &RequestContext, id: DomainId) -> Result<()> {
    let Some(domain) = call.store().domain(None, id).await? else { return Ok(()) };
    if !call.store().dkim_keys(id).await?.is_empty() {
        return Ok(());
    }
    let state = first_key_state(domain.verification);
    for key in dkim::generate(call, &[DkimAlgorithm::Rsa], state).await? {
        call.store().add_dkim_key(id, key, call.now).await?;
    }
    Ok(())
}

/// The platform verifies a domain and its keys manually, so such keys do not wait for their DNS records.
fn first_key_state(verification: Verification) -> DkimKeyState {
    match verification {
        Verification::Manual => DkimKeyState::Active,
        Verification::Dns => DkimKeyState::Pending,
    }
}

/// Checks the name of a domain in the field `path`.
pub(super) fn check_name(text: &str, path: &str, checks: &mut Checks) -> Option<DomainName> {
    let name = checks.read(DomainName::parse(text), path)?;
    let message = "this must be a complete domain name such as example.com";
    checks.require(name.is_fully_qualified(), path, "invalid", message);
    checks.length(name.as_str().len(), path, NAME_OCTETS_MAX, "octets");
    Some(name)
}

fn read_name(text: &str, path: &str) -> Result<DomainName> {
    let mut checks = Checks::default();
    let name = check_name(text, path, &mut checks);
    checks.finish()?;
    name.ok_or_else(|| ApiError::internal("a valid domain name was not parsed"))
}

/// Reads the name of a return host, which is under its domain so that SPF aligns with From (RFC 9989).
fn read_return_host(text: &str, domain: &DomainName) -> Result<DomainName> {
    const PATH: &str = "return_path.host";
    let mut checks = Checks::default();
    let name = checks.read(DomainName::parse(text), PATH);
    if let Some(name) = &name {
        let is_under = name.is_at_or_under(domain) && name != domain;
        checks.require(is_under, PATH, "invalid", "this must be a name under the domain");
        checks.length(name.as_str().len(), PATH, RETURN_HOST_OCTETS_MAX, "octets");
        let is_host = !name.as_str().contains('_');
        checks.require(is_host, PATH, "invalid", "the name of a mail host has no underscores");
    }
    checks.finish()?;
    name.ok_or_else(|| ApiError::internal("a valid domain name was not parsed"))
}

/// Refuses a return host under a name that another tenant has verified.
async fn check_return_host(call: &RequestContext, domain: &Domain, host: Option<&DomainName>) -> Result<()> {
    let (Some(tenant_id), Some(host)) = (domain.tenant_id, host) else { return Ok(()) };
    let covering = call.store().domains_covering(tenant_id, host).await?;
    let nearest = covering.iter().find(|covering| covering.status == DomainStatus::Verified);
    if nearest.is_some_and(|nearest| nearest.tenant_id != Some(tenant_id)) {
        let message = "another tenant has verified this name or one above it";
        return Err(ApiError::field("return_path.host", "invalid", message));
    }
    Ok(())
}

async fn list(mut call: RequestContext) -> Result<ApiResponse> {
    let ListedOwner { tenant_id, of_platform } = call.listed_owner().await?;
    let request = call.query.page::<DomainId>();
    let filter = DomainFilter {
        tenant_id,
        of_platform,
        name: call.query.value("name"),
        status: call.query.value("status"),
        verification: call.query.value("verification"),
    };
    call.query.finish()?;
    let page = call.store().list_domains(filter, request.clone()).await?;
    let ids = page.items.iter().map(|domain| domain.id).collect();
    let mut keys = call.store().dkim_keys_of(ids).await?.into_iter();
    let settings = &call.api.verification.settings;
    let view = |domain| DomainView::new(domain, &keys.next().unwrap_or_default(), settings);
    ApiResponse::ok(&List::page(page, &request, |domain| domain.id.to_string(), view))
}

async fn get(call: RequestContext) -> Result<ApiResponse> {
    let domain = find(&call).await?;
    ApiResponse::ok(&view(&call, domain).await?)
}

async fn update(call: RequestContext) -> Result<ApiResponse> {
    let domain = find_changeable(&call).await?;
    let body: Update = call.json()?;
    if body.verification.is_some_and(|wanted| wanted != domain.verification) && !call.caller.is_platform() {
        return Err(ApiError::platform_only("changing how a domain is verified"));
    }
    let (return_path_mode, return_path_host) = match body.return_path {
        Some(ReturnPathUpdate { mode, host }) => {
            let host = host.map(|host| host.map(|host| read_return_host(&host, &domain.name)).transpose());
            let host = host.transpose()?;
            check_return_host(&call, &domain, host.as_ref().and_then(Option::as_ref)).await?;
            (mode, host)
        }
        None => (None, None),
    };
    let patch = DomainPatch {
        verification: body.verification,
        subdomains: body.subdomains,
        return_path_mode,
        return_path_host,
    };
    let updated = call.store().update_domain(domain.id, patch, call.now).await?;
    ApiResponse::ok(&view(&call, updated.ok_or_else(|| ApiError::not_found("domain"))?).await?)
}

async fn delete(call: RequestContext) -> Result<ApiResponse> {
    let id = find_changeable(&call).await?.id;
    if !call.store().delete_domain(id, call.now).await? {
        return Err(ApiError::not_found("domain"));
    }
    ApiResponse::deleted("domain", id)
}

async fn verify(call: RequestContext) -> Result<ApiResponse> {
    let domain = find_changeable(&call).await?;
    if !call.body.is_empty() {
        json::parse::<Empty>(&call.body)?;
    }
    let _permit = call.api.lookups.acquire(call.scope()).await.map_err(ApiError::internal)?;
    let checked = call.api.verification.check(&domain, CheckReason::Request).await?;
    let domain = checked.ok_or_else(|| ApiError::not_found("domain"))?;
    ApiResponse::ok(&view(&call, domain).await?)
}

async fn diagnose(call: RequestContext) -> Result<ApiResponse> {
    let domain = find(&call).await?;
    let _permit = call.api.lookups.acquire(call.scope()).await.map_err(ApiError::internal)?;
    ApiResponse::ok(&call.api.doctor.diagnose_domain(&domain).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_complete_names_up_to_the_maximum_length_are_accepted() {
        assert_eq!(read_name("Bücher.Example", "name").unwrap().as_str(), "xn--bcher-kva.example");
        let long = format!("{}.example", ["a"; 110].join("."));
        for bad in ["", "localhost", "example.com.", "192.0.2.1", "a b.c", "*.example.com", &long] {
            let error = read_name(bad, "name").unwrap_err();
            assert_eq!((error.status().as_u16(), error.fields[0].path.as_str()), (422, "name"), "{bad}");
        }
    }
}
