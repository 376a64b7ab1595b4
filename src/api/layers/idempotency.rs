//! `Idempotency-Key`: a request is executed once, and its repetitions get the stored response. The transaction of a change
//! stores the response ([`RequestContext::change`]), so that a crash leaves both or neither. Only errors, and the responses
//! of operations that may run again, are stored afterwards. A limit applies to the octets that a tenant stores per day;
//! platform keys have no limit.

use std::collections::HashSet;
use std::num::NonZeroU32;

use hyper::{HeaderMap, StatusCode};
use parking_lot::{Mutex, MutexGuard};
use sha2::{Digest, Sha256};

use crate::mail::Timestamp;
use crate::model::{KeyId, LimitPeriod, RefusalCode, TenantId};
use crate::policy::fixed_window::seconds_until;
use crate::store::{IdempotentRequest, IdempotentResponse, Journal};

use crate::api::{Api, ApiError, ApiResponse, RequestContext, Result};

/// The header in which a client names a request.
pub const HEADER: &str = "idempotency-key";
const NAME_CHARS_MAX: usize = 255;

/// Requests in progress, by API key and Idempotency-Key.
#[derive(Debug, Default)]
pub struct InProgress(Mutex<HashSet<(KeyId, String)>>);

/// Removes a request from [`InProgress`] on drop.
struct InProgressGuard<'a> {
    all: &'a InProgress,
    name: (KeyId, String),
}

impl InProgress {
    fn enter(&self, key: KeyId, name: &str) -> Result<InProgressGuard<'_>> {
        let name = (key, name.to_owned());
        if self.lock().insert(name.clone()) {
            return Ok(InProgressGuard { all: self, name });
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
        self.0.lock()
    }
}

impl Drop for InProgressGuard<'_> {
    fn drop(&mut self) {
        self.all.lock().remove(&self.name);
    }
}

/// The Idempotency-Key of a request, if any.
pub fn read_name(headers: &HeaderMap) -> Result<Option<String>> {
    let mut values = headers.get_all(HEADER).iter();
    let (Some(value), second) = (values.next(), values.next()) else { return Ok(None) };
    let is_printable = |octet: &u8| (b' '..=b'~').contains(octet);
    let text = value.to_str().ok().filter(|_| value.as_bytes().iter().all(is_printable)).unwrap_or_default();
    if second.is_some() || !(1..=NAME_CHARS_MAX).contains(&text.len()) {
        return Err(ApiError::field(
            "Idempotency-Key",
            "invalid",
            "give this header once, with 1 to 255 printable ASCII characters",
        ));
    }
    Ok(Some(text.to_owned()))
}

/// Executes the request, or returns the stored response. An Idempotency-Key applies to one API key, path, query and body.
pub async fn run(request: &IdempotentRequest, call: RequestContext) -> Result<ApiResponse> {
    let (api, request_id) = (call.api.clone(), call.request_id);
    let (key, name, digest, now) = (request.key(), request.name(), request.digest(), request.now());
    let (tenant, operation) = (call.caller.key.tenant_id, call.target.operation);
    let _guard = api.in_progress.enter(key, name)?;
    if let Some(stored) = api.store.idempotent_response(key, name, now).await? {
        return replay(stored, digest);
    }
    check_limit(&api, tenant, now).await?;
    let result = call.handle().await;
    let response = match result {
        Ok(response) => response,
        Err(error) if !is_final(&error) => return Err(error),
        // The request was carried out by another node, which may be the cause of the error.
        Err(error) => match api.store.idempotent_response(key, name, now).await? {
            Some(stored) => return replay(stored, digest),
            None => ApiResponse::error(&error, request_id),
        },
    };
    if let Some(body) = response.body() {
        let (status, body) = (response.status().as_u16(), body.to_vec().into());
        let stored = IdempotentResponse { digest, status, body };
        debug_assert!(
            request.is_response_stored()
                || !operation.stores_response_with_change()
                || !response.status().is_success(),
            "{} does not store its response with its change",
            operation.name
        );
        if !request.is_response_stored()
            && let Err(error) = api.store.store_idempotent_response(key, name, stored, now).await
        {
            // The request was executed, so it succeeds. A repetition is executed again.
            tracing::warn!(%request_id, %error, "storing the response for its Idempotency-Key failed");
        }
    }
    Ok(response)
}

/// Fails if the limit of the tenant is reached. A request whose response cannot be stored must not run, because a repetition
/// would run it again.
async fn check_limit(api: &Api, tenant: Option<TenantId>, now: Timestamp) -> Result<()> {
    let Some(tenant) = tenant else { return Ok(()) };
    let limit = api.settings.idempotency_storage_max.as_u64();
    if api.store.response_octets_of_day(tenant, now).await? < limit {
        return Ok(());
    }
    let resets_at = LimitPeriod::Day.end_of(now);
    let mut error = ApiError::new(
        RefusalCode::RateLimited,
        format!("limit reached: {limit} bytes of stored responses per tenant and day"),
        format!(
            "try again at {resets_at}, or without an Idempotency-Key; the operator sets the limit with api.idempotency_storage_max"
        ),
    );
    error.retry_after_s = Some(seconds_until(resets_at, now));
    Err(error)
}

/// SHA-256 of a request.
pub fn digest_of(target: &str, body: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(target).chain_update([0]).chain_update(body).finalize().into()
}

/// Whether to store an error. A repetition after a transient error is executed again.
fn is_final(error: &ApiError) -> bool {
    let status = error.status();
    let is_transient = status.is_server_error()
        || status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT;
    !is_transient
}

fn replay(mut stored: IdempotentResponse, digest: [u8; 32]) -> Result<ApiResponse> {
    if stored.digest != digest {
        return Err(ApiError::new(
            RefusalCode::IdempotencyKeyReused,
            "this Idempotency-Key was used for a different request within the last 24 hours",
            "use a new Idempotency-Key for each request; reuse it only to repeat a request unchanged",
        ));
    }
    ApiResponse::repeated(stored.status, std::mem::take(&mut *stored.body))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn a_name_is_one_line_of_printable_ascii() {
        let read = |values: &[&[u8]]| {
            let value = |octets: &&[u8]| (HEADER.parse().unwrap(), HeaderValue::from_bytes(octets).unwrap());
            let headers: HeaderMap = values.iter().map(value).collect();
            read_name(&headers).map_err(|error| error.status().as_u16())
        };
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[b"order 7"]), Ok(Some("order 7".to_owned())));
        assert!(read(&[&[b'x'; 255]]).is_ok());
        for wrong in [&[&b""[..]][..], &[b"a\tb"], &["é".as_bytes()], &[b"a", b"a"], &[&[b'x'; 256]]] {
            assert_eq!(read(wrong), Err(422), "{wrong:?}");
        }
    }

    #[test]
    fn only_final_errors_are_stored() {
        let error = |code| ApiError::new(code, "no", "");
        for (error, expected) in [
            (error(RefusalCode::ValidationFailed), true),
            (error(RefusalCode::DomainNotAllowedForKey), true),
            (error(RefusalCode::SendLimitExceeded), false),
            (error(RefusalCode::HourlySendLimitExceeded), false),
            (error(RefusalCode::DailySendLimitExceeded), false),
            (error(RefusalCode::RateLimited), false),
            (error(RefusalCode::RequestTimeout), false),
            (error(RefusalCode::StorageUnavailable), false),
            (error(RefusalCode::Internal), false),
        ] {
            assert_eq!(is_final(&error), expected, "{}", error.refusal.code);
        }
    }
}
