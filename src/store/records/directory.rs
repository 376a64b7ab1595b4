#![allow(missing_docs)]
//! Tenants, domains, keys and suppressions as they go into the store and come out.

use std::net::IpAddr;
use std::ops::AddAssign;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::mail::{Address, DomainName, Host, Timestamp};
use crate::model::{
    DeliveryReports, DestinationPattern, DkimAlgorithm, DkimKeyId, DkimKeyState, DkimPolicy, DomainId,
    DomainStatus, Environment, Imprint, KeyId, KeySecret, Scope, ScramVerifier, SuppressionId,
    SuppressionReason, TemplateId, TenantId, TenantStatus, TlsMode, Verification, Weight,
};

/// A customer of the platform.
#[derive(Debug, Clone)]
pub struct Tenant {
    pub id: TenantId,
    pub name: String,
    pub slug: String,
    pub external_ref: Option<String>,
    /// A JSON object of the platform's own.
    pub metadata: serde_json::Map<String, serde_json::Value>,
    pub settings: TenantSettings,
    pub rate_limit: RateLimit,
    pub smart_host: Option<SmartHost>,
    /// The configured pool of source addresses that its mail leaves from; the default one if absent.
    pub source_pool: Option<String>,
    /// How long finished messages stay readable; the server's default if absent.
    pub retention_days: Option<u32>,
    /// The same of the bodies of messages, which go with the rows at the latest.
    pub body_retention_days: Option<u32>,
    /// Its part of connections and turns where they are scarce.
    pub weight: Weight,
    pub status: TenantStatus,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// What a tenant chooses for all of its mail.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TenantSettings {
    /// The name beside the From address of messages that are sent over HTTP and give none.
    pub from_name: Option<String>,
    /// Reply-To of messages that are sent over HTTP and give none.
    pub reply_to: Option<Address>,
    /// Whether reports of failure, delay and success go to the reverse path, or are events only.
    pub delivery_reports: DeliveryReports,
    /// Hours in which delivery is tried; the server's default if absent.
    pub expiry_hours: Option<u32>,
}

/// Limits of a tenant; absent means unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RateLimit {
    /// Requests to the API in a minute, at least 1; `null` for no limit.
    pub requests_per_minute: Option<u32>,
    /// Recipients in a day, at least 1; `null` for no limit.
    pub emails_per_day: Option<u32>,
    /// Recipients in a minute, at least 1; `null` for no limit.
    pub emails_per_minute: Option<u32>,
}

/// Where mail of a tenant goes instead of to the MX. The password is kept sealed and apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SmartHost {
    /// A host name or an IP address.
    pub host: String,
    pub port: u16,
    pub user: Option<String>,
    pub tls: TlsMode,
    /// What goes there; everything if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub destinations: Vec<DestinationPattern>,
    #[serde(default = "SmartHost::default_dkim")]
    pub dkim: DkimPolicy,
    /// Tells passwords apart: the store draws another number for each new one, so that a connection that was opened with
    /// the old one is another smart host's, also if the smart host was removed in between.
    #[serde(default)]
    pub password_revision: u32,
}

impl SmartHost {
    fn default_dkim() -> DkimPolicy {
        DkimPolicy::Dual
    }

    /// Whether mail for this destination goes there.
    pub fn takes(&self, destination: &Host) -> bool {
        let mut patterns = self.destinations.iter();
        self.destinations.is_empty() || patterns.any(|pattern| pattern.closeness_to(destination).is_some())
    }
}

/// A tenant to be made.
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
    /// A tenant without anything of its own.
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

/// A smart host with its password in clear, on its way to be sealed.
#[derive(Clone)]
pub struct NewSmartHost {
    pub smart_host: SmartHost,
    /// `None` keeps the password that is stored.
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
}

/// What a tenant may have only so many of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limited {
    Domains,
    Keys,
    Suppressions,
    Templates,
    Webhooks,
}

impl Limited {
    /// How many a tenant may have.
    pub const fn rows_max(self) -> usize {
        match self {
            Self::Domains => 500,
            Self::Keys | Self::Templates => 1000,
            // Tests come to the end sooner.
            Self::Suppressions if cfg!(test) => 1000,
            Self::Suppressions => 1_000_000,
            Self::Webhooks => 20,
        }
    }

    pub(in crate::store) const fn plural(self) -> &'static str {
        match self {
            Self::Domains => "domains",
            Self::Keys => "keys",
            Self::Suppressions => "suppressions",
            Self::Templates => "templates",
            Self::Webhooks => "webhooks",
        }
    }
}

/// How much a tenant has.
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

/// A sending domain.
#[derive(Debug, Clone)]
pub struct Domain {
    pub id: DomainId,
    /// `None` is the platform's sandbox domain.
    pub tenant_id: Option<TenantId>,
    pub name: DomainName,
    pub status: DomainStatus,
    pub verification: Verification,
    /// Whether senders may be below the name.
    pub subdomains: bool,
    /// The random value that the ownership record carries.
    pub ownership_token: String,
    pub last_check: Option<DomainCheck>,
    /// Since when checks of a verified domain have failed.
    pub failing_since: Option<Timestamp>,
    pub verified_at: Option<Timestamp>,
    pub created_at: Timestamp,
}

/// A domain to be claimed.
#[derive(Debug, Clone)]
pub struct NewDomain {
    /// `None` for the platform's sandbox domain, which is born verified.
    pub tenant_id: Option<TenantId>,
    pub name: DomainName,
    pub verification: Verification,
    pub subdomains: bool,
    pub ownership_token: String,
    pub dkim_keys: Vec<NewDkimKey>,
}

/// Changes to a domain.
#[derive(Debug, Clone, Default)]
pub struct DomainPatch {
    pub verification: Option<Verification>,
    pub subdomains: Option<bool>,
}

/// What a look at the DNS found, and what follows from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainCheck {
    pub checked_at: Timestamp,
    /// The status that the caller's policy derives from the results.
    pub status: DomainStatus,
    /// As [`Domain::failing_since`].
    pub failing_since: Option<Timestamp>,
    pub records: Vec<RecordCheck>,
    /// DKIM keys whose record was seen: of each algorithm the newest of them signs.
    pub dkim_seen: Vec<DkimKeyId>,
    /// DKIM keys whose record is missing or another: they stop signing until it is seen.
    pub dkim_unseen: Vec<DkimKeyId>,
}

/// What was found for one record that a domain should have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordCheck {
    /// The owner name that was asked for.
    pub name: String,
    pub status: RecordStatus,
    /// What was there, shortened to 1024 characters in all.
    pub found: Vec<String>,
}

/// How a record compares with what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RecordStatus {
    Pending,
    Ok,
    Missing,
    Mismatch,
}

/// Which domains.
#[derive(Debug, Clone, Default)]
pub struct DomainFilter {
    pub tenant_id: Option<TenantId>,
    pub name: Option<DomainName>,
    pub status: Option<DomainStatus>,
    pub verification: Option<Verification>,
}

/// Which tenants.
#[derive(Debug, Clone, Default)]
pub struct TenantFilter {
    pub slug: Option<String>,
    pub external_ref: Option<String>,
    pub status: Option<TenantStatus>,
}

impl TenantFilter {
    /// Whether the tenant is one of them.
    pub fn admits(&self, tenant: &Tenant) -> bool {
        self.slug.as_ref().is_none_or(|slug| *slug == tenant.slug)
            && (self.external_ref.is_none() || self.external_ref == tenant.external_ref)
            && self.status.is_none_or(|status| status == tenant.status)
    }
}

/// Which templates.
#[derive(Debug, Clone, Default)]
pub struct TemplateFilter {
    pub tenant_id: Option<TenantId>,
    pub name: Option<String>,
}

/// The public side of a DKIM key.
#[derive(Debug, Clone)]
pub struct DkimKey {
    pub id: DkimKeyId,
    pub domain_id: DomainId,
    pub selector: String,
    pub algorithm: DkimAlgorithm,
    pub state: DkimKeyState,
    /// The value of `p=`: base64.
    pub public_key: String,
    /// Whether it signs or did so before.
    pub has_signed: bool,
    /// Since when a newer one signs in its place.
    pub retiring_since: Option<Timestamp>,
    pub created_at: Timestamp,
}

/// A DKIM key to be kept; the private half is sealed on its way in.
#[derive(Clone)]
pub struct NewDkimKey {
    pub selector: String,
    pub algorithm: DkimAlgorithm,
    pub state: DkimKeyState,
    /// The value of `p=`: base64.
    pub public_key: String,
    /// PKCS#8, DER.
    pub private_key: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for NewDkimKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewDkimKey").field("selector", &self.selector).finish_non_exhaustive()
    }
}

/// A credential.
#[derive(Debug, Clone)]
pub struct Key {
    pub id: KeyId,
    /// `None` is a platform key.
    pub tenant_id: Option<TenantId>,
    pub name: String,
    pub environment: Environment,
    pub scopes: Vec<Scope>,
    /// Empty means all of the tenant's.
    pub allowed_domain_ids: Vec<DomainId>,
    /// Empty means from anywhere.
    pub allowed_cidrs: Vec<IpNet>,
    pub last_four: String,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub last_used_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
}

impl Key {
    /// Whether it may be used from an address.
    pub fn allows_address(&self, client: IpAddr) -> bool {
        // On a listener for both families an IPv4 client comes as ::ffff:192.0.2.1.
        let client = client.to_canonical();
        self.allowed_cidrs.is_empty() || self.allowed_cidrs.iter().any(|network| network.contains(&client))
    }
}

/// A key to be made.
#[derive(Debug, Clone)]
pub struct NewKey {
    pub tenant_id: Option<TenantId>,
    pub name: String,
    pub environment: Environment,
    pub scopes: Vec<Scope>,
    pub allowed_domain_ids: Vec<DomainId>,
    pub allowed_cidrs: Vec<IpNet>,
    pub expires_at: Option<Timestamp>,
    pub imprint: Imprint,
}

impl NewKey {
    /// A key that may do everything, from everywhere and for ever.
    pub fn unrestricted(
        tenant_id: Option<TenantId>,
        name: &str,
        environment: Environment,
        secret: &KeySecret,
    ) -> Self {
        Self {
            tenant_id,
            name: name.to_owned(),
            environment,
            scopes: Scope::ALL.to_vec(),
            allowed_domain_ids: Vec::new(),
            allowed_cidrs: Vec::new(),
            expires_at: None,
            imprint: secret.imprint(),
        }
    }
}

/// What a user name and a proof of its password are held against (SCRAM).
#[derive(Debug, Clone)]
pub struct ScramCredential {
    /// A decoy that nothing satisfies if there is no such user.
    pub verifier: ScramVerifier,
    /// Absent if there is no such user.
    pub key_id: Option<KeyId>,
}

/// Changes to a key.
#[derive(Debug, Clone, Default)]
pub struct KeyPatch {
    pub name: Option<String>,
    pub scopes: Option<Vec<Scope>>,
    pub allowed_domain_ids: Option<Vec<DomainId>>,
    pub allowed_cidrs: Option<Vec<IpNet>>,
    pub expires_at: Option<Option<Timestamp>>,
}

/// Which keys.
#[derive(Debug, Clone, Default)]
pub struct KeyFilter {
    /// The caller's scope, or the tenant that the platform asks for.
    pub tenant_id: Option<TenantId>,
    pub environment: Option<Environment>,
}

/// An address that must not be sent to.
#[derive(Debug, Clone)]
pub struct Suppression {
    pub id: SuppressionId,
    /// `None` holds for every tenant.
    pub tenant_id: Option<TenantId>,
    /// Folded: [`Address::folded`].
    pub address: String,
    pub reason: SuppressionReason,
    /// The reply or the words that led to it.
    pub evidence: Option<String>,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
}

/// An address to be suppressed.
#[derive(Debug, Clone)]
pub struct NewSuppression {
    pub tenant_id: Option<TenantId>,
    pub address: Address,
    pub reason: SuppressionReason,
    pub evidence: Option<String>,
    pub expires_at: Option<Timestamp>,
}

/// Which suppressions.
#[derive(Debug, Clone, Default)]
pub struct SuppressionFilter {
    pub tenant_id: Option<TenantId>,
    /// Folded.
    pub address: Option<String>,
    pub reason: Option<SuppressionReason>,
}

/// Subject and bodies with places for data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    pub id: TemplateId,
    pub tenant_id: TenantId,
    /// Unique within the tenant.
    pub name: String,
    pub subject: String,
    pub text: Option<String>,
    pub html: Option<String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// A template without its bodies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateSummary {
    pub id: TemplateId,
    pub tenant_id: TenantId,
    /// Unique within the tenant.
    pub name: String,
    pub subject: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// A template to be made.
#[derive(Debug, Clone)]
pub struct NewTemplate {
    pub tenant_id: TenantId,
    pub name: String,
    pub subject: String,
    pub text: Option<String>,
    pub html: Option<String>,
}

/// Changes to a template.
#[derive(Debug, Clone, Default)]
pub struct TemplatePatch {
    pub name: Option<String>,
    pub subject: Option<String>,
    pub text: Option<Option<String>>,
    pub html: Option<Option<String>>,
}
