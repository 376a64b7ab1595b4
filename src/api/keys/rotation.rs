//! Rotation of a key: a new secret, beside which the old one works on for a while.

use schemars::JsonSchema;
use serde::Deserialize;

use super::rights::{Rights, check_within};
use super::{KeyView, NewKeyView, find};
use crate::api::json::Checks;
use crate::api::{ApiError, ApiResponse, RequestContext, Result};
use crate::mail::SignedDuration;
use crate::model::KeySecret;
use crate::store::{Directory, Key, SecretRotation, Store};

/// How long an old secret works on after a rotation, in seconds.
const OVERLAP_SECONDS_DEFAULT: u32 = 24 * 3600;
const OVERLAP_SECONDS_MAX: u32 = 30 * 24 * 3600;

/// The new secret of a key.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "KeyRotation")]
pub struct Rotate {
    /// Seconds for which the old secret works on, at most 30 days; 0 ends it now. Earlier secrets that still work end by
    /// then too. Default: a day.
    #[schemars(range(max = 2_592_000))]
    expires_in: Option<u32>,
}

/// `POST /v1/keys/{id}/rotate`. The caller gets the new secret and so the rights of the key. It must have these rights itself.
pub(super) async fn rotate(call: RequestContext) -> Result<ApiResponse> {
    let key = find(&call).await?;
    let body: Rotate = if call.body.is_empty() { Rotate::default() } else { call.json()? };
    let expires_in = body.expires_in.unwrap_or(OVERLAP_SECONDS_DEFAULT);
    let mut checks = Checks::default();
    let message = format!("this must be a number from 0 to {OVERLAP_SECONDS_MAX}");
    checks.require(expires_in <= OVERLAP_SECONDS_MAX, "expires_in", "invalid", &message);
    checks.finish()?;
    let rights = Rights {
        environment: Some(key.environment),
        scopes: Some(key.scopes.clone()),
        allowed_domain_ids: Some(key.allowed_domain_ids.clone()),
        allowed_cidrs: Some(key.allowed_cidrs.clone()),
        expires_at: Some(key.expires_at),
    };
    check_within(&call.caller.key, key.tenant_id, &rights)?;
    let present = call.store().scram_credential(&key.id.to_string(), call.now).await?.verifier;
    let secret = KeySecret::generate(key.environment);
    let now = call.now;
    let rotation = SecretRotation {
        secret: secret.stored_secret_beside(&present),
        previous_until: now + SignedDuration::from_secs(expires_in.into()),
    };
    let respond = move |rotated: &Option<Key>| {
        let key = rotated.clone().ok_or_else(|| ApiError::not_found("key"))?;
        ApiResponse::ok(&NewKeyView { key: KeyView::new(key, now), secret: secret.expose() })
    };
    call.change(respond, async |store: Store| Ok(store.rotate_key(key.id, rotation, now).await?)).await
}
