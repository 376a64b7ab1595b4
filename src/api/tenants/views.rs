//! The request and response bodies of tenants.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::smart_host::SmartHostBody;
use crate::api::domains::view::DomainView;
use crate::api::json::nullable;
use crate::mail::{Address, Timestamp};
use crate::model::{
    BrakeAction, BrakeWindow, Brakes, Brand, Color, DeliveryReports, DestinationPattern, DkimPolicy, Ratio,
    SoftBounces, TenantId, TenantStatus, TlsMode, Weight,
};
use crate::store::{RateLimit, SmartHost, Tenant, TenantCounts, TenantSettings};

/// A tenant to create.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "TenantCreate")]
pub struct Create {
    /// Display name: one line of at most 200 characters.
    pub(super) name: String,
    /// Unique on the platform: 1 to 63 lower-case letters, digits and hyphens. Default: derived from the name.
    pub(super) slug: Option<String>,
    /// The platform's own id for the tenant, unique on the platform: one line of at most 255 characters.
    pub(super) external_ref: Option<String>,
    /// Its first sending domain, like `example.com`. The server creates both or neither.
    pub(super) domain: Option<String>,
    /// Arbitrary data of the platform; at most 50 keys and 8 KiB.
    #[serde(default)]
    pub(super) metadata: Map<String, Value>,
    /// Settings for all mail of the tenant.
    #[serde(default)]
    pub(super) settings: SettingsPatch,
    /// Rate limits. Default: none.
    #[serde(default)]
    pub(super) rate_limit: RateLimitPatch,
    /// The smart host that relays the mail. Default: none; mail goes to the MX.
    pub(super) smtp: Option<SmartHostBody>,
    /// Name of the source address pool (`relay.pools`) that sends the mail.
    pub(super) source_pool: Option<String>,
    /// Days to keep messages, 1 to 3650; `null` for the server default.
    pub(super) retention_days: Option<u32>,
    /// Days to keep message content, 1 to 3650; `null` for the server default.
    pub(super) body_retention_days: Option<u32>,
    /// Weight in the fair sharing of capacity between tenants, 1 to 100.
    #[serde(default)]
    pub(super) weight: Weight,
}

/// Changes to a tenant. Absent fields stay unchanged. A tenant key may change `name` and `settings`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "TenantUpdate")]
pub struct Update {
    /// Display name: one line of at most 200 characters.
    pub(super) name: Option<String>,
    /// Unique on the platform: 1 to 63 lower-case letters, digits and hyphens.
    pub(super) slug: Option<String>,
    /// The platform's own id for the tenant, unique on the platform: one line of at most 255 characters.
    #[serde(default, deserialize_with = "nullable")]
    pub(super) external_ref: Option<Option<String>>,
    /// Keys to set. The value `null` removes a key.
    pub(super) metadata: Option<Map<String, Value>>,
    /// Settings for all mail of the tenant.
    pub(super) settings: Option<SettingsPatch>,
    /// Rate limits.
    pub(super) rate_limit: Option<RateLimitPatch>,
    /// Changes to the smart host that relays the mail. Absent fields stay unchanged; `null` removes the smart host.
    #[serde(default, deserialize_with = "nullable")]
    pub(super) smtp: Option<Option<SmartHostBody>>,
    /// Name of the source address pool (`relay.pools`) that sends the mail.
    #[serde(default, deserialize_with = "nullable")]
    pub(super) source_pool: Option<Option<String>>,
    /// Days to keep messages, 1 to 3650; `null` for the server default.
    #[serde(default, deserialize_with = "nullable")]
    pub(super) retention_days: Option<Option<u32>>,
    /// Days to keep message content, 1 to 3650; `null` for the server default.
    #[serde(default, deserialize_with = "nullable")]
    pub(super) body_retention_days: Option<Option<u32>>,
    /// Weight in the fair sharing of capacity between tenants, 1 to 100.
    pub(super) weight: Option<Weight>,
    /// `suspended`: the server refuses the keys of the tenant and does not deliver its queued mail. `archived`: its keys may
    /// only read, and its queued mail waits.
    pub(super) status: Option<TenantStatus>,
    /// From when an archived tenant may be deleted; `null` for at once. Another status clears it.
    #[serde(default, deserialize_with = "nullable")]
    pub(super) deletable_at: Option<Option<Timestamp>>,
}

/// Settings for all mail of a tenant. Absent fields stay unchanged; `null` restores the default.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "TenantSettingsUpdate")]
pub struct SettingsPatch {
    /// Default From address, for messages sent over HTTP. It must belong to a domain of the tenant when it is used.
    #[serde(default, deserialize_with = "nullable")]
    pub(super) from: Option<Option<Address>>,
    /// Display name of a From address that has none.
    #[serde(default, deserialize_with = "nullable")]
    pub(super) from_name: Option<Option<String>>,
    /// Reply-To address of messages that have none.
    #[serde(default, deserialize_with = "nullable")]
    pub(super) reply_to: Option<Option<Address>>,
    /// Whether `from_name` and `reply_to` apply to messages over SMTP too, unless the client has signed them. Default: true.
    #[serde(default, deserialize_with = "nullable")]
    pub(super) apply_to_smtp: Option<Option<bool>>,
    /// Whether the server sends DSNs to the reverse path, or reports failures only as events.
    #[serde(default, deserialize_with = "nullable")]
    pub(super) delivery_reports: Option<Option<DeliveryReports>>,
    /// Hours to attempt delivery; `null` for the server default.
    #[serde(default, deserialize_with = "nullable")]
    pub(super) message_lifetime_hours: Option<Option<u32>>,
    /// What stops the mail when too much of it bounces or is complained about, replaced as a whole; `null` for nothing. Only a
    /// platform key can change it.
    #[serde(default, deserialize_with = "nullable")]
    pub(super) brakes: Option<Option<BrakesBody>>,
    /// When an address is suppressed that no delivery reaches, replaced as a whole; `null` for never.
    #[serde(default, deserialize_with = "nullable")]
    pub(super) soft_bounces: Option<Option<SoftBounces>>,
    /// How the pages of the tenant look, replaced as a whole; `null` for the look of the platform.
    #[serde(default, deserialize_with = "nullable")]
    pub(super) brand: Option<Option<BrandBody>>,
}

/// How the pages of a tenant look.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "BrandUpdate")]
pub struct BrandBody {
    /// The name in place of Pillarbox: one line of at most 60 characters.
    pub(super) name: Option<String>,
    /// The accent colour, like `#0b57a4`.
    pub(super) color: Option<Color>,
}

impl From<BrandBody> for Brand {
    fn from(BrandBody { name, color }: BrandBody) -> Self {
        Self { name, color }
    }
}

/// Limits of the bounces and complaints of a tenant, and what happens above them. At least one rate is required.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "BrakesUpdate")]
pub struct BrakesBody {
    /// The largest share of bounced and expired among finished recipients, such as 0.05.
    pub(super) bounce_rate: Option<Ratio>,
    /// The largest share of complaints among delivered recipients, such as 0.003.
    pub(super) complaint_rate: Option<Ratio>,
    /// The time over which the rates are computed: `1h` to `720h`. Default: `24h`.
    pub(super) window: Option<BrakeWindow>,
    /// Fewer finished recipients in the window have no rate, at least 1. Default: 100.
    pub(super) min_recipients: Option<u32>,
    /// What happens above a rate. Default: `pause`.
    pub(super) action: Option<BrakeAction>,
}

/// Rate limits of a tenant. Absent fields stay unchanged; `null` removes the limit.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "RateLimitUpdate")]
pub struct RateLimitPatch {
    /// API requests per minute, at least 1; `null` for no limit.
    #[serde(default, deserialize_with = "nullable")]
    pub(super) requests_per_minute: Option<Option<u32>>,
    /// Recipients per day, at least 1; `null` for no limit.
    #[serde(default, deserialize_with = "nullable")]
    pub(super) emails_per_day: Option<Option<u32>>,
    /// Recipients per hour, at least 1; `null` for no limit.
    #[serde(default, deserialize_with = "nullable")]
    pub(super) emails_per_hour: Option<Option<u32>>,
    /// Recipients per minute, at least 1; `null` for no limit.
    #[serde(default, deserialize_with = "nullable")]
    pub(super) emails_per_minute: Option<Option<u32>>,
    /// The growing limit of a day for live mail while a new sender warms up, replaced as a whole; `null` for none.
    #[serde(default, deserialize_with = "nullable")]
    pub(super) ramp: Option<Option<RampBody>>,
}

/// A limit of live recipients in a day that grows from day to day.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "RampUpdate")]
pub struct RampBody {
    /// Recipients on the first day (UTC), at least 1.
    pub(super) start: u32,
    /// Each day has so many times the recipients of the day before: above 1, at most 10.
    pub(super) factor: Ratio,
    /// The limit ends when a day would have so many recipients; more than `start`.
    pub(super) until: u32,
    /// The first day contains this time. Default: that of the current ramp, or else now.
    pub(super) since: Option<Timestamp>,
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
    /// The platform's own id for the tenant, unique on the platform: one line of at most 255 characters.
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
    /// `active`, `suspended` or `archived`.
    status: TenantStatus,
    /// Since when it is archived; `null` if it is not.
    archived_at: Option<Timestamp>,
    /// From when an archived tenant may be deleted; `null` for at once.
    deletable_at: Option<Timestamp>,
    /// Creation time.
    created_at: Timestamp,
    /// Time of the last change.
    updated_at: Timestamp,
}

/// A new tenant.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "TenantWithDomain")]
pub struct NewTenantView {
    /// The tenant.
    #[serde(flatten)]
    pub(super) tenant: TenantView,
    /// Its first domain with the DNS records to publish. Absent if the request names none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) domain: Option<DomainView>,
}

/// A smart host. The password is write-only.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "SmartHost")]
pub struct SmartHostView {
    /// Host name or IP address.
    host: String,
    /// Port.
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
    pub(super) id: TenantId,
    /// Always `tenant`.
    #[schemars(extend("const" = "tenant"))]
    pub(super) object: &'static str,
    /// Whether the tenant was deleted.
    pub(super) deleted: bool,
    /// Whether this was a dry run.
    pub(super) dry_run: bool,
    /// Counts of the tenant's data.
    pub(super) counts: TenantCounts,
}

impl From<BrakesBody> for Brakes {
    fn from(body: BrakesBody) -> Self {
        let BrakesBody { bounce_rate, complaint_rate, window, min_recipients, action } = body;
        Self {
            bounce_rate,
            complaint_rate,
            window: window.unwrap_or_default(),
            min_recipients: min_recipients.unwrap_or(Self::MIN_RECIPIENTS),
            action: action.unwrap_or_default(),
        }
    }
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
            archived_at: tenant.archived_at,
            deletable_at: tenant.deletable_at,
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
