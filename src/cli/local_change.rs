//! Changes directly in the data directory, each with its entry of the audit log.

use std::sync::Arc;

use serde_json::Value;

use crate::mail::Timestamp;
use crate::model::{AuditActor, AuditId, TenantId};
use crate::store::{Audit, AuditEntry, AuditTrail, Store};

/// A change whose transactions store its entry.
pub(super) struct LocalChange {
    /// The store to change.
    pub(super) store: Store,
    trail: Arc<AuditTrail>,
}

impl LocalChange {
    /// Begins a change by `actor`. `before` is the object as the API shows it; `None` for a new one.
    pub(super) fn begin(store: &Store, operation: &str, actor: String, before: Option<Value>) -> Self {
        let now = Timestamp::now();
        let entry = AuditEntry {
            id: AuditId::generate(now),
            tenant_id: before.as_ref().and_then(owner),
            actor: AuditActor::Local,
            key_id: None,
            actor_name: Some(actor),
            by_platform: true,
            client_address: None,
            request_id: None,
            operation: operation.to_owned(),
            object: None,
            object_id: None,
            before,
            after: None,
            error: None,
            created_at: now,
        };
        let trail = Arc::new(AuditTrail::new(entry));
        Self { store: store.auditing(Arc::clone(&trail)), trail }
    }

    /// Completes the entry with the object afterwards, if the change changed something.
    pub(super) async fn end(self, after: &Value) -> anyhow::Result<()> {
        if !self.trail.is_written() {
            return Ok(());
        }
        let text = |name: &str| after[name].as_str().map(str::to_owned);
        let entry = AuditEntry {
            tenant_id: owner(after),
            object: text("object"),
            object_id: text("id"),
            after: Some(after.clone()),
            ..self.trail.entry().clone()
        };
        Ok(self.store.complete_audit(entry).await?)
    }
}

/// The tenant of an object; of a tenant, itself.
fn owner(object: &Value) -> Option<TenantId> {
    let name = if object["object"] == "tenant" { "id" } else { "tenant_id" };
    object[name].as_str()?.parse().ok()
}

/// Who uses this machine: the name of the user, also under sudo, or else the number.
pub(super) fn user() -> String {
    let named = ["SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    let named = named.filter(|name| !name.is_empty() && name.len() <= 64);
    named.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()))
}
