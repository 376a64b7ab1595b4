//! The audit log. Every operation that changes something passes here on its way to its handler, so a new one cannot be
//! forgotten: who asked, the object before, and the object afterwards become one line of the log and one entry. Retries
//! and sign-in links are only logged: a key can make any number of them, and their entries would push out the others. The
//! transaction of the change stores the entry ([`Store::auditing`](crate::store::Store::auditing)), and the response completes it.

mod redaction;
mod view;

use std::sync::Arc;

use serde_json::Value;

use crate::model::{AuditActor, AuditId};
use crate::store::{Audit, AuditEntry, AuditTrail};

use self::redaction::redact;
use super::operation::{Operation, Route};
use super::{ApiResponse, ROUTES, RequestContext, Result};

pub use self::view::resource;

/// Runs a change with its entry.
pub async fn run(call: RequestContext) -> Result<ApiResponse> {
    let operation = call.target.operation;
    if call.query.text("dry_run") == Some("true") {
        return call.perform().await;
    }
    let before = if operation.hides_object { None } else { read_object(&call).await };
    let trail = Arc::new(AuditTrail::new(describe(&call, before)));
    let (store, request_id) = (call.store().clone(), call.request_id);
    let call = match operation.logs_only {
        true => call,
        false => call.auditing(Arc::clone(&trail)),
    };
    let result = call.perform().await;
    let Some(entry) = complete(&trail, operation, &result) else { return result };
    log(&entry);
    if operation.logs_only {
        return result;
    }
    if let Err(error) = store.complete_audit(entry).await {
        // The change is done, so it is not refused; its transaction has the entry without the response.
        tracing::error!(%request_id, %error, "an entry of the audit log was not completed");
    }
    result
}

/// The entry as it is known before the change.
fn describe(call: &RequestContext, before: Option<Value>) -> AuditEntry {
    let (key, target) = (&call.caller.key, &call.target);
    let of_before = |field: &str| before.as_ref().and_then(|value| value[field].as_str()).map(str::to_owned);
    let named = [of_before("tenant_id"), call.tenant_id.clone()].into_iter().flatten();
    let own_id = before
        .as_ref()
        .filter(|before| before["object"] == "tenant")
        .and_then(|tenant| tenant["id"].as_str());
    let tenant = own_id.map(str::to_owned).or(named.into_iter().next()).and_then(|id| id.parse().ok());
    AuditEntry {
        id: AuditId::generate(call.now),
        tenant_id: tenant.or(key.tenant_id),
        actor: AuditActor::Key,
        key_id: Some(key.id),
        actor_name: Some(key.name.clone()),
        by_platform: call.is_of_platform_key(),
        client_address: Some(call.origin.client.to_canonical()),
        request_id: Some(call.request_id),
        operation: target.operation.name.to_owned(),
        object: of_before("object"),
        // An id is read in any case; the object has it as it is stored.
        object_id: of_before("id").or_else(|| call.id.clone().filter(|_| !target.operation.hides_object)),
        before,
        after: None,
        error: None,
        created_at: call.now,
    }
}

/// The entry with what the handler answered; `None` if nothing was changed.
fn complete(trail: &AuditTrail, operation: &Operation, result: &Result<ApiResponse>) -> Option<AuditEntry> {
    let mut entry = trail.entry().clone();
    let response = match result {
        Ok(response) => response,
        Err(_) if !trail.is_written() => return None,
        Err(error) => {
            entry.error = Some(error.refusal.code.as_str().to_owned());
            return Some(entry);
        }
    };
    let body: Option<Value> = response.body().and_then(|body| serde_json::from_slice(body).ok());
    let after = body.map(|body| redact(body, operation.concealed));
    if entry.before.is_some() && entry.before == after && !trail.is_written() {
        return None;
    }
    let of_after = |field: &str| after.as_ref().and_then(|value| value[field].as_str()).map(str::to_owned);
    // The response may be about another object than the path: a new DKIM key, for example.
    entry.object = entry.object.or(of_after("object").filter(|object| object != "list"));
    entry.object_id = entry.object_id.or(of_after("id"));
    if entry.tenant_id.is_none() {
        let id = match entry.object.as_deref() {
            Some("tenant") => of_after("id"),
            _ => of_after("tenant_id"),
        };
        entry.tenant_id = id.and_then(|id| id.parse().ok());
    }
    entry.after = after.filter(|after| after["deleted"] != true || entry.before.is_none());
    Some(entry)
}

fn log(entry: &AuditEntry) {
    tracing::info!(
        operation = entry.operation,
        object = entry.object_id,
        destination = entry.after.as_ref().and_then(|after| after["destination"].as_str()),
        tenant = entry.tenant_id.map(tracing::field::display),
        by = entry.key_id.map(tracing::field::display),
        client = entry.client_address.map(tracing::field::display),
        request_id = entry.request_id.map(tracing::field::display),
        error = entry.error,
        "changed"
    );
}

/// The object that the request is about, as GET shows it.
async fn read_object(call: &RequestContext) -> Option<Value> {
    let get = object_of(call.target.route)?;
    // The whole object is in memory until it is shortened.
    let _permit = call.response_build().await.ok()?;
    let response = call.as_get(get).perform().await.ok()?;
    let object = serde_json::from_slice(response.body()?).ok()?;
    Some(redact(object, get.concealed))
}

/// The GET of the object in a path: that of `/v1/domains/{id}` for `/v1/domains/{id}/dkim/rotate`.
fn object_of(route: &Route) -> Option<&'static Operation> {
    let end = route.main_path.rfind('}')? + 1;
    let path = route.main_path.get(..end)?;
    ROUTES.iter().find(|other| other.path == path)?.object()
}
