//! Webhooks: create, read, change, delete, and rotation of their secrets.

mod deliveries;
pub(super) mod endpoint;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::mail::{SignedDuration, Timestamp};
use crate::model::{
    DisabledReason, Environment, EventKind, Scope, TenantId, WebhookDeliveryId, WebhookDeliveryState,
    WebhookId, WebhookStatus,
};
use crate::store::{NewWebhook, Outbox, Store, Webhook, WebhookFilter, WebhookPatch, WebhookSecret};

use super::json::Checks;
use super::{
    Access, ApiError, ApiResponse, Deleted, List, ListedOwner, Operation, RequestContext, Resource, Result,
};

use self::deliveries::DeliveryView;

/// Octets of a secret. Standard Webhooks allows 24 to 64.
pub(super) const SECRET_OCTETS: usize = 32;
/// Prefix that identifies a webhook secret.
const SECRET_PREFIX: &str = "whsec_";
/// How long the previous secret also signs.
const ROTATION_TIME: SignedDuration = SignedDuration::from_hours(24);

/// Octets of a response with the longest URL and all event types.
const RESPONSE_OCTETS_MAX: u64 = 16 * 1024;

/// The operations of webhooks and their deliveries.
pub fn resource() -> Resource {
    let text = "URLs to which the server posts events, signed according to Standard Webhooks. A test key sees and changes webhooks that get test events only.";
    Resource::new("Webhooks", text, Access::Scope(Scope::WebhooksManage))
        .separates_environments()
        .id::<WebhookId>("The webhook.")
        .operations([
            Operation::get("/v1/webhooks", "list_webhooks", list)
                .summary("List webhooks")
                .owner_filter()
                .query::<WebhookStatus>("status", "Only objects with this status.")
                .query::<String>("url", "Only webhooks with exactly this URL.")
                .query::<Environment>("environment", "Only webhooks that get events of this environment.")
                .pages::<WebhookId, WebhookView>("Webhooks."),
            Operation::post("/v1/webhooks", "create_webhook", create)
                .describe("Create a webhook", "Only this response contains the secret.")
                .takes::<Create>(r#"{"url": "https://acme.com/hooks/mail", "events": ["message.delivered", "message.bounced"]}"#)
                .creates::<WebhookView>("The webhook with its secret.")
                .response_octets(0, RESPONSE_OCTETS_MAX),
            Operation::get("/v1/webhooks/{id}", "get_webhook", get)
                .summary("Get a webhook")
                .returns::<WebhookView>("The webhook.")
                .changed_by_use(&["failing_since"]),
            Operation::patch("/v1/webhooks/{id}", "update_webhook", update)
                .summary("Change a webhook")
                .takes::<Update>(r#"{"events": [], "status": "enabled"}"#)
                .returns::<WebhookView>("The updated webhook.")
                .response_octets(0, RESPONSE_OCTETS_MAX),
            Operation::delete("/v1/webhooks/{id}", "delete_webhook", delete)
                .describe("Delete a webhook", "The server drops pending deliveries.")
                .returns::<Deleted>("Deleted."),
            Operation::post("/v1/webhooks/{id}/test", "test_webhook", deliveries::test)
                .describe(
                    "Send a test event",
                    "Sends `webhook.test`, even if the webhook subscribes to other events.",
                )
                .accepts::<DeliveryView>("The delivery is queued."),
            Operation::post("/v1/webhooks/{id}/rotate-secret", "rotate_webhook_secret", rotate_secret)
                .describe("Rotate the secret of a webhook", "The old secret also signs for 24 hours.")
                .returns::<WebhookView>("The webhook with its new secret.")
                .response_octets(0, RESPONSE_OCTETS_MAX),
            Operation::get("/v1/webhooks/{id}/deliveries", "list_webhook_deliveries", deliveries::list)
                .summary("List the deliveries of a webhook")
                .query::<WebhookDeliveryState>("status", "Only objects with this status.")
                .pages::<WebhookDeliveryId, DeliveryView>("Deliveries."),
            Operation::get("/v1/webhooks/deliveries/{id}", "get_webhook_delivery", deliveries::get)
                .summary("Get a delivery of a webhook")
                .id::<WebhookDeliveryId>("The delivery.")
                .returns::<DeliveryView>("The delivery."),
            Operation::post(
                "/v1/webhooks/deliveries/{id}/replay",
                "replay_webhook_delivery",
                deliveries::replay,
            )
            .describe(
                "Replay a delivery",
                "Sends it with the same id, so that the receiver can detect the duplicate.",
            )
            .id::<WebhookDeliveryId>("The delivery.")
            .accepts::<DeliveryView>("The delivery is queued again."),
        ])
        .alias("/v1/webhooks", "/v1/webhooks/endpoints")
        .alias("/v1/webhooks/{id}", "/v1/webhooks/endpoints/{id}")
        .alias("/v1/webhooks/{id}/test", "/v1/webhooks/endpoints/{id}/test")
        .alias("/v1/webhooks/{id}/rotate-secret", "/v1/webhooks/endpoints/{id}/rotate-secret")
        .alias("/v1/webhooks/{id}/deliveries", "/v1/webhooks/endpoints/{id}/deliveries")
        .alias("/v1/webhooks/deliveries/{id}", "/v1/webhooks/endpoints/deliveries/{id}")
        .alias("/v1/webhooks/deliveries/{id}/replay", "/v1/webhooks/endpoints/deliveries/{id}/replay")
}

/// A webhook to create.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "WebhookCreate")]
pub struct Create {
    /// URL that receives the events: `https`, or `http` to a host that the operator allows.
    url: String,
    /// Tenant of the events. With a platform key, absent means all tenants.
    tenant_id: Option<TenantId>,
    /// Event types, such as `message.bounced`. Empty means all.
    #[serde(default)]
    events: Vec<EventKind>,
    /// The environments whose events it gets: `live`, `test` or both. Default: that of the key. Events about objects that
    /// both environments share, such as domains, go to every webhook.
    environments: Option<Vec<Environment>>,
}

/// Changes to a webhook. Absent fields stay unchanged.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "WebhookUpdate")]
pub struct Update {
    /// URL that receives the events from now on, including pending ones.
    url: Option<String>,
    /// Event types from now on. Empty means all.
    events: Option<Vec<EventKind>>,
    /// The environments whose events it gets from now on. `live` cannot be removed.
    environments: Option<Vec<Environment>>,
    /// `enabled` resumes pending deliveries; `disabled` keeps them pending.
    status: Option<WebhookStatus>,
}

/// A webhook.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Webhook")]
pub struct WebhookView {
    /// Its id, like `whk_…`.
    id: WebhookId,
    /// Always `webhook`.
    #[schemars(extend("const" = "webhook"))]
    object: &'static str,
    /// Tenant of the events; `null` for all tenants.
    tenant_id: Option<TenantId>,
    /// URL that receives the events.
    url: String,
    /// Event types. Empty means all.
    events: Vec<EventKind>,
    /// The environments whose events it gets.
    environments: Vec<Environment>,
    /// `enabled` or `disabled`.
    status: WebhookStatus,
    /// Why it is disabled: `manual`, `gone` (the endpoint responded 410), `failing` (for five days) or `backlog_full`.
    disabled_reason: Option<DisabledReason>,
    /// Time since which all attempts have failed; `null` after a success.
    failing_since: Option<Timestamp>,
    /// Time until which the previous secret also signs.
    previous_secret_until: Option<Timestamp>,
    /// Creation time.
    created_at: Timestamp,
    /// Time of the last change.
    updated_at: Timestamp,
    /// `whsec_…`. Only the response that creates the secret contains it.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

impl WebhookView {
    fn new(webhook: Webhook, now: Timestamp) -> Self {
        Self {
            id: webhook.id,
            object: "webhook",
            tenant_id: webhook.tenant_id,
            url: webhook.url,
            events: webhook.kinds,
            environments: webhook.environments,
            status: webhook.status,
            disabled_reason: webhook.disabled_reason,
            failing_since: webhook.failing_since,
            previous_secret_until: webhook.previous_secret_until.filter(|until| *until > now),
            created_at: webhook.created_at,
            updated_at: webhook.updated_at,
            secret: None,
        }
    }

    fn with_secret(self, secret: &WebhookSecret) -> Self {
        let encoded = BASE64_STANDARD.encode(secret.0.as_slice());
        Self { secret: Some(format!("{SECRET_PREFIX}{encoded}")), ..self }
    }
}

fn new_secret() -> WebhookSecret {
    WebhookSecret(Zeroizing::new(rand::random::<[u8; SECRET_OCTETS]>().to_vec()))
}

fn check_events(checks: &mut Checks, events: &[EventKind]) {
    let is_right = events.iter().all(|kind| kind.is_subscribable());
    checks.require(
        is_right,
        "events",
        "invalid",
        "webhook.test cannot be subscribed; POST /v1/webhooks/{id}/test sends it",
    );
}

/// Sorts the values and removes duplicates.
fn normalize<T: Ord>(mut values: Vec<T>) -> Vec<T> {
    values.sort();
    values.dedup();
    values
}

fn check_environments(checks: &mut Checks, environments: Option<&[Environment]>) {
    let is_right = environments.is_none_or(|list| !list.is_empty());
    checks.require(is_right, "environments", "invalid", "give live, test or both");
}

/// The environments of a webhook that the caller may choose.
fn chosen_environments(
    call: &RequestContext,
    named: Option<Vec<Environment>>,
) -> Result<Option<Vec<Environment>>> {
    for environment in named.iter().flatten() {
        call.environment_of_new(Some(*environment))?;
    }
    Ok(named.map(normalize))
}

async fn create(call: RequestContext) -> Result<ApiResponse> {
    let body: Create = call.json()?;
    let mut checks = Checks::default();
    let url = checks.read(endpoint::check(&body.url, &call.api.webhooks), "url");
    check_events(&mut checks, &body.events);
    check_environments(&mut checks, body.environments.as_deref());
    checks.finish()?;
    let environments = chosen_environments(&call, body.environments)?;
    let tenant_id = call.owner(body.tenant_id).await?;
    let secret = new_secret();
    let new = NewWebhook {
        tenant_id,
        url: url.unwrap_or_default(),
        kinds: normalize(body.events),
        environments: environments.unwrap_or_else(|| vec![call.caller.key.environment]),
        secret: secret.clone(),
    };
    let now = call.now;
    let respond = move |webhook: &Webhook| {
        ApiResponse::created(&WebhookView::new(webhook.clone(), now).with_secret(&secret))
    };
    call.change(respond, async |store| Ok(store.create_webhook(new, now).await?)).await
}

async fn list(mut call: RequestContext) -> Result<ApiResponse> {
    let ListedOwner { tenant_id, of_platform } = call.listed_owner().await?;
    let request = call.query.page::<WebhookId>();
    let url = call.query.value_with_plus("url", str::parse::<String>);
    let filter = WebhookFilter {
        tenant_id,
        of_platform,
        status: call.query.value("status"),
        url,
        environment: call.query.value("environment"),
        belongs_to: Some(Environment::Test).filter(|_| !call.caller.sees(Environment::Live)),
    };
    call.query.finish()?;
    let page = call.store().list_webhooks(filter, request.clone()).await?;
    let view = |webhook| WebhookView::new(webhook, call.now);
    ApiResponse::ok(&List::page(page, &request, |webhook| webhook.id.to_string(), view))
}

async fn find(call: &RequestContext) -> Result<Webhook> {
    let found = call.store().webhook(call.scope(), call.id("webhook")?).await?;
    let found = found.filter(|webhook| call.caller.sees(webhook.environment()));
    found.ok_or_else(|| ApiError::not_found("webhook"))
}

async fn get(call: RequestContext) -> Result<ApiResponse> {
    ApiResponse::ok(&WebhookView::new(find(&call).await?, call.now))
}

async fn update(call: RequestContext) -> Result<ApiResponse> {
    let body: Update = call.json()?;
    let webhook = find(&call).await?;
    let mut checks = Checks::default();
    let url = body.url.as_deref();
    let url = url.and_then(|text| checks.read(endpoint::check(text, &call.api.webhooks), "url"));
    check_events(&mut checks, body.events.as_deref().unwrap_or_default());
    check_environments(&mut checks, body.environments.as_deref());
    // A test key sees a webhook without live events, so it must not have got any.
    let keeps_live = body.environments.as_ref().is_none_or(|list| list.contains(&Environment::Live));
    let message =
        "live cannot be removed, because live events may be pending; create a webhook for test events";
    let is_right = keeps_live || webhook.environment() == Environment::Test;
    checks.require(is_right, "environments", "invalid", message);
    checks.finish()?;
    let environments = chosen_environments(&call, body.environments)?;
    let patch = WebhookPatch { url, kinds: body.events.map(normalize), environments, status: body.status };
    let updated = call.store().update_webhook(webhook.id, patch, call.now).await?;
    let webhook = updated.ok_or_else(|| ApiError::not_found("webhook"))?;
    ApiResponse::ok(&WebhookView::new(webhook, call.now))
}

async fn delete(call: RequestContext) -> Result<ApiResponse> {
    let id = find(&call).await?.id;
    if !call.store().delete_webhook(id).await? {
        return Err(ApiError::not_found("webhook"));
    }
    ApiResponse::deleted("webhook", id)
}

/// `POST /v1/webhooks/{id}/rotate-secret`: the previous secret also signs for a day.
async fn rotate_secret(call: RequestContext) -> Result<ApiResponse> {
    let id = find(&call).await?.id;
    let secret = new_secret();
    let now = call.now;
    let new_secret = secret.clone();
    let respond = move |rotated: &Option<Webhook>| {
        let webhook = rotated.clone().ok_or_else(|| ApiError::not_found("webhook"))?;
        ApiResponse::ok(&WebhookView::new(webhook, now).with_secret(&secret))
    };
    let rotate = async |store: Store| {
        Ok(store.rotate_webhook_secret(id, new_secret, now + ROTATION_TIME, now).await?)
    };
    call.change(respond, rotate).await
}
