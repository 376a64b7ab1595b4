//! Tenants: create, read, change, delete. `smart_host` validates the smart host of a tenant.

mod smart_host;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::mail::{Address, Timestamp};
use crate::model::{
    DeliveryReports, DestinationPattern, DkimPolicy, TenantId, TenantStatus, TlsMode, Weight,
};
use crate::store::{
    Conflict, Directory, NewTenant, RateLimit, SmartHost, StoreError, Tenant, TenantCounts, TenantFilter,
    TenantPatch, TenantSettings,
};

use self::smart_host::SmartHostBody;
use super::error::{ApiError, Result};
use super::json::{Checks, nullable};
use super::page::List;
use super::request_context::RequestContext;
use super::response::ApiResponse;

const NAME_CHARS_MAX: usize = 200;
const SLUG_CHARS_MAX: usize = 63;
const EXTERNAL_REF_CHARS_MAX: usize = 255;
const RETENTION_DAYS_MAX: u32 = 3650;
/// Numbered slugs that are tried for a new tenant before a random one.
const SLUG_TRIES: u32 = 50;

/// A tenant to create.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "TenantCreate")]
pub struct Create {
    /// Display name: one line of at most 200 characters.
    name: String,
    /// Unique on the platform: 1 to 63 lower-case letters, digits and hyphens. Default: derived from the name.
    slug: Option<String>,
    /// The platform's own id for the tenant: one line of at most 255 characters.
    external_ref: Option<String>,
    /// Arbitrary data of the platform; at most 50 keys and 8 KiB.
    #[serde(default)]
    metadata: Map<String, Value>,
    /// Settings for all mail of the tenant.
    #[serde(default)]
    settings: SettingsPatch,
    /// Rate limits. Default: none.
    #[serde(default)]
    rate_limit: RateLimitPatch,
    /// The smart host that relays the mail, instead of the MX.
    smtp: Option<SmartHostBody>,
    /// Name of the source address pool (`relay.pools`) that sends the mail.
    source_pool: Option<String>,
    /// Days to keep messages, 1 to 3650; `null` for the server default.
    retention_days: Option<u32>,
    /// Days to keep message content, 1 to 3650; `null` for the server default.
    body_retention_days: Option<u32>,
    /// Weight in the fair sharing of capacity between tenants, 1 to 100.
    #[serde(default)]
    weight: Weight,
}

/// Changes to a tenant. Absent fields stay unchanged. A tenant key may change `name` and `settings`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "TenantUpdate")]
pub struct Update {
    /// Display name: one line of at most 200 characters.
    name: Option<String>,
    /// Unique on the platform: 1 to 63 lower-case letters, digits and hyphens.
    slug: Option<String>,
    /// The platform's own id for the tenant: one line of at most 255 characters.
    #[serde(default, deserialize_with = "nullable")]
    external_ref: Option<Option<String>>,
    /// Keys to be set; `null` as a value removes the key.
    metadata: Option<Map<String, Value>>,
    /// Settings for all mail of the tenant.
    settings: Option<SettingsPatch>,
    /// Rate limits.
    rate_limit: Option<RateLimitPatch>,
    /// The smart host that relays the mail, merged into the present one; `null` to use the MX again.
    #[serde(default, deserialize_with = "nullable")]
    smtp: Option<Option<SmartHostBody>>,
    /// Name of the source address pool (`relay.pools`) that sends the mail.
    #[serde(default, deserialize_with = "nullable")]
    source_pool: Option<Option<String>>,
    /// Days to keep messages, 1 to 3650; `null` for the server default.
    #[serde(default, deserialize_with = "nullable")]
    retention_days: Option<Option<u32>>,
    /// Days to keep message content, 1 to 3650; `null` for the server default.
    #[serde(default, deserialize_with = "nullable")]
    body_retention_days: Option<Option<u32>>,
    /// Weight in the fair sharing of capacity between tenants, 1 to 100.
    weight: Option<Weight>,
    /// `suspended` refuses the tenant's keys and stops delivery of its queued mail.
    status: Option<TenantStatus>,
}

/// Settings for all mail of a tenant. Absent fields stay unchanged; `null` restores the default.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "TenantSettingsUpdate")]
pub struct SettingsPatch {
    /// Default display name of the From address, for messages sent over HTTP.
    #[serde(default, deserialize_with = "nullable")]
    from_name: Option<Option<String>>,
    /// Default Reply-To address, for messages sent over HTTP.
    #[serde(default, deserialize_with = "nullable")]
    reply_to: Option<Option<Address>>,
    /// Whether DSNs go to the reverse path by mail, or are events only.
    #[serde(default, deserialize_with = "nullable")]
    delivery_reports: Option<Option<DeliveryReports>>,
    /// Hours to attempt delivery; `null` for the server default.
    #[serde(default, deserialize_with = "nullable")]
    message_lifetime_hours: Option<Option<u32>>,
}

/// Rate limits of a tenant. Absent fields stay unchanged; `null` removes the limit.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "RateLimitUpdate")]
pub struct RateLimitPatch {
    /// API requests per minute, at least 1; `null` for no limit.
    #[serde(default, deserialize_with = "nullable")]
    requests_per_minute: Option<Option<u32>>,
    /// Recipients per day, at least 1; `null` for no limit.
    #[serde(default, deserialize_with = "nullable")]
    emails_per_day: Option<Option<u32>>,
    /// Recipients per minute, at least 1; `null` for no limit.
    #[serde(default, deserialize_with = "nullable")]
    emails_per_minute: Option<Option<u32>>,
}

/// A tenant.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Tenant")]
pub struct TenantView {
    /// Its id.
    id: TenantId,
    /// Always `tenant`.
    #[schemars(extend("const" = "tenant"))]
    object: &'static str,
    /// Display name: one line of at most 200 characters.
    name: String,
    /// Unique on the platform: 1 to 63 lower-case letters, digits and hyphens.
    slug: String,
    /// The platform's own id for the tenant: one line of at most 255 characters.
    external_ref: Option<String>,
    /// Arbitrary data of the platform.
    metadata: Map<String, Value>,
    /// Settings for all mail of the tenant.
    settings: TenantSettings,
    /// Rate limits.
    rate_limit: RateLimit,
    /// The smart host that relays the mail; `null` if mail goes to the MX.
    smtp: Option<SmartHostView>,
    /// Name of the source address pool (`relay.pools`) that sends the mail.
    source_pool: Option<String>,
    /// Days to keep messages, 1 to 3650; `null` for the server default.
    retention_days: Option<u32>,
    /// Days to keep message content, 1 to 3650; `null` for the server default.
    body_retention_days: Option<u32>,
    /// Weight in the fair sharing of capacity between tenants, 1 to 100.
    weight: Weight,
    /// `active` or `suspended`.
    status: TenantStatus,
    /// Creation time.
    created_at: Timestamp,
    /// Time of the last change.
    updated_at: Timestamp,
}

/// A smart host. The password is write-only.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "SmartHost")]
pub struct SmartHostView {
    /// A host name or an IP address.
    host: String,
    /// Its port.
    port: u16,
    /// SMTP AUTH user; `null` for no authentication.
    user: Option<String>,
    /// TLS mode.
    tls: TlsMode,
    /// Recipient domains that use the smart host: a domain, `.example.com` for its subdomains, or `*`. Empty means all.
    destinations: Vec<DestinationPattern>,
    /// Who adds the DKIM signatures.
    dkim: DkimPolicy,
}

/// The data deleted with a tenant, or, in a dry run, the data to delete.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "TenantRemoval")]
pub struct Removal {
    /// The tenant.
    id: TenantId,
    /// Always `tenant`.
    #[schemars(extend("const" = "tenant"))]
    object: &'static str,
    /// Whether the tenant was deleted.
    deleted: bool,
    /// Whether this was a dry run.
    dry_run: bool,
    /// Counts of the tenant's data.
    counts: TenantCounts,
}

impl From<Tenant> for TenantView {
    fn from(tenant: Tenant) -> Self {
        Self {
            id: tenant.id,
            object: "tenant",
            name: tenant.name,
            slug: tenant.slug,
            external_ref: tenant.external_ref,
            metadata: tenant.metadata,
            settings: tenant.settings,
            rate_limit: tenant.rate_limit,
            smtp: tenant.smart_host.map(SmartHostView::from),
            source_pool: tenant.source_pool,
            retention_days: tenant.retention_days,
            body_retention_days: tenant.body_retention_days,
            weight: tenant.weight,
            status: tenant.status,
            created_at: tenant.created_at,
            updated_at: tenant.updated_at,
        }
    }
}

impl From<SmartHost> for SmartHostView {
    fn from(smart_host: SmartHost) -> Self {
        let SmartHost { host, port, user, tls, destinations, dkim, password_revision: _ } = smart_host;
        Self { host, port, user, tls, destinations, dkim }
    }
}

/// `POST /v1/tenants`
pub async fn create(call: RequestContext<'_>) -> Result<ApiResponse> {
    let body: Create = call.json()?;
    let mut checks = Checks::default();
    check_name(&body.name, &mut checks);
    body.slug.iter().for_each(|slug| check_slug(slug, &mut checks));
    check_external_ref(body.external_ref.as_deref(), &mut checks);
    checks.metadata(&body.metadata);
    let settings = body.settings.merge(&TenantSettings::default());
    let rate_limit = body.rate_limit.merge(&RateLimit::default());
    check_settings(&settings, call.message_lifetime_hours_max(), &mut checks);
    check_rate_limit(&rate_limit, &mut checks);
    check_retention("retention_days", body.retention_days, &mut checks);
    check_retention("body_retention_days", body.body_retention_days, &mut checks);
    let smart_host = body.smtp.and_then(|smtp| smart_host::resolve(smtp, None, &mut checks));
    check_source_pool(body.source_pool.as_deref(), call.source_pools(), &mut checks);
    checks.finish()?;
    let new = NewTenant {
        slug: body.slug.clone().unwrap_or_else(|| slug_of(&body.name)),
        name: body.name,
        external_ref: body.external_ref,
        metadata: body.metadata,
        settings,
        rate_limit,
        smart_host,
        source_pool: body.source_pool,
        retention_days: body.retention_days,
        body_retention_days: body.body_retention_days,
        weight: body.weight,
    };
    let tenant = match body.slug {
        Some(_) => call.store().create_tenant(new, call.now).await?,
        None => create_with_free_slug(&call, new).await?,
    };
    ApiResponse::created(&TenantView::from(tenant))
}

/// Tries `acme`, `acme-2`, `acme-3` …; only the store knows in the end which is free.
async fn create_with_free_slug(call: &RequestContext<'_>, new: NewTenant) -> Result<Tenant> {
    for number in 1..=SLUG_TRIES {
        let slug = match number {
            1 => new.slug.clone(),
            2..SLUG_TRIES => with_suffix(&new.slug, &number.to_string()),
            _ => with_suffix(&new.slug, &format!("{:016x}", rand::random::<u64>())),
        };
        match call.store().create_tenant(NewTenant { slug, ..new.clone() }, call.now).await {
            Err(StoreError::Conflict(Conflict::Slug)) => {}
            result => return Ok(result?),
        }
    }
    Err(Conflict::Slug.into())
}

/// The slug that a name suggests.
fn slug_of(name: &str) -> String {
    let slug: String = slug::slugify(name).chars().take(SLUG_CHARS_MAX).collect();
    match slug.trim_matches('-') {
        "" => "tenant".into(),
        trimmed => trimmed.into(),
    }
}

fn with_suffix(slug: &str, suffix: &str) -> String {
    let kept: String = slug.chars().take(SLUG_CHARS_MAX - suffix.len() - 1).collect();
    format!("{}-{suffix}", kept.trim_end_matches('-'))
}

/// `GET /v1/tenants`
pub async fn list(mut call: RequestContext<'_>) -> Result<ApiResponse> {
    let request = call.query.page::<TenantId>();
    let filter = TenantFilter {
        slug: call.query.value("slug"),
        external_ref: call.query.value("external_ref"),
        status: call.query.value("status"),
    };
    call.query.finish()?;
    // A tenant's list is itself, if that is what it looks for.
    if let Some(own) = call.scope() {
        let tenant = call.store().tenant(own).await?.filter(|tenant| filter.admits(tenant));
        return ApiResponse::ok(&List::whole(tenant.into_iter().map(TenantView::from).collect()));
    }
    let page = call.store().list_tenants(filter, request.clone()).await?;
    ApiResponse::ok(&List::page(page, &request, |tenant| tenant.id.to_string(), TenantView::from))
}

/// `GET /v1/tenants/{id}`
pub async fn get(call: RequestContext<'_>) -> Result<ApiResponse> {
    ApiResponse::ok(&TenantView::from(call.path_tenant().await?))
}

/// `PATCH /v1/tenants/{id}`
pub async fn update(call: RequestContext<'_>) -> Result<ApiResponse> {
    let tenant = call.path_tenant().await?;
    let body: Update = call.json()?;
    if !call.caller.is_platform()
        && let Some(field) = body.platform_field()
    {
        return Err(ApiError::platform_only(&format!("changing {field}")));
    }
    let patch = body.resolve(&tenant, call.message_lifetime_hours_max(), call.source_pools())?;
    let updated = call.store().update_tenant(tenant.id, patch, call.now).await?;
    ApiResponse::ok(&TenantView::from(updated.ok_or_else(|| ApiError::not_found("tenant"))?))
}

impl Update {
    /// The first field in the request that needs a platform key: contract terms, limits,
    /// and where the server connects to.
    fn platform_field(&self) -> Option<&'static str> {
        let fields = [
            ("slug", self.slug.is_some()),
            ("external_ref", self.external_ref.is_some()),
            ("metadata", self.metadata.is_some()),
            ("rate_limit", self.rate_limit.is_some()),
            ("smtp", self.smtp.is_some()),
            ("source_pool", self.source_pool.is_some()),
            ("retention_days", self.retention_days.is_some()),
            ("body_retention_days", self.body_retention_days.is_some()),
            ("weight", self.weight.is_some()),
            ("status", self.status.is_some()),
        ];
        fields.into_iter().find(|(_, is_given)| *is_given).map(|(name, _)| name)
    }

    /// Merges the changes into the tenant and validates the result.
    fn resolve(self, tenant: &Tenant, hours_max: u32, source_pools: &[String]) -> Result<TenantPatch> {
        let mut checks = Checks::default();
        self.name.iter().for_each(|name| check_name(name, &mut checks));
        self.slug.iter().for_each(|slug| check_slug(slug, &mut checks));
        check_external_ref(self.external_ref.as_ref().and_then(|r| r.as_deref()), &mut checks);
        check_retention("retention_days", self.retention_days.flatten(), &mut checks);
        check_retention("body_retention_days", self.body_retention_days.flatten(), &mut checks);
        let source_pool = self.source_pool.as_ref().and_then(|pool| pool.as_deref());
        check_source_pool(source_pool, source_pools, &mut checks);
        let metadata = self.metadata.map(|patch| merge_metadata(tenant.metadata.clone(), patch));
        metadata.iter().for_each(|metadata| checks.metadata(metadata));
        let settings = self.settings.map(|patch| patch.merge(&tenant.settings));
        settings.iter().for_each(|settings| check_settings(settings, hours_max, &mut checks));
        let rate_limit = self.rate_limit.map(|patch| patch.merge(&tenant.rate_limit));
        rate_limit.iter().for_each(|limit| check_rate_limit(limit, &mut checks));
        let current = tenant.smart_host.as_ref();
        let smart_host =
            self.smtp.map(|smtp| smtp.and_then(|smtp| smart_host::resolve(smtp, current, &mut checks)));
        checks.finish()?;
        Ok(TenantPatch {
            name: self.name,
            slug: self.slug,
            external_ref: self.external_ref,
            metadata,
            settings,
            rate_limit,
            smart_host,
            source_pool: self.source_pool,
            retention_days: self.retention_days,
            body_retention_days: self.body_retention_days,
            weight: self.weight,
            status: self.status,
        })
    }
}

impl SettingsPatch {
    fn merge(self, old: &TenantSettings) -> TenantSettings {
        TenantSettings {
            from_name: self.from_name.unwrap_or_else(|| old.from_name.clone()),
            reply_to: self.reply_to.unwrap_or_else(|| old.reply_to.clone()),
            delivery_reports: self
                .delivery_reports
                .map_or(old.delivery_reports, |reports| reports.unwrap_or_default()),
            message_lifetime_hours: self.message_lifetime_hours.unwrap_or(old.message_lifetime_hours),
        }
    }
}

impl RateLimitPatch {
    fn merge(self, old: &RateLimit) -> RateLimit {
        RateLimit {
            requests_per_minute: self.requests_per_minute.unwrap_or(old.requests_per_minute),
            emails_per_day: self.emails_per_day.unwrap_or(old.emails_per_day),
            emails_per_minute: self.emails_per_minute.unwrap_or(old.emails_per_minute),
        }
    }
}

/// RFC 7396: a value replaces, `null` removes.
fn merge_metadata(mut metadata: Map<String, Value>, patch: Map<String, Value>) -> Map<String, Value> {
    for (key, value) in patch {
        if value.is_null() {
            metadata.remove(&key);
        } else {
            metadata.insert(key, value);
        }
    }
    metadata
}

/// `DELETE /v1/tenants/{id}`: with everything it has, or with `dry_run=true` only counted.
pub async fn delete(mut call: RequestContext<'_>) -> Result<ApiResponse> {
    let dry_run = call.query.value::<bool>("dry_run").unwrap_or(false);
    call.query.finish()?;
    let id = call.path_tenant().await?.id;
    let counts = call.store().remove_tenant(id, !dry_run).await?;
    let counts = counts.ok_or_else(|| ApiError::not_found("tenant"))?;
    ApiResponse::ok(&Removal { id, object: "tenant", deleted: !dry_run, dry_run, counts })
}

fn check_name(name: &str, checks: &mut Checks) {
    checks.line(name, "name", NAME_CHARS_MAX);
    checks.require(!name.trim().is_empty() || name.is_empty(), "name", "too_short", "this must not be blank");
}

fn check_slug(slug: &str, checks: &mut Checks) {
    let is_right = (1..=SLUG_CHARS_MAX).contains(&slug.len())
        && slug.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    checks.require(is_right, "slug", "invalid", "a slug has 1 to 63 lower-case letters, digits and hyphens");
}

fn check_external_ref(external_ref: Option<&str>, checks: &mut Checks) {
    if let Some(text) = external_ref {
        checks.line(text, "external_ref", EXTERNAL_REF_CHARS_MAX);
    }
}

fn check_settings(settings: &TenantSettings, hours_max: u32, checks: &mut Checks) {
    if let Some(name) = &settings.from_name {
        checks.line(name, "settings.from_name", NAME_CHARS_MAX);
    }
    let in_range = settings.message_lifetime_hours.is_none_or(|hours| (1..=hours_max).contains(&hours));
    let message = format!("this must be from 1 to {hours_max}");
    checks.require(in_range, "settings.message_lifetime_hours", "invalid", &message);
}

fn check_rate_limit(limit: &RateLimit, checks: &mut Checks) {
    for (name, value) in [
        ("rate_limit.requests_per_minute", limit.requests_per_minute),
        ("rate_limit.emails_per_day", limit.emails_per_day),
        ("rate_limit.emails_per_minute", limit.emails_per_minute),
    ] {
        checks.require(
            value != Some(0),
            name,
            "invalid",
            "this must be at least 1; to stop the tenant, suspend it",
        );
    }
}

fn check_source_pool(name: Option<&str>, configured: &[String], checks: &mut Checks) {
    let is_known = name.is_none_or(|name| configured.iter().any(|pool| pool == name));
    let message = "relay.pools in the server configuration has no pool of this name";
    checks.require(is_known, "source_pool", "invalid", message);
}

fn check_retention(field: &str, days: Option<u32>, checks: &mut Checks) {
    let is_right = days.is_none_or(|days| (1..=RETENTION_DAYS_MAX).contains(&days));
    checks.require(is_right, field, "invalid", "this must be from 1 to 3650");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slug_comes_from_the_name_and_fits() {
        for (name, slug) in [
            ("Acme Ltd.", "acme-ltd"),
            ("Bücher & Söhne", "bucher-sohne"),
            ("日本", "ri-ben"),
            ("!!!", "tenant"),
            (&"a ".repeat(100), "a-a-a-a-a-a-a-a-a-a-a-a-a-a-a-a-a-a-a-a-a-a-a-a-a-a-a-a-a-a-a-a"),
        ] {
            let made = slug_of(name);
            assert_eq!(made, slug, "{name}");
            let mut checks = Checks::default();
            check_slug(&made, &mut checks);
            check_slug(&with_suffix(&made, "12"), &mut checks);
            checks.finish().unwrap();
        }
        assert_eq!(with_suffix("acme", "2"), "acme-2");
        assert_eq!(with_suffix(&"a".repeat(63), "2").len(), 63);
    }

    #[test]
    fn metadata_is_merged_and_null_removes() {
        let map = |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap();
        let merged = merge_metadata(map(r#"{"a":1,"b":2}"#), map(r#"{"b":null,"c":3}"#));
        assert_eq!(merged, map(r#"{"a":1,"c":3}"#));
    }

    #[test]
    fn every_limit_of_a_tenant_is_checked() {
        let fields = |check: &dyn Fn(&mut Checks)| {
            let mut checks = Checks::default();
            check(&mut checks);
            checks
                .finish()
                .err()
                .map(|e| e.fields.into_iter().map(|f| f.path).collect::<Vec<_>>())
                .unwrap_or_default()
        };
        assert_eq!(fields(&|c| check_name("", c)), ["name"]);
        assert_eq!(fields(&|c| check_name("  ", c)), ["name"]);
        assert_eq!(fields(&|c| check_name(&"é".repeat(200), c)), [""; 0]);
        assert_eq!(fields(&|c| check_name(&"é".repeat(201), c)), ["name"]);
        for slug in ["", "A", "a_b", "a.b", "é", &"a".repeat(64)] {
            assert_eq!(fields(&|c| check_slug(slug, c)), ["slug"], "{slug}");
        }
        let many: Map<String, Value> = (0..51).map(|i| (i.to_string(), Value::Null)).collect();
        assert_eq!(fields(&|c| c.metadata(&many)), ["metadata"]);
        let large = Map::from_iter([("k".to_owned(), Value::from("x".repeat(8 * 1024)))]);
        assert_eq!(fields(&|c| c.metadata(&large)), ["metadata"]);
        assert_eq!(fields(&|c| check_retention("retention_days", Some(0), c)), ["retention_days"]);
        let zero = RateLimit { emails_per_day: Some(0), ..RateLimit::default() };
        assert_eq!(fields(&|c| check_rate_limit(&zero, c)), ["rate_limit.emails_per_day"]);
        let settings = TenantSettings {
            from_name: Some("a\nb".into()),
            message_lifetime_hours: Some(241),
            ..TenantSettings::default()
        };
        let wrong = ["settings.from_name", "settings.message_lifetime_hours"];
        assert_eq!(fields(&|c| check_settings(&settings, 240, c)), wrong);
        let settings = TenantSettings { message_lifetime_hours: Some(0), ..TenantSettings::default() };
        assert_eq!(fields(&|c| check_settings(&settings, 240, c)), ["settings.message_lifetime_hours"]);
    }

    #[test]
    fn a_tenant_may_change_its_name_and_its_settings_only() {
        let field = |text: &str| serde_json::from_str::<Update>(text).unwrap().platform_field();
        assert_eq!(field(r#"{"name":"a","settings":{"from_name":"b"}}"#), None);
        for (text, name) in [
            (r#"{"slug":"a"}"#, "slug"),
            (r#"{"external_ref":null}"#, "external_ref"),
            (r#"{"metadata":{}}"#, "metadata"),
            (r#"{"rate_limit":{}}"#, "rate_limit"),
            (r#"{"smtp":null}"#, "smtp"),
            (r#"{"retention_days":null}"#, "retention_days"),
            (r#"{"body_retention_days":1}"#, "body_retention_days"),
            (r#"{"weight":100}"#, "weight"),
            (r#"{"status":"active"}"#, "status"),
        ] {
            assert_eq!(field(text), Some(name));
        }
    }
}
