//! Requests that are repeated under an `Idempotency-Key` are answered as they were at first, and done once.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hyper::{HeaderMap, StatusCode};
use sha2::{Digest, Sha256};

use crate::mail::{KeyId, RefusalCode};
use crate::store::{Journal, KeptAnswer};

use super::answer::Answer;
use super::call::Call;
use super::dispatch;
use super::error::{ApiError, Result};

/// The header that names a request.
pub const HEADER: &str = "idempotency-key";
const NAME_CHARS_MAX: usize = 255;
/// Octets of an answer that is kept.
const ANSWER_OCTETS_MAX: usize = 1024 * 1024;

/// Requests that are being worked on, by key and name.
#[derive(Debug, Default)]
pub struct InProgress(Mutex<HashSet<(KeyId, String)>>);

/// One of them; gone when it is dropped.
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
        Err(ApiError::new(
            RefusalCode::IdempotencyInProgress,
            "a request with this Idempotency-Key is still being worked on",
            "wait a moment and send it again: it gets the same answer",
        ))
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<(KeyId, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.all.lock().remove(&self.name);
    }
}

/// The name that a request has, if any.
pub fn read_name(headers: &HeaderMap) -> Result<Option<String>> {
    let mut values = headers.get_all(HEADER).iter();
    let (Some(value), second) = (values.next(), values.next()) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    if second.is_some() || !(1..=NAME_CHARS_MAX).contains(&text.len()) {
        return Err(ApiError::field(
            "Idempotency-Key",
            "invalid",
            "this header has 1 to 255 printable ASCII characters, once",
        ));
    }
    Ok(Some(text.to_owned()))
}

/// Does what is asked, or answers what was answered before. Bound to key, path and body.
pub async fn answer(target: &str, name: &str, call: Call<'_>) -> Result<Answer> {
    let endpoint = call.operation.endpoint;
    let (api, key, request_id, now) = (call.api, call.caller.key.id, call.request_id, call.now);
    let _turn = api.in_progress.enter(key, name)?;
    let digest = digest_of(target, &call.body);
    if let Some(kept) = api.store.kept_answer(key, name, now).await? {
        return repeat(kept, digest);
    }
    let result = dispatch(endpoint, call).await;
    let answer = match result {
        Ok(answer) => answer,
        Err(error) if !is_final(&error) => return Err(error),
        Err(error) => Answer::error(&error, request_id),
    };
    if let Some(body) = answer.body().filter(|body| body.len() <= ANSWER_OCTETS_MAX) {
        let kept = KeptAnswer { digest, status: answer.status().as_u16(), body: body.to_vec() };
        if let Err(error) = api.store.keep_answer(key, name, kept, now).await {
            // What was asked is done; only a repetition would be done again.
            tracing::warn!(%request_id, %error, "an answer could not be kept for its repetition");
        }
    }
    Ok(answer)
}

fn digest_of(target: &str, body: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(target).chain_update([0]).chain_update(body).finalize().into()
}

/// What may go better another time is asked anew, and so is the rest of what was begun.
fn is_final(error: &ApiError) -> bool {
    let status = error.status();
    let is_passing = status.is_server_error()
        || status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT;
    !is_passing && !error.is_unfinished
}

fn repeat(kept: KeptAnswer, digest: [u8; 32]) -> Result<Answer> {
    if kept.digest != digest {
        return Err(ApiError::new(
            RefusalCode::IdempotencyKeyReused,
            "this Idempotency-Key was used for another request within a day",
            "use a new key for every request, and the same only to repeat it unchanged",
        ));
    }
    Answer::repeated(kept.status, kept.body)
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
