//! Validation of tenants in requests.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::smart_host;
use super::views::{Create, RampBody, RateLimitPatch, SettingsPatch, Update};
use crate::api::json::Checks;
use crate::api::{Result, domains};
use crate::mail::Timestamp;
use crate::model::{Brakes, Brand, SoftBounces, TenantStatus};
use crate::store::{NewTenant, Ramp, RateLimit, SmartHost, Tenant, TenantPatch, TenantSettings};

const NAME_CHARS_MAX: usize = 200;
const BRAND_CHARS_MAX: usize = 60;
const SLUG_CHARS_MAX: usize = 63;
const EXTERNAL_REF_CHARS_MAX: usize = 255;
const RETENTION_DAYS_MAX: u32 = 3650;

impl Create {
    /// The tenant to create. Without a slug in the request, the slug is derived from the name and may be in use already.
    pub(super) fn validate(
        self,
        message_lifetime_hours_max: u32,
        source_pools: &[String],
        now: Timestamp,
    ) -> Result<NewTenant> {
        let mut checks = Checks::default();
        check_name(&self.name, &mut checks);
        self.slug.iter().for_each(|slug| check_slug(slug, &mut checks));
        check_external_ref(self.external_ref.as_deref(), &mut checks);
        self.domain.iter().for_each(|name| drop(domains::check_name(name, "domain", &mut checks)));
        checks.metadata(&self.metadata);
        let settings = self.settings.merge(&TenantSettings::default());
        let rate_limit = self.rate_limit.merge(&RateLimit::default(), now);
        check_settings(&settings, message_lifetime_hours_max, &mut checks);
        check_rate_limit(&rate_limit, &mut checks);
        check_retention("retention_days", self.retention_days, &mut checks);
        check_retention("body_retention_days", self.body_retention_days, &mut checks);
        let smart_host = self.smtp.and_then(|smtp| smart_host::resolve(smtp, None, &mut checks));
        check_source_pool(self.source_pool.as_deref(), source_pools, &mut checks);
        checks.finish()?;
        Ok(NewTenant {
            slug: self.slug.unwrap_or_else(|| slug_of(&self.name)),
            name: self.name,
            external_ref: self.external_ref,
            metadata: self.metadata,
            settings,
            rate_limit,
            smart_host,
            source_pool: self.source_pool,
            retention_days: self.retention_days,
            body_retention_days: self.body_retention_days,
            weight: self.weight,
        })
    }
}

/// A tenant in a bundle, as far as its limits depend on more than the form of its fields.
#[derive(Deserialize)]
pub(super) struct ImportedTenant {
    name: String,
    external_ref: Option<String>,
    metadata: Option<Map<String, Value>>,
    settings: Option<TenantSettings>,
    rate_limit: Option<RateLimit>,
    smart_host: Option<SmartHost>,
    source_pool: Option<String>,
    retention_days: Option<u32>,
    body_retention_days: Option<u32>,
}

impl ImportedTenant {
    pub(super) fn check(
        &self,
        message_lifetime_hours_max: u32,
        source_pools: &[String],
        checks: &mut Checks,
    ) {
        check_name(&self.name, checks);
        check_external_ref(self.external_ref.as_deref(), checks);
        self.metadata.iter().for_each(|metadata| checks.metadata(metadata));
        self.settings
            .iter()
            .for_each(|settings| check_settings(settings, message_lifetime_hours_max, checks));
        self.rate_limit.iter().for_each(|rate_limit| check_rate_limit(rate_limit, checks));
        check_retention("retention_days", self.retention_days, checks);
        check_retention("body_retention_days", self.body_retention_days, checks);
        self.smart_host.iter().for_each(|host| smart_host::check_limits(host, "smart_host", checks));
        check_source_pool(self.source_pool.as_deref(), source_pools, checks);
    }
}

impl Update {
    /// The first field in the request that needs a platform key: contract terms, limits, and hosts to which the server
    /// connects.
    pub(super) fn platform_field(&self) -> Option<&'static str> {
        let fields = [
            ("slug", self.slug.is_some()),
            ("external_ref", self.external_ref.is_some()),
            ("metadata", self.metadata.is_some()),
            ("rate_limit", self.rate_limit.is_some()),
            ("settings.brakes", self.settings.as_ref().is_some_and(|settings| settings.brakes.is_some())),
            ("smtp", self.smtp.is_some()),
            ("source_pool", self.source_pool.is_some()),
            ("retention_days", self.retention_days.is_some()),
            ("body_retention_days", self.body_retention_days.is_some()),
            ("weight", self.weight.is_some()),
            ("status", self.status.is_some()),
            ("deletable_at", self.deletable_at.is_some()),
        ];
        fields.into_iter().find(|(_, is_given)| *is_given).map(|(name, _)| name)
    }

    /// Merges the changes into the tenant and validates the result.
    pub(super) fn validate(
        self,
        tenant: &Tenant,
        message_lifetime_hours_max: u32,
        source_pools: &[String],
        now: Timestamp,
    ) -> Result<TenantPatch> {
        let mut checks = Checks::default();
        self.name.iter().for_each(|name| check_name(name, &mut checks));
        self.slug.iter().for_each(|slug| check_slug(slug, &mut checks));
        check_external_ref(self.external_ref.as_ref().and_then(|r| r.as_deref()), &mut checks);
        check_retention("retention_days", self.retention_days.flatten(), &mut checks);
        check_retention("body_retention_days", self.body_retention_days.flatten(), &mut checks);
        let is_archived = self.status.unwrap_or(tenant.status) == TenantStatus::Archived;
        let message = "only an archived tenant has a date of its deletion: set status to archived";
        checks.require(
            self.deletable_at.flatten().is_none() || is_archived,
            "deletable_at",
            "invalid",
            message,
        );
        let source_pool = self.source_pool.as_ref().and_then(|pool| pool.as_deref());
        check_source_pool(source_pool, source_pools, &mut checks);
        let metadata = self.metadata.map(|patch| merge_metadata(tenant.metadata.clone(), patch));
        metadata.iter().for_each(|metadata| checks.metadata(metadata));
        let settings = self.settings.map(|patch| patch.merge(&tenant.settings));
        settings
            .iter()
            .for_each(|settings| check_settings(settings, message_lifetime_hours_max, &mut checks));
        let rate_limit = self.rate_limit.map(|patch| patch.merge(&tenant.rate_limit, now));
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
            deletable_at: self.deletable_at,
        })
    }
}

impl SettingsPatch {
    fn merge(self, old: &TenantSettings) -> TenantSettings {
        TenantSettings {
            from: self.from.unwrap_or_else(|| old.from.clone()),
            from_name: self.from_name.unwrap_or_else(|| old.from_name.clone()),
            reply_to: self.reply_to.unwrap_or_else(|| old.reply_to.clone()),
            apply_to_smtp: self.apply_to_smtp.map_or(old.apply_to_smtp, |applies| applies.unwrap_or(true)),
            delivery_reports: self
                .delivery_reports
                .map_or(old.delivery_reports, |reports| reports.unwrap_or_default()),
            message_lifetime_hours: self.message_lifetime_hours.unwrap_or(old.message_lifetime_hours),
            brakes: self.brakes.map_or(old.brakes, |body| body.map(Brakes::from)),
            soft_bounces: self.soft_bounces.unwrap_or(old.soft_bounces),
            brand: self.brand.map_or_else(|| old.brand.clone(), |body| body.map(Brand::from)),
        }
    }
}

impl RateLimitPatch {
    fn merge(self, old: &RateLimit, now: Timestamp) -> RateLimit {
        let ramp = |RampBody { start, factor, until, since }: RampBody| Ramp {
            start,
            factor,
            until,
            since: since.or(old.ramp.map(|old| old.since)).unwrap_or(now),
        };
        RateLimit {
            requests_per_minute: self.requests_per_minute.unwrap_or(old.requests_per_minute),
            emails_per_day: self.emails_per_day.unwrap_or(old.emails_per_day),
            emails_per_hour: self.emails_per_hour.unwrap_or(old.emails_per_hour),
            emails_per_minute: self.emails_per_minute.unwrap_or(old.emails_per_minute),
            ramp: self.ramp.map_or(old.ramp, |body| body.map(ramp)),
        }
    }
}

/// RFC 7396: a value replaces the current one, and `null` removes it.
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

/// The slug derived from a name.
fn slug_of(name: &str) -> String {
    let slug: String = slug::slugify(name).chars().take(SLUG_CHARS_MAX).collect();
    match slug.trim_matches('-') {
        "" => "tenant".into(),
        trimmed => trimmed.into(),
    }
}

/// The slug with a suffix, shortened to the maximum length.
pub(super) fn with_suffix(slug: &str, suffix: &str) -> String {
    let shortened: String = slug.chars().take(SLUG_CHARS_MAX - suffix.len() - 1).collect();
    format!("{}-{suffix}", shortened.trim_end_matches('-'))
}

fn check_name(name: &str, checks: &mut Checks) {
    checks.line(name, "name", NAME_CHARS_MAX);
    checks.require(!name.trim().is_empty() || name.is_empty(), "name", "too_short", "this must not be blank");
}

pub(super) fn check_slug(slug: &str, checks: &mut Checks) {
    let is_right = (1..=SLUG_CHARS_MAX).contains(&slug.len())
        && slug.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    checks.require(is_right, "slug", "invalid", "a slug has 1 to 63 lower-case letters, digits and hyphens");
}

fn check_external_ref(external_ref: Option<&str>, checks: &mut Checks) {
    if let Some(text) = external_ref {
        checks.line(text, "external_ref", EXTERNAL_REF_CHARS_MAX);
    }
}

fn check_settings(settings: &TenantSettings, message_lifetime_hours_max: u32, checks: &mut Checks) {
    let has_domain = settings.from.as_ref().is_none_or(|from| from.domain().is_some());
    checks.require(has_domain, "settings.from", "invalid", "this must be an address of a domain");
    if let Some(name) = &settings.from_name {
        checks.line(name, "settings.from_name", NAME_CHARS_MAX);
    }
    let in_range =
        settings.message_lifetime_hours.is_none_or(|hours| (1..=message_lifetime_hours_max).contains(&hours));
    let message = format!("this must be from 1 to {message_lifetime_hours_max}");
    checks.require(in_range, "settings.message_lifetime_hours", "invalid", &message);
    settings.brakes.iter().for_each(|brakes| check_brakes(brakes, checks));
    if let Some(name) = settings.brand.as_ref().and_then(|brand| brand.name.as_deref()) {
        checks.line(name, "settings.brand.name", BRAND_CHARS_MAX);
    }
    settings.soft_bounces.iter().for_each(|soft_bounces| check_soft_bounces(*soft_bounces, checks));
}

fn check_soft_bounces(soft_bounces: SoftBounces, checks: &mut Checks) {
    for (field, value, range) in [
        ("settings.soft_bounces.messages", soft_bounces.messages, SoftBounces::MESSAGES),
        ("settings.soft_bounces.days", soft_bounces.days, SoftBounces::DAYS),
    ] {
        let message = format!("this must be from {} to {}", range.start(), range.end());
        checks.require(range.contains(&value), field, "invalid", &message);
    }
}

fn check_brakes(brakes: &Brakes, checks: &mut Checks) {
    let rates = [
        ("settings.brakes.bounce_rate", brakes.bounce_rate),
        ("settings.brakes.complaint_rate", brakes.complaint_rate),
    ];
    let has_rate = rates.iter().any(|(_, rate)| rate.is_some());
    checks.require(has_rate, "settings.brakes", "invalid", "give bounce_rate, complaint_rate or both");
    for (name, rate) in rates {
        let is_share = rate.is_none_or(|rate| rate.as_f64() > 0.0 && rate.as_f64() < 1.0);
        checks.require(is_share, name, "invalid", "this must be a share above 0 and below 1, such as 0.05");
    }
    let has_recipients = brakes.min_recipients > 0;
    checks.require(has_recipients, "settings.brakes.min_recipients", "invalid", "this must be at least 1");
}

fn check_rate_limit(limit: &RateLimit, checks: &mut Checks) {
    for (name, value) in [
        ("rate_limit.requests_per_minute", limit.requests_per_minute),
        ("rate_limit.emails_per_day", limit.emails_per_day),
        ("rate_limit.emails_per_hour", limit.emails_per_hour),
        ("rate_limit.emails_per_minute", limit.emails_per_minute),
        ("rate_limit.ramp.start", limit.ramp.map(|ramp| ramp.start)),
    ] {
        checks.require(
            value != Some(0),
            name,
            "invalid",
            "this must be at least 1; to stop the tenant, suspend it",
        );
    }
    limit.ramp.iter().for_each(|ramp| check_ramp(ramp, checks));
}

fn check_ramp(ramp: &Ramp, checks: &mut Checks) {
    let factor = ramp.factor.as_f64();
    let grows = factor > 1.0 && factor <= 10.0;
    checks.require(grows, "rate_limit.ramp.factor", "invalid", "this must be above 1 and at most 10");
    let has_days = ramp.until > ramp.start;
    checks.require(has_days, "rate_limit.ramp.until", "invalid", "this must be more than start");
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
    use super::super::views::BrakesBody;
    use super::*;
    use crate::model::Ratio;

    #[test]
    fn a_slug_derived_from_a_name_is_valid() {
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
        let factor = |number| Ratio::new(number).unwrap();
        for (start, number, until, wrong) in [
            (0, 2.0, 10, &["rate_limit.ramp.start"][..]),
            (10, 1.0, 10, &["rate_limit.ramp.factor", "rate_limit.ramp.until"]),
            (1, 10.5, 2, &["rate_limit.ramp.factor"]),
            (1, 10.0, 2, &[]),
        ] {
            let ramp = Ramp { start, factor: factor(number), until, since: Timestamp::UNIX_EPOCH };
            let limit = RateLimit { ramp: Some(ramp), ..RateLimit::default() };
            assert_eq!(fields(&|c| check_rate_limit(&limit, c)), wrong);
        }
        for (text, wrong) in [
            (r#"{"bounce_rate":0.05}"#, &[][..]),
            (
                r#"{"bounce_rate":0,"complaint_rate":1}"#,
                &["settings.brakes.bounce_rate", "settings.brakes.complaint_rate"],
            ),
            (r#"{"complaint_rate":0.1,"min_recipients":0}"#, &["settings.brakes.min_recipients"]),
            ("{}", &["settings.brakes"]),
        ] {
            let brakes = serde_json::from_str::<BrakesBody>(text).ok().map(Brakes::from);
            let settings = TenantSettings { brakes, ..TenantSettings::default() };
            assert_eq!(fields(&|c| check_settings(&settings, 240, c)), wrong, "{text}");
        }
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
    fn a_tenant_key_may_change_only_name_and_settings() {
        let field = |text: &str| serde_json::from_str::<Update>(text).unwrap().platform_field();
        assert_eq!(field(r#"{"name":"a","settings":{"from_name":"b"}}"#), None);
        for (text, name) in [
            (r#"{"slug":"a"}"#, "slug"),
            (r#"{"external_ref":null}"#, "external_ref"),
            (r#"{"metadata":{}}"#, "metadata"),
            (r#"{"rate_limit":{}}"#, "rate_limit"),
            (r#"{"settings":{"brakes":null}}"#, "settings.brakes"),
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
