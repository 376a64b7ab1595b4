//! Conditional requests (RFC 9110 §13). With `If-None-Match`, a GET of an unchanged object returns 304. With `If-Match`, a
//! change applies only to the version that the client knows.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use hyper::header::{IF_MATCH, IF_NONE_MATCH};
use hyper::{HeaderMap, Method};
use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

use crate::api::etag::ETag;
use crate::api::{ApiError, ApiResponse, Operation, RequestContext, Result};
use crate::model::RefusalCode;
use crate::store::Audit;

/// Locks by object id, so that no other request to this process changes an object between the check of its ETag and the
/// change. A change by another process makes the transaction of this one fail.
#[derive(Debug, Default)]
pub struct ObjectLocks(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl ObjectLocks {
    async fn lock(&self, id: &str) -> OwnedMutexGuard<()> {
        let of_one = {
            let mut all = self.0.lock();
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
pub async fn run(mut call: RequestContext) -> Result<ApiResponse> {
    let Some(get) = call.target.route.object() else { return call.handle().await };
    let api = call.api.clone();
    let headers = call.headers.clone();
    let method = call.target.operation.method.clone();
    if method == Method::GET {
        let response = call.handle().await?;
        let tag = tag_of(&response, get);
        check(&headers, &tag, true)?;
        let is_known = tag.is_named_by(&IF_NONE_MATCH, &headers) == Some(true);
        return Ok(if is_known { ApiResponse::not_modified(tag) } else { response.tagged(tag) });
    }
    let id = call.id.as_deref().or(call.tenant_id.as_deref()).map(stored_id);
    let _lock = match &id {
        Some(id) => Some(api.object_locks.lock(id).await),
        None => None,
    };
    if [IF_MATCH, IF_NONE_MATCH].iter().any(|name| headers.contains_key(name)) {
        if let Some(id) = id {
            // Before the object is read.
            let version = call.store().object_version(id).await?;
            call = call.unless_changed(version);
        }
        let _permit = call.response_build().await?;
        let present = call.as_get(get).handle().await?;
        check(&headers, &tag_of(&present, get), false)?;
    }
    let response = call.handle().await?;
    // The response to a change has the body of a GET, and so the same ETag.
    let tag = tag_of(&response, get);
    Ok(if method == Method::DELETE { response } else { response.tagged(tag) })
}

/// An id as it is stored: clients may write the part after the prefix in any case.
fn stored_id(id: &str) -> String {
    match id.split_once('_') {
        Some((prefix, rest)) => format!("{prefix}_{}", rest.to_ascii_uppercase()),
        None => id.to_owned(),
    }
}

fn tag_of(response: &ApiResponse, get: &Operation) -> ETag {
    ETag::of(response.body().unwrap_or_default(), get.changed_by_use)
}

/// Evaluates the preconditions (RFC 9110 §13.2.2).
fn check(headers: &HeaderMap, tag: &ETag, is_read: bool) -> Result<()> {
    let is_other = tag.is_named_by(&IF_MATCH, headers) == Some(false);
    let is_unwanted = !is_read && tag.is_named_by(&IF_NONE_MATCH, headers) == Some(true);
    if is_other || is_unwanted {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_object_is_locked_for_one_change_at_a_time_and_unused_locks_are_removed() {
        let changes = ObjectLocks::default();
        let first = changes.lock("a").await;
        drop(changes.lock("b").await);
        let second = changes.lock("a");
        tokio::pin!(second);
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        drop(second.await);
        drop(changes.lock("c").await);
        assert_eq!(changes.0.lock().len(), 1);
    }
}
