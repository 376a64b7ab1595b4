//! Who is calling: the key of the request, its tenant, and their limits.

use schemars::JsonSchema;
use serde::Serialize;

use crate::model::{Brand, Environment, Scope, TenantId, TenantStatus};
use crate::store::{Key, Tenant};

use super::keys::KeyView;
use super::{Access, ApiResponse, Operation, RequestContext, Resource, Result};

/// The operation.
pub fn resource() -> Resource {
    let text = "The key of the request.";
    Resource::new("Me", text, Access::Key).operations([Operation::get("/v1/me", "get_me", get)
        .describe("Get the calling key", "Any key can ask: whose key it is, what it may do, and its limits.")
        .returns::<Me>("The key, its tenant and their limits.")])
}

/// The caller of a request.
#[derive(Serialize, JsonSchema)]
struct Me {
    /// Always `me`.
    #[schemars(extend("const" = "me"))]
    object: &'static str,
    /// The key.
    key: KeyView,
    /// The tenant of the key; `null` for a platform key.
    tenant: Option<OwnTenant>,
    /// `live` or `test`. Mail of a test key is stored but not delivered.
    environment: Environment,
    /// What the key may do.
    scopes: Vec<Scope>,
    /// Its limits.
    limits: CallerLimits,
}

/// The tenant of the caller.
#[derive(Serialize, JsonSchema)]
struct OwnTenant {
    /// Its id.
    id: TenantId,
    /// Its name.
    name: String,
    /// Its slug, which is also a user name over SMTP.
    slug: String,
    /// The reference that the platform gave to it.
    external_ref: Option<String>,
    /// `active`, `suspended` or `archived`.
    status: TenantStatus,
    /// How its pages look; `null` for the look of the platform.
    brand: Option<Brand>,
}

/// Limits of the caller; `null` for no limit.
#[derive(Serialize, JsonSchema)]
struct CallerLimits {
    /// API requests of the key in a minute.
    key_requests_per_minute: Option<u32>,
    /// API requests of the tenant in a minute.
    requests_per_minute: Option<u32>,
    /// Recipients of the tenant in a minute.
    emails_per_minute: Option<u32>,
    /// Recipients of the tenant in an hour.
    emails_per_hour: Option<u32>,
    /// Recipients of the tenant in a day. A warm-up (`rate_limit.ramp`) may permit less.
    emails_per_day: Option<u32>,
    /// Recipients of a message.
    recipients_per_message: u64,
    /// Octets of a message.
    message_octets: u64,
}

async fn get(call: RequestContext) -> Result<ApiResponse> {
    let key = Key::clone(&call.caller.key);
    ApiResponse::ok(&Me {
        object: "me",
        environment: key.environment,
        scopes: key.scopes.clone(),
        key: KeyView::new(key, call.now),
        limits: limits(&call),
        tenant: call.caller.tenant.as_deref().map(OwnTenant::from),
    })
}

impl From<&Tenant> for OwnTenant {
    fn from(tenant: &Tenant) -> Self {
        Self {
            id: tenant.id,
            name: tenant.name.clone(),
            slug: tenant.slug.clone(),
            external_ref: tenant.external_ref.clone(),
            status: tenant.status,
            brand: tenant.settings.brand.clone(),
        }
    }
}

fn limits(call: &RequestContext) -> CallerLimits {
    let settings = &call.api.settings;
    let some = |limit: u32| Some(limit).filter(|limit| *limit > 0);
    let own = call.caller.tenant.as_ref().map(|tenant| tenant.rate_limit);
    CallerLimits {
        // The requests of platform keys are not limited.
        key_requests_per_minute: own.and_then(|_| some(settings.key_requests_per_minute)),
        requests_per_minute: own
            .and_then(|own| own.requests_per_minute.or_else(|| some(settings.requests_per_minute))),
        emails_per_minute: own.and_then(|own| own.emails_per_minute),
        emails_per_hour: own.and_then(|own| own.emails_per_hour),
        emails_per_day: own.and_then(|own| own.emails_per_day),
        recipients_per_message: call.api.sending.recipients_max as u64,
        message_octets: call.api.sending.message_octets_max,
    }
}
