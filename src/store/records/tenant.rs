#![allow(missing_docs)]
//! Tenants: the customers of the platform.

use std::hash::{Hash, Hasher};

use std::ops::AddAssign;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::mail::{Address, Host, Timestamp};
use crate::model::{
    Brakes, Brand, DeliveryReports, DestinationPattern, DkimPolicy, Environment, LimitPeriod, Ratio,
    SoftBounces, TenantId, TenantStatus, TlsMode, Weight,
};

/// The slug of the tenant that a platform key sends for unless it names another.
pub const DEFAULT_TENANT: &str = "default";

/// A customer of the platform.
#[derive(Debug, Clone)]
pub struct Tenant {
    pub id: TenantId,
    pub name: String,
    pub slug: String,
    pub external_ref: Option<String>,
    /// Any JSON object of the platform.
    pub metadata: serde_json::Map<String, serde_json::Value>,
    pub settings: TenantSettings,
    pub rate_limit: RateLimit,
    pub smart_host: Option<SmartHost>,
    /// The configured pool of source addresses for its mail; the default pool if absent.
    pub source_pool: Option<String>,
    /// Retention of finished messages; the server's default if absent.
    pub retention_days: Option<u32>,
    /// Retention of message bodies, at most that of the messages.
    pub body_retention_days: Option<u32>,
    /// Its share of scarce resources against that of other tenants.
    pub weight: Weight,
    pub status: TenantStatus,
    /// Since when it is archived.
    pub archived_at: Option<Timestamp>,
    /// From when an archived tenant may be deleted; at once if absent.
    pub deletable_at: Option<Timestamp>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// Settings for all mail of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TenantSettings {
    /// The From address of messages over HTTP that give none.
    pub from: Option<Address>,
    /// The display name of a From address that has none.
    pub from_name: Option<String>,
    /// Reply-To of messages that have none.
    pub reply_to: Option<Address>,
    /// Whether `from_name` and `reply_to` apply to messages over SMTP too.
    pub apply_to_smtp: bool,
    /// Whether reports of failure, delay and success go to the reverse path, or are events only.
    pub delivery_reports: DeliveryReports,
    /// Hours in which delivery is tried; the server's default if absent.
    pub message_lifetime_hours: Option<u32>,
    /// What stops its mail when too much of it bounces or is complained about; nothing if absent.
    pub brakes: Option<Brakes>,
    /// When an address is suppressed that no delivery reaches; never if absent.
    pub soft_bounces: Option<SoftBounces>,
    /// How its pages look; like those of the platform if absent.
    pub brand: Option<Brand>,
}

impl Default for TenantSettings {
    fn default() -> Self {
        Self {
            from: None,
            from_name: None,
            reply_to: None,
            apply_to_smtp: true,
            delivery_reports: DeliveryReports::default(),
            message_lifetime_hours: None,
            brakes: None,
            soft_bounces: None,
            brand: None,
        }
    }
}

/// Limits of a tenant; absent means unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RateLimit {
    /// Requests to the API in a minute, at least 1; `null` for no limit.
    pub requests_per_minute: Option<u32>,
    /// Recipients in a day, at least 1; `null` for no limit.
    pub emails_per_day: Option<u32>,
    /// Recipients in an hour, at least 1; `null` for no limit.
    pub emails_per_hour: Option<u32>,
    /// Recipients in a minute, at least 1; `null` for no limit.
    pub emails_per_minute: Option<u32>,
    /// The growing limit of a day for live mail while a new sender warms up; `null` for none.
    pub ramp: Option<Ramp>,
}

/// A limit of live recipients in a day that grows from day to day, for a sender that receivers do not know yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ramp {
    /// Recipients on the first day (UTC).
    pub start: u32,
    /// Each day has so many times the recipients of the day before.
    pub factor: Ratio,
    /// The limit ends when a day would have so many recipients.
    pub until: u32,
    /// The first day contains this time.
    pub since: Timestamp,
}

impl Ramp {
    /// The recipients on the day of a time; `None` after the end.
    pub fn limit_on(&self, now: Timestamp) -> Option<u32> {
        let day = |time| LimitPeriod::Day.start_of(time).as_second() / LimitPeriod::Day.seconds();
        let days = i32::try_from(day(now) - day(self.since)).unwrap_or(i32::MAX).max(0);
        let limit = f64::from(self.start) * self.factor.as_f64().powi(days);
        (limit < f64::from(self.until)).then(|| limit.floor().max(1.0) as u32)
    }
}

impl RateLimit {
    /// The limits at a time: those of a day include the ramp.
    pub fn at(self, environment: Environment, now: Timestamp) -> Self {
        let of_ramp = self.ramp.filter(|_| environment == Environment::Live);
        let limits = [self.emails_per_day, of_ramp.and_then(|ramp| ramp.limit_on(now))];
        Self { emails_per_day: limits.into_iter().flatten().min(), ..self }
    }
}

/// The server that gets a tenant's mail instead of the MX. The password is stored separately and encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SmartHost {
    /// A host name or an IP address.
    pub host: String,
    pub port: u16,
    pub user: Option<String>,
    pub tls: TlsMode,
    /// The destinations whose mail it gets; all if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub destinations: Vec<DestinationPattern>,
    #[serde(default)]
    pub dkim: DkimPolicy,
    /// A random number that the store assigns to each new password, so that connections with the old password are not
    /// reused, even if the smart host was removed in between.
    #[serde(default)]
    pub password_revision: u32,
}

/// Destinations can be many, and the account tells most smart hosts apart.
impl Hash for SmartHost {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.host, self.port, &self.user, self.password_revision).hash(state);
    }
}

impl SmartHost {
    /// Whether it gets mail for this destination.
    pub fn takes(&self, destination: &Host) -> bool {
        let mut patterns = self.destinations.iter();
        self.destinations.is_empty() || patterns.any(|pattern| pattern.specificity(destination).is_some())
    }
}

/// A tenant to create.
#[derive(Debug, Clone)]
pub struct NewTenant {
    pub name: String,
    pub slug: String,
    pub external_ref: Option<String>,
    pub metadata: serde_json::Map<String, serde_json::Value>,
    pub settings: TenantSettings,
    pub rate_limit: RateLimit,
    pub smart_host: Option<NewSmartHost>,
    pub source_pool: Option<String>,
    pub retention_days: Option<u32>,
    pub body_retention_days: Option<u32>,
    pub weight: Weight,
}

impl NewTenant {
    /// A tenant with default settings.
    pub fn named(name: &str, slug: &str) -> Self {
        Self {
            name: name.to_owned(),
            slug: slug.to_owned(),
            external_ref: None,
            metadata: serde_json::Map::new(),
            settings: TenantSettings::default(),
            rate_limit: RateLimit::default(),
            smart_host: None,
            source_pool: None,
            retention_days: None,
            body_retention_days: None,
            weight: Weight::default(),
        }
    }
}

/// A smart host with its password in clear, before encryption.
#[derive(Clone)]
pub struct NewSmartHost {
    pub smart_host: SmartHost,
    /// `None` keeps the stored password.
    pub password: Option<Zeroizing<String>>,
}

impl std::fmt::Debug for NewSmartHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewSmartHost").field("smart_host", &self.smart_host).finish_non_exhaustive()
    }
}

/// Changes to a tenant; `None` leaves a field, `Some(None)` clears it.
#[derive(Debug, Clone, Default)]
pub struct TenantPatch {
    pub name: Option<String>,
    pub slug: Option<String>,
    pub external_ref: Option<Option<String>>,
    pub metadata: Option<serde_json::Map<String, serde_json::Value>>,
    pub settings: Option<TenantSettings>,
    pub rate_limit: Option<RateLimit>,
    pub smart_host: Option<Option<NewSmartHost>>,
    pub source_pool: Option<Option<String>>,
    pub retention_days: Option<Option<u32>>,
    pub body_retention_days: Option<Option<u32>>,
    pub weight: Option<Weight>,
    pub status: Option<TenantStatus>,
    /// Kept only while the tenant is archived.
    pub deletable_at: Option<Option<Timestamp>>,
}

/// Kinds of objects with a limit for each tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limited {
    Domains,
    Erasures,
    Inboxes,
    Keys,
    /// Each environment has its own.
    Suppressions(Environment),
    Templates,
    Webhooks,
}

impl Limited {
    pub(in crate::store) const SUPPRESSIONS_MAX: usize = 1_000_000;

    /// The limit for a tenant.
    pub const fn rows_max(self) -> usize {
        match self {
            Self::Domains => 500,
            Self::Erasures => 100_000,
            Self::Inboxes => 5,
            Self::Keys | Self::Templates => 1000,
            Self::Suppressions(_) => Self::SUPPRESSIONS_MAX,
            Self::Webhooks => 20,
        }
    }

    pub(in crate::store) const fn plural(self) -> &'static str {
        match self {
            Self::Domains => "domains",
            Self::Erasures => "erasures of recipients",
            Self::Inboxes => "inboxes",
            Self::Keys => "keys",
            Self::Suppressions(Environment::Live) => "live suppressions",
            Self::Suppressions(Environment::Test) => "test suppressions",
            Self::Templates => "templates",
            Self::Webhooks => "webhooks",
        }
    }
}

/// Numbers of a tenant's objects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct TenantCounts {
    /// Sending domains.
    pub domains: u64,
    /// Keys, revoked ones included.
    pub keys: u64,
    /// Suppressed addresses.
    pub suppressions: u64,
    /// Templates.
    pub templates: u64,
    /// Webhooks.
    pub webhooks: u64,
    /// Messages.
    pub messages: u64,
    /// Recipients of messages.
    pub deliveries: u64,
    /// Events.
    pub events: u64,
}

impl AddAssign for TenantCounts {
    fn add_assign(&mut self, more: Self) {
        self.domains += more.domains;
        self.keys += more.keys;
        self.suppressions += more.suppressions;
        self.templates += more.templates;
        self.webhooks += more.webhooks;
        self.messages += more.messages;
        self.deliveries += more.deliveries;
        self.events += more.events;
    }
}

/// Selects tenants.
#[derive(Debug, Clone, Default)]
pub struct TenantFilter {
    pub slug: Option<String>,
    pub external_ref: Option<String>,
    pub status: Option<TenantStatus>,
}

impl TenantFilter {
    /// Whether the filter selects the tenant.
    pub fn admits(&self, tenant: &Tenant) -> bool {
        self.slug.as_ref().is_none_or(|slug| *slug == tenant.slug)
            && (self.external_ref.is_none() || self.external_ref == tenant.external_ref)
            && self.status.is_none_or(|status| status == tenant.status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ramp_grows_from_day_to_day_until_its_end_and_only_for_live_mail() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let factor = Ratio::new(1.5).unwrap();
        let ramp = Ramp { start: 50, factor, until: 200, since: at("2026-01-01T23:59:59Z") };
        for (time, limit) in [
            ("2025-12-31T00:00:00Z", Some(50)),
            ("2026-01-01T00:00:00Z", Some(50)),
            ("2026-01-02T00:00:00Z", Some(75)),
            ("2026-01-03T12:00:00Z", Some(112)),
            ("2026-01-04T12:00:00Z", Some(168)),
            ("2026-01-05T00:00:00Z", None),
            ("9999-01-05T00:00:00Z", None),
        ] {
            assert_eq!(ramp.limit_on(at(time)), limit, "{time}");
        }
        let limits = RateLimit { emails_per_day: Some(100), ramp: Some(ramp), ..RateLimit::default() };
        let per_day = |environment, time| limits.at(environment, at(time)).emails_per_day;
        assert_eq!(per_day(Environment::Live, "2026-01-01T12:00:00Z"), Some(50));
        assert_eq!(per_day(Environment::Live, "2026-01-03T12:00:00Z"), Some(100));
        assert_eq!(per_day(Environment::Test, "2026-01-01T12:00:00Z"), Some(100));
        let without = RateLimit { emails_per_day: None, ..limits };
        assert_eq!(without.at(Environment::Live, at("2026-01-02T12:00:00Z")).emails_per_day, Some(75));
        assert_eq!(without.at(Environment::Live, at("2026-01-09T12:00:00Z")).emails_per_day, None);
    }
}
