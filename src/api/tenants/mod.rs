//! Tenants: create, read, change, delete. `bundle` exports and imports them; `imported_objects` and `imported_secrets` check
//! what is imported. `views` has the request and response bodies.
//! `validation` checks requests, and `smart_host` checks the smart host in them.

mod bundle;
mod imported_objects;
mod imported_secrets;
mod smart_host;
mod validation;
pub(super) mod views;

use crate::mail::Timestamp;
use crate::model::{Scope, TenantId, TenantStatus};
use crate::store::{
    Conflict, Directory, Domain, NewDomain, NewTenant, Store, StoreError, Tenant, TenantFilter,
};

use self::validation::with_suffix;
use self::views::{Create, NewTenantView, Removal, TenantView, Update};
use super::domains::{self, view::view_of_new};
use super::{Access, ApiError, ApiResponse, List, Operation, RequestContext, Resource, Result};

/// Slugs that are tried for a new tenant. The last one has a random suffix.
const SLUG_TRIES: u32 = 50;

/// The operations of tenants.
pub fn resource() -> Resource {
    let text = "The customers of the platform. Each has its own domains, keys and mail.";
    Resource::new("Tenants", text, Access::Scope(Scope::TenantManage))
        .operations([
            Operation::get("/v1/tenants", "list_tenants", list)
                .describe("List tenants", "With a tenant key, the list contains at most that tenant.")
                .query::<String>("slug", "Only the tenant with this slug.")
                .query::<String>("external_ref", "Only the tenant with this external reference.")
                .query::<TenantStatus>("status", "Only objects with this status.")
                .pages::<TenantId, TenantView>("Tenants."),
            Operation::post("/v1/tenants", "create_tenant", create)
                .describe("Create a tenant", "With `domain`, the server also creates its first sending domain, and the response contains the DNS records to publish.")
                .needs(Access::Platform)
                .takes::<Create>(r#"{"name": "Acme", "domain": "acme.com", "rate_limit": {"emails_per_day": 10000}}"#)
                .creates::<NewTenantView>("The tenant.")
                .response_octets(1, 16 * 1024 + domains::RESPONSE_OCTETS_MAX),
            Operation::get("/v1/tenants/{tenant_id}", "get_tenant", get)
                .summary("Get a tenant")
                .returns::<TenantView>("The tenant."),
            Operation::patch("/v1/tenants/{tenant_id}", "update_tenant", update)
                .describe("Change a tenant", "While a tenant is suspended, the server refuses its keys, over HTTP and SMTP, and does not deliver its queued mail. Activating the tenant ends this. While a tenant is archived, its keys may read over HTTP and do nothing else, its queued mail waits, and its domains are not checked; `deletable_at` protects it from deletion until then. A tenant key may change only `name` and `settings` without `brakes`.")
                .takes::<Update>(r#"{"settings": {"from": "shop@acme.com", "from_name": "Acme Shop"}}"#)
                .returns::<TenantView>("The updated tenant.")
                // A smart host has up to 1000 destinations.
                .response_octets(0, 512 * 1024),
            Operation::get("/v1/tenants/{tenant_id}/export", "export_tenant", bundle::export)
                .describe("Export a tenant", "Its domains, DKIM keys, keys, suppressions, templates, webhooks and inboxes as lines of JSON, to import them elsewhere. The last line has counts and a digest; without it, the export did not end. Keys are digests, so their holders go on logging in, but not with SCRAM. Other secrets are left out, or encrypted with [age](https://age-encryption.org/v1) to the recipients in `to`.")
                .needs(Access::Platform)
                .query::<String>("to", "Public keys of age (`age1…`), at most 16, separated by commas. DKIM private keys, webhook secrets and the password of the smart host are in the bundle as `{\"age\": …}`: base64 of an age file. Without it, they are `{\"excluded\": true}`.")
                .query::<bool>("messages", "Also messages with their deliveries, attempts, events and content.")
                .returns_octets("application/x-ndjson", "The bundle."),
            Operation::post("/v1/tenants/import", "import_tenant", bundle::import)
                .describe("Import a tenant", "Objects of a bundle. Ids stay, so a second import changes nothing. With a conflict, nothing is imported; a dry run lists all of them. Objects must keep to the limits of the operations that create them. A secret is `{\"plain\": …}`, base64 of its octets: `pillarbox tenant import --identity` decrypts it. Without a secret, a domain gets a new DKIM key, and a webhook a new secret. Send a domain and its DKIM keys in one request. Messages come with their history; those with open deliveries only with `open`. They raise no events here and count nowhere.")
                .needs(Access::Platform)
                .query::<bool>("dry_run", "Say what would be done, without doing it.")
                .takes_large::<bundle::Import>(r#"{"objects": [{"id": "tnt_01KBX3M5V9Q7R2T4W6Y8Z0A1B2", "name": "Acme", "object": "tenant", "slug": "acme"}], "sha256": "6c89f50e5241186692c4c60d754197ba8541c8ea4a41b513c7f6a5cca1e66fe2"}"#)
                .may_run_again()
                .returns::<bundle::ImportView>("What was imported, or would be.")
                .response_octets(0, 192 * 1024),
            Operation::delete("/v1/tenants/{tenant_id}", "delete_tenant", delete)
                .describe("Delete a tenant with all its data", "Deletes its domains, keys, messages and events. An archived tenant is not deleted before its `deletable_at`. With `dry_run=true`, the server only counts them.")
                .needs(Access::Platform)
                .query::<bool>("dry_run", "Count what would be deleted, without deleting it.")
                .returns::<Removal>("Counts of what was deleted, or would be."),
        ])
}

async fn create(call: RequestContext) -> Result<ApiResponse> {
    let body: Create = call.json()?;
    let (has_slug, domain) = (body.slug.is_some(), body.domain.clone());
    let new = body.validate(call.message_lifetime_hours_max(), call.source_pools(), call.now)?;
    let domain = match domain {
        Some(name) => Some(domains::first_domain(&call, &name, "domain").await?),
        None => None,
    };
    let view = view_of_new(&call, domain.as_ref());
    let respond = move |(tenant, domain): &(Tenant, Option<Domain>)| {
        let domain = domain.as_ref().map(&view);
        ApiResponse::created(&NewTenantView { tenant: tenant.clone().into(), domain })
    };
    let create = async |store: Store| match has_slug {
        true => Ok(store.create_tenant_with_domain(new, domain, call.now).await?),
        false => create_with_free_slug(&store, new, domain, call.now).await,
    };
    call.change(respond, create).await
}

/// Tries `acme`, `acme-2`, `acme-3` …: only the insert into the store shows whether a slug is free.
async fn create_with_free_slug(
    store: &Store,
    new: NewTenant,
    domain: Option<NewDomain>,
    now: Timestamp,
) -> Result<(Tenant, Option<Domain>)> {
    for number in 1..=SLUG_TRIES {
        let slug = match number {
            1 => new.slug.clone(),
            2..SLUG_TRIES => with_suffix(&new.slug, &number.to_string()),
            _ => with_suffix(&new.slug, &format!("{:016x}", rand::random::<u64>())),
        };
        let new = NewTenant { slug, ..new.clone() };
        match store.create_tenant_with_domain(new, domain.clone(), now).await {
            Err(StoreError::Conflict(Conflict::Slug)) => {}
            result => return Ok(result?),
        }
    }
    Err(Conflict::Slug.into())
}

async fn list(mut call: RequestContext) -> Result<ApiResponse> {
    let request = call.query.page::<TenantId>();
    let filter = TenantFilter {
        slug: call.query.value("slug"),
        external_ref: call.query.value("external_ref"),
        status: call.query.value("status"),
    };
    call.query.finish()?;
    // A tenant sees only itself, if the filter admits it and the page contains it.
    if let Some(own) = call.scope() {
        let is_listed = |tenant: &Tenant| {
            filter.admits(tenant) && request.contains(&tenant.id.to_string(), tenant.created_at)
        };
        let tenant = call.store().tenant(own).await?.filter(is_listed);
        return ApiResponse::ok(&List::whole(tenant.into_iter().map(TenantView::from).collect()));
    }
    let page = call.store().list_tenants(filter, request.clone()).await?;
    ApiResponse::ok(&List::page(page, &request, |tenant| tenant.id.to_string(), TenantView::from))
}

async fn get(call: RequestContext) -> Result<ApiResponse> {
    ApiResponse::ok(&TenantView::from(call.path_tenant().await?))
}

async fn update(call: RequestContext) -> Result<ApiResponse> {
    let tenant = call.path_tenant().await?;
    let body: Update = call.json()?;
    if !call.caller.is_platform()
        && let Some(field) = body.platform_field()
    {
        return Err(ApiError::platform_only(&format!("changing {field}")));
    }
    let patch = body.validate(&tenant, call.message_lifetime_hours_max(), call.source_pools(), call.now)?;
    let updated = call.store().update_tenant(tenant.id, patch, call.now).await?;
    ApiResponse::ok(&TenantView::from(updated.ok_or_else(|| ApiError::not_found("tenant"))?))
}

/// `DELETE /v1/tenants/{tenant_id}`: deletes the tenant and its data, or only counts them with `dry_run=true`.
async fn delete(mut call: RequestContext) -> Result<ApiResponse> {
    let dry_run = call.query.value::<bool>("dry_run").unwrap_or(false);
    call.query.finish()?;
    let id = call.path_tenant().await?.id;
    let counts = match dry_run {
        true => call.store().count_tenant_objects(id).await?,
        false => call.store().remove_tenant(id, call.now).await?,
    };
    let counts = counts.ok_or_else(|| ApiError::not_found("tenant"))?;
    ApiResponse::ok(&Removal { id, object: "tenant", deleted: !dry_run, dry_run, counts })
}
