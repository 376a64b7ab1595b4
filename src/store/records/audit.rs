#![allow(missing_docs)]
//! The audit log: what people changed.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::mail::Timestamp;
use crate::model::{AuditActor, AuditId, KeyId, RequestId, TenantId};

/// Maximum of entries about a tenant; beyond it, the oldest are deleted. Those of the platform are bounded by time only.
pub const AUDIT_ENTRIES_MAX: i64 = 50_000;
/// Maximum of octets of an object before or after a change.
pub const AUDIT_OBJECT_OCTETS_MAX: usize = 8 * 1024;

/// A change that somebody made. Entries are kept when their tenant is deleted.
#[derive(Debug, Clone)]
pub struct AuditEntry {
    pub id: AuditId,
    /// The tenant whose objects changed; `None` for the platform.
    pub tenant_id: Option<TenantId>,
    pub actor: AuditActor,
    pub key_id: Option<KeyId>,
    /// The name of the key, or of the user of the machine.
    pub actor_name: Option<String>,
    /// Whether the key is one of the platform. A tenant does not learn which.
    pub by_platform: bool,
    pub client_address: Option<IpAddr>,
    pub request_id: Option<RequestId>,
    /// Like `update_domain`.
    pub operation: String,
    /// The type of the object, like `domain`.
    pub object: Option<String>,
    pub object_id: Option<String>,
    /// The object before the change, as the API shows it; without secrets.
    pub before: Option<serde_json::Value>,
    /// The object afterwards, or the response.
    pub after: Option<serde_json::Value>,
    /// The code of the error, if the change failed after a part of it.
    pub error: Option<String>,
    pub created_at: Timestamp,
}

/// An entry that every transaction of a request stores beside its change; see [`Store::auditing`](crate::store::Store::auditing).
#[derive(Debug)]
pub struct AuditTrail {
    entry: AuditEntry,
    is_written: AtomicBool,
}

impl AuditTrail {
    /// The entry as it is known before the change.
    pub fn new(entry: AuditEntry) -> Self {
        Self { entry, is_written: AtomicBool::new(false) }
    }

    /// The entry before the change.
    pub fn entry(&self) -> &AuditEntry {
        &self.entry
    }

    /// Whether a transaction has changed something, and stored the entry.
    pub fn is_written(&self) -> bool {
        self.is_written.load(Ordering::Acquire)
    }

    /// A transaction with the entry was committed.
    pub(in crate::store) fn note_written(&self) {
        self.is_written.store(true, Ordering::Release);
    }
}

/// The changes of an object that were committed at a time, by the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectVersion {
    pub(in crate::store) object_id: String,
    pub(in crate::store) entries: i64,
    pub(in crate::store) last_number: i64,
}

/// Selects entries.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    pub tenant_id: Option<TenantId>,
    /// Only those about no tenant.
    pub of_platform: bool,
    pub key_id: Option<KeyId>,
    /// `key_id` selects keys of the tenant only: it does not learn which key of the platform made a change.
    pub of_own_keys: bool,
    pub operation: Option<String>,
    pub object: Option<String>,
    pub object_id: Option<String>,
}
