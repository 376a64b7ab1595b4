//! A tenant as a bundle: export and import.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::task::JoinError;

use super::imported_objects::{self, Allowed};
use super::imported_secrets;
use super::validation::check_slug;
use crate::api::json::Checks;
use crate::api::templates::stack;
use crate::api::{ApiError, ApiResponse, FieldError, RequestContext, Result, domains};
use crate::archive::{BundleDigest, SecretError, SecretRecipients, bundle_header, digest_of};
use crate::limits::tenant_semaphore::TenantPermit;
use crate::model::{DomainId, RefusalCode, TenantId};
use crate::store::{
    BundleObject, BundlePart, BundleRequest, Bundles, Directory, ImportConflict, ImportOptions, ImportReport,
    ImportedSecret, Store, StoreError,
};

/// Objects of one request.
const OBJECTS_MAX: usize = 1000;

/// Objects to import.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "TenantImport")]
pub struct Import {
    /// Lines of a bundle without its first and last one: the tenant, then at most 999 other objects of it.
    /// `pillarbox tenant import` sends a larger bundle in several requests, each with the tenant first.
    objects: Vec<BundleObject>,
    /// The SHA-256 of the lines, each with sorted keys, without spaces, and with a line feed.
    sha256: String,
    /// Another slug for the tenant, if it is new.
    slug: Option<String>,
    /// Whether verified domains stay verified. Default: they are `pending` until their records are seen here.
    #[serde(default)]
    trust_domains: bool,
    /// Whether messages with open deliveries are imported too, and delivered by this server. The tenant must have been
    /// suspended or archived before the export. Default: they are left out.
    #[serde(default)]
    open: bool,
}

/// What an import did, or would do.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "TenantImportReport")]
pub struct ImportView {
    /// Always `import`.
    #[schemars(extend("const" = "import"))]
    object: &'static str,
    /// The tenant; `null` if the first object has no id of one.
    tenant_id: Option<TenantId>,
    /// The slug of the tenant. One that is already there keeps its own.
    slug: Option<String>,
    /// Whether this was a dry run.
    dry_run: bool,
    /// Objects that are new.
    created: u64,
    /// Objects that are already there.
    unchanged: u64,
    /// Secrets that the bundle does not have: publish the records of the new DKIM keys, set the password of the smart host,
    /// rotate the secrets of webhooks and enable them.
    excluded: u64,
    /// Messages that are left out because they have open deliveries.
    left_open: u64,
    /// Open deliveries of new messages: this server makes them once the tenant is active.
    open_deliveries: u64,
    /// New objects that have the secrets of the bundle.
    secrets: Vec<SecretView>,
    /// Why nothing would be imported; at most 100.
    conflicts: Vec<ConflictView>,
}

/// An object that is imported with its secret.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "TenantImportSecret")]
pub struct SecretView {
    /// Its type: `tenant` (the password of its smart host), `dkim_key` or `webhook`.
    object: String,
    /// Its id.
    id: String,
}

impl From<ImportedSecret> for SecretView {
    fn from(ImportedSecret { object, id }: ImportedSecret) -> Self {
        Self { object, id }
    }
}

/// An object that cannot be imported.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "TenantImportConflict")]
pub struct ConflictView {
    /// Its type, like `domain`.
    object: String,
    /// Its id.
    id: String,
    /// Like `another tenant has verified this domain`.
    reason: String,
}

impl From<ImportConflict> for ConflictView {
    fn from(ImportConflict { object, id, reason, .. }: ImportConflict) -> Self {
        Self { object, id, reason }
    }
}

/// `GET /v1/tenants/{tenant_id}/export`.
pub async fn export(mut call: RequestContext) -> Result<ApiResponse> {
    let messages = call.query.value::<bool>("messages").unwrap_or(false);
    let recipients = call.query.value::<SecretRecipients>("to");
    call.query.finish()?;
    let tenant = call.path_tenant().await?;
    let permit = call.api.exports.try_acquire(call.scope()).map_err(|_| {
        ApiError::new(
            RefusalCode::Overloaded,
            "limit reached: concurrent exports",
            "finish the exports in progress, or try again in a few seconds",
        )
    })?;
    if recipients.is_some() && !call.is_head {
        tracing::info!(tenant = %tenant.id, by = %call.caller.key.id, client = %call.origin.client.to_canonical(), request_id = %call.request_id, "a tenant is exported with its secrets");
    }
    let mut digest = BundleDigest::default();
    // While a tenant is suspended, no delivery begins. Those in progress could end after the export of their messages.
    let in_progress = (!tenant.status.sends()).then(|| call.api.queue.in_flight_of(tenant.id) as u64);
    let header = bundle_header(&tenant.slug, env!("CARGO_PKG_VERSION"), call.now, in_progress);
    let first = digest.line(&header);
    let export = Export {
        store: call.store().clone(),
        tenant: tenant.id,
        parts: BundlePart::ALWAYS.into_iter().chain(messages.then_some(BundlePart::Messages)).collect(),
        after: None,
        recipients: recipients.map(Arc::new),
        digest: Some(digest),
        _permit: permit,
    };
    if call.is_head {
        return Ok(ApiResponse::lines(Body::empty()));
    }
    let lines = stream::try_unfold((Some(first), export), |(first, mut export)| async move {
        let text = match first {
            Some(first) => Some(first),
            None => export.next_lines().await.map_err(io::Error::other)?,
        };
        io::Result::Ok(text.map(|text| (Bytes::from(text), (None, export))))
    });
    Ok(ApiResponse::lines(Body::from_stream(lines)))
}

/// An export in progress.
struct Export {
    store: Store,
    tenant: TenantId,
    /// What is left.
    parts: VecDeque<BundlePart>,
    /// The last object of the first of them.
    after: Option<String>,
    /// Who can decrypt its secrets; `None` to leave them out.
    recipients: Option<Arc<SecretRecipients>>,
    /// `None` after the last line.
    digest: Option<BundleDigest>,
    _permit: TenantPermit,
}

impl Export {
    /// The lines of the next page, or the last line; `None` at the end. After an error the reader misses the last line.
    async fn next_lines(&mut self) -> std::result::Result<Option<String>, ExportError> {
        while let Some(part) = self.parts.front().copied() {
            let request = BundleRequest {
                tenant_id: self.tenant,
                part,
                after: self.after.take(),
                has_secrets: self.recipients.is_some(),
            };
            let mut page = self.store.bundle_page(request).await?;
            let last = page.items.last().and_then(|object| object.get("id")?.as_str()).map(str::to_owned);
            match last.filter(|_| page.has_more) {
                Some(last) => self.after = Some(last),
                None => drop(self.parts.pop_front()),
            }
            if let Some(recipients) = self.recipients.clone() {
                page.items = encrypt(page.items, recipients).await?;
            }
            let Some(digest) = &mut self.digest else { return Ok(None) };
            if !page.items.is_empty() {
                return Ok(Some(page.items.iter().map(|object| digest.line(object)).collect()));
            }
        }
        Ok(self.digest.take().map(BundleDigest::end))
    }
}

/// Why an export ends early.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error(transparent)]
    Panicked(#[from] JoinError),
}

/// Encrypts the secrets of objects on a blocking thread, because it takes a tenth of a millisecond for each secret and
/// recipient.
async fn encrypt(
    mut objects: Vec<BundleObject>,
    recipients: Arc<SecretRecipients>,
) -> std::result::Result<Vec<BundleObject>, ExportError> {
    let encrypt = move || {
        objects.iter_mut().try_for_each(|object| recipients.encrypt(object))?;
        Ok(objects)
    };
    tokio::task::spawn_blocking(encrypt).await?
}

/// `POST /v1/tenants/import`.
pub async fn import(mut call: RequestContext) -> Result<ApiResponse> {
    let dry_run = call.query.value::<bool>("dry_run").unwrap_or(false);
    call.query.finish()?;
    let Import { objects, sha256, slug, trust_domains, open } = call.json()?;
    let mut checks = Checks::default();
    let of_bundle = objects.first().and_then(|tenant| tenant.get("slug")?.as_str());
    slug.as_deref().or(of_bundle).iter().for_each(|slug| check_slug(slug, &mut checks));
    let has_room = objects.len() <= OBJECTS_MAX;
    checks.require(has_room, "objects", "too_long", &format!("limit exceeded: {OBJECTS_MAX} objects"));
    let is_whole = digest_of(&objects) == sha256;
    checks.require(is_whole, "sha256", "invalid", "this is not the digest of the objects");
    checks.finish()?;
    let wanted = slug.as_deref().or(of_bundle).map(str::to_owned);
    let objects = checked(&call, objects).await?;
    let domains = domains_of(&objects);
    let options = ImportOptions { dry_run, slug, trusts_domains: trust_domains, has_open: open };
    let report = call.store().import_bundle(objects, options, call.now).await?;
    if !dry_run && !report.conflicts.is_empty() {
        return Err(conflict(report.conflicts));
    }
    if !dry_run {
        // An import that is repeated makes those that are missing.
        for id in domains {
            domains::ensure_dkim_key(&call, id).await?;
        }
    }
    let ImportReport {
        tenant_id,
        created,
        unchanged,
        excluded,
        left_open,
        open_deliveries,
        secrets,
        conflicts,
    } = report;
    let present = match tenant_id {
        Some(id) => call.store().tenant(id).await?,
        None => None,
    };
    ApiResponse::ok(&ImportView {
        object: "import",
        tenant_id,
        slug: present.map(|tenant| tenant.slug).or(wanted),
        dry_run,
        created,
        unchanged,
        excluded,
        left_open,
        open_deliveries,
        secrets: secrets.into_iter().map(SecretView::from).collect(),
        conflicts: conflicts.into_iter().map(ConflictView::from).collect(),
    })
}

/// Returns the objects if they and their secrets are as the operations that create them demand.
async fn checked(call: &RequestContext, objects: Vec<BundleObject>) -> Result<Vec<BundleObject>> {
    let (api, message_lifetime_hours_max) = (Arc::clone(&call.api), call.message_lifetime_hours_max());
    let work = move || {
        let (source_pools, webhooks) = (&api.source_pools[..], &api.webhooks);
        let allowed = Allowed { message_lifetime_hours_max, source_pools, webhooks };
        let mut checks = Checks::default();
        imported_secrets::check(&objects, &mut checks);
        let mut faults = checks.into_result().err().unwrap_or_default();
        faults
            .extend(stack::run(|| imported_objects::faults(&objects, &allowed)).map_err(ApiError::internal)?);
        if faults.is_empty() { Ok(objects) } else { Err(ApiError::invalid(faults)) }
    };
    call.work(work).await
}

fn domains_of(objects: &[BundleObject]) -> Vec<DomainId> {
    let domains = objects.iter().filter(|object| object.get("object").is_some_and(|kind| kind == "domain"));
    domains.filter_map(|domain| domain.get("id")?.as_str()?.parse().ok()).collect()
}

fn conflict(conflicts: Vec<ImportConflict>) -> ApiError {
    let fields = conflicts.into_iter().map(|ImportConflict { place, object, id, reason }| {
        FieldError::new(format!("objects[{place}]"), "conflict", format!("{object} {id}: {reason}"))
    });
    let refused = ApiError::new(
        RefusalCode::ImportConflict,
        "objects of the bundle conflict with what is stored here; nothing was imported",
        "see errors; a dry run lists all conflicts",
    );
    ApiError { fields: fields.collect(), ..refused }
}
