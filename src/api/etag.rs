//! Conditional requests (RFC 9110 §13). A single object has a tag that follows from what its GET says: who knows the
//! tag need not be sent the object again, and who changes it can say what the change is meant for.

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

/// Ends the tag of what is sent compressed: other octets have another strong tag (RFC 9110 §8.8.3.3).
pub const COMPRESSED: &str = "-gzip";

/// Stands in a tag before what changes without anybody's doing.
const PASSING: char = '.';

/// Octets of a hash that make a tag.
const TAG_OCTETS: usize = 16;

/// Objects that are being changed: nobody changes one between the look at its tag and the change.
#[derive(Debug, Default)]
pub struct Changes(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl Changes {
    async fn enter(&self, id: &str) -> OwnedMutexGuard<()> {
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

/// Does what is asked, if the object is as the request expects it.
pub async fn answer(method: &Method, call: RequestContext<'_>) -> Result<ApiResponse> {
    let Some(get) = call.route.object() else { return dispatch(call.operation.endpoint, call).await };
    if call.operation.method == Method::GET {
        let headers = call.headers.clone();
        let answer = dispatch(get.endpoint, call).await?;
        let tag = tag_of(&answer, get);
        require(&headers, &tag, true)?;
        let is_known = names(&headers, &IF_NONE_MATCH, &tag) == Some(true);
        return Ok(if is_known { ApiResponse::not_modified(tag) } else { answer.tagged(tag) });
    }
    let api = call.api;
    let _turn = match call.id.as_ref().or(call.tenant_id.as_ref()) {
        Some(id) => Some(api.changes.enter(&id.to_ascii_uppercase()).await),
        None => None,
    };
    if [IF_MATCH, IF_NONE_MATCH].iter().any(|name| call.headers.contains_key(name)) {
        let present = dispatch(get.endpoint, reading(&call, get)).await?;
        require(&call.headers, &tag_of(&present, get), false)?;
    }
    let answer = dispatch(call.operation.endpoint, call).await?;
    // What a change answers is what a GET would.
    let tag = tag_of(&answer, get);
    Ok(if *method == Method::DELETE { answer } else { answer.tagged(tag) })
}

/// The same request as if it were a GET.
fn reading<'a>(call: &RequestContext<'a>, get: &'static Operation) -> RequestContext<'a> {
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

/// What an object gets by being used or looked at: nobody who changes it has to have seen that.
fn passing_fields(get: &Operation) -> &'static [&'static str] {
    match get.endpoint {
        Endpoint::GetKey => &["last_used_at"],
        Endpoint::GetDomain => &["last_checked_at"],
        Endpoint::GetWebhook => &["failing_since"],
        _ => &[],
    }
}

/// RFC 9110 §8.8.3, without the quotes. The tag of an object with passing fields begins with that of the object without
/// them: the whole of it says what a client has, its beginning what a change is meant for.
fn tag_of(answer: &ApiResponse, get: &Operation) -> String {
    let body = answer.body().unwrap_or_default();
    let passing = passing_fields(get);
    match serde_json::from_slice::<Map<String, Value>>(body) {
        Ok(mut object) if !passing.is_empty() => {
            object.retain(|field, _| !passing.contains(&field.as_str()));
            let lasting = serde_json::to_vec(&object).unwrap_or_default();
            format!("{}{PASSING}{}", hash_of(&lasting), hash_of(body))
        }
        _ => hash_of(body),
    }
}

fn hash_of(octets: &[u8]) -> String {
    Sha256::digest(octets)[..TAG_OCTETS].iter().map(|octet| format!("{octet:02x}")).collect()
}

/// The part of a tag that says what a change is meant for.
fn lasting_part(tag: &str) -> &str {
    tag.split_once(PASSING).map_or(tag, |(lasting, _)| lasting)
}

/// RFC 9110 §13.2.2: whether the request is to be done.
fn require(headers: &HeaderMap, tag: &str, is_read: bool) -> Result<()> {
    let is_other = names(headers, &IF_MATCH, tag) == Some(false);
    let is_there = !is_read && names(headers, &IF_NONE_MATCH, tag) == Some(true);
    if is_other || is_there {
        return Err(ApiError::new(
            RefusalCode::PreconditionFailed,
            "the object is not as the request expects it: its ETag is another",
            "read the object again, and repeat the change if it still makes sense, with the new ETag",
        ));
    }
    Ok(())
}

/// Whether a field names a tag; `None` if there is no such field. If-Match compares strongly (RFC 9110 §13.1.1).
fn names(headers: &HeaderMap, field: &HeaderName, tag: &str) -> Option<bool> {
    let mut values = headers.get_all(field).iter().peekable();
    values.peek()?;
    let is_named = |member: &str| {
        let member = if field == IF_MATCH { member } else { member.strip_prefix("W/").unwrap_or(member) };
        let quoted = member.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        let is_this = |named: &str| {
            let named = named.strip_suffix(COMPRESSED).unwrap_or(named);
            if field == IF_MATCH { lasting_part(named) == lasting_part(tag) } else { named == tag }
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
            assert_eq!(names(&headers, &field, "abc"), Some(expected), "{field}: {value}");
        }
        let named = |field: HeaderName, value: &str| {
            let headers = HeaderMap::from_iter([(field.clone(), value.parse().unwrap())]);
            names(&headers, &field, "abc.1")
        };
        assert_eq!(named(IF_MATCH, "\"abc.2\""), Some(true), "only passing fields differ");
        assert_eq!(named(IF_MATCH, "\"abd.1\""), Some(false));
        assert_eq!(named(IF_NONE_MATCH, "\"abc.2\""), Some(false));
        assert_eq!(named(IF_NONE_MATCH, "\"abc.1-gzip\""), Some(true));
        assert_eq!(names(&HeaderMap::new(), &IF_MATCH, "abc"), None);
    }

    #[tokio::test]
    async fn one_object_is_changed_by_one_at_a_time_and_then_forgotten() {
        let changes = Changes::default();
        let first = changes.enter("a").await;
        drop(changes.enter("b").await);
        let second = changes.enter("a");
        tokio::pin!(second);
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        drop(second.await);
        drop(changes.enter("c").await);
        assert_eq!(changes.0.lock().unwrap().len(), 1);
    }
}
