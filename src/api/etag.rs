//! Conditional requests (RFC 9110 §13). The ETag of an object is a hash of its GET response. `If-None-Match` avoids sending
//! an unchanged object; `If-Match` makes a change conditional. `If-Match` ignores fields that change by use, such as
//! `last_used_at`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use hyper::header::{HeaderName, IF_MATCH, IF_NONE_MATCH};
use hyper::{HeaderMap, Method};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tokio::sync::OwnedMutexGuard;

use crate::model::RefusalCode;

use super::dispatch;
use super::error::{ApiError, Result};
use super::page::Query;
use super::request_context::RequestContext;
use super::response::ApiResponse;
use super::route::{Endpoint, Operation};

/// Suffix of the ETag of a compressed response: other octets need another strong ETag (RFC 9110 §8.8.3.3).
pub const COMPRESSED: &str = "-gzip";

/// Separates the two parts of an ETag: the hash without, and with, the fields that change by use.
const USE_SEPARATOR: char = '.';

/// Octets of the hash in an ETag.
const TAG_OCTETS: usize = 16;

/// Locks by object id: no other request changes an object between the check of its ETag and the change.
#[derive(Debug, Default)]
pub struct ObjectLocks(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl ObjectLocks {
    async fn lock(&self, id: &str) -> OwnedMutexGuard<()> {
        let of_one = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let known = all.get(id).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                all.retain(|_, of_one| of_one.strong_count() > 0);
                let fresh = Arc::default();
                all.insert(id.to_owned(), Arc::downgrade(&fresh));
                fresh
            })
        };
        of_one.lock_owned().await
    }
}

/// Executes the request if its preconditions hold.
pub async fn answer(method: &Method, call: RequestContext<'_>) -> Result<ApiResponse> {
    let Some(get) = call.route.object() else { return dispatch(call.operation.endpoint, call).await };
    if call.operation.method == Method::GET {
        let headers = call.headers.clone();
        let answer = dispatch(get.endpoint, call).await?;
        let tag = etag_of(&answer, get);
        check_preconditions(&headers, &tag, true)?;
        let is_known = matches_etag(&headers, &IF_NONE_MATCH, &tag) == Some(true);
        return Ok(if is_known { ApiResponse::not_modified(tag) } else { answer.tagged(tag) });
    }
    let api = call.api;
    let _turn = match call.id.as_ref().or(call.tenant_id.as_ref()) {
        Some(id) => Some(api.object_locks.lock(&id.to_ascii_uppercase()).await),
        None => None,
    };
    if [IF_MATCH, IF_NONE_MATCH].iter().any(|name| call.headers.contains_key(name)) {
        let present = dispatch(get.endpoint, as_get(&call, get)).await?;
        check_preconditions(&call.headers, &etag_of(&present, get), false)?;
    }
    let answer = dispatch(call.operation.endpoint, call).await?;
    // The response to a change equals that of a GET.
    let tag = etag_of(&answer, get);
    Ok(if *method == Method::DELETE { answer } else { answer.tagged(tag) })
}

/// The same request as if it were a GET.
fn as_get<'a>(call: &RequestContext<'a>, get: &'static Operation) -> RequestContext<'a> {
    RequestContext {
        api: call.api,
        route: call.route,
        operation: get,
        caller: call.caller.clone(),
        client: call.client,
        headers: HeaderMap::new(),
        request_id: call.request_id,
        idempotency_key: None,
        tenant_id: call.tenant_id.clone(),
        id: call.id.clone(),
        query: Query::default(),
        body: Default::default(),
        room: call.api.room.reserve(call.scope()),
        now: call.now,
        stop: call.stop.clone(),
    }
}

/// Fields that change by use. `If-Match` ignores them.
fn fields_changed_by_use(get: &Operation) -> &'static [&'static str] {
    match get.endpoint {
        Endpoint::GetKey => &["last_used_at"],
        Endpoint::GetDomain => &["last_checked_at"],
        Endpoint::GetWebhook => &["failing_since"],
        _ => &[],
    }
}

/// The ETag (RFC 9110 §8.8.3) without quotes. If the object has fields that change by use, the ETag starts with the hash
/// of the object without them: `If-None-Match` compares all of the ETag, `If-Match` its first part.
fn etag_of(answer: &ApiResponse, get: &Operation) -> String {
    let body = answer.body().unwrap_or_default();
    let passing = fields_changed_by_use(get);
    match serde_json::from_slice::<Map<String, Value>>(body) {
        Ok(mut object) if !passing.is_empty() => {
            object.retain(|field, _| !passing.contains(&field.as_str()));
            let lasting = serde_json::to_vec(&object).unwrap_or_default();
            format!("{}{USE_SEPARATOR}{}", hash_of(&lasting), hash_of(body))
        }
        _ => hash_of(body),
    }
}

fn hash_of(octets: &[u8]) -> String {
    Sha256::digest(octets)[..TAG_OCTETS].iter().map(|octet| format!("{octet:02x}")).collect()
}

/// The part of an ETag that `If-Match` compares: the hash without the fields that change by use.
fn content_part(tag: &str) -> &str {
    tag.split_once(USE_SEPARATOR).map_or(tag, |(lasting, _)| lasting)
}

/// Evaluates the preconditions (RFC 9110 §13.2.2).
fn check_preconditions(headers: &HeaderMap, tag: &str, is_read: bool) -> Result<()> {
    let is_other = matches_etag(headers, &IF_MATCH, tag) == Some(false);
    let is_there = !is_read && matches_etag(headers, &IF_NONE_MATCH, tag) == Some(true);
    if is_other || is_there {
        return Err(ApiError::new(
            RefusalCode::PreconditionFailed,
            if is_other {
                "`If-Match` does not match the current ETag"
            } else {
                "`If-None-Match` matches the current ETag"
            },
            "get the object again, then repeat the change with the new ETag if it still applies",
        ));
    }
    Ok(())
}

/// Whether a header field matches an ETag; `None` without the field. `If-Match` uses strong comparison (RFC 9110 §13.1.1).
fn matches_etag(headers: &HeaderMap, field: &HeaderName, tag: &str) -> Option<bool> {
    let mut values = headers.get_all(field).iter().peekable();
    values.peek()?;
    let is_named = |member: &str| {
        let member = if field == IF_MATCH { member } else { member.strip_prefix("W/").unwrap_or(member) };
        let quoted = member.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        let is_this = |named: &str| {
            let named = named.strip_suffix(COMPRESSED).unwrap_or(named);
            if field == IF_MATCH { content_part(named) == content_part(tag) } else { named == tag }
        };
        member == "*" || quoted.is_some_and(is_this)
    };
    let mut texts = values.filter_map(|value| value.to_str().ok());
    Some(texts.any(|text| text.split(',').map(str::trim).any(is_named)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_compared_as_the_field_wants() {
        for (field, value, expected) in [
            (IF_MATCH, "\"abc\"", true),
            (IF_MATCH, "\"x\", \"abc\"", true),
            (IF_MATCH, "\"abc-gzip\"", true),
            (IF_MATCH, "*", true),
            (IF_MATCH, "W/\"abc\"", false),
            (IF_MATCH, "abc", false),
            (IF_MATCH, "\"ab\"", false),
            (IF_MATCH, "", false),
            (IF_NONE_MATCH, "W/\"abc\"", true),
            (IF_NONE_MATCH, "\"x\",W/\"abc-gzip\"", true),
            (IF_NONE_MATCH, "\"x\"", false),
            (IF_NONE_MATCH, "\"abc.1\"", false),
        ] {
            let headers = HeaderMap::from_iter([(field.clone(), value.parse().unwrap())]);
            assert_eq!(matches_etag(&headers, &field, "abc"), Some(expected), "{field}: {value}");
        }
        let named = |field: HeaderName, value: &str| {
            let headers = HeaderMap::from_iter([(field.clone(), value.parse().unwrap())]);
            matches_etag(&headers, &field, "abc.1")
        };
        assert_eq!(named(IF_MATCH, "\"abc.2\""), Some(true), "only passing fields differ");
        assert_eq!(named(IF_MATCH, "\"abd.1\""), Some(false));
        assert_eq!(named(IF_NONE_MATCH, "\"abc.2\""), Some(false));
        assert_eq!(named(IF_NONE_MATCH, "\"abc.1-gzip\""), Some(true));
        assert_eq!(matches_etag(&HeaderMap::new(), &IF_MATCH, "abc"), None);
    }

    #[tokio::test]
    async fn one_object_is_changed_by_one_at_a_time_and_then_forgotten() {
        let changes = ObjectLocks::default();
        let first = changes.lock("a").await;
        drop(changes.lock("b").await);
        let second = changes.lock("a");
        tokio::pin!(second);
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        drop(second.await);
        drop(changes.lock("c").await);
        assert_eq!(changes.0.lock().unwrap().len(), 1);
    }
}
