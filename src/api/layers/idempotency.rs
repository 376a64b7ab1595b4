//! `Idempotency-Key`: a request is executed once; its repetitions get the stored response. Stored responses of a day are
//! limited per tenant; platform keys have no limit.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hyper::{HeaderMap, StatusCode};
use sha2::{Digest, Sha256};

use crate::mail::Timestamp;
use crate::model::{KeyId, LimitPeriod, RefusalCode, TenantId};
use crate::policy::fixed_window::FixedWindow;
use crate::store::{IdempotentResponse, Journal};

use crate::api::{ApiError, ApiResponse, RequestContext, Result};

/// Header with the client's name of a request.
pub const HEADER: &str = "idempotency-key";
const NAME_CHARS_MAX: usize = 255;
/// Approximate octets of a stored response besides its body.
const ROW_OCTETS: usize = 512;

/// Requests in progress, by API key and Idempotency-Key.
#[derive(Debug, Default)]
pub struct InProgress(Mutex<HashSet<(KeyId, String)>>);

/// Octets of responses stored today, by tenant.
#[derive(Debug)]
pub struct Kept {
    octets_max: u64,
    octets: Mutex<FixedWindow<TenantId>>,
}

/// A request in progress; removed on drop.
struct Turn<'a> {
    all: &'a InProgress,
    name: (KeyId, String),
}

impl InProgress {
    fn enter(&self, key: KeyId, name: &str) -> Result<Turn<'_>> {
        let name = (key, name.to_owned());
        if self.lock().insert(name.clone()) {
            return Ok(Turn { all: self, name });
        }
        let mut error = ApiError::new(
            RefusalCode::IdempotencyInProgress,
            "a request with this Idempotency-Key is still in progress",
            "wait a moment and repeat the request; it gets the same response",
        );
        error.retry_after_s = Some(NonZeroU32::MIN);
        Err(error)
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<(KeyId, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Limits each tenant to this many octets.
    pub fn new(octets_max: u64) -> Self {
        Self { octets_max, octets: Mutex::new(FixedWindow::new(LimitPeriod::Day)) }
    }

    /// Fails if the tenant's limit is reached. A request whose response cannot be stored must not run: a repetition would
    /// run it again.
    fn require_room(&self, tenant: Option<TenantId>, now: Timestamp) -> Result<()> {
        let Some(tenant) = tenant else { return Ok(()) };
        let standing = self.lock().status(&tenant, self.octets_max, now);
        if standing.remaining() > 0 {
            return Ok(());
        }
        let mut error = ApiError::new(
            RefusalCode::RateLimited,
            format!("limit reached: {} bytes of stored responses per tenant and day", standing.limit),
            format!(
                "try again at {}, or without an Idempotency-Key; the operator sets the limit with api.idempotency_storage_max",
                standing.resets_at
            ),
        );
        error.retry_after_s = Some(standing.seconds_to_reset(now));
        Err(error)
    }

    fn note(&self, tenant: Option<TenantId>, octets: usize, now: Timestamp) {
        if let Some(tenant) = tenant {
            self.lock().take(tenant, octets as u64, now);
        }
    }

    fn lock(&self) -> MutexGuard<'_, FixedWindow<TenantId>> {
        self.octets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.all.lock().remove(&self.name);
    }
}

/// The Idempotency-Key of a request, if any.
pub fn read_name(headers: &HeaderMap) -> Result<Option<String>> {
    let mut values = headers.get_all(HEADER).iter();
    let (Some(value), second) = (values.next(), values.next()) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    if second.is_some() || !(1..=NAME_CHARS_MAX).contains(&text.len()) {
        return Err(ApiError::field(
            "Idempotency-Key",
            "invalid",
            "give this header once, with 1 to 255 printable ASCII characters",
        ));
    }
    Ok(Some(text.to_owned()))
}

/// Executes the request or returns the stored response. The Idempotency-Key is bound to API key, path and body.
pub async fn run(name: &str, call: RequestContext) -> Result<ApiResponse> {
    let (api, request_id, now) = (call.api.clone(), call.request_id, call.now);
    let (key, tenant) = (call.caller.key.id, call.caller.key.tenant_id);
    let _turn = api.in_progress.enter(key, name)?;
    let digest = digest_of(&call.path_and_query, &call.body);
    if let Some(kept) = api.store.idempotent_response(key, name, now).await? {
        return repeat(kept, digest);
    }
    api.kept.require_room(tenant, now)?;
    let result = call.handle().await;
    let answer = match result {
        Ok(answer) => answer,
        Err(error) if !is_final(&error) => return Err(error),
        Err(error) => ApiResponse::error(&error, request_id),
    };
    if let Some(body) = answer.body() {
        api.kept.note(tenant, body.len() + ROW_OCTETS, now);
        let kept = IdempotentResponse { digest, status: answer.status().as_u16(), body: body.to_vec() };
        if let Err(error) = api.store.store_idempotent_response(key, name, kept, now).await {
            // What was asked is done; only a repetition would be done again.
            tracing::warn!(%request_id, %error, "the response could not be stored for its Idempotency-Key");
        }
    }
    Ok(answer)
}

fn digest_of(target: &str, body: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(target).chain_update([0]).chain_update(body).finalize().into()
}

/// Whether an error is stored. Transient errors and partly executed requests are executed again.
fn is_final(error: &ApiError) -> bool {
    let status = error.status();
    let is_passing = status.is_server_error()
        || status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT;
    !is_passing && !error.is_unfinished
}

fn repeat(kept: IdempotentResponse, digest: [u8; 32]) -> Result<ApiResponse> {
    if kept.digest != digest {
        return Err(ApiError::new(
            RefusalCode::IdempotencyKeyReused,
            "this Idempotency-Key was used for a different request within the last 24 hours",
            "use a new Idempotency-Key for every request; reuse it only to repeat a request unchanged",
        ));
    }
    ApiResponse::repeated(kept.status, kept.body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answers_that_stay_right_are_kept() {
        let error = |code| ApiError::new(code, "no", "");
        for (error, expected) in [
            (error(RefusalCode::ValidationFailed), true),
            (error(RefusalCode::SenderDomainNotOwned), true),
            (error(RefusalCode::SendLimitExceeded), false),
            (error(RefusalCode::DailySendLimitExceeded), false),
            (error(RefusalCode::RateLimited), false),
            (error(RefusalCode::RequestTimeout), false),
            (error(RefusalCode::StorageUnavailable), false),
            (error(RefusalCode::Internal), false),
            (ApiError { is_unfinished: true, ..error(RefusalCode::IdempotencyKeyReused) }, false),
        ] {
            assert_eq!(is_final(&error), expected, "{}", error.refusal.code);
        }
    }
}
