//! Reading the audit log.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::Serialize;

use crate::api::{
    Access, ApiError, ApiResponse, List, ListedOwner, Operation, RequestContext, Resource, Result,
};
use crate::mail::Timestamp;
use crate::model::{AuditActor, AuditId, KeyId, RequestId, Scope, TenantId};
use crate::store::{Audit, AuditEntry, AuditFilter};

/// The operations of the audit log.
pub fn resource() -> Resource {
    let text = "What people changed, over the API, the pages and the command line: who, what, before and after. Entries stay when their tenant is deleted.";
    Resource::new("Audit", text, Access::Scope(Scope::AuditRead)).live_only().id::<AuditId>("The entry.").operations([
        Operation::get("/v1/audit", "list_audit", list)
            .describe("List changes", "Newest first. A tenant sees the changes of its own objects; of those that the platform made, not by whom.")
            .owner_filter()
            .query::<KeyId>("key_id", "Only changes with this key.")
            .query::<String>("operation", "Only changes by this operation, such as `update_domain`.")
            .query::<String>("type", "Only changes of this type of object, such as `domain`.")
            .query::<String>("object_id", "Only changes of this object.")
            .pages::<AuditId, AuditView>("Changes."),
        Operation::get("/v1/audit/{id}", "get_audit_entry", get)
            .summary("Get a change")
            .returns::<AuditView>("The change."),
    ])
}

/// A change that somebody made.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "AuditEntry")]
pub struct AuditView {
    /// Its id.
    id: AuditId,
    /// Always `audit_entry`.
    #[schemars(extend("const" = "audit_entry"))]
    object: &'static str,
    /// The tenant whose objects changed; `null` for the platform.
    tenant_id: Option<TenantId>,
    /// Who made the change.
    actor: ActorView,
    /// The operation, such as `update_domain`.
    operation: String,
    /// The type of the object.
    object_type: Option<String>,
    /// The id of the object.
    object_id: Option<String>,
    /// The object before the change, without secrets; `null` if there was none.
    before: Option<serde_json::Value>,
    /// The object afterwards, or the response of the operation, without secrets; `null` if it was deleted.
    after: Option<serde_json::Value>,
    /// The code of the error, if the change failed after a part of it.
    error: Option<String>,
    /// The request, as in the log.
    request_id: Option<RequestId>,
    /// Time of the change.
    created_at: Timestamp,
}

/// Who made a change.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "AuditActor")]
pub struct ActorView {
    /// `key` over the API, `local` on the machine itself.
    #[serde(rename = "type")]
    kind: AuditActor,
    /// Whether it was the platform.
    platform: bool,
    /// The key; a tenant does not see keys of the platform.
    key_id: Option<KeyId>,
    /// The name of the key, or of the user of the machine.
    name: Option<String>,
    /// The address of the client.
    client_address: Option<IpAddr>,
}

impl AuditView {
    fn new(entry: AuditEntry, is_platform: bool) -> Self {
        let is_shown = is_platform || !entry.by_platform;
        Self {
            id: entry.id,
            object: "audit_entry",
            tenant_id: entry.tenant_id,
            actor: ActorView {
                kind: entry.actor,
                platform: entry.by_platform,
                key_id: entry.key_id.filter(|_| is_shown),
                name: entry.actor_name.filter(|_| is_shown),
                client_address: entry.client_address.filter(|_| is_shown),
            },
            operation: entry.operation,
            object_type: entry.object,
            object_id: entry.object_id,
            before: entry.before,
            after: entry.after,
            error: entry.error,
            request_id: entry.request_id.filter(|_| is_shown),
            created_at: entry.created_at,
        }
    }
}

async fn list(mut call: RequestContext) -> Result<ApiResponse> {
    let ListedOwner { tenant_id, of_platform } = call.listed_owner().await?;
    let request = call.query.page::<AuditId>();
    let filter = AuditFilter {
        tenant_id,
        of_platform,
        key_id: call.query.value("key_id"),
        of_own_keys: !call.caller.is_platform(),
        operation: call.query.value("operation"),
        object: call.query.value("type"),
        object_id: call.query.value("object_id"),
    };
    call.query.finish()?;
    let is_platform = call.caller.is_platform();
    let page = call.store().list_audit(filter, request.clone()).await?;
    ApiResponse::ok(&List::page(
        page,
        &request,
        |entry| entry.id.to_string(),
        |entry| AuditView::new(entry, is_platform),
    ))
}

async fn get(call: RequestContext) -> Result<ApiResponse> {
    let found = call.store().audit_entry(call.scope(), call.id("audit entry")?).await?;
    let found = found.ok_or_else(|| ApiError::not_found("audit entry"))?;
    ApiResponse::ok(&AuditView::new(found, call.caller.is_platform()))
}
