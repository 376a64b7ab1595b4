//! The tables of a bundle.

use ipnet::IpNet;

use super::fields::Form::{Json, Number, Octets, Secret, Switch, Text, Time};
use super::fields::{Field, any_number, any_text, holds, is, is_exactly};
use crate::mail::{Address, DomainName};
use crate::model::{
    DkimAlgorithm, DkimKeyId, DkimKeyState, DomainId, DomainStatus, Environment, EventKind, InboxId, KeyId,
    ReturnPathMode, Scope, SuppressedMail, SuppressionId, SuppressionReason, TemplateId, TenantId,
    TenantStatus, Verification, WebhookId, WebhookStatus, Weight,
};
use crate::store::sql::directory::dkim_keys::PRIVATE_KEY_COLUMN;
use crate::store::sql::directory::tenants::PASSWORD_COLUMN;
use crate::store::sql::outbox::webhooks::SECRET_COLUMN;
use crate::store::{BundlePart, RateLimit, SmartHost, TenantSettings};

/// A table whose rows are objects of a bundle.
pub(super) struct PartTable {
    pub(super) part: BundlePart,
    /// The type of its objects.
    pub(super) object: &'static str,
    pub(super) table: &'static str,
    /// Selects the rows of the tenant `?1`.
    pub(super) condition: &'static str,
    /// The first one is the id.
    pub(super) fields: &'static [Field],
}

impl PartTable {
    /// Whether the rows have a column with their tenant.
    pub(super) fn has_tenant(&self) -> bool {
        self.condition == OWN
    }

    pub(super) fn of(part: BundlePart) -> Option<&'static Self> {
        PARTS.iter().find(|table| table.part == part)
    }

    pub(super) fn named(object: &str) -> Option<&'static Self> {
        PARTS.iter().find(|table| table.object == object)
    }

    /// The field with the secret, and the column that it is encrypted for.
    pub(super) fn secret(&self) -> Option<(&'static Field, &'static str)> {
        self.fields.iter().find_map(|field| match field.form {
            Secret(sealed_for) => Some((field, sealed_for)),
            _ => None,
        })
    }

    pub(super) fn columns(&self) -> String {
        let columns: Vec<_> = self.fields.iter().map(|field| field.column).collect();
        columns.join(", ")
    }
}

const OWN: &str = "tenant_id = ?1";
/// Of a [`SecretDigest`](crate::model::SecretDigest).
const DIGEST_OCTETS: usize = 32;

/// Weights are stored as numbers.
fn is_weight(number: i64) -> bool {
    u32::try_from(number).is_ok_and(|number| Weight::try_from(number).is_ok())
}

pub(super) fn is_count(number: i64) -> bool {
    u32::try_from(number).is_ok()
}

pub(super) const PARTS: &[PartTable] = &[
    PartTable {
        part: BundlePart::Tenant,
        object: "tenant",
        table: "tenant",
        condition: "id = ?1",
        fields: &[
            Field::new("id", "id", Text(is_exactly::<TenantId>)),
            Field::new("name", "name", Text(any_text)).changing(),
            Field::new("slug", "slug", Text(any_text)).changing(),
            Field::new("external_ref", "external_ref", Text(any_text)).changing(),
            Field::new("metadata", "metadata", Json(holds::<serde_json::Map<String, serde_json::Value>>))
                .changing(),
            Field::new("settings", "settings", Json(holds::<TenantSettings>)).changing(),
            Field::new("rate_limit", "rate_limit", Json(holds::<RateLimit>)).changing(),
            Field::new("smart_host", "smart_host", Json(holds::<SmartHost>)).changing(),
            Field::new("smart_host_password", "smart_host_password", Secret(PASSWORD_COLUMN)).changing(),
            Field::new("source_pool", "source_pool", Text(any_text)).changing(),
            Field::new("retention_days", "retention_days", Number(is_count)).changing(),
            Field::new("body_retention_days", "body_retention_days", Number(is_count)).changing(),
            Field::new("weight", "weight", Number(is_weight)).changing(),
            Field::new("status", "status", Text(is::<TenantStatus>)).changing(),
            Field::new("archived_at", "archived_us", Time).changing(),
            Field::new("deletable_at", "deletable_us", Time).changing(),
            Field::new("created_at", "created_us", Time),
            Field::new("updated_at", "updated_us", Time).changing(),
        ],
    },
    PartTable {
        part: BundlePart::Domains,
        object: "domain",
        table: "domain",
        condition: OWN,
        fields: &[
            Field::new("id", "id", Text(is_exactly::<DomainId>)),
            Field::new("name", "name", Text(is_exactly::<DomainName>)),
            Field::new("status", "status", Text(is::<DomainStatus>)).changing(),
            Field::new("verification", "verification", Text(is::<Verification>)).changing(),
            Field::new("subdomains", "subdomains", Switch).changing(),
            Field::new("ownership_token", "ownership_token", Text(any_text)),
            Field::new("verified_at", "verified_us", Time).changing(),
            Field::new("return_path_mode", "return_path_mode", Text(is::<ReturnPathMode>)).changing(),
            Field::new("return_path_host", "return_path_host", Text(is_exactly::<DomainName>)).changing(),
            Field::new("created_at", "created_us", Time),
        ],
    },
    PartTable {
        part: BundlePart::DkimKeys,
        object: "dkim_key",
        table: "dkim_key",
        condition: "domain_id IN (SELECT id FROM domain WHERE tenant_id = ?1)",
        fields: &[
            Field::new("id", "id", Text(is_exactly::<DkimKeyId>)),
            Field::new("domain_id", "domain_id", Text(is_exactly::<DomainId>)),
            Field::new("selector", "selector", Text(any_text)),
            Field::new("algorithm", "algorithm", Text(is::<DkimAlgorithm>)),
            Field::new("state", "state", Text(is::<DkimKeyState>)).changing(),
            Field::new("public_key", "public_key", Text(any_text)),
            Field::new("private_key", "private_key", Secret(PRIVATE_KEY_COLUMN)).changing(),
            Field::new("created_at", "created_us", Time),
        ],
    },
    PartTable {
        part: BundlePart::Keys,
        object: "key",
        table: "key",
        condition: OWN,
        fields: &[
            Field::new("id", "id", Text(is_exactly::<KeyId>)),
            Field::new("name", "name", Text(any_text)).changing(),
            Field::new("environment", "environment", Text(is::<Environment>)),
            Field::new("scopes", "scopes", Json(holds::<Vec<Scope>>)).changing(),
            Field::new("allowed_domain_ids", "allowed_domain_ids", Json(holds::<Vec<DomainId>>)).changing(),
            Field::new("restricted_to_domains", "restricted_to_domains", Switch).changing(),
            Field::new("allowed_cidrs", "allowed_cidrs", Json(holds::<Vec<IpNet>>)).changing(),
            Field::new("digest", "digest", Octets(DIGEST_OCTETS)).changing(),
            Field::new("last_four", "last_four", Text(any_text)).changing(),
            Field::new("created_at", "created_us", Time),
            Field::new("expires_at", "expires_us", Time).changing(),
            Field::new("revoked_at", "revoked_us", Time).changing(),
            Field::new("rotated_at", "rotated_us", Time).changing(),
        ],
    },
    PartTable {
        part: BundlePart::Suppressions,
        object: "suppression",
        table: "suppression",
        condition: OWN,
        fields: &[
            Field::new("id", "id", Text(is_exactly::<SuppressionId>)),
            Field::new("address", "address", Text(is::<Address>)),
            Field::new("environment", "environment", Text(is::<Environment>)),
            Field::new("list", "list", Text(is::<SuppressedMail>)),
            Field::new("reason", "reason", Text(is::<SuppressionReason>)).changing(),
            Field::new("evidence", "evidence", Text(any_text)).changing(),
            Field::new("provisional", "provisional", Switch).changing(),
            Field::new("site", "site", Text(any_text)).changing(),
            Field::new("refused_at", "refused_us", Time).changing(),
            Field::new("created_at", "created_us", Time).changing(),
            Field::new("expires_at", "expires_us", Time).changing(),
        ],
    },
    PartTable {
        part: BundlePart::Templates,
        object: "template",
        table: "template",
        condition: OWN,
        fields: &[
            Field::new("id", "id", Text(is_exactly::<TemplateId>)),
            Field::new("name", "name", Text(any_text)).changing(),
            Field::new("subject", "subject", Text(any_text)).changing(),
            Field::new("text", "text", Text(any_text)).changing(),
            Field::new("html", "html", Text(any_text)).changing(),
            Field::new("created_at", "created_us", Time),
            Field::new("updated_at", "updated_us", Time).changing(),
        ],
    },
    PartTable {
        part: BundlePart::Webhooks,
        object: "webhook",
        table: "webhook",
        condition: OWN,
        fields: &[
            Field::new("id", "id", Text(is_exactly::<WebhookId>)),
            Field::new("url", "url", Text(is::<url::Url>)).changing(),
            Field::new("kinds", "kinds", Json(holds::<Vec<EventKind>>)).changing(),
            Field::new("environments", "environments", Json(holds::<Vec<Environment>>)).changing(),
            Field::new("status", "status", Text(is::<WebhookStatus>)).changing(),
            Field::new("secret", "secret", Secret(SECRET_COLUMN)).changing(),
            Field::new("created_at", "created_us", Time),
            Field::new("updated_at", "updated_us", Time).changing(),
        ],
    },
    PartTable {
        part: BundlePart::Inboxes,
        object: "inbox",
        table: "inbox",
        condition: OWN,
        fields: &[
            Field::new("id", "id", Text(is_exactly::<InboxId>)),
            Field::new("address", "address", Text(is::<Address>)),
            Field::new("folded", "folded", Text(is::<Address>)),
            Field::new("attempts", "attempts", Number(any_number)).changing(),
            Field::new("confirmed_at", "confirmed_us", Time).changing(),
            Field::new("created_at", "created_us", Time),
        ],
    },
];
